// Causal attention of one head over its cache blocks, with a running softmax
// (Milakov and Gimelshein, 2018): spans of four blocks in ascending order, for every query the same
// operations whether it comes alone or in a chunk.
//
//   for each span:  s[0..63] = scale * q . K     a lane per cached token, -inf where it is unseen
//                   m' = max(m, max s); p = exp(s - m')
//                   l = l exp(m - m') + sum p;  o = o exp(m - m') + sum_j p[j] V[j]
//   out = o / l
#pragma once

#include <math.h>

#include "kernels/attention_values.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

constexpr int kQueryTile = 4;  // queries that share each load of a key block

// Brings a query's running softmax up to a span, of which it sees the first `visible` > 0 tokens:
// weights[j] is what V[j] is multiplied by, 0 where it is unseen.
static void weigh(const KvLayout& layout, V16 (&scores)[kSpanBlocks], int visible, Running& state,
                  float* weights) {
  const V16 unseen = splat(-__builtin_inff());
  float lanes[kLanes];
  V16 most = unseen;
  GPT2FAST_UNROLL for (int b = 0; b < kSpanBlocks; ++b) {
    const int count = visible - b * kBlockTokens;
    if (count <= 0) {
      scores[b] = unseen;
    } else if (count < kBlockTokens) {
      store(lanes, scores[b]);
      scores[b] = load_partial(lanes, count, -__builtin_inff());
    }
    most = max(most, scores[b]);
  }
  const float span_max = max_lane(most);
  const float new_max = state.max > span_max ? state.max : span_max;
  if (new_max != state.max) {
    const V16 correction = exp(splat(state.max - new_max));
    store(lanes, correction);
    state.sum *= lanes[0];
    const int width = static_cast<int>(layout.padded_head());
    for (int c = 0; c < width; c += kLanes) store(state.o + c, load(state.o + c) * correction);
    state.max = new_max;
  }
  V16 p[kSpanBlocks];
  GPT2FAST_UNROLL for (int b = 0; b < kSpanBlocks; ++b) p[b] = exp(scores[b] - splat(new_max));
  state.sum += sum(p[0] + p[1] + (p[2] + p[3]));
  GPT2FAST_UNROLL for (int b = 0; b < kSpanBlocks; ++b) store(weights + b * kBlockTokens, p[b]);
}

// One span for ROWS queries, of which the first sees `visible` tokens counted from the span's
// start, each further one a token more.
template <KvFormat FORMAT, int ROWS>
static void attend_span(const KvLayout& layout, const Span& span, float scale, int visible,
                        V16 (&scores)[ROWS][kSpanBlocks], Running* state) {
  float weights[ROWS][kSpanTokens];
  for (int r = 0; r < ROWS; ++r) {
    const int seen = visible + r < kSpanTokens ? visible + r : kSpanTokens;
    if (seen <= 0) {
      memset(weights[r], 0, sizeof(weights[r]));
      continue;
    }
    GPT2FAST_UNROLL for (int b = 0; b < kSpanBlocks; ++b) scores[r][b] =
        scores[r][b] * splat(scale);
    weigh(layout, scores[r], seen, state[r], weights[r]);
  }
  AddSpan<FORMAT, ROWS>::run(layout, span, weights, visible, state);
}

template <KvFormat FORMAT, int ROWS>
static void attend(const AttentionArgs& a, int row) {
  const KvLayout& layout = a.cache.layout;
  const int width = static_cast<int>(layout.padded_head());
  Running state[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    state[r].max = -__builtin_inff();
    state[r].sum = 0.0f;
    memset(state[r].o, 0, static_cast<size_t>(width) * sizeof(float));
  }
  const Queries<FORMAT, ROWS> queries(a, row);
  const int seen = a.position + row + ROWS;  // tokens that the last of these rows sees
  for (int begin = 0; begin < seen; begin += kSpanTokens) {
    const Span span(a.cache, begin, seen);
    V16 scores[ROWS][kSpanBlocks];
    queries.scores(layout, span, scores);
    attend_span<FORMAT, ROWS>(layout, span, a.scale, a.position + row + 1 - begin, scores, state);
  }
  for (int r = 0; r < ROWS; ++r) {
    const V16 inverse = splat(1.0f) / splat(state[r].sum);
    float* out = a.out + (row + r) * a.out_stride;
    for (int c = 0; c < width; c += kLanes) {
      const V16 value = load(state[r].o + c) * inverse;
      const int count = layout.head_size - c;
      if (count >= kLanes) {
        store(out + c, value);
      } else {
        store_partial(out + c, value, count);
      }
    }
  }
}

template <KvFormat FORMAT>
static void attend_all(const AttentionArgs& a) {
  int row = 0;
  for (; row + kQueryTile <= a.rows; row += kQueryTile) attend<FORMAT, kQueryTile>(a, row);
  for (; row < a.rows; ++row) attend<FORMAT, 1>(a, row);
}

static void attention(const AttentionArgs& a) {
  switch (a.cache.layout.format) {
    case KvFormat::kFloat32: return attend_all<KvFormat::kFloat32>(a);
    case KvFormat::kBFloat16: return attend_all<KvFormat::kBFloat16>(a);
    case KvFormat::kInt8: return attend_all<KvFormat::kInt8>(a);
  }
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
