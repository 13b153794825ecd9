// Reads memory front to back and does almost nothing with it: the yardstick for decoding.
#pragma once

#include "kernels/vec.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// The sum of `count` floats, a multiple of 64.
static float stream(const float* data, int64_t count) {
  V16 sums[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  for (int64_t i = 0; i < count; i += 64) {
    GPT2FAST_UNROLL for (int j = 0; j < 4; ++j) sums[j] = sums[j] + load(data + i + 16 * j);
  }
  return sum(sums[0] + sums[1] + (sums[2] + sums[3]));
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
