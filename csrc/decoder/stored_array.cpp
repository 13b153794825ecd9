#include "decoder/stored_array.h"

#include <cstring>

namespace gpt2fast {
namespace {

float from_half(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  uint32_t wide = (magnitude << 13) + (112u << 23);
  if (magnitude >= 0x7c00u) wide += 112u << 23;  // infinity and NaN keep the top exponent
  float value;
  if (magnitude < 0x0400u) {
    value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // subnormal: units of 2^-24
  } else {
    std::memcpy(&value, &wide, sizeof(value));
  }
  uint32_t out;
  std::memcpy(&out, &value, sizeof(out));
  out |= sign;
  std::memcpy(&value, &out, sizeof(value));
  return value;
}

template <typename T>
T element(const void* data, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + index * static_cast<int64_t>(sizeof(T)),
              sizeof(T));
  return value;
}

}  // namespace

float from_bfloat16(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<uint16_t>(bits >> 16);
}

void convert(const StoredArray& array, int64_t start, int64_t count, float* out) {
  switch (array.type) {
    case StoredType::kFloat32:
      std::memcpy(out, static_cast<const char*>(array.data) + start * 4,
                  static_cast<size_t>(count) * 4);
      return;
    case StoredType::kFloat16:
      for (int64_t i = 0; i < count; ++i)
        out[i] = from_half(element<uint16_t>(array.data, start + i));
      return;
    case StoredType::kBFloat16:
      for (int64_t i = 0; i < count; ++i) {
        out[i] = from_bfloat16(element<uint16_t>(array.data, start + i));
      }
      return;
    case StoredType::kFloat64:
      for (int64_t i = 0; i < count; ++i) {
        out[i] = static_cast<float>(element<double>(array.data, start + i));
      }
      return;
  }
}

bool all_finite(const float* values, int64_t count) {
  constexpr uint32_t kExponent = 0x7f800000u;  // all ones in infinity and NaN alone
  uint32_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    found |= (bits & kExponent) == kExponent;
  }
  return found == 0;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

}  // namespace gpt2fast
