#include "decoder/model_shape.h"

#include <cmath>
#include <stdexcept>
#include <unordered_map>

namespace gpt2fast {

void check_size(const char* name, int64_t size, int64_t most) {
  if (size < 1 || size > most) {
    throw std::invalid_argument(std::string(name) + " = " + std::to_string(size) +
                                ": sizes must be positive, and this one at most " +
                                std::to_string(most));
  }
}

const ModelShape& checked(const ModelShape& shape) {
  check_size("vocab", shape.vocab, kMaxSize);
  check_size("positions", shape.positions, kMaxSize);
  check_size("width", shape.width, kMaxInputs);
  check_size("head_size", shape.head_size, kMaxHeadSize);
  check_size("the number of layers", static_cast<int64_t>(shape.layers.size()), kMaxSize);
  for (const LayerShape& layer : shape.layers) {
    check_size("heads", layer.heads, kMaxInputs / shape.head_size);
    check_size("inner", layer.inner, kMaxInputs);
  }
  if (!(shape.epsilon >= 0.0f) || std::isinf(shape.epsilon)) {
    throw std::invalid_argument("epsilon = " + std::to_string(shape.epsilon) +
                                ": LayerNorm's must be finite and not negative");
  }
  return shape;
}

Activation activation_from_name(const std::string& name) {
  // The tanh forms of GELU differ in transformers by how they are written, not in value.
  static const std::unordered_map<std::string, Activation> kNames = {
      {"linear", Activation::kIdentity},
      {"gelu_new", Activation::kGeluTanh},
      {"gelu_fast", Activation::kGeluTanh},
      {"gelu_accurate", Activation::kGeluTanh},
      {"gelu_python_tanh", Activation::kGeluTanh},
      {"gelu_pytorch_tanh", Activation::kGeluTanh},
      {"gelu", Activation::kGeluErf},
      {"gelu_python", Activation::kGeluErf},
      {"gelu_10", Activation::kGelu10},
      {"quick_gelu", Activation::kGeluQuick},
      {"relu", Activation::kRelu},
      {"relu2", Activation::kRelu2},
      {"relu6", Activation::kRelu6},
      {"leaky_relu", Activation::kLeakyRelu},
      {"silu", Activation::kSilu},
      {"swish", Activation::kSilu},
      {"sigmoid", Activation::kSigmoid},
      {"tanh", Activation::kTanh},
      {"mish", Activation::kMish},
      {"laplace", Activation::kLaplace},
      {"hardswish", Activation::kHardSwish},
      {"sqrtsoftplus", Activation::kSqrtSoftplus},
      {"prelu", Activation::kPRelu},
      {"xielu", Activation::kXIelu},
  };
  const auto it = kNames.find(name);
  if (it == kNames.end()) throw std::invalid_argument("unknown activation function '" + name + "'");
  return it->second;
}

}  // namespace gpt2fast
