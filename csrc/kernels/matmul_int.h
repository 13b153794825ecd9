// Products of 8-bit activations with 8-bit or 4-bit weights: exact integer sums over a group, then
// one fused multiply-add into the float result.
#pragma once

#include "kernels/dot_int.h"
#include "kernels/matmul_float.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

template <Format FORMAT, int ROWS, int PANELS>
static void int_tile(const MatmulArgs& a, int row, int panel, int step) {
  constexpr bool kIs8 = FORMAT == Format::kInt8;
  const Panels& weights = a.weights;
  QuantizedTile x = tile_at(a.quantized, row);
  const int spans = a.quantized.spans_per_group();
  const int64_t stride = weights.panel_bytes() * step;
  const uint8_t* scales = weights.panel(panel);
  const uint8_t* w = scales + weights.scale_bytes();
  const int padded = weights.padded_inputs();
  float acc[ROWS][PANELS][kLanes];
  memset(acc, 0, sizeof(acc));
  for (int begin = 0; begin < padded; begin += weights.group) {
    const int count = padded - begin < weights.group ? padded - begin : weights.group;
    I16 sums[ROWS][PANELS];
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) sums[r][p] = zero_ints();
    }
    if (kIs8) {
      add_starts<ROWS, PANELS>(x.starts, count, sums);
      dot_int8<ROWS, PANELS>(w, stride, x.values, count, sums);
    } else {
      dot_int4<ROWS, PANELS>(w, stride, x.values, x.starts, count, sums);
    }
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      const V16 scale = load_bf16(reinterpret_cast<const uint16_t*>(scales + p * stride));
      GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
        const V16 sum = to_float(sums[r][p]);
        store(acc[r][p], fma(sum, scale * splat(x.scales[r]), load(acc[r][p])));
      }
    }
    w += int64_t{count} * kLanes / (kIs8 ? 1 : 2);
    scales += kLanes * 2;
    x.values += int64_t{count} * ROWS;
    x.scales += ROWS;
    x.starts += int64_t{spans} * ROWS;
  }
  finish<ROWS, PANELS>(a, row, panel, step, acc);
}

template <Format FORMAT>
struct IntTile {
  static constexpr int kRows = kIntTileRows;
#if defined(__AVX512VNNI__)
  static constexpr int panels_for(int) { return 4; }
#elif defined(__AVX2__)
  static constexpr int panels_for(int rows) { return rows == 1 ? 4 : 1; }
#else
  static constexpr int panels_for(int) { return 1; }
#endif
  template <int ROWS, int PANELS>
  static void run(const MatmulArgs& a, int row, int panel, int step) {
    int_tile<FORMAT, ROWS, PANELS>(a, row, panel, step);
  }
};

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
