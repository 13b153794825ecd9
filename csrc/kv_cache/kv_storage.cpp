#include "kv_cache/kv_storage.h"

#include <cstring>

namespace gpt2fast {

KvStorage::KvStorage(const std::vector<int32_t>& heads, const KvLayout& layout, int32_t num_blocks)
    : heads_(heads), layout_(layout), num_blocks_(num_blocks) {
  int64_t bytes = 0;
  for (size_t l = 0; l < heads_.size(); ++l) {
    layer_offsets_.push_back(bytes);
    bytes += int64_t{num_blocks} * block_stride(static_cast<int32_t>(l));
  }
  buffer_ = Buffer(static_cast<size_t>(bytes));
}

void KvStorage::copy_block(int32_t source, int32_t destination) {
  for (size_t l = 0; l < heads_.size(); ++l) {
    const auto index = static_cast<int32_t>(l);
    const int64_t stride = block_stride(index);
    std::memcpy(layer(index) + destination * stride, layer(index) + source * stride,
                static_cast<size_t>(stride));
  }
}

}  // namespace gpt2fast
