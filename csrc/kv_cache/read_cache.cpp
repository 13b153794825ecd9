#include "kv_cache/read_cache.h"

#include <cstring>

namespace gpt2fast {
namespace {

// Element `index` of `base`, in one of the formats of KvLayout.
float element(const KvLayout& layout, const uint8_t* base, int64_t index, float scale) {
  if (layout.format == KvFormat::kInt8) {
    return static_cast<float>(static_cast<int8_t>(base[index])) * scale;
  }
  uint32_t bits = 0;
  if (layout.format == KvFormat::kFloat32) {
    std::memcpy(&bits, base + 4 * index, 4);
  } else {
    uint16_t half;
    std::memcpy(&half, base + 2 * index, 2);
    bits = uint32_t{half} << 16;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

float scale_of(const KvLayout& layout, const uint8_t* scales, int slot) {
  float scale = 1.0f;
  if (layout.format == KvFormat::kInt8) std::memcpy(&scale, scales + 4 * slot, 4);
  return scale;
}

int64_t key_index(const KvLayout& layout, int64_t d, int slot) {
  if (layout.format != KvFormat::kInt8) return d * kBlockTokens + slot;
  return d / 4 * 4 * kBlockTokens + slot * 4 + d % 4;
}

int64_t value_index(const KvLayout& layout, int64_t d, int slot) {
  if (layout.format != KvFormat::kInt8) return slot * layout.padded_head() + d;
  return slot / 4 * 4 * kLanes + slot % 4 + d / kLanes * kLanes * kBlockTokens + d % kLanes * 4;
}

}  // namespace

void read_head(const KvStorage& storage, int32_t layer, int32_t head, const int32_t* blocks,
               int32_t length, float* keys, float* values) {
  const KvLayout& layout = storage.layout();
  for (int32_t token = 0; token < length; ++token) {
    const int slot = token % kBlockTokens;
    const uint8_t* const block = storage.layer(layer) +
                                 blocks[token / kBlockTokens] * storage.block_stride(layer) +
                                 head * layout.bytes();
    const uint8_t* const block_values = block + layout.values();
    const float key_scale = scale_of(layout, block + layout.key_scales(), slot);
    const float value_scale = scale_of(layout, block + layout.value_scales(), slot);
    for (int32_t d = 0; d < layout.head_size; ++d) {
      *keys++ = element(layout, block, key_index(layout, d, slot), key_scale);
      *values++ = element(layout, block_values, value_index(layout, d, slot), value_scale);
    }
  }
}

}  // namespace gpt2fast
