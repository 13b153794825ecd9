// Products with float32 and bfloat16 weights; the arithmetic is float32.
//
// The tile of ROWS x PANELS keeps one accumulator vector per (row, panel):
//
//             panel p   panel p+step         for k in 0 .. K-1, in this order for every tile:
//           +---------+---------+              acc[row][p] += x[row][k] * w[p][k][0..15]
//   row 0   | acc 00  | acc 01  |
//   row 1   | acc 10  | acc 11  |            an output is one lane of one accumulator, so its
//           +---------+---------+            value does not depend on the shape of the tile
#pragma once

#include "kernels/dot_int.h"
#include "kernels/epilogue.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

template <int ROWS, int PANELS>
GPT2FAST_INLINE void multiply_add(const float* x, int64_t stride, const V16 (&weights)[PANELS],
                                  V16 (&acc)[ROWS][PANELS]) {
  GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
    const V16 input = splat(x[r * stride]);
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      acc[r][p] = fma(input, weights[p], acc[r][p]);
      if (ROWS > 1) pin(acc[r][p]);
    }
  }
}

template <int ROWS, int PANELS>
GPT2FAST_INLINE void float32_sums(const uint8_t* w, int64_t stride, const float* x,
                                  int64_t x_stride, int inputs, int64_t ahead,
                                  V16 (&acc)[ROWS][PANELS]) {
  for (int k = 0; k < inputs; ++k) {
    V16 weights[PANELS];
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      const uint8_t* at = w + p * stride + int64_t{k} * kLanes * 4;
      weights[p] = load(reinterpret_cast<const float*>(at));
      __builtin_prefetch(at + ahead);
    }
    multiply_add<ROWS, PANELS>(x + k, x_stride, weights, acc);
  }
}

template <int ROWS, int PANELS>
GPT2FAST_INLINE void bfloat16_sums(const uint8_t* w, int64_t stride, const float* x,
                                   int64_t x_stride, int inputs, int64_t ahead,
                                   V16 (&acc)[ROWS][PANELS]) {
  for (int k = 0; k < inputs; k += 2) {
    V16 weights[PANELS];
    const uint8_t* at = w + int64_t{k} * kLanes * 2;
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      weights[p] = load_bf16_pairs<0>(at + p * stride);
      __builtin_prefetch(at + p * stride + ahead);
    }
    multiply_add<ROWS, PANELS>(x + k, x_stride, weights, acc);
    if (k + 1 == inputs) break;
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      weights[p] = load_bf16_pairs<1>(at + p * stride);
    }
    multiply_add<ROWS, PANELS>(x + k + 1, x_stride, weights, acc);
  }
}

template <Format FORMAT, int ROWS, int PANELS>
static void float_tile(const MatmulArgs& a, int row, int panel, int step) {
  const uint8_t* w = a.weights.panel(panel);
  const int64_t stride = a.weights.panel_bytes() * step;
  const float* x = a.x + row * a.x_stride;
  const int64_t ahead = ROWS == 1 ? kPrefetchBytes : a.weights.panel_bytes();
  V16 acc[ROWS][PANELS];
  GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) acc[r][p] = splat(0.0f);
  }
  if (FORMAT == Format::kFloat32) {
    float32_sums<ROWS, PANELS>(w, stride, x, a.x_stride, a.weights.inputs, ahead, acc);
  } else {
    bfloat16_sums<ROWS, PANELS>(w, stride, x, a.x_stride, a.weights.inputs, ahead, acc);
  }
  // Through memory, once: a loop over the accumulators that is not unrolled would make the
  // compiler keep them in memory in the loop above as well.
  float sums[ROWS][PANELS][kLanes];
  GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) store(sums[r][p], acc[r][p]);
  }
  finish<ROWS, PANELS>(a, row, panel, step, sums);
}

// Tiles that fill the register file, 16 registers of 8 floats, 32 of 16, or 16 of 4, and keep
// enough sums under way to hide the latency of the multiply-adds.
template <Format FORMAT>
struct FloatTile {
  const MatmulArgs& args;
#if defined(__AVX512F__)
  static constexpr int kRows = 12;
  static constexpr int panels_for(int rows) { return rows <= 6 ? 4 : 2; }
#elif defined(__AVX2__)
  static constexpr int kRows = 6;
  static constexpr int panels_for(int rows) {
    return rows == 1 ? 4 : rows == 2 ? 3 : rows == 3 ? 2 : 1;
  }
#else
  static constexpr int kRows = 3;
  static constexpr int panels_for(int rows) { return rows == 1 ? 2 : 1; }
#endif
  template <int ROWS, int PANELS>
  void run(int row, int panel, int step) const {
    float_tile<FORMAT, ROWS, PANELS>(args, row, panel, step);
  }
};

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
