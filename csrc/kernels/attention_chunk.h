// Many queries over float keys and values: each span is read once for all of them, and made float32
// where the cache holds bfloat16.
#pragma once

#include "kernels/attention_softmax.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// Queries that share each load of a key: their sums fill the register file, as a matmul's do.
#if defined(__AVX512F__)
constexpr int kChunkTile = 12;
#elif defined(__AVX2__)
constexpr int kChunkTile = 6;
#else
constexpr int kChunkTile = 3;
#endif

// With larger heads the float32 blocks would not stay in the cache.
constexpr int kWidenedHead = 128;
static bool is_chunk(const AttentionArgs& a) {
  const KvLayout& layout = a.cache.layout;
  return a.rows > 1 && (layout.format == KvFormat::kFloat32 ||
                        (layout.format == KvFormat::kBFloat16 && layout.head_size <= kWidenedHead));
}

// The blocks of a bfloat16 span as they would be in a float32 cache.
class WidenedSpan {
 public:
  const Span& read(const KvLayout& layout, const Span& narrow) {
    span_ = narrow;
    // Keys and values, no scales.
    const int64_t count = layout.value_scales() / layout.element();
    for (int b = 0; b < narrow.count; ++b) {
      const auto* from = reinterpret_cast<const uint16_t*>(narrow.blocks[b]);
      for (int64_t i = 0; i < count; i += kLanes) store(blocks_[b] + i, load_bf16(from + i));
      span_.blocks[b] = reinterpret_cast<const uint8_t*>(blocks_[b]);
    }
    return span_;
  }

 private:
  Span span_;
  alignas(64) float blocks_[kSpanBlocks][2 * kBlockTokens * kWidenedHead];
};

// One span for a tile of `rows` rows, 1 to ROWS.
template <int ROWS>
struct ChunkTile {
  static void run(const AttentionArgs& a, const KvLayout& layout, const Span& span, int begin,
                  int row, int rows, Running* state) {
    if (rows < ROWS) return ChunkTile<ROWS - 1>::run(a, layout, span, begin, row, rows, state);
    const Queries<KvFormat::kFloat32, ROWS> queries(a, row);
    attend_span(a, layout, queries, span, begin, row, state);
  }
};
template <>
struct ChunkTile<0> {
  static void run(const AttentionArgs&, const KvLayout&, const Span&, int, int, int, Running*) {}
};

// Rows `first` to `first` + rows - 1, at most kQueryRows.
static void attend_chunk(const AttentionArgs& a, int first, int rows) {
  const KvLayout layout{KvFormat::kFloat32, a.cache.layout.head_size};
  const bool widen = a.cache.layout.format != KvFormat::kFloat32;
  const RowTiles tiles{rows, kChunkTile};
  const int seen = a.position + first + rows;  // tokens that the last of these rows sees
  WidenedSpan widened;
  float o[kQueryRows * kMaxHeadSize];
  Running state[kQueryRows];
  begin_rows(layout, rows, o, state);
  for (int begin = 0; begin < seen; begin += kSpanTokens) {
    const Span narrow(a.cache, begin, seen);
    const Span& span = widen ? widened.read(a.cache.layout, narrow) : narrow;
    for (int tile = 0; tile < tiles.count(); ++tile) {
      const int row = tiles.begin(tile);
      ChunkTile<kChunkTile>::run(a, layout, span, begin, first + row, tiles.height(tile),
                                 state + row);
    }
  }
  end_rows(a, first, rows, state);
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
