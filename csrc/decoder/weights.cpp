#include "decoder/weights.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace gpt2fast {
namespace {

float from_half(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  uint32_t wide = (magnitude << 13) + (112u << 23);
  if (magnitude >= 0x7c00u) wide += 112u << 23;  // infinity and NaN keep the top exponent
  float value;
  if (magnitude < 0x0400u) {
    value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // subnormal: units of 2^-24
  } else {
    std::memcpy(&value, &wide, sizeof(value));
  }
  uint32_t out;
  std::memcpy(&out, &value, sizeof(out));
  out |= sign;
  std::memcpy(&value, &out, sizeof(value));
  return value;
}

float from_bfloat16(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// To nearest, ties to even, as a float.
float round_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return from_bfloat16(static_cast<uint16_t>(bits >> 16));
}

float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

// Element `index` of an array that need not be aligned: safetensors aligns to 8 bytes at best.
template <typename T>
T element(const void* data, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + index * static_cast<int64_t>(sizeof(T)),
              sizeof(T));
  return value;
}

// `count` elements from `start` on, as float32.
void convert(const StoredArray& array, int64_t start, int64_t count, float* out) {
  switch (array.type) {
    case StoredType::kFloat32:
      std::memcpy(out, static_cast<const char*>(array.data) + start * 4,
                  static_cast<size_t>(count) * 4);
      return;
    case StoredType::kFloat16:
      for (int64_t i = 0; i < count; ++i)
        out[i] = from_half(element<uint16_t>(array.data, start + i));
      return;
    case StoredType::kBFloat16:
      for (int64_t i = 0; i < count; ++i) {
        out[i] = from_bfloat16(element<uint16_t>(array.data, start + i));
      }
      return;
    case StoredType::kFloat64:
      for (int64_t i = 0; i < count; ++i) {
        out[i] = static_cast<float>(element<double>(array.data, start + i));
      }
      return;
  }
}

bool all_finite(const float* values, int64_t count) {
  constexpr uint32_t kExponent = 0x7f800000u;  // all ones in infinity and NaN alone
  uint32_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    found |= (bits & kExponent) == kExponent;
  }
  return found == 0;
}

// One panel of a Conv1D weight, stored (K, N): 16 neighbouring columns.
bool pack_conv1d_panel(const StoredArray& array, int64_t panel, float* out) {
  const int64_t inputs = array.shape[0], outputs = array.shape[1];
  const int64_t first = panel * kLanes;
  const int64_t count = outputs - first < kLanes ? outputs - first : kLanes;
  for (int64_t k = 0; k < inputs; ++k) convert(array, k * outputs + first, count, out + k * kLanes);
  return all_finite(out, inputs * kLanes);
}

// One panel of a Linear or embedding weight, stored (N, K): 16 rows, transposed.
bool pack_linear_panel(const StoredArray& array, int64_t panel, float* out) {
  const int64_t outputs = array.shape[0], inputs = array.shape[1];
  const int64_t first = panel * kLanes;
  const int64_t count = outputs - first < kLanes ? outputs - first : kLanes;
  constexpr int64_t kChunk = 64;  // columns at a time, so that the panel is written while in cache
  float row[kChunk];
  for (int64_t start = 0; start < inputs; start += kChunk) {
    const int64_t columns = inputs - start < kChunk ? inputs - start : kChunk;
    for (int64_t n = 0; n < count; ++n) {
      convert(array, (first + n) * inputs + start, columns, row);
      for (int64_t k = 0; k < columns; ++k) out[(start + k) * kLanes + n] = row[k];
    }
  }
  return all_finite(out, inputs * kLanes);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

Buffer padded_floats(int64_t count) {
  return Buffer(static_cast<size_t>(round_up_lanes(count)) * sizeof(float));
}

}  // namespace

Weights::Weights(const ModelShape& shape) : shape_(shape), layers_(shape.layers.size()) {
  const int32_t width = shape_.width;
  expect_linear("wte.weight", width, shape_.vocab, &wte_);
  wpe_ = Buffer(static_cast<size_t>(shape_.positions) * static_cast<size_t>(width) * sizeof(float));
  targets_["wpe.weight"] = {Layout::kRows, {shape_.positions, width}, &wpe_, false};
  for (size_t l = 0; l < layers_.size(); ++l) {
    const std::string prefix = "h." + std::to_string(l) + ".";
    const int32_t attended = shape_.layers[l].heads * shape_.head_size;
    LayerWeights& layer = layers_[l];
    expect_layer_norm(prefix + "ln_1", &layer.ln_1);
    expect_conv1d(prefix + "attn.c_attn", width, 3 * attended, &layer.attention_in);
    expect_conv1d(prefix + "attn.c_proj", attended, width, &layer.attention_out);
    expect_layer_norm(prefix + "ln_2", &layer.ln_2);
    expect_conv1d(prefix + "mlp.c_fc", width, shape_.layers[l].inner, &layer.mlp_in);
    expect_activation(prefix + "mlp.act.", &layer);
    expect_conv1d(prefix + "mlp.c_proj", shape_.layers[l].inner, width, &layer.mlp_out);
  }
  expect_layer_norm("ln_f", &ln_f_);
  if (!shape_.tied_head) expect_linear("lm_head.weight", width, shape_.vocab, &lm_head_);
}

void Weights::expect_vector(const std::string& name, int64_t size, Buffer* buffer) {
  *buffer = padded_floats(size);
  targets_[name] = {Layout::kVector, {size}, buffer, false};
}

void Weights::expect_conv1d(const std::string& name, int32_t inputs, int32_t outputs,
                            PackedMatrix* m) {
  m->inputs = inputs;
  m->outputs = outputs;
  m->panels = Buffer(static_cast<size_t>(round_up_lanes(outputs)) * static_cast<size_t>(inputs) *
                     sizeof(float));
  targets_[name + ".weight"] = {Layout::kConv1d, {inputs, outputs}, &m->panels, false};
  expect_vector(name + ".bias", outputs, &m->bias);
}

void Weights::expect_linear(const std::string& name, int32_t inputs, int32_t outputs,
                            PackedMatrix* m) {
  m->inputs = inputs;
  m->outputs = outputs;
  m->panels = Buffer(static_cast<size_t>(round_up_lanes(outputs)) * static_cast<size_t>(inputs) *
                     sizeof(float));
  targets_[name] = {Layout::kLinear, {outputs, inputs}, &m->panels, false};
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
      return bfloat16_activation_ ? round_to_bfloat16(value) : value;
    };
    p[0] = rounded(softplus(p[0]));
    p[1] = rounded(p[2] + rounded(softplus(p[1])));
  }
}

void Weights::expect_layer_norm(const std::string& name, LayerNormWeights* norm) {
  expect_vector(name + ".weight", shape_.width, &norm->weight);
  expect_vector(name + ".bias", shape_.width, &norm->bias);
}

void Weights::load(const std::string& name, const StoredArray& array, ThreadPool& pool) {
  const auto it = targets_.find(name);
  if (it == targets_.end()) throw std::invalid_argument("the model has no tensor '" + name + "'");
  Target& target = it->second;
  if (array.shape != target.shape) {
    throw std::invalid_argument("tensor '" + name + "' has the shape " + shape_text(array.shape) +
                                ", the model needs " + shape_text(target.shape));
  }
  float* out = target.buffer->floats();
  std::atomic<bool> finite{true};
  if (target.layout == Layout::kVector || target.layout == Layout::kRows) {
    const int64_t count =
        target.layout == Layout::kVector ? target.shape[0] : target.shape[0] * target.shape[1];
    convert(array, 0, count, out);
    finite = all_finite(out, count);
  } else {
    const bool conv1d = target.layout == Layout::kConv1d;
    const int64_t inputs = target.shape[conv1d ? 0 : 1], outputs = target.shape[conv1d ? 1 : 0];
    const auto panels = static_cast<int>(round_up_lanes(outputs) / kLanes);
    TaskCounter tasks;
    pool.run([&](int) {
      for (int p = tasks.take(); p < panels; p = tasks.take()) {
        float* panel = out + p * inputs * kLanes;
        const bool ok =
            conv1d ? pack_conv1d_panel(array, p, panel) : pack_linear_panel(array, p, panel);
        if (!ok) finite.store(false, std::memory_order_relaxed);
      }
    });
  }
  if (!finite) {
    throw std::invalid_argument("tensor '" + name +
                                "' holds NaN or infinite values; the checkpoint is damaged or its "
                                "training diverged");
  }
  if (name.find(".mlp.act.") != std::string::npos) {
    bfloat16_activation_ = array.type == StoredType::kBFloat16;
  }
  target.loaded = true;
}

std::vector<std::string> Weights::missing() const {
  std::vector<std::string> names;
  for (const auto& [name, target] : targets_) {
    if (!target.loaded) names.push_back(name);
  }
  return names;
}

int64_t Weights::bytes() const {
  int64_t total = 0;
  for (const auto& [name, target] : targets_) total += static_cast<int64_t>(target.buffer->bytes());
  return total;
}

void Weights::embed(int32_t token, int32_t position, float* out) const {
  const int64_t width = shape_.width;
  const float* lane = wte_.panels.floats() + token / kLanes * (width * kLanes) + token % kLanes;
  const float* place = wpe_.floats() + position * width;
  for (int64_t c = 0; c < width; ++c) out[c] = lane[c * kLanes] + place[c];
}

}  // namespace gpt2fast
