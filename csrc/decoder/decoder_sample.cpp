// Steps that choose their own tokens.
#include <algorithm>
#include <chrono>
#include <numeric>

#include "core/float_environment.h"
#include "decoder/decoder.h"

namespace gpt2fast {
namespace {

// What runs after a step: the same sequences, each with the token that was chosen for it.
class NextTokens {
 public:
  explicit NextTokens(const StepBatch& first)
      : starts_(static_cast<size_t>(first.num_sequences) + 1),
        contexts_(first.context_lens, first.context_lens + first.num_sequences),
        tokens_(static_cast<size_t>(first.num_sequences)),
        batch_(first) {
    std::iota(starts_.begin(), starts_.end(), 0);
    batch_.token_ids = tokens_.data();
    batch_.query_starts = batch_.logit_rows = starts_.data();
    batch_.context_lens = contexts_.data();
  }

  // `stride` apart.
  const StepBatch& advance(const int32_t* chosen, int32_t stride) {
    for (size_t s = 0; s < tokens_.size(); ++s) {
      tokens_[s] = chosen[static_cast<int64_t>(s) * stride];
      ++contexts_[s];
    }
    return batch_;
  }

 private:
  std::vector<int32_t> starts_, contexts_, tokens_;
  StepBatch batch_;
};

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool ends_run(const SampleLimits& limits, int32_t token) {
  return token < 0 || std::find(limits.stop_tokens.begin(), limits.stop_tokens.end(), token) !=
                          limits.stop_tokens.end();
}

// Each row's, with its number of draws and tokens.
void advance_sampling(std::vector<RowSampling>& sampling, const int32_t* chosen, int32_t stride) {
  for (size_t r = 0; r < sampling.size(); ++r) {
    ++sampling[r].noise.draw;
    if (sampling[r].processing == nullptr) continue;
    sampling[r].processing->choose(chosen[static_cast<int64_t>(r) * stride]);
  }
}

// Those that a run changes are its own.
void copy_processing(std::vector<RowSampling>& sampling) {
  for (RowSampling& row : sampling) {
    if (row.processing == nullptr) continue;
    row.processing = std::make_shared<LogitsProcessing>(*row.processing);
  }
}

}  // namespace

int32_t Decoder::sample(const StepBatch& batch, std::vector<RowSampling> sampling,
                        const SampleLimits& limits, float* logits, int32_t* tokens, double* times) {
  check_step(batch);
  if (batch.num_logit_rows == 0) {
    step(batch, nullptr);
    return 0;
  }
  if (limits.steps > 1) copy_processing(sampling);
  NextTokens next(batch);
  const StepBatch* current = &batch;
  for (int32_t done = 0; done < limits.steps;) {
    Sampler sampler(kernels_, logits, shape_.vocab, limits.keep_logits, sampling);
    pool_.run([&](int thread) {
      const FloatEnvironment ieee;
      if (thread == 0) plan(*current);
      pool_.barrier();
      Worker worker{*current, logits, nullptr, thread, residual_.floats(), current->num_tokens};
      forward(worker);
      choose(worker, sampler);
    });
    int32_t* const chosen = tokens + done;
    bool ends = false;
    for (int32_t r = 0; r < batch.num_logit_rows; ++r) {
      chosen[int64_t{r} * limits.steps] = sampler.token(r);
      ends |= ends_run(limits, sampler.token(r));
    }
    times[done] = seconds_now();
    ++done;
    if (ends || done == limits.steps) return done;
    if (limits.stop != nullptr && limits.stop->exchange(false)) return done;
    advance_sampling(sampling, chosen, limits.steps);
    current = &next.advance(chosen, limits.steps);
    check_batch(*current, shape_, cache_.num_blocks(), max_batch_tokens_);
  }
  return limits.steps;
}

// Called by every thread of the team.
void Decoder::choose(Worker& worker, Sampler& sampler) {
  const int32_t rows = sampler.num_rows(), shares = sampler.num_shares();
  if (sampler.any_processed()) {
    phase(worker, rows, [&](int32_t row) { sampler.process(row); });
  }
  phase(worker, shares, [&](int32_t share) { sampler.find_maxima(share); });
  phase(worker, rows, [&](int32_t row) { sampler.choose_largest(row); });
  if (!sampler.any_random()) return;
  phase(worker, shares, [&](int32_t share) { sampler.draw(share); });
  phase(worker, rows, [&](int32_t row) { sampler.choose_drawn(row); });
  if (!sampler.any_top_p()) return;
  phase(worker, shares, [&](int32_t share) { sampler.weigh_share(share); });
  phase(worker, rows, [&](int32_t row) { sampler.check_top_p(row); });
}

}  // namespace gpt2fast
