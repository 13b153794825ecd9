// out = act(x w + bias) + residual over packed weights of any format: matrix-vector at the speed of
// memory for one row, a register-blocked product for many, with the same bits.
#pragma once

#include "kernels/matmul_float.h"
#include "kernels/matmul_int.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// ROWS rows from `row` on, over the panels [begin, end).
//
// The panels of a tile lie `step` apart, each the start of a stream through its own share of the
// range: the memory is read from several places at once, in runs much longer than one panel, which
// hides what a single stream waits for at its page ends.
template <int ROWS, typename Tile>
static void all_panels(const Tile& tile, int row, int begin, int end) {
  constexpr int kPanels = Tile::panels_for(ROWS);
  const int step = (end - begin) / kPanels;
  for (int i = 0; i < step; ++i) tile.template run<ROWS, kPanels>(row, begin + i, step);
  for (int i = begin + kPanels * step; i < end; ++i) tile.template run<ROWS, 1>(row, i, 1);
}

// From a number of rows known at run time, 1 to ROWS, to a tile.
template <int ROWS>
struct Rows {
  template <typename Tile>
  static void run(const Tile& tile, int row, int rows, int begin, int end) {
    if (rows == ROWS) {
      all_panels<ROWS>(tile, row, begin, end);
    } else {
      Rows<ROWS - 1>::run(tile, row, rows, begin, end);
    }
  }
};
template <>
struct Rows<0> {
  template <typename Tile>
  static void run(const Tile&, int, int, int, int) {}
};

template <typename Tile>
static void all_rows(const Tile& tile, int begin, int end) {
  const RowTiles tiles{tile.args.rows, Tile::kRows};
  // With one tile the streams run through the whole range; with more, what a tile takes of the
  // panels stays in the cache until all rows have met it.
  const int together = tiles.count() == 1 ? end - begin : Tile::panels_for(Tile::kRows);
  for (int panel = begin; panel < end; panel += together) {
    const int last = end - panel < together ? end : panel + together;
    for (int t = 0; t < tiles.count(); ++t) {
      Rows<Tile::kRows>::run(tile, tiles.begin(t), tiles.height(t), panel, last);
    }
  }
}

// Many rows meet panels of 4 or 3 bits unpacked once for all of them.
template <Format FORMAT>
static void matmul_packed(const MatmulArgs& a, int begin, int end) {
  using Tile = UnpackedTile;
  constexpr int kPanels = Tile::panels_for(Tile::kRows);
  constexpr int kUnpackedBytes = 1 << 17;  // half of a second-level cache at most
  const int bytes = a.weights.padded_inputs() * kLanes;
  if (a.rows < kUnpackRows || bytes * kPanels > kUnpackedBytes) {
    return all_rows(IntTile<FORMAT>{a}, begin, end);
  }
  alignas(64) uint8_t values[kUnpackedBytes];
  for (int panel = begin; panel < end; panel += kPanels) {
    const int count = end - panel < kPanels ? end - panel : kPanels;
    for (int p = 0; p < count; ++p) {
      const uint8_t* packed = a.weights.panel(panel + p) + a.weights.scale_bytes();
      unpack<packing_of(FORMAT)>(packed, a.weights.padded_inputs(), values + p * bytes);
    }
    all_rows(Tile{a, values, panel}, panel, panel + count);
  }
}

static void matmul(const MatmulArgs& a, int32_t begin, int32_t end) {
  switch (a.weights.format) {
    case Format::kFloat32: return all_rows(FloatTile<Format::kFloat32>{a}, begin, end);
    case Format::kBFloat16: return all_rows(FloatTile<Format::kBFloat16>{a}, begin, end);
    case Format::kInt8: return all_rows(IntTile<Format::kInt8>{a}, begin, end);
    case Format::kInt4: return matmul_packed<Format::kInt4>(a, begin, end);
    case Format::kInt3: return matmul_packed<Format::kInt3>(a, begin, end);
  }
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
