#include "sampling/logits_processing.h"

#include <algorithm>
#include <limits>

namespace gpt2fast {

void LogitsProcessing::see(int32_t token, bool is_output) {
  if (repetition == 1.0f && presence == 0.0f && frequency == 0.0f) return;
  auto at = std::lower_bound(seen_.begin(), seen_.end(), token,
                             [](const Seen& seen, int32_t other) { return seen.token < other; });
  if (at == seen_.end() || at->token != token) at = seen_.insert(at, {token, 0});
  if (is_output) ++at->count;
}

void LogitsProcessing::choose(int32_t token) {
  ++num_chosen;
  see(token, true);
}

int32_t LogitsProcessing::largest_token() const {
  int32_t largest = seen_.empty() ? -1 : seen_.back().token;
  for (const auto& [token, value] : bias) largest = std::max(largest, token);
  for (const int32_t token : banned) largest = std::max(largest, token);
  return largest;
}

void LogitsProcessing::apply(float* logits) const {
  for (const auto& [token, value] : bias) logits[token] += value;
  for (const Seen& seen : seen_) {
    float logit = logits[seen.token];
    logit = logit < 0.0f ? logit * repetition : logit / repetition;
    if (seen.count > 0) logit -= presence + frequency * static_cast<float>(seen.count);
    logits[seen.token] = logit;
  }
  if (num_chosen >= min_tokens) return;
  for (const int32_t token : banned) logits[token] = -std::numeric_limits<float>::infinity();
}

}  // namespace gpt2fast
