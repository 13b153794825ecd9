// Keys and values of each cache format: how a token is written, a block scored, a value read.
#pragma once

#include "kernels/matmul_int.h"
#include "kernels/quantize.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

GPT2FAST_INLINE uint8_t* block_of(const HeadCache& cache, int block) {
  return cache.base + cache.blocks[block] * cache.block_stride;
}

template <typename T>
static void append_plain(const KvLayout& layout, uint8_t* block, int slot, const T* key,
                         const T* value) {
  T* keys = reinterpret_cast<T*>(block);
  for (int d = 0; d < layout.head_size; ++d) keys[d * kBlockTokens + slot] = key[d];
  memcpy(block + layout.values() + slot * layout.padded_head() * static_cast<int64_t>(sizeof(T)),
         value, static_cast<size_t>(layout.head_size) * sizeof(T));
}

// To nearest, ties to even. NaN stays NaN: rounding could carry one with low bits set to infinity.
GPT2FAST_INLINE uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if (value != value) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Vectors of a head quantized whole, as one tile.
template <int ROWS>
struct QuantizedHeads {
  int8_t values[ROWS * kMaxHeadSize];
  float scales[ROWS];
  int32_t starts[ROWS * kMaxHeadSize / kIntSpan];

  void set(int row, const float* x, int32_t head_size) {
    quantize_group(Format::kInt8, x, head_size, {values, scales, starts}, ROWS, row);
  }
};

static void append_int8(const KvLayout& layout, uint8_t* block, int slot, const float* key,
                        const float* value) {
  QuantizedHeads<1> q;
  q.set(0, key, layout.head_size);
  const int padded = static_cast<int>(round_up(layout.head_size, 8));
  for (int d = 0; d < padded; ++d) {
    block[d / 4 * 4 * kBlockTokens + slot * 4 + d % 4] = static_cast<uint8_t>(q.values[d]);
  }
  memcpy(block + layout.key_scales() + slot * 4, q.scales, sizeof(float));
  q.set(0, value, layout.head_size);
  uint8_t* values = block + layout.values() + slot / 4 * 4 * kLanes + slot % 4;
  for (int d = 0; d < layout.padded_head(); ++d) {
    values[d / kLanes * kLanes * kBlockTokens + d % kLanes * 4] = static_cast<uint8_t>(q.values[d]);
  }
  memcpy(block + layout.value_scales() + slot * 4, q.scales, sizeof(float));
}

static void append_kv(const HeadCache& cache, int32_t position, const float* key,
                      const float* value) {
  const KvLayout& layout = cache.layout;
  uint8_t* block = block_of(cache, position / kBlockTokens);
  const int slot = position % kBlockTokens;
  if (layout.format == KvFormat::kFloat32) {
    append_plain(layout, block, slot, key, value);
  } else if (layout.format == KvFormat::kInt8) {
    append_int8(layout, block, slot, key, value);
  } else {
    uint16_t halves[2][kMaxHeadSize];
    for (int d = 0; d < layout.head_size; ++d) {
      halves[0][d] = to_bf16(key[d]);
      halves[1][d] = to_bf16(value[d]);
    }
    append_plain(layout, block, slot, halves[0], halves[1]);
  }
}

// Neighbouring blocks of a sequence, those with the tokens [begin, min(begin + kSpanTokens, seen)).
constexpr int kSpanBlocks = 4;
constexpr int kSpanTokens = kSpanBlocks * kBlockTokens;
struct Span {
  const uint8_t* blocks[kSpanBlocks];  // the first one stands in for those that are not there
  int64_t ahead[kSpanBlocks];  // bytes to the block a span later, which is fetched meanwhile
  int count;
  Span() : blocks(), ahead(), count(0) {}
  Span(const HeadCache& cache, int begin, int seen) : count(0) {
    for (int b = 0; b < kSpanBlocks; ++b) {
      const int token = begin + b * kBlockTokens, block = token / kBlockTokens;
      const bool present = token < seen, next = token + kSpanTokens < seen;
      blocks[b] = present ? block_of(cache, block) : blocks[0];
      ahead[b] = next ? block_of(cache, block + kSpanBlocks) - blocks[b] : 0;
      count += present;
    }
  }
};

template <KvFormat FORMAT>
GPT2FAST_INLINE V16 load_as_float(const uint8_t* at) {
  if (FORMAT == KvFormat::kFloat32) return load(reinterpret_cast<const float*>(at));
  return load_bf16(reinterpret_cast<const uint16_t*>(at));
}

// ROWS query rows, ready to be scored against spans: q . K, without the softmax's scale. What is
// scored against a block that is not there has no meaning.
template <KvFormat FORMAT, int ROWS>
class Queries {
 public:
  Queries(const AttentionArgs& a, int row) : q_(a.q + row * a.q_stride), stride_(a.q_stride) {}
  void scores(const KvLayout& layout, const Span& span, V16 (&out)[ROWS][kSpanBlocks]) const {
    // Enough sums at a time to hide the latency of each: rows, or for a single one blocks.
    constexpr int kBlocks = ROWS == 1 ? kSpanBlocks : 1;
    for (int first = 0; first < span.count; first += kBlocks) {
      V16 acc[ROWS][kBlocks];
      GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
        GPT2FAST_UNROLL for (int b = 0; b < kBlocks; ++b) acc[r][b] = splat(0.0f);
      }
      for (int d = 0; d < layout.head_size; ++d) {
        V16 keys[kBlocks];
        GPT2FAST_UNROLL for (int b = 0; b < kBlocks; ++b) {
          const uint8_t* const at = span.blocks[first + b] + d * kBlockTokens * layout.element();
          keys[b] = load_as_float<FORMAT>(at);
          if (ROWS == 1) __builtin_prefetch(at + span.ahead[first + b]);
        }
        multiply_add<ROWS, kBlocks>(q_ + d, stride_, keys, acc);
      }
      GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
        GPT2FAST_UNROLL for (int b = 0; b < kBlocks; ++b) out[r][first + b] = acc[r][b];
      }
    }
  }

 private:
  const float* q_;
  const int64_t stride_;
};

// 8-bit keys are scored by 8-bit dot products, the query being quantized too.
template <int ROWS>
class Queries<KvFormat::kInt8, ROWS> {
 public:
  Queries(const AttentionArgs& a, int row) {
    for (int r = 0; r < ROWS; ++r) {
      q_.set(r, a.q + (row + r) * a.q_stride, a.cache.layout.head_size);
    }
  }
  void scores(const KvLayout& layout, const Span& span, V16 (&out)[ROWS][kSpanBlocks]) const {
    const int count = static_cast<int>(round_up(layout.head_size, 8));
    for (int b = 0; b < span.count; ++b) {
      const uint8_t* block = span.blocks[b];
      I16 sums[ROWS][1];
      GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) sums[r][0] = zero_ints();
      add_starts<ROWS, 1>(q_.starts, count, sums);
      dot_int8<ROWS, 1>(block, 0, q_.values, count, sums, span.ahead[b]);
      const uint8_t* const key_scales = block + layout.key_scales();
      const V16 scales = load(reinterpret_cast<const float*>(key_scales));
      __builtin_prefetch(key_scales + span.ahead[b]);
      GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
        out[r][b] = to_float(sums[r][0]) * scales * splat(q_.scales[r]);
      }
    }
  }

 private:
  QuantizedHeads<ROWS> q_;
};

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
