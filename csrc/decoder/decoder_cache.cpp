// What a decoder's cache is asked for outside a step.
#include <stdexcept>

#include "decoder/decoder.h"
#include "kernels/tasks.h"
#include "kv_cache/read_cache.h"

namespace gpt2fast {

void Decoder::copy_blocks(const std::vector<BlockCopy>& pairs) {
  for (const BlockCopy& pair : pairs) {
    for (const int32_t block : {pair.source, pair.destination}) {
      if (block < 0 || block >= cache_.num_blocks()) {
        throw std::invalid_argument("copy_blocks: no cache block " + std::to_string(block));
      }
    }
  }
  if (pairs.empty()) return;
  TaskCounter layers;
  pool_.run([&](int) {
    const auto count = static_cast<int32_t>(shape_.layers.size());
    for (int32_t layer = layers.take(); layer < count; layer = layers.take()) {
      for (const BlockCopy& pair : pairs) {
        cache_.copy_block(layer, pair.source, pair.destination);
      }
    }
  });
}

int32_t Decoder::heads_to_read(int32_t layer, const std::vector<int32_t>& blocks,
                               int32_t length) const {
  if (layer < 0 || static_cast<size_t>(layer) >= shape_.layers.size()) {
    throw std::invalid_argument("read_cache: no layer " + std::to_string(layer));
  }
  if (length < 0 || int64_t{length} > static_cast<int64_t>(blocks.size()) * kBlockTokens) {
    throw std::invalid_argument("read_cache: " + std::to_string(blocks.size()) +
                                " blocks do not hold " + std::to_string(length) + " tokens");
  }
  for (const int32_t block : blocks) {
    if (block < 0 || block >= cache_.num_blocks()) {
      throw std::invalid_argument("read_cache: no cache block " + std::to_string(block));
    }
  }
  return cache_.heads(layer);
}

void Decoder::read_cache(int32_t layer, const std::vector<int32_t>& blocks, int32_t length,
                         float* keys, float* values) {
  const int32_t count = heads_to_read(layer, blocks, length);
  TaskCounter heads;
  pool_.run([&](int) {
    for (int32_t head = heads.take(); head < count; head = heads.take()) {
      const int64_t offset = int64_t{head} * length * shape_.head_size;
      read_head(cache_, layer, head, blocks.data(), length, keys + offset, values + offset);
    }
  });
}

}  // namespace gpt2fast
