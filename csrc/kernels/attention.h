// Causal attention of one head over its cache blocks, with a running softmax
// (Milakov and Gimelshein, 2018): spans of four blocks in ascending order, for every query the same
// operations whether it comes alone or in a chunk.
//
//   for each span:  s[0..63] = scale * q . K     a lane per cached token, -inf where it is unseen
//                   m' = max(m, max s); p = exp(s - m')
//                   l = l exp(m - m') + sum p;  o = o exp(m - m') + sum_j p[j] V[j]
//   out = o / l
#pragma once

#include "kernels/attention_chunk.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// ROWS rows from `row` on, by themselves.
template <KvFormat FORMAT, int ROWS>
static void attend(const AttentionArgs& a, int row) {
  const KvLayout& layout = a.cache.layout;
  float o[ROWS * kMaxHeadSize];
  Running state[ROWS];
  begin_rows(layout, ROWS, o, state);
  const Queries<FORMAT, ROWS> queries(a, row);
  const int seen = a.position + row + ROWS;  // tokens that the last of these rows sees
  for (int begin = 0; begin < seen; begin += kSpanTokens) {
    attend_span(a, layout, queries, Span(a.cache, begin, seen), begin, row, state);
  }
  end_rows(a, row, ROWS, state);
}

template <KvFormat FORMAT>
static void attend_all(const AttentionArgs& a) {
  constexpr int kTile = 4;  // queries that share each load of a key block
  int row = 0;
  for (; row + kTile <= a.rows; row += kTile) attend<FORMAT, kTile>(a, row);
  for (; row < a.rows; ++row) attend<FORMAT, 1>(a, row);
}

static void attention(const AttentionArgs& a) {
  if (is_chunk(a)) {
    for (int row = 0; row < a.rows; row += kQueryRows) {
      attend_chunk(a, row, a.rows - row < kQueryRows ? a.rows - row : kQueryRows);
    }
    return;
  }
  switch (a.cache.layout.format) {
    case KvFormat::kFloat32: return attend<KvFormat::kFloat32, 1>(a, 0);
    case KvFormat::kBFloat16: return attend_all<KvFormat::kBFloat16>(a);
    case KvFormat::kInt8: return attend_all<KvFormat::kInt8>(a);
  }
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
