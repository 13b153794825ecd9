// out = act(x w + bias) + residual over packed weights: matrix-vector at the speed of memory for
// one row, a register-blocked product for many, with the same bits.
//
// The tile of ROWS x PANELS keeps one accumulator vector per (row, panel):
//
//             panel p   panel p+1            for k in 0 .. K-1, in this order for every tile:
//           +---------+---------+              acc[row][p] += x[row][k] * w[p][k][0..15]
//   row 0   | acc 00  | acc 01  |
//   row 1   | acc 10  | acc 11  |            an output is one lane of one accumulator, so its
//           +---------+---------+            value does not depend on the shape of the tile
#pragma once

#include "kernels/activation.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// Tiles that fill the register file: 16 registers of 8 floats, 32 of 16, or 16 of 4.
#if defined(__AVX512F__)
constexpr int kTileRows = 12, kTilePanels = 2, kVectorPanels = 4;
#elif defined(__AVX2__)
constexpr int kTileRows = 6, kTilePanels = 1, kVectorPanels = 4;
#else
constexpr int kTileRows = 3, kTilePanels = 1, kVectorPanels = 2;
#endif
// Each panel is a stream of its own; the hardware prefetcher stops at page ends, this does not.
constexpr int kPrefetchFloats = 512;

static void finish(const MatmulArgs& a, int row, int panel, V16 value) {
  const int column = panel * kLanes;
  if (a.bias != nullptr) value = value + load(a.bias + column);
  value = activate(a.activation, a.activation_parameters, value);
  const int64_t at = row * a.out_stride + column;
  const int count = a.outputs - column;
  if (count >= kLanes) {
    if (a.residual != nullptr) value = load(a.residual + at) + value;
    store(a.out + at, value);
  } else {
    if (a.residual != nullptr) value = load_partial(a.residual + at, count, 0.0f) + value;
    store_partial(a.out + at, value, count);
  }
}

template <int ROWS, int PANELS>
static void tile(const MatmulArgs& a, int row, int panel) {
  const int64_t panel_floats = static_cast<int64_t>(a.inputs) * kLanes;
  const float* w = a.panels + panel * panel_floats;
  const float* x = a.x + row * a.x_stride;
  V16 acc[ROWS][PANELS];
  GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) acc[r][p] = splat(0.0f);
  }
  for (int k = 0; k < a.inputs; ++k) {
    V16 weights[PANELS];
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      const float* at = w + p * panel_floats + static_cast<int64_t>(k) * kLanes;
      weights[p] = load(at);
      if (ROWS == 1) __builtin_prefetch(at + kPrefetchFloats, 0, 0);
    }
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      const V16 input = splat(x[r * a.x_stride + k]);
      GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
        acc[r][p] = fma(input, weights[p], acc[r][p]);
      }
    }
  }
  // Through memory, once: a loop over the accumulators that is not unrolled would make the
  // compiler keep them in memory in the loop above as well.
  float sums[ROWS][PANELS][kLanes];
  GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) store(sums[r][p], acc[r][p]);
  }
  for (int r = 0; r < ROWS; ++r) {
    for (int p = 0; p < PANELS; ++p) finish(a, row + r, panel + p, load(sums[r][p]));
  }
}

// The rows that are left below a full tile: 0 <= rows < ROWS + 1.
template <int ROWS, int PANELS>
struct Remainder {
  static void run(const MatmulArgs& a, int row, int rows, int panel) {
    if (rows == ROWS) {
      tile<ROWS, PANELS>(a, row, panel);
    } else {
      Remainder<ROWS - 1, PANELS>::run(a, row, rows, panel);
    }
  }
};
template <int PANELS>
struct Remainder<0, PANELS> {
  static void run(const MatmulArgs&, int, int, int) {}
};

template <int PANELS>
static void all_rows(const MatmulArgs& a, int panel) {
  int row = 0;
  for (; row + kTileRows <= a.rows; row += kTileRows) tile<kTileRows, PANELS>(a, row, panel);
  Remainder<kTileRows - 1, PANELS>::run(a, row, a.rows - row, panel);
}

static void matmul(const MatmulArgs& a, int32_t panel_begin, int32_t panel_end) {
  int panel = panel_begin;
  if (a.rows == 1) {
    for (; panel + kVectorPanels <= panel_end; panel += kVectorPanels) {
      tile<1, kVectorPanels>(a, 0, panel);
    }
    for (; panel < panel_end; ++panel) tile<1, 1>(a, 0, panel);
    return;
  }
  for (; panel + kTilePanels <= panel_end; panel += kTilePanels) all_rows<kTilePanels>(a, panel);
  for (; panel < panel_end; ++panel) all_rows<1>(a, panel);
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
