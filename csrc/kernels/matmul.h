// out = act(x w + bias) + residual over packed weights of any format: matrix-vector at the speed of
// memory for one row, a register-blocked product for many, with the same bits.
#pragma once

#include "kernels/matmul_float.h"
#include "kernels/matmul_int.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// ROWS rows, over the panels [begin, end).
//
// The panels of a tile lie `step` apart, each the start of a stream through its own share of the
// range: the memory is read from several places at once, in runs much longer than one panel, which
// hides what a single stream waits for at its page ends.
template <typename Tile, int ROWS>
static void all_panels(const MatmulArgs& a, int row, int begin, int end) {
  constexpr int kPanels = Tile::panels_for(ROWS);
  const int step = (end - begin) / kPanels;
  for (int i = 0; i < step; ++i) Tile::template run<ROWS, kPanels>(a, row, begin + i, step);
  for (int i = begin + kPanels * step; i < end; ++i) Tile::template run<ROWS, 1>(a, row, i, 1);
}

// From a number of rows known at run time, 1 to ROWS, to a tile.
template <typename Tile, int ROWS>
struct Rows {
  static void run(const MatmulArgs& a, int row, int rows, int begin, int end) {
    if (rows == ROWS) {
      all_panels<Tile, ROWS>(a, row, begin, end);
    } else {
      Rows<Tile, ROWS - 1>::run(a, row, rows, begin, end);
    }
  }
};
template <typename Tile>
struct Rows<Tile, 0> {
  static void run(const MatmulArgs&, int, int, int, int) {}
};

template <typename Tile>
static void all_rows(const MatmulArgs& a, int32_t begin, int32_t end) {
  const RowTiles tiles{a.rows, Tile::kRows};
  // With one tile the streams run through the whole range; with more, what a tile takes of the
  // panels stays in the cache until all rows have met it.
  const int together = tiles.count() == 1 ? end - begin : Tile::panels_for(Tile::kRows);
  for (int panel = begin; panel < end; panel += together) {
    const int last = end - panel < together ? end : panel + together;
    for (int tile = 0; tile < tiles.count(); ++tile) {
      Rows<Tile, Tile::kRows>::run(a, tiles.begin(tile), tiles.height(tile), panel, last);
    }
  }
}

static void matmul(const MatmulArgs& a, int32_t panel_begin, int32_t panel_end) {
  switch (a.weights.format) {
    case Format::kFloat32: return all_rows<FloatTile<Format::kFloat32>>(a, panel_begin, panel_end);
    case Format::kBFloat16:
      return all_rows<FloatTile<Format::kBFloat16>>(a, panel_begin, panel_end);
    case Format::kInt8: return all_rows<IntTile<Format::kInt8>>(a, panel_begin, panel_end);
    case Format::kInt4: return all_rows<IntTile<Format::kInt4>>(a, panel_begin, panel_end);
  }
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
