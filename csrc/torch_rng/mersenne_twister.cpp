#include "torch_rng/mersenne_twister.h"

namespace gpt2fast {
namespace {

constexpr int32_t kMiddle = 397;

uint32_t twist(uint32_t word, uint32_t next, uint32_t other) {
  const uint32_t mixed = (word & 0x80000000u) | (next & 0x7fffffffu);
  return other ^ (mixed >> 1) ^ (-(next & 1u) & 0x9908b0dfu);
}

}  // namespace

// In three loops, so that in none an index wraps, and the compiler can do several words at once.
void MersenneTwister::renew() {
  constexpr int32_t kRest = kWords - kMiddle;
  for (int32_t i = 0; i < kRest; ++i) words[i] = twist(words[i], words[i + 1], words[i + kMiddle]);
  for (int32_t i = kRest; i < kWords - 1; ++i) {
    words[i] = twist(words[i], words[i + 1], words[i - kRest]);
  }
  words[kWords - 1] = twist(words[kWords - 1], words[0], words[kMiddle - 1]);
  used = 0;
}

uint32_t MersenneTwister::tempered(int32_t index) const {
  uint32_t word = words[index];
  word ^= word >> 11;
  word ^= (word << 7) & 0x9d2c5680u;
  word ^= (word << 15) & 0xefc60000u;
  return word ^ (word >> 18);
}

void MersenneTwister::doubles(int64_t count, const int64_t* places, int64_t num_places,
                              double* out) {
  constexpr int kBits = 53;
  constexpr uint64_t kOne = uint64_t{1} << kBits;
  int64_t passed = -int64_t{used};  // words before the first of `words`, from where it stands
  const auto reach = [&](int64_t word) {
    for (; word > passed + kWords; passed += kWords) renew();
  };
  const auto word_at = [&](int64_t word) -> uint64_t {
    reach(word + 1);
    return tempered(static_cast<int32_t>(word - passed));
  };
  for (int64_t i = 0; i < num_places; ++i) {
    const uint64_t high = word_at(2 * places[i]), low = word_at(2 * places[i] + 1);
    out[i] = static_cast<double>((high << 32 | low) % kOne) / static_cast<double>(kOne);
  }
  reach(2 * count);
  used = static_cast<int32_t>(2 * count - passed);
}

}  // namespace gpt2fast
