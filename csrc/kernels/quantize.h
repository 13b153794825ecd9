// Rows of activations to 8 bits, a scale for every group of inputs: an outlier spoils its own group
// and no other.
#pragma once

#include "kernels/kernels.h"
#include "kernels/vec.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// The largest magnitude of x (count,); `poison` becomes NaN where x holds NaN or infinity.
static float largest_magnitude(const float* x, int count, float& poison) {
  V16 most = splat(0.0f), zeros = splat(0.0f);
  for (int k = 0; k < count; k += kLanes) {
    const V16 v = count - k >= kLanes ? load(x + k) : load_partial(x + k, count - k, 0.0f);
    most = max(most, max(v, splat(0.0f) - v));
    zeros = fma(v, splat(0.0f), zeros);
  }
  poison = sum(zeros);
  return max_lane(most);
}

static void quantize(const float* x, int32_t inputs, int32_t group, const QuantizedRows& out,
                     int32_t row) {
  int8_t* values = out.values + row * out.stride;
  const V16 shifter = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  for (int g = 0; g < out.groups; ++g) {
    const int begin = g * group;
    const int count = inputs - begin < group ? inputs - begin : group;
    float poison;
    const float most = largest_magnitude(x + begin, count, poison);
    const float to_integer = most > 0.0f ? 127.0f / most : 0.0f;
    out.scales[int64_t{row} * out.groups + g] = most / 127.0f + poison;
    int32_t total = 0;
    for (int k = 0; k < count; k += kLanes) {
      const float* at = x + begin + k;
      const V16 v = count - k >= kLanes ? load(at) : load_partial(at, count - k, 0.0f);
      uint32_t bits[16];
      const V16 shifted = fma(v, splat(to_integer), shifter);
      memcpy(bits, &shifted, sizeof(bits));
      for (int i = 0; i < kLanes; ++i) {
        const auto value = static_cast<int8_t>(bits[i]);  // the integer is in the low bits
        values[begin + k + i] = value;
        values[out.stride / 2 + begin + k + i] = static_cast<int8_t>(value < 0 ? -value : value);
        total += value;
      }
    }
    out.sums[int64_t{row} * out.groups + g] = total;
  }
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
