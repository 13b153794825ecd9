#include "kv_cache/kv_storage.h"

#include <cstring>

namespace gpt2fast {

KvStorage::KvStorage(const std::vector<int32_t>& heads, int32_t head_size, int32_t num_blocks)
    : heads_(heads),
      head_size_(head_size),
      num_blocks_(num_blocks),
      head_stride_(kBlockTokens * (int64_t{head_size} + round_up_lanes(head_size))) {
  int64_t floats = 0;
  for (const int32_t count : heads_) {
    layer_offsets_.push_back(floats);
    floats += int64_t{num_blocks} * count * head_stride_;
  }
  buffer_ = Buffer(static_cast<size_t>(floats) * sizeof(float));
}

void KvStorage::copy_block(int32_t source, int32_t destination) {
  for (size_t l = 0; l < heads_.size(); ++l) {
    const auto index = static_cast<int32_t>(l);
    const int64_t stride = block_stride(index);
    std::memcpy(layer(index) + destination * stride, layer(index) + source * stride,
                static_cast<size_t>(stride) * sizeof(float));
  }
}

}  // namespace gpt2fast
