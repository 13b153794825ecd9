#include "torch_rng/draw.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace gpt2fast {
namespace {

// Decisions are made in double precision. Where one is as close as this, torch's in single
// precision may be another: a hundred roundings.
constexpr double kMargin = 1e-5;
constexpr int64_t kStretch = 64;

// The largest of `count` values; NaN where one is.
float largest(const float* values, int64_t count) {
  float most = -std::numeric_limits<float>::infinity();
  bool numbers = true;
  for (int64_t i = 0; i < count; ++i) {
    most = values[i] > most ? values[i] : most;
    numbers &= values[i] == values[i];
  }
  return numbers ? most : std::numeric_limits<float>::quiet_NaN();
}

}  // namespace

// The top_k of a row, in no order, with scores; false where another has the score of the last.
bool Drawing::keep_largest(const float* logits) {
  const int64_t count = std::min(options_.top_k + 1, size_);  // and the first that is out
  maxima_.clear();
  for (int64_t begin = 0; begin < size_; begin += kStretch) {
    maxima_.push_back(largest(logits + begin, std::min(kStretch, size_ - begin)));
    if (std::isnan(maxima_.back())) return false;
  }
  // So many stretches have a value that reaches the bound.
  float bound = -std::numeric_limits<float>::infinity();
  if (count < static_cast<int64_t>(maxima_.size())) {
    sorted_ = maxima_;
    std::nth_element(sorted_.begin(), sorted_.begin() + (count - 1), sorted_.end(),
                     std::greater<float>());
    bound = sorted_[count - 1];
  }
  kept_.clear();
  for (int64_t begin = 0; begin < size_; begin += kStretch) {
    if (maxima_[begin / kStretch] < bound) continue;
    for (int64_t i = begin; i < std::min(begin + kStretch, size_); ++i) {
      if (logits[i] >= bound) kept_.push_back({i, logits[i] / options_.temperature, 0.0});
    }
  }
  std::nth_element(kept_.begin(), kept_.begin() + (count - 1), kept_.end(),
                   [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  kept_.resize(count);
  if (count <= options_.top_k) return true;
  const float out = kept_.back().score;
  kept_.pop_back();
  const auto tie = std::remove_if(kept_.begin(), kept_.end(),
                                  [out](const Candidate& each) { return each.score == out; });
  // Those of no probability are out in any order.
  if (tie != kept_.end() && out != -std::numeric_limits<float>::infinity()) return false;
  kept_.erase(tie, kept_.end());
  return !kept_.empty();
}

// Of kept_ those of the nucleus, and their weights, by token.
bool Drawing::keep_nucleus() {
  std::sort(kept_.begin(), kept_.end(),
            [](const Candidate& a, const Candidate& b) { return a.score < b.score; });
  const double best = kept_.back().score;
  if (!std::isfinite(best)) return false;
  double sum = 0.0;
  for (Candidate& each : kept_) sum += each.weight = std::exp(each.score - best);
  if (options_.top_p < 1.0) {
    const auto most = static_cast<int64_t>(kept_.size()) - options_.least;
    int64_t out = 0;
    double below = 0.0;
    for (; out < most; ++out) {
      below += kept_[out].weight / sum;
      if (std::abs(below - (1.0 - options_.top_p)) < kMargin) return false;
      if (below > 1.0 - options_.top_p) break;
    }
    if (out > 0 && kept_[out].score == kept_[out - 1].score) return false;
    kept_.erase(kept_.begin(), kept_.begin() + out);
  }
  std::sort(kept_.begin(), kept_.end(),
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  return true;
}

bool Drawing::draw(const float* logits, int64_t rows, MersenneTwister& twister, int64_t* tokens) {
  places_.clear();
  counts_.clear();
  all_.clear();
  for (int64_t row = 0; row < rows; ++row) {
    if (!keep_largest(logits + row * size_) || !keep_nucleus()) return false;
    for (const Candidate& each : kept_) places_.push_back(row * size_ + each.token);
    counts_.push_back(static_cast<int64_t>(kept_.size()));
    all_.insert(all_.end(), kept_.begin(), kept_.end());
  }
  uniform_.resize(places_.size());
  twister.doubles(rows * size_, places_.data(), static_cast<int64_t>(places_.size()),
                  uniform_.data());
  const Candidate* from = all_.data();
  const double* uniform = uniform_.data();
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t count = counts_[row];
    double best = -1.0, second = -1.0;
    for (int64_t i = 0; i < count; ++i) {
      const double value = from[i].weight / -std::log1p(-uniform[i]);
      if (value > best) {
        second = best;
        best = value;
        tokens[row] = from[i].token;
      } else {
        second = std::max(second, value);
      }
    }
    if (!(best > 0.0) || !std::isfinite(best) || best < second * (1.0 + kMargin)) return false;
    from += count;
    uniform += count;
  }
  return true;
}

}  // namespace gpt2fast
