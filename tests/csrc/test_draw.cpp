#include "torch_rng/draw.h"

#include <cmath>
#include <limits>
#include <map>

#include "check.h"

namespace gpt2fast {
namespace {

using test::random_floats;

MersenneTwister fresh() {
  MersenneTwister twister{};
  std::mt19937 random(3);
  for (uint32_t& word : twister.words) word = random();
  twister.used = MersenneTwister::kWords;
  return twister;
}

TEST(tokens_are_drawn_as_often_as_they_are_likely) {
  constexpr int64_t kSize = 700;
  std::vector<float> logits = random_floats(kSize, 4);
  logits[13] = 9.0f;
  logits[650] = 8.5f;
  logits[651] = 7.0f;
  logits[3] = 6.0f;
  Drawing drawing({1.0f, 3, 0.9999, 1}, kSize);  // without the fourth
  MersenneTwister twister = fresh();
  std::map<int64_t, int> counts;
  constexpr int kDraws = 4000;
  for (int i = 0; i < kDraws; ++i) {
    int64_t token = -1;
    if (drawing.draw(logits.data(), 1, twister, &token)) ++counts[token];
  }
  const double sum = std::exp(0.0) + std::exp(-0.5) + std::exp(-2.0);
  CHECK(counts.size() == 3);
  CHECK(std::abs(counts[13] / double{kDraws} - 1 / sum) < 0.03);
  CHECK(std::abs(counts[650] / double{kDraws} - std::exp(-0.5) / sum) < 0.03);
  CHECK(std::abs(counts[651] / double{kDraws} - std::exp(-2.0) / sum) < 0.03);
}

TEST(rows_of_any_size_are_drawn_from) {
  for (const int64_t size : {1, 2, 63, 64, 65, 129, 5000}) {
    for (const int64_t top_k : {1, 40, 6000}) {
      const std::vector<float> logits = random_floats(static_cast<size_t>(3 * size), 5);
      Drawing drawing({0.7f, top_k, 0.9, 1}, size);
      MersenneTwister twister = fresh();
      std::vector<int64_t> tokens(3, -1);
      if (!drawing.draw(logits.data(), 3, twister, tokens.data())) continue;
      for (const int64_t token : tokens) CHECK(token >= 0 && token < size);
    }
  }
}

TEST(no_token_is_drawn_where_logits_are_no_numbers) {
  std::vector<float> logits = random_floats(200, 6);
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    logits[77] = bad;
    MersenneTwister twister = fresh();
    int64_t token = -1;
    CHECK(!Drawing({1.0f, 5, 1.0, 1}, 200).draw(logits.data(), 1, twister, &token));
  }
}

}  // namespace
}  // namespace gpt2fast
