#include "decoder/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "core/checked.h"

namespace gpt2fast {
namespace {

float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

Buffer padded_floats(int64_t count) {
  return Buffer(static_cast<size_t>(round_up_lanes(count)) * sizeof(float));
}

}  // namespace

Weights::Weights(const ModelShape& shape, const MatrixFormats& formats)
    : shape_(shape), formats_(formats), layers_(shape.layers.size()) {
  const int32_t width = shape_.width;
  Target embedding{{shape_.vocab, width}, nullptr, &wte_, Orientation::kLinear};
  expect_matrix("wte.weight", embedding, width, shape_.vocab);
  wpe_ = Buffer(
      static_cast<size_t>(checked_product("wpe.weight", {shape_.positions, width, sizeof(float)})));
  targets_["wpe.weight"] = {{shape_.positions, width}, &wpe_};
  for (size_t l = 0; l < layers_.size(); ++l) {
    const std::string prefix = "h." + std::to_string(l) + ".";
    const int32_t attended = shape_.layers[l].heads * shape_.head_size;
    LayerWeights& layer = layers_[l];
    expect_layer_norm(prefix + "ln_1", &layer.ln_1);
    expect_conv1d(prefix + "attn.c_attn", width, 3 * attended, &layer.attention_in, &layer.ln_1);
    expect_conv1d(prefix + "attn.c_proj", attended, width, &layer.attention_out, nullptr);
    expect_layer_norm(prefix + "ln_2", &layer.ln_2);
    expect_conv1d(prefix + "mlp.c_fc", width, shape_.layers[l].inner, &layer.mlp_in, &layer.ln_2);
    expect_activation(prefix + "mlp.act.", &layer);
    expect_conv1d(prefix + "mlp.c_proj", shape_.layers[l].inner, width, &layer.mlp_out, nullptr);
  }
  expect_layer_norm("ln_f", &ln_f_);
  if (!shape_.tied_head) {
    Target head{{shape_.vocab, width}, nullptr, &lm_head_, Orientation::kLinear};
    expect_matrix("lm_head.weight", head, width, shape_.vocab);
  }
  for (const auto& [name, format] : formats_) {
    const auto it = targets_.find(name);
    if (it == targets_.end() || it->second.matrix == nullptr) {
      throw std::invalid_argument("formats: the model has no matrix '" + name + "'");
    }
  }
  num_missing_ = targets_.size();
}

void Weights::expect_vector(const std::string& name, int64_t size, Buffer* buffer) {
  *buffer = padded_floats(size);
  targets_[name] = {{size}, buffer};
}

void Weights::expect_matrix(const std::string& name, const Target& target, int32_t inputs,
                            int32_t outputs) {
  const auto it = formats_.find(name);
  const MatrixFormat format = it == formats_.end() ? MatrixFormat{} : it->second;
  target.matrix->layout = {format.format, inputs, outputs, format.group, nullptr};
  target.matrix->data = arena_.take(static_cast<size_t>(target.matrix->layout.bytes()));
  targets_[name] = target;
}

void Weights::expect_conv1d(const std::string& name, int32_t inputs, int32_t outputs,
                            PackedMatrix* matrix, LayerNormWeights* norm) {
  expect_matrix(name + ".weight", {{inputs, outputs}, nullptr, matrix, Orientation::kConv1d, norm},
                inputs, outputs);
  expect_vector(name + ".bias", outputs, &matrix->bias);
}

void Weights::expect_activation(const std::string& prefix, LayerWeights* layer) {
  if (shape_.activation == Activation::kPRelu) {
    expect_vector(prefix + "weight", 1, &layer->activation[0]);
  } else if (shape_.activation == Activation::kXIelu) {
    expect_vector(prefix + "alpha_p", 1, &layer->activation[0]);
    expect_vector(prefix + "alpha_n", 1, &layer->activation[1]);
    expect_vector(prefix + "beta", 1, &layer->activation[2]);
    expect_vector(prefix + "eps", 1, &layer->activation[3]);
  }
}

void Weights::activation_parameters(int32_t layer, float* p) const {
  const auto& stored = layers_[static_cast<size_t>(layer)].activation;
  for (int i = 0; i < 4; ++i) p[i] = stored[i].bytes() == 0 ? 0.0f : stored[i].floats()[0];
  if (shape_.activation == Activation::kXIelu) {
    // Learned through a softplus, which keeps both curvatures positive (arXiv:2411.13010).
    // transformers leaves them in bfloat16 whatever the model's type, and rounds at each step.
    const auto rounded = [&](float value) {
      return bfloat16_activation_ ? from_bfloat16(to_bfloat16(value)) : value;
    };
    p[0] = rounded(softplus(p[0]));
    p[1] = rounded(p[2] + rounded(softplus(p[1])));
  }
}

void Weights::expect_layer_norm(const std::string& name, LayerNormWeights* norm) {
  expect_vector(name + ".weight", shape_.width, &norm->weight);
  expect_vector(name + ".bias", shape_.width, &norm->bias);
}

Weights::Target& Weights::find_missing(const std::string& name) {
  const auto it = targets_.find(name);
  if (it == targets_.end()) throw std::invalid_argument("the model has no tensor '" + name + "'");
  if (it->second.loaded) {
    throw std::invalid_argument("tensor '" + name +
                                "' is loaded already; a decoder's weights stay");
  }
  return it->second;
}

const Weights::Target& Weights::find_loaded(const std::string& name, bool matrix) const {
  const auto it = targets_.find(name);
  if (it == targets_.end() || (it->second.matrix != nullptr) != matrix) {
    throw std::invalid_argument("the model has no " + std::string(matrix ? "matrix" : "vector") +
                                " '" + name + "'");
  }
  if (!it->second.loaded) throw std::invalid_argument("tensor '" + name + "' is not loaded yet");
  return it->second;
}

void Weights::finish(Target& target) {
  target.loaded = true;
  num_missing_.fetch_sub(1, std::memory_order_release);
}

void Weights::load(const std::string& name, const StoredArray& array, ThreadPool& pool) {
  const std::lock_guard<std::mutex> turn(loading_);
  Target& target = find_missing(name);
  if (array.shape != target.shape) {
    throw std::invalid_argument("tensor '" + name + "' has the shape " + shape_text(array.shape) +
                                ", the model needs " + shape_text(target.shape));
  }
  const bool finite = target.matrix == nullptr ? load_vector(target, array)
                                               : load_matrix(name, target, array, pool);
  if (!finite) {
    throw std::invalid_argument("tensor '" + name +
                                "' holds NaN or infinite values; the checkpoint is damaged or its "
                                "training diverged");
  }
  if (name.find(".mlp.act.") != std::string::npos) {
    bfloat16_activation_ = array.type == StoredType::kBFloat16;
  }
  finish(target);
}

bool Weights::load_vector(const Target& target, const StoredArray& array) {
  int64_t count = 1;
  for (const int64_t size : target.shape) count *= size;
  convert(array, 0, count, target.buffer->floats());
  return all_finite(target.buffer->floats(), count);
}

bool Weights::load_matrix(const std::string& name, const Target& target, const StoredArray& array,
                          ThreadPool& pool) {
  if (target.norm == nullptr || !target.matrix->layout.is_integer()) {
    return pack_matrix(array, target.orientation, nullptr, *target.matrix, pool);
  }
  for (const auto& [other, vector] : targets_) {
    const bool feeds = vector.buffer == &target.norm->weight || vector.buffer == &target.norm->bias;
    if (feeds && !vector.loaded) {
      throw std::invalid_argument("tensor '" + name + "' is balanced against '" + other +
                                  "'; load that first");
    }
  }
  const std::vector<float> factors = balance_factors(target, array, pool);
  if (!pack_matrix(array, target.orientation, factors.data(), *target.matrix, pool)) return false;
  balance(factors, *target.norm);  // a matrix that was refused leaves LayerNorm as it is
  return true;
}

// A factor a channel moves from LayerNorm's weight and bias into the matrix that follows, so that
// a channel's activations and weights share its size between them: the function is unchanged, and
// a channel that one of the two had blown up no longer spoils the scale of its group
// (the idea of SmoothQuant, arXiv:2211.10438, without calibration: LayerNorm's output has the
// magnitude of its weight).
std::vector<float> Weights::balance_factors(const Target& target, const StoredArray& array,
                                            ThreadPool& pool) {
  std::vector<float> factors(static_cast<size_t>(target.shape[0]));
  input_magnitudes(array, pool, factors.data());
  const float* weight = target.norm->weight.floats();
  for (size_t c = 0; c < factors.size(); ++c) {
    const float magnitude = factors[c], gain = std::fabs(weight[c]);
    const float ratio = gain / magnitude;
    const bool usable = magnitude > 1e-20f && gain > 1e-20f && ratio > 0.0f && std::isfinite(ratio);
    factors[c] = usable ? std::sqrt(ratio) : 1.0f;
  }
  return factors;
}

void Weights::balance(const std::vector<float>& factors, LayerNormWeights& norm) {
  for (size_t c = 0; c < factors.size(); ++c) {
    norm.weight.floats()[c] /= factors[c];
    norm.bias.floats()[c] /= factors[c];
  }
}

void Weights::load_packed(const std::string& name, const uint8_t* data, int64_t bytes,
                          ThreadPool& pool) {
  const std::lock_guard<std::mutex> turn(loading_);
  Target& target = find_missing(name);
  if (target.matrix == nullptr) {
    throw std::invalid_argument("tensor '" + name + "' is not a packed matrix");
  }
  if (bytes != target.matrix->layout.bytes()) {
    throw std::invalid_argument("tensor '" + name + "' has " + std::to_string(bytes) +
                                " bytes, its format needs " +
                                std::to_string(target.matrix->layout.bytes()));
  }
  constexpr int64_t kChunk = int64_t{1} << 20;
  uint8_t* out = target.matrix->data.data();
  TaskCounter tasks;
  pool.run([&](int) {
    for (int64_t at = tasks.take() * kChunk; at < bytes; at = tasks.take() * kChunk) {
      std::memcpy(out + at, data + at, static_cast<size_t>(std::min(kChunk, bytes - at)));
    }
  });
  finish(target);
}

Panels Weights::packed(const std::string& name) const {
  const std::lock_guard<std::mutex> turn(loading_);
  return find_loaded(name, true).matrix->panels();
}

std::vector<float> Weights::vector(const std::string& name) const {
  const std::lock_guard<std::mutex> turn(loading_);
  const Target& target = find_loaded(name, false);
  int64_t count = 1;
  for (const int64_t size : target.shape) count *= size;
  const float* values = target.buffer->floats();
  return std::vector<float>(values, values + count);
}

std::vector<std::string> Weights::missing() const {
  const std::lock_guard<std::mutex> turn(loading_);
  std::vector<std::string> names;
  for (const auto& [name, target] : targets_) {
    if (!target.loaded) names.push_back(name);
  }
  return names;
}

int64_t Weights::bytes() const {
  int64_t total = 0;
  for (const auto& [name, target] : targets_) {
    const Buffer& buffer = target.matrix == nullptr ? *target.buffer : target.matrix->data;
    total += static_cast<int64_t>(buffer.bytes());
  }
  return total;
}

int64_t Weights::bytes_per_step() const {
  int64_t unread = static_cast<int64_t>(wpe_.bytes());
  if (!shape_.tied_head) unread += static_cast<int64_t>(wte_.data.bytes());
  return bytes() - unread;
}

void Weights::embed(int32_t token, int32_t position, float* out) const {
  unpack_output(wte_.panels(), token, out);
  const float* place = wpe_.floats() + int64_t{position} * shape_.width;
  for (int32_t c = 0; c < shape_.width; ++c) out[c] += place[c];
}

}  // namespace gpt2fast
