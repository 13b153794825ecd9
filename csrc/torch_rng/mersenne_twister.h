// Uniform numbers of a Mersenne Twister (MT19937) of which few are looked at: the others cost no
// more than the generator's state.
#pragma once

#include <cstdint>

namespace gpt2fast {

struct MersenneTwister {
  static constexpr int32_t kWords = 624;

  uint32_t words[kWords];
  int32_t used;  // of `words`; kWords: all of them

  // Move past `count` doubles in [0, 1), each of 53 bits of two words, and give those at `places`
  // (num_places,), which ascend from 0 to below `count`.
  void doubles(int64_t count, const int64_t* places, int64_t num_places, double* out);

 private:
  void renew();
  uint32_t tempered(int32_t index) const;
};

}  // namespace gpt2fast
