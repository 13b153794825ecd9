// Sizes computed in 64 bits that are refused where they would wrap around: a wrapped one is a small
// allocation for a large index.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace gpt2fast {

// Each throws std::length_error where the result does not fit; `what` is too large then.

inline int64_t checked_product(const char* what, std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors) {
    if (__builtin_mul_overflow(product, factor, &product)) {
      throw std::length_error(std::string(what) + " would take more than 2^63 bytes");
    }
  }
  return product;
}

inline int64_t checked_sum(const char* what, int64_t a, int64_t b) {
  int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) {
    throw std::length_error(std::string(what) + " would take more than 2^63 bytes");
  }
  return sum;
}

}  // namespace gpt2fast
