// LayerNorm of one row, in two passes over data that sits in the first-level cache.
#pragma once

#include <math.h>

#include "kernels/kernels.h"
#include "kernels/vec.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

static void layer_norm(const float* x, const float* weight, const float* bias, float epsilon,
                       int32_t width, float* out) {
  const int full = width / kLanes * kLanes;
  const int tail = width - full;
  V16 total = splat(0.0f);
  for (int c = 0; c < full; c += kLanes) total = total + load(x + c);
  if (tail > 0) total = total + load_partial(x + full, tail, 0.0f);
  const float mean = sum(total) / static_cast<float>(width);

  V16 squares = splat(0.0f);
  for (int c = 0; c < full; c += kLanes) {
    const V16 d = load(x + c) - splat(mean);
    squares = fma(d, d, squares);
  }
  if (tail > 0) {
    const V16 d = load_partial(x + full, tail, mean) - splat(mean);
    squares = fma(d, d, squares);
  }
  const float variance = sum(squares) / static_cast<float>(width);
  // Squares that overflow would make the scale 0 and every value the bias, as if nothing had
  // happened: infinity minus itself makes the scale NaN.
  const V16 scale = splat(1.0f / sqrtf(variance + epsilon) + (variance - variance));

  for (int c = 0; c < full; c += kLanes) {
    const V16 normal = (load(x + c) - splat(mean)) * scale;
    store(out + c, fma(normal, load(weight + c), load(bias + c)));
  }
  if (tail > 0) {
    const V16 normal = (load_partial(x + full, tail, mean) - splat(mean)) * scale;
    const V16 value =
        fma(normal, load_partial(weight + full, tail, 0.0f), load_partial(bias + full, tail, 0.0f));
    store_partial(out + full, value, tail);
  }
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
