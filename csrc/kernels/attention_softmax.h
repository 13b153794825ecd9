// The running softmax between the two halves of attention, and the state that it keeps for each
// query.
#pragma once

#include "kernels/attention_values.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

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

// The weights of one span for ROWS queries, of which the first sees `visible` tokens counted from
// the span's start, each further one a token more.
template <int ROWS>
static void weigh_rows(const KvLayout& layout, float scale, int visible,
                       V16 (&scores)[ROWS][kSpanBlocks], Running* state,
                       float (&weights)[ROWS][kSpanTokens]) {
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
}

// Every row a Running with its output in `o` (rows, D padded to 16).
static void begin_rows(const KvLayout& layout, int rows, float* o, Running* state) {
  const int64_t width = layout.padded_head();
  memset(o, 0, static_cast<size_t>(rows * width) * sizeof(float));
  for (int r = 0; r < rows; ++r) state[r] = {-__builtin_inff(), 0.0f, o + r * width};
}

static void end_rows(const AttentionArgs& a, int row, int rows, const Running* state) {
  for (int r = 0; r < rows; ++r) {
    const V16 inverse = splat(1.0f) / splat(state[r].sum);
    float* out = a.out + (row + r) * a.out_stride;
    for (int c = 0; c < a.cache.layout.padded_head(); c += kLanes) {
      const V16 value = load(state[r].o + c) * inverse;
      const int count = a.cache.layout.head_size - c;
      if (count >= kLanes) {
        store(out + c, value);
      } else {
        store_partial(out + c, value, count);
      }
    }
  }
}

// One span, from token `begin` on, for ROWS rows from `row` on.
template <KvFormat FORMAT, int ROWS>
GPT2FAST_INLINE void attend_span(const AttentionArgs& a, const KvLayout& layout,
                                 const Queries<FORMAT, ROWS>& queries, const Span& span, int begin,
                                 int row, Running* state) {
  const int visible = a.position + row + 1 - begin;
  V16 scores[ROWS][kSpanBlocks];
  float weights[ROWS][kSpanTokens];
  queries.scores(layout, span, scores);
  weigh_rows<ROWS>(layout, a.scale, visible, scores, state, weights);
  AddSpan<FORMAT, ROWS>::run(layout, span, weights, visible, state);
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
