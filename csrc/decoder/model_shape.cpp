#include "decoder/model_shape.h"

#include <stdexcept>
#include <unordered_map>

namespace gpt2fast {

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
