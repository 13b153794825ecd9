// What follows the sums of a tile: bias, activation, residual.
#pragma once

#include "kernels/activation.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// Outputs `column` to column + 15 of a row.
GPT2FAST_INLINE void write_out(const MatmulArgs& a, int64_t row, int column, V16 value) {
  const int64_t at = row * a.out_stride + column;
  const int count = a.weights.outputs - column;
  if (count >= kLanes) {
    if (a.residual != nullptr) value = load(a.residual + at) + value;
    store(a.out + at, value);
  } else {
    if (a.residual != nullptr) value = load_partial(a.residual + at, count, 0.0f) + value;
    store_partial(a.out + at, value, count);
  }
}

// The panels of a tile are `step` apart.
template <int ROWS, int PANELS>
GPT2FAST_INLINE void finish(const MatmulArgs& a, int row, int panel, int step,
                            float (&sums)[ROWS][PANELS][kLanes]) {
  if (a.bias != nullptr) {
    for (int p = 0; p < PANELS; ++p) {
      const V16 bias = load(a.bias + (panel + p * step) * kLanes);
      for (int r = 0; r < ROWS; ++r) store(sums[r][p], load(sums[r][p]) + bias);
    }
  }
  activate(a.activation, a.activation_parameters, ROWS * PANELS, sums[0][0]);
  for (int r = 0; r < ROWS; ++r) {
    for (int p = 0; p < PANELS; ++p) {
      write_out(a, row + r, (panel + p * step) * kLanes, load(sums[r][p]));
    }
  }
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
