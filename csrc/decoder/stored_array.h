// Tensors as a checkpoint stores them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gpt2fast {

enum class StoredType { kFloat32, kFloat16, kBFloat16, kFloat64 };

struct StoredArray {
  const void* data;  // need not be aligned: safetensors aligns to 8 bytes at best
  StoredType type;
  std::vector<int64_t> shape;
};

// `count` elements from `start` on, as float32.
void convert(const StoredArray& array, int64_t start, int64_t count, float* out);

bool all_finite(const float* values, int64_t count);

float from_bfloat16(uint16_t bits);
// To nearest, ties to even.
uint16_t to_bfloat16(float value);

std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace gpt2fast
