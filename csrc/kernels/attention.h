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

#include "kernels/kernels.h"
#include "kernels/vec.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

constexpr int kMaxHeadVectors = kMaxHeadSize / kLanes;
constexpr int kQueryTile = 4;  // queries that share each load of a key block

GPT2FAST_INLINE float* keys_of(const HeadCache& cache, int block) {
  return cache.base + cache.blocks[block] * cache.block_stride;
}
GPT2FAST_INLINE float* values_of(const HeadCache& cache, int block) {
  return keys_of(cache, block) + static_cast<int64_t>(cache.head_size) * kBlockTokens;
}

static void append_kv(const HeadCache& cache, int32_t position, const float* key,
                      const float* value) {
  const int block = position / kBlockTokens, slot = position % kBlockTokens;
  float* keys = keys_of(cache, block);
  for (int d = 0; d < cache.head_size; ++d) keys[d * kBlockTokens + slot] = key[d];
  memcpy(values_of(cache, block) + slot * round_up_lanes(cache.head_size), value,
         static_cast<size_t>(cache.head_size) * sizeof(float));
}

template <int ROWS>
GPT2FAST_INLINE void block_scores(const AttentionArgs& a, int row, const float* keys,
                                  V16 (&scores)[ROWS]) {
  GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) scores[r] = splat(0.0f);
  for (int d = 0; d < a.cache.head_size; ++d) {
    const V16 key = load(keys + d * kBlockTokens);
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      scores[r] = fma(splat(a.q[(row + r) * a.q_stride + d]), key, scores[r]);
    }
  }
  GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) scores[r] = scores[r] * splat(a.scale);
}

struct Running {
  float max, sum;
};

// Adds one block of `visible` tokens to a query's running softmax.
static void accumulate(const HeadCache& cache, const float* values, V16 scores, int visible,
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
  const int width = static_cast<int>(round_up_lanes(cache.head_size));
  if (new_max != state.max) {
    const V16 correction = exp(splat(state.max - new_max));
    store(lanes, correction);
    state.sum *= lanes[0];
    for (int c = 0; c < width; c += kLanes) store(o + c, load(o + c) * correction);
    state.max = new_max;
  }
  state.sum += sum(p);
  store(lanes, p);
  for (int c = 0; c < width; c += kLanes) {
    V16 acc = load(o + c);
    for (int j = 0; j < visible; ++j) acc = fma(splat(lanes[j]), load(values + j * width + c), acc);
    store(o + c, acc);
  }
}

template <int ROWS>
static void attend(const AttentionArgs& a, int row) {
  const int width = static_cast<int>(round_up_lanes(a.cache.head_size));
  float o[ROWS][kMaxHeadVectors * kLanes];
  Running state[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    state[r] = {-__builtin_inff(), 0.0f};
    for (int c = 0; c < width; ++c) o[r][c] = 0.0f;
  }
  const int last = a.position + row + ROWS - 1;  // the newest token that any of these rows sees
  for (int block = 0; block * kBlockTokens <= last; ++block) {
    V16 scores[ROWS];
    block_scores<ROWS>(a, row, keys_of(a.cache, block), scores);
    const float* values = values_of(a.cache, block);
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      const int behind = a.position + row + r + 1 - block * kBlockTokens;
      if (behind <= 0) continue;
      accumulate(a.cache, values, scores[r], behind < kBlockTokens ? behind : kBlockTokens,
                 state[r], o[r]);
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    const V16 inverse = splat(1.0f) / splat(state[r].sum);
    float* out = a.out + (row + r) * a.out_stride;
    for (int c = 0; c < width; c += kLanes) {
      const V16 value = load(o[r] + c) * inverse;
      const int count = a.cache.head_size - c;
      if (count >= kLanes) {
        store(out + c, value);
      } else {
        store_partial(out + c, value, count);
      }
    }
  }
}

static void attention(const AttentionArgs& a) {
  int row = 0;
  for (; row + kQueryTile <= a.rows; row += kQueryTile) attend<kQueryTile>(a, row);
  for (; row < a.rows; ++row) attend<1>(a, row);
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
