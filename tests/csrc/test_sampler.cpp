#include "sampling/sampler.h"

#include <cmath>
#include <limits>

#include "check.h"

namespace gpt2fast::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<RowSampling> some_rows() {
  std::vector<RowSampling> rows(6);
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r].temperature = r == 0 ? 0.0f : 0.5f + static_cast<float>(r);
    rows[r].noise = {uint64_t{1} << 40 | r, 3, static_cast<uint32_t>(r)};
  }
  rows[2].top_k = 7;
  rows[3].top_p = 0.4f;
  rows[4].min_p = 0.3f;
  rows[5].top_k = 500;
  rows[5].top_p = 0.8f;
  rows[5].processing = std::make_shared<LogitsProcessing>();
  rows[5].processing->presence = 1.0f;
  rows[5].processing->see(1, true);
  return rows;
}

std::vector<int32_t> sampled(Isa isa, const std::vector<float>& logits, int32_t vocab,
                             const std::vector<RowSampling>& rows) {
  std::vector<int32_t> tokens(rows.size());
  sample_rows(kernel_table(isa), logits.data(), vocab, true, rows, tokens.data());
  return tokens;
}

TEST(tokens_are_the_same_on_every_instruction_set) {
  const std::vector<RowSampling> rows = some_rows();
  for (const int32_t vocab : {1, 16, 63, 64, 65, 4096, 4097, 10000}) {
    for (const float scale : {0.01f, 3.0f}) {
      const std::vector<float> logits =
          random_floats(rows.size() * static_cast<size_t>(vocab), 1, scale);
      if (vocab < 2) continue;
      const std::vector<int32_t> expected = sampled(Isa::kGeneric, logits, vocab, rows);
      for (const int32_t token : expected) CHECK(token >= 0 && token < vocab);
      for (const Isa isa : available_isas()) CHECK(sampled(isa, logits, vocab, rows) == expected);
    }
  }
}

TEST(tasks_can_be_done_in_any_order) {
  constexpr int32_t kVocab = 20000;
  const std::vector<RowSampling> rows = some_rows();
  const std::vector<float> logits = random_floats(rows.size() * kVocab, 2, 0.5f);
  const KernelTable& kernels = kernel_table(available_isas().back());
  const std::vector<int32_t> expected = sampled(available_isas().back(), logits, kVocab, rows);
  Sampler sampler(kernels, logits.data(), kVocab, true, rows);
  const auto backwards = [](int32_t count, auto task) {
    for (int32_t i = count - 1; i >= 0; --i) task(i);
  };
  backwards(sampler.num_rows(), [&](int32_t i) { sampler.process(i); });
  backwards(sampler.num_shares(), [&](int32_t i) { sampler.find_maxima(i); });
  backwards(sampler.num_rows(), [&](int32_t i) { sampler.choose_largest(i); });
  backwards(sampler.num_shares(), [&](int32_t i) { sampler.draw(i); });
  backwards(sampler.num_rows(), [&](int32_t i) { sampler.choose_drawn(i); });
  backwards(sampler.num_shares(), [&](int32_t i) { sampler.weigh_share(i); });
  backwards(sampler.num_rows(), [&](int32_t i) { sampler.check_top_p(i); });
  for (int32_t r = 0; r < sampler.num_rows(); ++r) CHECK(sampler.token(r) == expected[r]);
}

TEST(the_largest_is_the_first_of_equals) {
  std::vector<float> logits(200, 1.0f);
  logits[130] = logits[77] = 2.0f;
  for (const Isa isa : available_isas()) {
    CHECK(sampled(isa, logits, 200, std::vector<RowSampling>(1))[0] == 77);
  }
}

TEST(what_cannot_be_chosen_says_why) {
  const std::vector<float> fine = random_floats(100, 3);
  std::vector<RowSampling> rows(1);
  for (const Isa isa : available_isas()) {
    for (const float bad : {kInfinity, std::nanf("")}) {
      for (const size_t at : {0, 63, 64, 99}) {
        std::vector<float> logits = fine;
        logits[at] = bad;
        rows[0] = {};
        CHECK(sampled(isa, logits, 100, rows)[0] == kLogitsNotFinite);
        rows[0].temperature = 1.0f;
        rows[0].top_p = 0.5f;
        CHECK(sampled(isa, logits, 100, rows)[0] == kLogitsNotFinite);
      }
    }
    const std::vector<float> none(100, -kInfinity);
    CHECK(sampled(isa, none, 100, rows)[0] == kLogitsNotFinite);
    rows[0].processing = std::make_shared<LogitsProcessing>();
    rows[0].processing->min_tokens = 1;
    for (int32_t token = 0; token < 100; ++token) rows[0].processing->banned.push_back(token);
    CHECK(sampled(isa, fine, 100, rows)[0] == kNoTokenLeft);
    rows[0].processing = std::make_shared<LogitsProcessing>();
    rows[0].processing->bias = {{5, kInfinity}};
    CHECK(sampled(isa, fine, 100, rows)[0] == kProcessingOverflow);
  }
}

TEST(logits_that_are_kept_are_not_changed) {
  const std::vector<float> logits = random_floats(300, 4);
  std::vector<RowSampling> rows(1);
  rows[0].processing = std::make_shared<LogitsProcessing>();
  rows[0].processing->bias = {{9, 100.0f}};
  std::vector<float> changed = logits;
  CHECK(sampled(Isa::kGeneric, changed, 300, rows)[0] == 9);
  CHECK(changed == logits);
  int32_t token = -1;
  sample_rows(kernel_table(Isa::kGeneric), changed.data(), 300, false, rows, &token);
  CHECK(token == 9 && changed[9] == logits[9] + 100.0f);
}

}  // namespace
}  // namespace gpt2fast::test
