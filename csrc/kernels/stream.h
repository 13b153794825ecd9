// Reads memory and does almost nothing with it: the yardstick for decoding.
#pragma once

#include "kernels/vec.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// The sum of `count` floats, a multiple of 64, read as four streams side by side: one alone leaves
// the memory waiting at its page ends.
static float stream(const float* data, int64_t count) {
  const int64_t quarter = count / 4;
  V16 sums[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  for (int64_t i = 0; i < quarter; i += kLanes) {
    GPT2FAST_UNROLL for (int j = 0; j < 4; ++j) sums[j] = sums[j] + load(data + j * quarter + i);
  }
  return sum(sums[0] + sums[1] + (sums[2] + sums[3]));
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
