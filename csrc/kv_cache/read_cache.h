// Keys and values of one sequence, as floats, for callers that look into the cache.
#pragma once

#include <cstdint>

#include "kv_cache/kv_storage.h"

namespace gpt2fast {

// The first `length` tokens of a head of `layer` in the cache blocks `blocks`: keys and values
// (length, D).
void read_head(const KvStorage& storage, int32_t layer, int32_t head, const int32_t* blocks,
               int32_t length, float* keys, float* values);

}  // namespace gpt2fast
