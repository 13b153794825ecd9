#include "torch_rng/mersenne_twister.h"

#include <random>

#include "check.h"

namespace gpt2fast {
namespace {

constexpr int32_t kWords = MersenneTwister::kWords;

// As the standard library seeds it: its own words are its state before any is used.
MersenneTwister seeded(uint32_t seed) {
  MersenneTwister twister;
  twister.words[0] = seed;
  for (uint32_t i = 1; i < kWords; ++i) {
    const uint32_t before = twister.words[i - 1];
    twister.words[i] = 1812433253u * (before ^ (before >> 30)) + i;
  }
  twister.used = kWords;
  return twister;
}

double next_double(std::mt19937& generator) {
  const uint64_t high = generator(), low = generator();
  return static_cast<double>((high << 32 | low) & ((uint64_t{1} << 53) - 1)) * 0x1p-53;
}

TEST(doubles_are_those_of_the_standard_librarys_generator) {
  std::mt19937 theirs(5), random(1);
  MersenneTwister ours = seeded(5);
  for (int round = 0; round < 200; ++round) {
    const auto count = static_cast<int64_t>(random() % 1500);
    const uint32_t one_in = 1 + random() % 60;
    std::vector<int64_t> places;
    std::vector<double> want;
    for (int64_t i = 0; i < count; ++i) {
      const double value = next_double(theirs);
      if (random() % one_in != 0) continue;
      places.push_back(i);
      want.push_back(value);
    }
    std::vector<double> found(want.size());
    ours.doubles(count, places.data(), static_cast<int64_t>(places.size()), found.data());
    CHECK(found == want);
    CHECK(ours.used <= kWords);
    if (ours.used < kWords) {  // a word in between: places at odd ones, too
      (void)theirs();
      ++ours.used;
    }
  }
}

}  // namespace
}  // namespace gpt2fast
