// Causal attention of one head over its cache blocks, with a running softmax
// (Milakov and Gimelshein, 2018): blocks in ascending order, for every query the same operations
// whether it comes alone or in a chunk.
//
//   for each block b:  s[0..15] = scale * q . K[b]      one vector, a lane per cached token
//                      m' = max(m, max s); p = exp(s - m')
//                      l = l exp(m - m') + sum p;  o = o exp(m - m') + sum_j p[j] V[b][j]
//   out = o / l
#pragma once

#include <math.h>

#include "kernels/kv_access.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

constexpr int kMaxHeadVectors = kMaxHeadSize / kLanes;
constexpr int kQueryTile = 4;  // queries that share each load of a key block

struct Running {
  float max, sum;
};

// Adds one block of `visible` tokens to a query's running softmax.
template <KvFormat FORMAT>
static void accumulate(const KvLayout& layout, const uint8_t* block, V16 scores, int visible,
                       Running& state, float* o) {
  const float infinity = __builtin_inff();
  float lanes[16];
  if (visible < kBlockTokens) {
    store(lanes, scores);
    for (int j = visible; j < kBlockTokens; ++j) lanes[j] = -infinity;
    scores = load(lanes);
  }
  const float block_max = max_lane(scores);
  const float new_max = state.max > block_max ? state.max : block_max;
  const V16 p = exp(scores - splat(new_max));
  const int width = static_cast<int>(layout.padded_head());
  if (new_max != state.max) {
    const V16 correction = exp(splat(state.max - new_max));
    store(lanes, correction);
    state.sum *= lanes[0];
    for (int c = 0; c < width; c += kLanes) store(o + c, load(o + c) * correction);
    state.max = new_max;
  }
  state.sum += sum(p);
  store(lanes, value_weights<FORMAT>(layout, block, p));
  for (int c = 0; c < width; c += kLanes) {
    V16 acc = load(o + c);
    for (int j = 0; j < visible; ++j) {
      acc = fma(splat(lanes[j]), load_value<FORMAT>(layout, block, j, c), acc);
    }
    store(o + c, acc);
  }
}

template <KvFormat FORMAT, int ROWS>
static void attend(const AttentionArgs& a, int row) {
  const KvLayout& layout = a.cache.layout;
  const int width = static_cast<int>(layout.padded_head());
  float o[ROWS][kMaxHeadVectors * kLanes];
  Running state[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    state[r] = {-__builtin_inff(), 0.0f};
    for (int c = 0; c < width; ++c) o[r][c] = 0.0f;
  }
  const Queries<FORMAT, ROWS> queries(a, row);
  const int last = a.position + row + ROWS - 1;  // the newest token that any of these rows sees
  for (int b = 0; b * kBlockTokens <= last; ++b) {
    const uint8_t* block = block_of(a.cache, b);
    V16 scores[ROWS];
    queries.scores(layout, block, scores);
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      const int behind = a.position + row + r + 1 - b * kBlockTokens;
      if (behind <= 0) continue;
      accumulate<FORMAT>(layout, block, scores[r] * splat(a.scale),
                         behind < kBlockTokens ? behind : kBlockTokens, state[r], o[r]);
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    const V16 inverse = splat(1.0f) / splat(state[r].sum);
    float* out = a.out + (row + r) * a.out_stride;
    for (int c = 0; c < width; c += kLanes) {
      const V16 value = load(o[r] + c) * inverse;
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
