// Rows of activations to 8 bits, a scale for every group of inputs: an outlier spoils its own group
// and no other.
#pragma once

#include "kernels/dot_int.h"
#include "kernels/kernels.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// The largest magnitude of x (count,); `poison` becomes NaN where x holds NaN or infinity.
GPT2FAST_INLINE float largest_magnitude(const float* x, int count, float& poison) {
  V16 most = splat(0.0f), zeros = splat(0.0f);
  for (int k = 0; k < count; k += kLanes) {
    const V16 v = count - k >= kLanes ? load(x + k) : load_partial(x + k, count - k, 0.0f);
    most = max(most, max(v, splat(0.0f) - v));
    zeros = fma(v, splat(0.0f), zeros);
  }
  poison = sum(zeros);
  return max_lane(most);
}

// x (count,) as row `row` of a tile of `height` rows; the tile begins at the group.
static void quantize_group(Format format, const float* x, int count, const QuantizedTile& tile,
                           int height, int row) {
  float poison;
  const float most = largest_magnitude(x, count, poison);
  // The inverse of a subnormal number may be infinite.
  const V16 to_integer = splat(most > 1e-30f ? 127.0f / most : 0.0f);
  tile.scales[row] = most / 127.0f + poison;
  const int padded = static_cast<int>(round_up(count, kInt3Unit));
  for (int begin = 0; begin < padded; begin += kIntSpan) {
    const int end = padded - begin < kIntSpan ? padded : begin + kIntSpan;
    SpanSum total = no_sum();
    for (int k = begin; k < end; k += kLanes) {
      const int left = count - k;
      const V16 v = left >= kLanes ? load(x + k) : load_partial(x + k, left, 0.0f);
      const B16 bytes = to_bytes(v * to_integer);
      store_quads(bytes, tile.values + (int64_t{k} / 4 * height + row) * 4, 4 * height);
      add(total, bytes);
    }
    tile.starts[begin / kIntSpan * height + row] = start_from(format, total);
  }
}

static void quantize(const float* x, const QuantizedRows& out, int32_t row) {
  const RowTiles tiles = out.tiles();
  const int t = tiles.of(row), begin = tiles.begin(t), height = tiles.height(t);
  QuantizedTile tile = tile_at(out, begin);
  for (int k = 0; k < out.inputs; k += out.group) {
    const int count = out.inputs - k < out.group ? out.inputs - k : out.group;
    quantize_group(out.format, x + k, count, tile, height, row - begin);
    tile.values += int64_t{out.group} * height;
    tile.scales += height;
    tile.starts += int64_t{out.spans_per_group()} * height;
  }
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
