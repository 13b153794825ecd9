// Products of 8-bit activations with weights of 8 bits or fewer: exact integer sums over a group,
// then one fused multiply-add into the float result.
#pragma once

#include "kernels/dot_int.h"
#include "kernels/matmul_float.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

constexpr Packing packing_of(Format format) {
  return format == Format::kInt4 ? Packing::kInt4 : Packing::kInt3;
}

// w: the values of the first panel, `stride` bytes from the next; of a format below 8 bits they may
// be UNPACKED. A function of its own: within a caller's loops GCC keeps some of the sums in memory.
template <Format FORMAT, bool UNPACKED, int ROWS, int PANELS>
static __attribute__((noinline)) void int_tile(const MatmulArgs& a, int row, int panel, int step,
                                               const uint8_t* w, int64_t stride) {
  constexpr Packing kPacking = UNPACKED ? Packing::kUnpacked : packing_of(FORMAT);
  const Panels& weights = a.weights;
  QuantizedTile x = tile_at(a.quantized, row);
  const int spans = a.quantized.spans_per_group();
  const uint8_t* scales = weights.panel(panel);
  const int64_t ahead = ROWS == 1 ? kPrefetchBytes : row == 0 ? weights.panel_bytes() : 0;
  const int64_t scale_stride = weights.panel_bytes() * step;
  const int padded = weights.padded_inputs();
  float acc[ROWS][PANELS][kLanes];
  memset(acc, 0, sizeof(acc));
  for (int begin = 0; begin < padded; begin += weights.group) {
    const int count = padded - begin < weights.group ? padded - begin : weights.group;
    I16 sums[ROWS][PANELS];
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) sums[r][p] = zero_ints();
    }
    if (FORMAT == Format::kInt8) {
      add_starts<ROWS, PANELS>(x.starts, count, sums);
      dot_int8<ROWS, PANELS>(w, stride, x.values, count, sums, ahead);
    } else {
      dot_packed<kPacking, ROWS, PANELS>(w, stride, x.values, x.starts, count, sums, ahead);
    }
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      const V16 scale = load_bf16(reinterpret_cast<const uint16_t*>(scales + p * scale_stride));
      GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
        const V16 sum = to_float(sums[r][p]);
        store(acc[r][p], fma(sum, scale * splat(x.scales[r]), load(acc[r][p])));
      }
    }
    w += FORMAT == Format::kInt8 ? int64_t{count} * kLanes
                                 : int64_t{count} / inputs_of(kPacking) * bytes_of(kPacking);
    scales += kLanes * 2;
    x.values += int64_t{count} * ROWS;
    x.scales += ROWS;
    x.starts += int64_t{spans} * ROWS;
  }
  finish<ROWS, PANELS>(a, row, panel, step, acc);
}

// Four rows of sums, what they are made of and what is made of them fill sixteen registers; the 32
// of AVX-512 hold those of four panels.
constexpr int int_panels_for(int rows) {
#if defined(__AVX512VNNI__)
  return rows > 0 ? 4 : 0;
#elif defined(__AVX2__)
  return rows == 1 ? 4 : 1;
#else
  return rows > 0 ? 1 : 0;
#endif
}

template <Format FORMAT>
struct IntTile {
  const MatmulArgs& args;
  static constexpr int kRows = kIntTileRows;
  static constexpr int panels_for(int rows) { return int_panels_for(rows); }
  template <int ROWS, int PANELS>
  void run(int row, int panel, int step) const {
    const Panels& weights = args.weights;
    int_tile<FORMAT, false, ROWS, PANELS>(args, row, panel, step,
                                          weights.panel(panel) + weights.scale_bytes(),
                                          weights.panel_bytes() * step);
  }
};

// Panels from `first` on as unpack() leaves them, one after the other: of 3 bits as of 4, since
// what they are offset by is in the rows.
struct UnpackedTile {
  const MatmulArgs& args;
  const uint8_t* values;
  int first;
  static constexpr int kRows = kIntTileRows;
  static constexpr int panels_for(int rows) { return int_panels_for(rows); }
  template <int ROWS, int PANELS>
  void run(int row, int panel, int step) const {
    const int64_t bytes = int64_t{args.weights.padded_inputs()} * kLanes;
    int_tile<Format::kInt4, true, ROWS, PANELS>(args, row, panel, step,
                                                values + (panel - first) * bytes, bytes * step);
  }
};
// From so many rows on unpacking pays.
constexpr int kUnpackRows = 128;

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
