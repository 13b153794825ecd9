// Keys and values of the CPU runner, in the blocks that a BlockPool hands out.
//
//   storage[layer][block][head] = keys (D, 16) then values (16, D padded to 16)
//
// Keys are stored with the 16 tokens of a block side by side, so that one vector holds the scores
// of a whole block and no reduction runs across lanes.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "kernels/kernels.h"

namespace gpt2fast {

class KvStorage {
 public:
  // heads[l]: number of heads of layer l. Throws std::bad_alloc.
  KvStorage(const std::vector<int32_t>& heads, int32_t head_size, int32_t num_blocks);

  int32_t num_blocks() const { return num_blocks_; }
  int32_t head_size() const { return head_size_; }
  int64_t bytes() const { return static_cast<int64_t>(buffer_.bytes()); }

  // Floats from one head of a block to the next.
  int64_t head_stride() const { return head_stride_; }
  // Floats from one block of `layer` to the next.
  int64_t block_stride(int32_t layer) const { return heads_[layer] * head_stride_; }
  float* layer(int32_t layer) { return buffer_.floats() + layer_offsets_[layer]; }

  void copy_block(int32_t source, int32_t destination);

 private:
  const std::vector<int32_t> heads_;
  const int32_t head_size_;
  const int32_t num_blocks_;
  const int64_t head_stride_;
  std::vector<int64_t> layer_offsets_;
  Buffer buffer_;
};

}  // namespace gpt2fast
