// A token drawn as torch does behind transformers' temperature, top-k and top-p: the largest of
// probabilities divided by exponential noise.
#pragma once

#include <cstdint>
#include <vector>

#include "torch_rng/mersenne_twister.h"

namespace gpt2fast {

struct DrawOptions {
  float temperature;
  int64_t top_k;
  double top_p;   // 1: no limit
  int64_t least;  // tokens that top-p keeps
};

class Drawing {
 public:
  Drawing(DrawOptions options, int64_t vocabulary) : options_(options), size_(vocabulary) {}

  // A token of each row of `logits` (rows, vocabulary) into `tokens` (rows,), by the noise that
  // `twister` makes for all of them.
  //
  // False where a token hangs on roundings of torch, as with equal logits at a border, or where
  // logits are no numbers; `twister` and `tokens` are of no use then.
  bool draw(const float* logits, int64_t rows, MersenneTwister& twister, int64_t* tokens);

 private:
  struct Candidate {
    int64_t token;
    float score;
    double weight;
  };

  bool keep_largest(const float* logits);
  bool keep_nucleus();

  const DrawOptions options_;
  const int64_t size_;
  std::vector<float> maxima_, sorted_;  // of stretches of the logits
  std::vector<Candidate> kept_;
  std::vector<int64_t> places_, counts_;
  std::vector<Candidate> all_;  // of all rows, by token
  std::vector<double> uniform_;
};

}  // namespace gpt2fast
