// Rows of activations to 8 bits, a scale for every group of inputs: an outlier spoils its own group
// and no other.
#pragma once

#include "kernels/kernels.h"
#include "kernels/vec_int.h"

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
  int8_t* magnitudes = values + out.stride / 2;
  for (int g = 0; g < out.groups; ++g) {
    const int begin = g * group;
    const int count = inputs - begin < group ? inputs - begin : group;
    float poison;
    const float most = largest_magnitude(x + begin, count, poison);
    // The inverse of a subnormal number may be infinite.
    const float to_integer = most > 1e-30f ? 127.0f / most : 0.0f;
    I16 total = zero_ints();
    for (int k = begin; k < begin + count; k += kLanes) {
      const int left = begin + count - k;
      const V16 v = left >= kLanes ? load(x + k) : load_partial(x + k, left, 0.0f);
      const I16 integers = to_ints(v * splat(to_integer));
      store_bytes(integers, values + k, magnitudes + k);
      total = total + integers;
    }
    out.scales[int64_t{row} * out.groups + g] = most / 127.0f + poison;
    out.sums[int64_t{row} * out.groups + g] = sum(total);
  }
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
