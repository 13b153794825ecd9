// How rows are cut into the tiles of a matrix product, and how quantized rows lie in them.
#pragma once

#include <stdint.h>

#include "kernels/panels.h"

namespace gpt2fast {

// Rows in as few tiles as possible, and these of about the same height: 8 rows of at most 6 are
// 4 + 4, not 6 + 2.
struct RowTiles {
  int32_t rows, most;

  int32_t count() const { return (rows + most - 1) / most; }
  int32_t begin(int32_t tile) const { return static_cast<int32_t>(int64_t{tile} * rows / count()); }
  int32_t height(int32_t tile) const { return begin(tile + 1) - begin(tile); }
  // The tile that a row lies in.
  int32_t of(int32_t row) const {
    return static_cast<int32_t>(((int64_t{row} + 1) * count() - 1) / rows);
  }
};

constexpr int32_t kIntTileRows = 4;  // rows in a tile of the integer products, at most
constexpr int32_t kIntSpan = 64;     // inputs that have a starting value; see below

// Rows quantized for the integer formats: x[m][k] = scale[m][k / group] * value[m][k]. A product
// reads a tile of rows in one run, so the rows of a tile lie interleaved: of a tile with the rows
// r < h that begins at row b,
//
//   values + b * value_bytes()     (K / 4, h, 4), zeros beyond K, up to a multiple of 32
//   scales + b * groups()          (groups, h)
//   starts + b * spans()           (spans, h)
//
// A span is 64 inputs of a group, or what is left of it. What its sums start from takes off the
// offset that the weights are stored with; how, is between quantize() and the products of an
// instruction set.
struct QuantizedRows {
  int8_t* values;
  float* scales;
  int32_t* starts;
  Format format;  // of the weights that the rows will meet
  int32_t inputs, group;
  int32_t rows;

  RowTiles tiles() const { return {rows, kIntTileRows}; }
  int64_t value_bytes() const { return round_up(inputs, 64); }
  int32_t groups() const { return (inputs + group - 1) / group; }
  int32_t spans_per_group() const {
    return ((group < inputs ? group : inputs) + kIntSpan - 1) / kIntSpan;
  }
  int32_t spans() const { return groups() * spans_per_group(); }
};

// One tile of them.
struct QuantizedTile {
  int8_t* values;
  float* scales;
  int32_t* starts;
};
inline QuantizedTile tile_at(const QuantizedRows& q, int32_t begin) {
  return {q.values + begin * q.value_bytes(), q.scales + int64_t{begin} * q.groups(),
          q.starts + int64_t{begin} * q.spans()};
}

}  // namespace gpt2fast
