#include "decoder/packing.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace gpt2fast {
namespace {

using Lanes = float[kLanes];

// One panel of a Conv1D weight, stored (K, N): 16 neighbouring columns, as (K, 16).
void read_conv1d(const StoredArray& array, int64_t panel, Lanes* out) {
  const int64_t inputs = array.shape[0], outputs = array.shape[1];
  const int64_t first = panel * kLanes, count = std::min<int64_t>(outputs - first, kLanes);
  for (int64_t k = 0; k < inputs; ++k) convert(array, k * outputs + first, count, out[k]);
}

// One panel of a Linear or embedding weight, stored (N, K): 16 rows, transposed.
void read_linear(const StoredArray& array, int64_t panel, Lanes* out) {
  const int64_t outputs = array.shape[0], inputs = array.shape[1];
  const int64_t first = panel * kLanes, count = std::min<int64_t>(outputs - first, kLanes);
  constexpr int64_t kChunk = 64;  // columns at a time, so that the panel is written while in cache
  float row[kChunk];
  for (int64_t start = 0; start < inputs; start += kChunk) {
    const int64_t columns = std::min(inputs - start, kChunk);
    for (int64_t n = 0; n < count; ++n) {
      convert(array, (first + n) * inputs + start, columns, row);
      for (int64_t k = 0; k < columns; ++k) out[start + k][n] = row[k];
    }
  }
}

void encode_bfloat16(const Panels& layout, const Lanes* panel, uint8_t* out) {
  auto* pairs = reinterpret_cast<uint16_t*>(out);
  for (int k = 0; k < layout.inputs; ++k) {
    for (int n = 0; n < kLanes; ++n) {
      pairs[(k / 2 * kLanes + n) * 2 + k % 2] = to_bfloat16(panel[k][n]);
    }
  }
}

// The step for a group whose extreme values are `least` and `most`, exactly as it is stored.
// 8 bits: the largest magnitude is 127 steps, the step rounded up so that nothing is clipped.
// 4 bits, -8 .. 7: the value of largest magnitude is -8 steps, its sign moving into the step.
// 3 bits, -4 .. 3: the same with -4.
uint16_t step_of(Format format, float least, float most) {
  const float extreme = -least > most ? least : most;
  if (std::fabs(extreme) < 1e-30f) return 0;  // its inverse must stay a number
  if (format == Format::kInt4) return to_bfloat16(extreme / -8.0f);
  if (format == Format::kInt3) return to_bfloat16(extreme / -4.0f);
  const float step = std::fabs(extreme) / 127.0f;
  uint16_t bits = to_bfloat16(step);
  if (from_bfloat16(bits) < step) ++bits;
  return bits;
}

int quantized(float value, float inverse, int least, int most) {
  constexpr float kShifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = value * inverse + kShifter;
  int32_t bits, origin;
  std::memcpy(&bits, &shifted, sizeof(bits));
  std::memcpy(&origin, &kShifter, sizeof(origin));
  return std::min(std::max(bits - origin, least), most);
}

// Where a value of a format lies in a panel, put there and read. k: the input, n: the output's
// lane.
void put_int4(uint8_t* values, int k, int n, int q) {
  const int shift = k % 8 < 4 ? 0 : 4;
  uint8_t& byte = values[(k / 8 * kLanes + n) * 4 + k % 4];
  byte = static_cast<uint8_t>((byte & ~(15 << shift)) | (q + 8) << shift);
}
int get_int4(const uint8_t* values, int k, int n) {
  const int byte = values[(k / 8 * kLanes + n) * 4 + k % 4];
  return (k % 8 < 4 ? byte & 15 : byte >> 4) - 8;
}

constexpr int kLine = 4 * kLanes;

void put_bits(uint8_t& byte, int shift, int mask, int bits) {
  byte = static_cast<uint8_t>((byte & ~(mask << shift)) | bits << shift);
}
void put_int3(uint8_t* values, int k, int n, int q) {
  uint8_t* unit = values + k / kInt3Unit * 3 * kLine + n * 4 + k % 4;
  const int four = k % kInt3Unit / 4, bits = q + 4;
  if (four < 6) return put_bits(unit[four / 2 * kLine], 3 * (four % 2), 7, bits);
  put_bits(unit[(four - 6) * kLine], 6, 3, bits & 3);
  put_bits(unit[2 * kLine], four, 1, bits >> 2);
}
int get_int3(const uint8_t* values, int k, int n) {
  const uint8_t* unit = values + k / kInt3Unit * 3 * kLine + n * 4 + k % 4;
  const int four = k % kInt3Unit / 4;
  if (four < 6) return (unit[four / 2 * kLine] >> 3 * (four % 2) & 7) - 4;
  return (unit[(four - 6) * kLine] >> 6 | (unit[2 * kLine] >> four & 1) << 2) - 4;
}

void encode_group(const Panels& layout, const Lanes* panel, int begin, int end, uint16_t* scales,
                  uint8_t* values) {
  Lanes least = {}, most = {}, inverse;
  for (int k = begin; k < end; ++k) {
    for (int n = 0; n < kLanes; ++n) {
      least[n] = std::min(least[n], panel[k][n]);
      most[n] = std::max(most[n], panel[k][n]);
    }
  }
  for (int n = 0; n < kLanes; ++n) {
    scales[n] = step_of(layout.format, least[n], most[n]);
    const float step = from_bfloat16(scales[n]);
    inverse[n] = step == 0.0f ? 0.0f : 1.0f / step;
  }
  for (int k = begin; k < end; ++k) {
    for (int n = 0; n < kLanes; ++n) {
      const float value = panel[k][n], to_steps = inverse[n];
      switch (layout.format) {
        case Format::kInt4: put_int4(values, k, n, quantized(value, to_steps, -8, 7)); break;
        case Format::kInt3: put_int3(values, k, n, quantized(value, to_steps, -4, 3)); break;
        default:
          values[(k / 4 * kLanes + n) * 4 + k % 4] =
              static_cast<uint8_t>(quantized(value, to_steps, -127, 127));
      }
    }
  }
}

// What is never written stands for zero.
void fill_with_zeros(const Panels& layout, uint8_t* values) {
  const auto bytes = static_cast<size_t>(layout.value_bytes());
  std::memset(values, layout.format == Format::kInt4 ? 0x88 : 0, bytes);
  if (layout.format != Format::kInt3) return;
  for (int k = 0; k < layout.padded_inputs(); ++k) {
    for (int n = 0; n < kLanes; ++n) put_int3(values, k, n, 0);
  }
}

void encode_integers(const Panels& layout, const Lanes* panel, uint8_t* out) {
  uint8_t* values = out + layout.scale_bytes();
  fill_with_zeros(layout, values);
  for (int g = 0; g < layout.groups(); ++g) {
    const int begin = g * layout.group;
    encode_group(layout, panel, begin, std::min(begin + layout.group, layout.inputs),
                 reinterpret_cast<uint16_t*>(out) + g * kLanes, values);
  }
}

void encode_panel(const Panels& layout, const Lanes* panel, uint8_t* out) {
  switch (layout.format) {
    case Format::kFloat32:
      std::memcpy(out, panel, static_cast<size_t>(layout.inputs) * sizeof(Lanes));
      return;
    case Format::kBFloat16: return encode_bfloat16(layout, panel, out);
    default: return encode_integers(layout, panel, out);
  }
}

}  // namespace

Format format_from_name(const std::string& name) {
  if (name == "float32") return Format::kFloat32;
  if (name == "bfloat16") return Format::kBFloat16;
  if (name == "int8") return Format::kInt8;
  if (name == "int4") return Format::kInt4;
  if (name == "int3") return Format::kInt3;
  throw std::invalid_argument("unknown format '" + name +
                              "'; float32, bfloat16, int8, int4 or int3");
}

bool pack_matrix(const StoredArray& array, Orientation orientation, const float* input_scales,
                 PackedMatrix& matrix, ThreadPool& pool) {
  const Panels layout = matrix.layout;
  uint8_t* out = matrix.data.data();
  std::atomic<bool> finite{true};
  TaskCounter tasks;
  // Floats of the panel at hand, for each thread; zero beyond the last output.
  const size_t panel_floats = static_cast<size_t>(layout.inputs) * kLanes;
  std::vector<Buffer> scratch(static_cast<size_t>(pool.size()));
  for (Buffer& buffer : scratch) buffer = Buffer(panel_floats * sizeof(float));
  pool.run([&](int thread) {
    float* floats = scratch[static_cast<size_t>(thread)].floats();
    auto* panel = reinterpret_cast<Lanes*>(floats);
    for (int p = tasks.take(); p < layout.count(); p = tasks.take()) {
      if (p == layout.count() - 1) std::memset(floats, 0, panel_floats * sizeof(float));
      orientation == Orientation::kConv1d ? read_conv1d(array, p, panel)
                                          : read_linear(array, p, panel);
      if (!all_finite(floats, static_cast<int64_t>(panel_floats))) {
        finite.store(false, std::memory_order_relaxed);
        continue;
      }
      for (int k = 0; input_scales != nullptr && k < layout.inputs; ++k) {
        for (float& weight : panel[k]) weight *= input_scales[k];
      }
      encode_panel(layout, panel, out + p * layout.panel_bytes());
    }
  });
  return finite;
}

void input_magnitudes(const StoredArray& array, ThreadPool& pool, float* out) {
  const int64_t inputs = array.shape[0], outputs = array.shape[1];
  TaskCounter tasks;
  pool.run([&](int) {
    constexpr int64_t kChunk = 256;
    float row[kChunk];
    for (int64_t k = tasks.take(); k < inputs; k = tasks.take()) {
      double total = 0.0;
      for (int64_t n = 0; n < outputs; n += kChunk) {
        const int64_t count = std::min(outputs - n, kChunk);
        convert(array, k * outputs + n, count, row);
        for (int64_t i = 0; i < count; ++i) total += double{row[i]} * double{row[i]};
      }
      out[k] = static_cast<float>(std::sqrt(total / static_cast<double>(outputs)));
    }
  });
}

void unpack_output(const Panels& panels, int32_t output, float* out) {
  const uint8_t* panel = panels.panel(output / kLanes);
  const int lane = output % kLanes;
  const auto* scales = reinterpret_cast<const uint16_t*>(panel);
  const uint8_t* values = panel + panels.scale_bytes();
  for (int k = 0; k < panels.inputs; ++k) {
    switch (panels.format) {
      case Format::kFloat32:
        out[k] = reinterpret_cast<const float*>(panel)[k * kLanes + lane];
        break;
      case Format::kBFloat16:
        out[k] = from_bfloat16(
            reinterpret_cast<const uint16_t*>(panel)[(k / 2 * kLanes + lane) * 2 + k % 2]);
        break;
      case Format::kInt8:
        out[k] = from_bfloat16(scales[k / panels.group * kLanes + lane]) *
                 static_cast<int8_t>(values[(k / 4 * kLanes + lane) * 4 + k % 4]);
        break;
      case Format::kInt4:
      case Format::kInt3: {
        const int q =
            panels.format == Format::kInt4 ? get_int4(values, k, lane) : get_int3(values, k, lane);
        out[k] = from_bfloat16(scales[k / panels.group * kLanes + lane]) * static_cast<float>(q);
        break;
      }
    }
  }
}

}  // namespace gpt2fast
