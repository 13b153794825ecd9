// Tokens chosen from rows of logits: the largest, or one drawn behind top-k, top-p and min-p.
//
// A draw takes the largest of logits / temperature with Gumbel noise on them, which needs no sum
// over the vocabulary, and no sort: the largest of all is the largest of those that a filter keeps
// if the filter keeps it. So top-p is a question about one token, whether the tokens above it have
// less probability than p, and where they have not, the tokens up to it are left out and the
// largest is looked for again.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/kernels.h"
#include "sampling/logits_processing.h"

namespace gpt2fast {

// In place of a token.
constexpr int32_t kLogitsNotFinite = -1;     // the model's own largest logit is no finite number
constexpr int32_t kNoTokenLeft = -2;         // the processing left no token
constexpr int32_t kProcessingOverflow = -3;  // it made a logit infinite

struct RowSampling {
  float temperature = 0.0f;  // 0 takes the largest logit
  int32_t top_k = 0;         // 0 is off
  float top_p = 1.0f;        // 1 is off
  float min_p = 0.0f;        // 0 is off
  NoiseKey noise{};
  std::shared_ptr<LogitsProcessing> processing;  // null: none
};

// Chooses one token from each of some rows. Each method below is a phase: a team of threads shares
// out its tasks, in any order, and all are done before the next phase begins. Which thread does
// what never changes the tokens.
class Sampler {
 public:
  // The rows of `logits` (R, vocab) for `rows` (R,), which both outlive this. Where `keep` is true
  // those that need processing are copied first, else they are changed.
  Sampler(const KernelTable& kernels, const float* logits, int32_t vocab, bool keep,
          const std::vector<RowSampling>& rows);

  int32_t num_rows() const { return static_cast<int32_t>(rows_.size()); }
  int32_t num_shares() const { return num_rows() * shares_; }
  // Which phases have something to do, whatever the logits.
  bool any_processed() const { return any_processed_; }
  bool any_random() const { return any_random_; }
  bool any_top_p() const { return any_top_p_; }

  void process(int32_t row);  // if any_processed
  void find_maxima(int32_t share);
  void choose_largest(int32_t row);
  void draw(int32_t share);         // if any_random
  void choose_drawn(int32_t row);   // if any_random
  void weigh_share(int32_t share);  // if any_top_p
  void check_top_p(int32_t row);    // if any_top_p

  // After the last phase: a token, or one of the negative values above.
  int32_t token(int32_t row) const { return rows_[row].chosen.token; }

 private:
  // A part of the blocks of a row.
  struct Share {
    Perturbed best;
    WeightSums weights;
  };
  struct Row {
    SampleArgs args;
    float kept;  // the bound of top-k: what top-p's p is a part of
    Perturbed chosen;
    bool is_random;          // and not decided yet
    bool is_finite = false;  // the largest logit was, before any processing
  };

  static float above_chosen(const Row& row);
  float bound_of_about(const SampleArgs& args, int32_t k, float* some) const;
  float kth_largest(int32_t index, int32_t k) const;
  int32_t block_begin(int32_t share) const;
  static int32_t reason(const Row& row);

  const KernelTable& kernels_;
  const std::vector<RowSampling>& sampling_;
  const int32_t vocab_, blocks_, shares_;
  const bool keep_;
  bool any_processed_ = false, any_random_ = false, any_top_p_ = false;
  std::vector<Row> rows_;
  std::vector<Share> parts_;                // (R, shares)
  std::vector<float> maxima_;               // (R, blocks)
  std::vector<std::vector<float>> copies_;  // of rows that are processed
  std::unique_ptr<float[]> scratch_;        // (R, vocab), for top-k
};

// All phases, by one thread: tokens (R,).
void sample_rows(const KernelTable& kernels, const float* logits, int32_t vocab, bool keep,
                 const std::vector<RowSampling>& rows, int32_t* tokens);

}  // namespace gpt2fast
