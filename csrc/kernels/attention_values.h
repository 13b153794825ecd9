// The second half of attention: o += sum_j weights[j] * V[j] over a span.
#pragma once

#include "kernels/kv_access.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// What a query has seen so far.
struct Running {
  float max, sum;
  float* o;  // (D padded to 16)
};

// state[r].o += sum over tokens j of weights[r][j] * V[j], j ascending, for VECTORS vectors from
// component c on: the tokens of `count` blocks from `first` on, or the first `visible` of one. A
// function of its own, as int_tile() is.
template <KvFormat FORMAT, int ROWS, int VECTORS>
static __attribute__((noinline)) void add_vectors(const KvLayout& layout, const Span& span,
                                                  int first, int count, const float* weights,
                                                  int visible, Running* state, int c) {
  V16 acc[ROWS][VECTORS];
  GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
    GPT2FAST_UNROLL for (int i = 0; i < VECTORS; ++i) acc[r][i] = load(state[r].o + c + i * kLanes);
  }
  const int64_t values_at = layout.values() + c * layout.element();
  const int64_t stride = layout.padded_head() * layout.element();
  for (int b = first; b < first + count; ++b, weights += kBlockTokens) {
    const uint8_t* at = span.blocks[b] + values_at;
    for (int j = 0; j < visible; ++j, at += stride) {
      V16 values[VECTORS];
      GPT2FAST_UNROLL for (int i = 0; i < VECTORS; ++i) {
        const uint8_t* const vector = at + i * kLanes * layout.element();
        values[i] = load_as_float<FORMAT>(vector);
        if (ROWS == 1) __builtin_prefetch(vector + span.ahead[b]);
      }
      multiply_add<ROWS, VECTORS>(weights + j, kSpanTokens, values, acc);
    }
  }
  GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
    GPT2FAST_UNROLL for (int i = 0; i < VECTORS; ++i) {
      store(state[r].o + c + i * kLanes, acc[r][i]);
    }
  }
}

template <KvFormat FORMAT, int ROWS>
GPT2FAST_INLINE void add_values(const KvLayout& layout, const Span& span, int first, int count,
                                const float* weights, int visible, Running* state) {
  // As many sums at a time as registers hold.
  constexpr int kVectors = ROWS == 1 ? 4 : 1;
  const int width = static_cast<int>(layout.padded_head());
  int c = 0;
  for (; c + kVectors * kLanes <= width; c += kVectors * kLanes) {
    add_vectors<FORMAT, ROWS, kVectors>(layout, span, first, count, weights, visible, state, c);
  }
  for (; c < width; c += kLanes) {
    add_vectors<FORMAT, ROWS, 1>(layout, span, first, count, weights, visible, state, c);
  }
}

// A span for ROWS queries, of which the first sees `visible` of its tokens, each further one a
// token more.
template <KvFormat FORMAT, int ROWS>
GPT2FAST_INLINE void add_float_span(const KvLayout& layout, const Span& span,
                                    const float (&weights)[ROWS][kSpanTokens], int visible,
                                    Running* state) {
  const int whole = visible / kBlockTokens < span.count ? visible / kBlockTokens : span.count;
  if (whole > 0) {
    add_values<FORMAT, ROWS>(layout, span, 0, whole, weights[0], kBlockTokens, state);
  }
  for (int b = whole < 0 ? 0 : whole; b < span.count; ++b) {
    const int first = b * kBlockTokens;
    for (int r = 0; r < ROWS; ++r) {
      const int behind = visible + r - first;
      const int seen = behind < kBlockTokens ? behind : kBlockTokens;
      if (seen <= 0) continue;
      add_values<FORMAT, 1>(layout, span, b, 1, weights[r] + first, seen, state + r);
    }
  }
}

// ROWS rows of a span's weights as integers, as one tile.
static_assert(kSpanTokens == kIntSpan, "the weights have one starting value a row");
template <int ROWS>
struct IntWeights {
  int8_t values[ROWS * kSpanTokens];
  float scales[ROWS];
  int32_t starts[ROWS];

  void set(int row, const float* weights) {
    quantize_group(Format::kInt8, weights, kSpanTokens, {values, scales, starts}, ROWS, row);
  }
};

// PANELS times 16 components from c on, as 8-bit dot products over the tokens.
template <int ROWS, int PANELS>
GPT2FAST_INLINE void add_int8_panels(const KvLayout& layout, const Span& span,
                                     const IntWeights<ROWS>& w, Running* state, int c) {
  I16 sums[ROWS][PANELS];
  GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) sums[r][p] = zero_ints();
  }
  add_starts<ROWS, PANELS>(w.starts, kSpanTokens, sums);
  for (int b = 0; b < span.count; ++b) {
    dot_int8<ROWS, PANELS>(span.blocks[b] + layout.values() + int64_t{c} * kBlockTokens,
                           kLanes * kBlockTokens, w.values + b * kBlockTokens * ROWS, kBlockTokens,
                           sums, span.ahead[b]);
  }
  GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      float* o = state[r].o + c + p * kLanes;
      store(o, fma(to_float(sums[r][p]), splat(w.scales[r]), load(o)));
    }
  }
}

// With 8-bit values: each token's scale goes into its weight, and the weights of a span become
// integers of one scale. What that rounds away is less than what rounding the values did.
template <int ROWS>
GPT2FAST_INLINE void add_int8_span(const KvLayout& layout, const Span& span,
                                   const float (&weights)[ROWS][kSpanTokens], int visible,
                                   Running* state) {
  IntWeights<ROWS> w;
  for (int r = 0; r < ROWS; ++r) {
    float scaled[kSpanTokens] = {};
    for (int b = 0; b < span.count; ++b) {
      const int first = b * kBlockTokens, count = visible + r - first;
      if (count <= 0) break;
      const auto* scales = reinterpret_cast<const float*>(span.blocks[b] + layout.value_scales());
      __builtin_prefetch(span.blocks[b] + layout.value_scales() + span.ahead[b]);
      // A slot that is unseen may hold anything, a NaN too.
      const V16 scale = count >= kBlockTokens ? load(scales) : load_partial(scales, count, 0.0f);
      store(scaled + first, load(weights[r] + first) * scale);
    }
    w.set(r, scaled);
  }
  constexpr int kPanels = ROWS == 1 ? 4 : 1;
  const int width = static_cast<int>(layout.padded_head());
  int c = 0;
  for (; c + kPanels * kLanes <= width; c += kPanels * kLanes) {
    add_int8_panels<ROWS, kPanels>(layout, span, w, state, c);
  }
  for (; c < width; c += kLanes) add_int8_panels<ROWS, 1>(layout, span, w, state, c);
}

template <KvFormat FORMAT, int ROWS>
struct AddSpan {
  static void run(const KvLayout& layout, const Span& span,
                  const float (&weights)[ROWS][kSpanTokens], int visible, Running* state) {
    add_float_span<FORMAT, ROWS>(layout, span, weights, visible, state);
  }
};
template <int ROWS>
struct AddSpan<KvFormat::kInt8, ROWS> {
  static void run(const KvLayout& layout, const Span& span,
                  const float (&weights)[ROWS][kSpanTokens], int visible, Running* state) {
    add_int8_span<ROWS>(layout, span, weights, visible, state);
  }
};

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
