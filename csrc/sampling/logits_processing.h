// What a request asks to be done to its logits before a token is chosen.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace gpt2fast {

// In this order: bias; repetition penalty over prompt and output (Keskar et al. 2019: positive
// logits divided, negative ones multiplied); presence and frequency penalties over the output; the
// ban.
class LogitsProcessing {
 public:
  std::vector<std::pair<int32_t, float>> bias;  // (token, added to its logit)
  float repetition = 1.0f, presence = 0.0f, frequency = 0.0f;
  std::vector<int32_t> banned;  // while fewer than min_tokens are chosen
  int32_t num_chosen = 0, min_tokens = 0;

  // Counts a token of the prompt, or of the output.
  void see(int32_t token, bool is_output);
  // The same for a token that was just chosen.
  void choose(int32_t token);
  void apply(float* logits) const;
  // That any of this names; -1 without any.
  int32_t largest_token() const;

 private:
  struct Seen {
    int32_t token, count;  // times in the output
  };
  std::vector<Seen> seen_;  // by token
};

}  // namespace gpt2fast
