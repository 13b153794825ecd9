// How one head's keys and values of a cache block lie in memory.
//
//   float32, bfloat16   keys (D, 16), then values (16, D padded to 16)
//   int8                keys (D / 4, 16, 4), their scales (16,), then values (D / 16, 4, 16, 4),
//                       16 components of four tokens, their scales (16,): float32, one a token
//
// The 16 tokens of a block lie side by side in the keys, so that one vector holds the scores of a
// whole block and no reduction runs across lanes.
#pragma once

#include <stdint.h>

#include "kernels/panels.h"

namespace gpt2fast {

constexpr int kBlockTokens = 16;  // tokens in a cache block: one vector of scores

enum class KvFormat : int32_t { kFloat32, kBFloat16, kInt8 };

struct KvLayout {
  KvFormat format;
  int32_t head_size;  // D

  constexpr int64_t element() const {
    return format == KvFormat::kFloat32 ? 4 : format == KvFormat::kBFloat16 ? 2 : 1;
  }
  constexpr int64_t scale_bytes() const { return format == KvFormat::kInt8 ? 4 * kBlockTokens : 0; }
  constexpr int64_t padded_head() const { return round_up_lanes(head_size); }
  // Offsets in bytes from the start of the block.
  constexpr int64_t key_scales() const {
    const int64_t rows = format == KvFormat::kInt8 ? round_up(head_size, 8) : head_size;
    return rows * kBlockTokens * element();
  }
  constexpr int64_t values() const { return key_scales() + scale_bytes(); }
  constexpr int64_t value_scales() const {
    return values() + padded_head() * kBlockTokens * element();
  }
  constexpr int64_t bytes() const { return round_up(value_scales() + scale_bytes(), 64); }
};

}  // namespace gpt2fast
