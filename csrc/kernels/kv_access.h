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

// One vector quantized whole, as QuantizedRows has them.
struct Quantized {
  int8_t values[2 * kMaxHeadSize];
  float scale;
  int32_t sum;
};
GPT2FAST_INLINE void quantize_head(const float* x, int32_t head_size, Quantized& out) {
  quantize(x, head_size, kMaxHeadSize, {out.values, 2 * kMaxHeadSize, &out.scale, &out.sum, 1}, 0);
}

static void append_int8(const KvLayout& layout, uint8_t* block, int slot, const float* key,
                        const float* value) {
  Quantized q;
  quantize_head(key, layout.head_size, q);
  const int padded = static_cast<int>(round_up(layout.head_size, 8));
  for (int d = 0; d < padded; ++d) {
    block[d / 4 * 4 * kBlockTokens + slot * 4 + d % 4] = static_cast<uint8_t>(q.values[d]);
  }
  memcpy(block + layout.key_scales() + slot * 4, &q.scale, sizeof(float));
  quantize_head(value, layout.head_size, q);
  memcpy(block + layout.values() + slot * layout.padded_head(), q.values,
         static_cast<size_t>(layout.padded_head()));
  memcpy(block + layout.value_scales() + slot * 4, &q.scale, sizeof(float));
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

// ROWS query rows, ready to be scored against blocks: q . K, without the softmax's scale.
template <KvFormat FORMAT, int ROWS>
class Queries {
 public:
  Queries(const AttentionArgs& a, int row) : q_(a.q + row * a.q_stride), stride_(a.q_stride) {}
  void scores(const KvLayout& layout, const uint8_t* block, V16 (&out)[ROWS]) const {
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) out[r] = splat(0.0f);
    for (int d = 0; d < layout.head_size; ++d) {
      const int64_t at = int64_t{d} * kBlockTokens * layout.element();
      const V16 key = FORMAT == KvFormat::kFloat32
                          ? load(reinterpret_cast<const float*>(block + at))
                          : load_bf16(reinterpret_cast<const uint16_t*>(block + at));
      GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
        out[r] = fma(splat(q_[r * stride_ + d]), key, out[r]);
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
      quantize_head(a.q + (row + r) * a.q_stride, a.cache.layout.head_size, q_[r]);
    }
  }
  void scores(const KvLayout& layout, const uint8_t* block, V16 (&out)[ROWS]) const {
    I16 sums[ROWS][1];
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) sums[r][0] = zero_ints();
    dot_int8<ROWS, 1>(block, 0, {q_[0].values, sizeof(Quantized), kMaxHeadSize},
                      static_cast<int>(round_up(layout.head_size, 8)), sums);
    const V16 scales = load(reinterpret_cast<const float*>(block + layout.key_scales()));
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      out[r] = to_float(sums[r][0], kInt8Offset * q_[r].sum) * scales * splat(q_[r].scale);
    }
  }

 private:
  Quantized q_[ROWS];
};

// The softmax's weights as the stored values need them: times their scales.
template <KvFormat FORMAT>
GPT2FAST_INLINE V16 value_weights(const KvLayout& layout, const uint8_t* block, V16 p) {
  if (FORMAT != KvFormat::kInt8) return p;
  return p * load(reinterpret_cast<const float*>(block + layout.value_scales()));
}

// Components c .. c + 15 of token j's value, without its scale.
template <KvFormat FORMAT>
GPT2FAST_INLINE V16 load_value(const KvLayout& layout, const uint8_t* block, int j, int c) {
  const uint8_t* at = block + layout.values() + (j * layout.padded_head() + c) * layout.element();
  if (FORMAT == KvFormat::kFloat32) return load(reinterpret_cast<const float*>(at));
  if (FORMAT == KvFormat::kBFloat16) return load_bf16(reinterpret_cast<const uint16_t*>(at));
  return load_int8(reinterpret_cast<const int8_t*>(at));
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
