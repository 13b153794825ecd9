#include "kv_cache/kv_storage.h"

#include <cstring>

#include "core/checked.h"

namespace gpt2fast {

KvStorage::KvStorage(const std::vector<int32_t>& heads, const KvLayout& layout, int32_t num_blocks)
    : heads_(heads), layout_(layout), num_blocks_(num_blocks) {
  int64_t bytes = 0;
  for (size_t l = 0; l < heads_.size(); ++l) {
    layer_offsets_.push_back(bytes);
    const int64_t stride = block_stride(static_cast<int32_t>(l));
    bytes =
        checked_sum("the KV cache", bytes, checked_product("the KV cache", {num_blocks, stride}));
  }
  buffer_ = Buffer(static_cast<size_t>(bytes));
}

void KvStorage::copy_block(int32_t layer, int32_t source, int32_t destination) {
  const int64_t stride = block_stride(layer);
  uint8_t* const blocks = this->layer(layer);
  std::memmove(blocks + destination * stride, blocks + source * stride,
               static_cast<size_t>(stride));
}

}  // namespace gpt2fast
