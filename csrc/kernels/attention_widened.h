// Many queries over a bfloat16 cache: each span is made float32 once for all of them.
#pragma once

#include "kernels/attention_softmax.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

constexpr int kQueryTile = 4;  // queries that share each load of a key block

// With larger heads the float32 blocks would not stay in the cache.
constexpr int kWidenedHead = 128;
static bool widens(const AttentionArgs& a) {
  return a.rows > kQueryTile && a.cache.layout.head_size <= kWidenedHead;
}

// The blocks of a span as they would be in a float32 cache.
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

template <int ROWS>
static void attend_widened_rows(const AttentionArgs& a, const KvLayout& layout, const Span& span,
                                int begin, int row, Running* state) {
  const Queries<KvFormat::kFloat32, ROWS> queries(a, row);
  attend_span(a, layout, queries, span, begin, row, state);
}

static void attend_widened(const AttentionArgs& a) {
  const KvLayout layout{KvFormat::kFloat32, a.cache.layout.head_size};
  WidenedSpan widened;
  float o[kQueryRows * kWidenedHead];
  Running state[kQueryRows];
  for (int first = 0; first < a.rows; first += kQueryRows) {
    const int end = a.rows - first < kQueryRows ? a.rows : first + kQueryRows;
    const int seen = a.position + end;  // tokens that the last of these rows sees
    begin_rows(layout, end - first, o, state);
    for (int begin = 0; begin < seen; begin += kSpanTokens) {
      const Span& span = widened.read(a.cache.layout, Span(a.cache, begin, seen));
      int row = first;
      for (; row + kQueryTile <= end; row += kQueryTile) {
        attend_widened_rows<kQueryTile>(a, layout, span, begin, row, state + row - first);
      }
      for (; row < end; ++row) {
        attend_widened_rows<1>(a, layout, span, begin, row, state + row - first);
      }
    }
    end_rows(a, first, end - first, state);
  }
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
