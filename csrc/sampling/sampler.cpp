#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "core/float_environment.h"

namespace gpt2fast {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLeastTemperature = 1e-30f;  // whose inverse is finite
constexpr int32_t kBlocksOfShare = 64;       // 4096 tokens: some microseconds

int32_t blocks_of(int32_t vocab) { return (vocab + kNoiseBlock - 1) / kNoiseBlock; }

}  // namespace

Sampler::Sampler(const KernelTable& kernels, const float* logits, int32_t vocab, bool keep,
                 const std::vector<RowSampling>& rows)
    : kernels_(kernels),
      sampling_(rows),
      vocab_(vocab),
      blocks_(blocks_of(vocab)),
      shares_((blocks_ + kBlocksOfShare - 1) / kBlocksOfShare),
      keep_(keep),
      rows_(rows.size()),
      parts_(rows.size() * static_cast<size_t>(shares_)),
      maxima_(rows.size() * static_cast<size_t>(blocks_)),
      copies_(rows.size()) {
  bool needs_scratch = false;
  for (size_t r = 0; r < rows.size(); ++r) {
    const RowSampling& sampling = rows[r];
    Row& row = rows_[r];
    row.args.logits = logits + static_cast<int64_t>(r) * vocab;
    row.args.maxima = maxima_.data() + static_cast<int64_t>(r) * blocks_;
    row.args.vocab = vocab;
    row.args.temperature = std::max(sampling.temperature, kLeastTemperature);
    row.args.inverse_temperature = 1.0f / row.args.temperature;
    row.args.noise = sampling.noise;
    row.is_random = sampling.temperature > 0.0f;
    any_processed_ |= sampling.processing != nullptr;
    if (keep && sampling.processing != nullptr) copies_[r].resize(static_cast<size_t>(vocab));
    needs_scratch |= row.is_random && sampling.top_k > 0 && sampling.top_k < vocab;
    any_random_ |= row.is_random;
    any_top_p_ |= row.is_random && sampling.top_p < 1.0f;
  }
  // Here, as a phase must not allocate: an exception would leave the team waiting.
  if (needs_scratch) scratch_.reset(new float[rows.size() * static_cast<size_t>(vocab)]);
}

int32_t Sampler::block_begin(int32_t share) const {
  return std::min(share % shares_ * kBlocksOfShare, blocks_);
}

void Sampler::process(int32_t row) {
  const LogitsProcessing* const processing = sampling_[row].processing.get();
  if (processing == nullptr) return;
  SampleArgs& args = rows_[row].args;
  float* const maxima = maxima_.data() + int64_t{row} * blocks_;
  kernels_.block_maxima(args.logits, vocab_, 0, blocks_, maxima);
  rows_[row].is_finite = std::isfinite(*std::max_element(maxima, maxima + blocks_));
  if (keep_) {
    std::copy_n(args.logits, vocab_, copies_[row].data());
    args.logits = copies_[row].data();
  }
  processing->apply(const_cast<float*>(args.logits));
}

void Sampler::find_maxima(int32_t share) {
  const SampleArgs& args = rows_[share / shares_].args;
  const int32_t begin = block_begin(share);
  kernels_.block_maxima(args.logits, vocab_, begin, std::min(begin + kBlocksOfShare, blocks_),
                        const_cast<float*>(args.maxima));
}

// Why the largest logit of a row is not finite.
int32_t Sampler::reason(const Row& row) {
  if (!row.is_finite) return kLogitsNotFinite;
  return row.args.most == -kInfinity ? kNoTokenLeft : kProcessingOverflow;
}

void Sampler::choose_largest(int32_t index) {
  Row& row = rows_[index];
  SampleArgs& args = row.args;
  const float* const end = args.maxima + blocks_;
  const float* const block = std::max_element(args.maxima, end);
  args.most = *block;
  // A ban may have hidden a logit that is no number.
  const bool is_damaged = sampling_[index].processing != nullptr && !row.is_finite;
  if (!std::isfinite(args.most) || is_damaged) {
    row.chosen.token = reason(row);
    row.is_random = false;
    return;
  }
  const int64_t first = (block - args.maxima) * int64_t{kNoiseBlock};
  row.chosen.token = static_cast<int32_t>(
      std::find(args.logits + first, args.logits + vocab_, args.most) - args.logits);
  if (!row.is_random) return;
  const RowSampling& sampling = sampling_[index];
  row.kept = -kInfinity;
  if (sampling.top_k > 0 && sampling.top_k < vocab_) row.kept = kth_largest(index, sampling.top_k);
  args.bound = row.kept;
  if (sampling.min_p > 0.0f) {
    const double least = args.most + double{args.temperature} * std::log(double{sampling.min_p});
    args.bound = std::min(args.most, std::max(args.bound, static_cast<float>(least)));
  }
  row.chosen.score = kernels_.perturbed(args, row.chosen.token);
}

// A logit that about `k` reach, and nearly always that many. So many blocks have one that reaches
// the k-th largest of their maxima; for a larger k some of the logits are asked.
float Sampler::bound_of_about(const SampleArgs& args, int32_t k, float* some) const {
  int64_t rank = k - 1, count = 0;
  if (k < blocks_ / 2) {
    count = std::copy_n(args.maxima, blocks_, some) - some;
  } else {
    constexpr int32_t kStride = 16;
    for (int32_t token = 0; token < vocab_; token += kStride) some[count++] = args.logits[token];
    const double share = static_cast<double>(k) / kStride;
    rank = static_cast<int64_t>(share + 4.0 * std::sqrt(share) + 8.0);
  }
  if (rank >= count) return -kInfinity;
  std::nth_element(some, some + rank, some + count, std::greater<float>());
  return some[rank];
}

float Sampler::kth_largest(int32_t index, int32_t k) const {
  SampleArgs args = rows_[index].args;
  float* const found = scratch_.get() + int64_t{index} * vocab_;
  args.bound = bound_of_about(args, k, found);
  int32_t count = kernels_.logits_from(args, found);
  if (count < k) {
    args.bound = -kInfinity;
    count = kernels_.logits_from(args, found);
  }
  std::nth_element(found, found + (k - 1), found + count, std::greater<float>());
  return found[k - 1];
}

void Sampler::draw(int32_t share) {
  const Row& row = rows_[share / shares_];
  if (!row.is_random) return;
  Share& part = parts_[share];
  const int32_t begin = block_begin(share), end = std::min(begin + kBlocksOfShare, blocks_);
  part.best = row.chosen;
  kernels_.gumbel_max(row.args, begin, end, &part.best);
}

void Sampler::choose_drawn(int32_t index) {
  Row& row = rows_[index];
  if (!row.is_random) return;
  for (int32_t s = 0; s < shares_; ++s) {
    const Perturbed& best = parts_[int64_t{index} * shares_ + s].best;
    const bool is_first = best.score == row.chosen.score && best.token < row.chosen.token;
    if (best.score > row.chosen.score || is_first) row.chosen = best;
  }
  row.is_random = sampling_[index].top_p < 1.0f;
}

float Sampler::above_chosen(const Row& row) {
  return std::nextafter(row.args.logits[row.chosen.token], kInfinity);
}

// What top-k leaves, and of it those larger than the token chosen.
void Sampler::weigh_share(int32_t share) {
  const Row& row = rows_[share / shares_];
  if (!row.is_random) return;
  const int32_t begin = block_begin(share), end = std::min(begin + kBlocksOfShare, blocks_);
  SampleArgs kept = row.args;
  kept.bound = row.kept;
  kernels_.weigh(kept, above_chosen(row), begin, end, &parts_[share].weights);
}

void Sampler::check_top_p(int32_t index) {
  Row& row = rows_[index];
  if (!row.is_random) return;
  WeightSums sums{0, 0};
  for (int32_t s = 0; s < shares_; ++s) {
    const WeightSums& part = parts_[int64_t{index} * shares_ + s].weights;
    sums.all += part.all;
    sums.larger += part.larger;
  }
  const double target = double{sampling_[index].top_p} * static_cast<double>(sums.all);
  // One in twenty goes round again where p is 0.95; what is left shrinks each time.
  while (static_cast<double>(sums.larger) >= target) {
    row.args.bound = above_chosen(row);
    row.chosen.token = static_cast<int32_t>(
        std::find(row.args.logits, row.args.logits + vocab_, row.args.most) - row.args.logits);
    row.chosen.score = kernels_.perturbed(row.args, row.chosen.token);
    kernels_.gumbel_max(row.args, 0, blocks_, &row.chosen);
    SampleArgs larger = row.args;
    larger.bound = above_chosen(row);
    kernels_.weigh(larger, larger.bound, 0, blocks_, &sums);
  }
  row.is_random = false;
}

void sample_rows(const KernelTable& kernels, const float* logits, int32_t vocab, bool keep,
                 const std::vector<RowSampling>& rows, int32_t* tokens) {
  const FloatEnvironment ieee;
  Sampler sampler(kernels, logits, vocab, keep, rows);
  const int32_t count = sampler.num_rows(), shares = sampler.num_shares();
  for (int32_t i = 0; i < count; ++i) sampler.process(i);
  for (int32_t i = 0; i < shares; ++i) sampler.find_maxima(i);
  for (int32_t i = 0; i < count; ++i) sampler.choose_largest(i);
  for (int32_t i = 0; i < shares; ++i) sampler.draw(i);
  for (int32_t i = 0; i < count; ++i) sampler.choose_drawn(i);
  for (int32_t i = 0; i < shares; ++i) sampler.weigh_share(i);
  for (int32_t i = 0; i < count; ++i) sampler.check_top_p(i);
  for (int32_t i = 0; i < count; ++i) tokens[i] = sampler.token(i);
}

}  // namespace gpt2fast
