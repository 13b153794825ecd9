// Keys and values of the CPU runner, in the blocks that a BlockPool hands out:
// storage[layer][block][head], each as KvLayout says.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "kernels/kernels.h"

namespace gpt2fast {

class KvStorage {
 public:
  // heads[l]: number of heads of layer l. Throws std::length_error or NoMemory for what is too
  // large.
  KvStorage(const std::vector<int32_t>& heads, const KvLayout& layout, int32_t num_blocks);

  int32_t num_blocks() const { return num_blocks_; }
  const KvLayout& layout() const { return layout_; }
  int64_t bytes() const { return static_cast<int64_t>(buffer_.bytes()); }

  // Bytes from one block of `layer` to the next.
  int64_t block_stride(int32_t layer) const { return heads_[layer] * layout_.bytes(); }
  uint8_t* layer(int32_t layer) { return buffer_.data() + layer_offsets_[layer]; }
  const uint8_t* layer(int32_t layer) const { return buffer_.data() + layer_offsets_[layer]; }
  int32_t heads(int32_t layer) const { return heads_[layer]; }

  void copy_block(int32_t layer, int32_t source, int32_t destination);

 private:
  const std::vector<int32_t> heads_;
  const KvLayout layout_;
  const int32_t num_blocks_;
  std::vector<int64_t> layer_offsets_;
  Buffer buffer_;
};

}  // namespace gpt2fast
