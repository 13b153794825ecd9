#include "decoder/step_batch.h"

#include <stdexcept>
#include <string>

#include "kernels/kv_layout.h"

namespace gpt2fast {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("step: " + what); }

void check_sequence(const StepBatch& batch, const ModelShape& shape, int32_t num_blocks,
                    int32_t s) {
  const int64_t rows = int64_t{batch.query_starts[s + 1]} - batch.query_starts[s];
  const int32_t context = batch.context_lens[s];
  if (rows < 1) refuse("sequence " + std::to_string(s) + " has no new token");
  if (context < 0 || context + rows > shape.positions) {
    refuse("sequence " + std::to_string(s) + " would reach position " +
           std::to_string(context + rows - 1) + "; the model has " +
           std::to_string(shape.positions));
  }
  const int64_t blocks = (context + rows + kBlockTokens - 1) / kBlockTokens;
  if (blocks > batch.table_width) refuse("block_tables is too narrow");
  for (int64_t b = 0; b < blocks; ++b) {
    const int32_t block = batch.block_tables[int64_t{s} * batch.table_width + b];
    if (block < 0 || block >= num_blocks) {
      refuse("sequence " + std::to_string(s) + " names the cache block " + std::to_string(block));
    }
  }
}

}  // namespace

void check_batch(const StepBatch& batch, const ModelShape& shape, int32_t num_blocks,
                 int32_t max_tokens) {
  if (batch.num_tokens > max_tokens) {
    refuse(std::to_string(batch.num_tokens) +
           " tokens exceed max_batch_tokens = " + std::to_string(max_tokens));
  }
  if (batch.query_starts[0] != 0 || batch.query_starts[batch.num_sequences] != batch.num_tokens) {
    refuse("query_starts must run from 0 to the number of tokens");
  }
  for (int32_t s = 0; s < batch.num_sequences; ++s) check_sequence(batch, shape, num_blocks, s);
  for (int32_t t = 0; t < batch.num_tokens; ++t) {
    if (batch.token_ids[t] < 0 || batch.token_ids[t] >= shape.vocab) {
      refuse("token id " + std::to_string(batch.token_ids[t]) +
             " is outside of the vocabulary of " + std::to_string(shape.vocab));
    }
  }
  if (batch.num_logit_rows > max_tokens) {
    refuse(std::to_string(batch.num_logit_rows) +
           " logit rows exceed max_batch_tokens = " + std::to_string(max_tokens));
  }
  for (int32_t r = 0; r < batch.num_logit_rows; ++r) {
    if (batch.logit_rows[r] < 0 || batch.logit_rows[r] >= batch.num_tokens) {
      refuse("logit row " + std::to_string(batch.logit_rows[r]) + " of " +
             std::to_string(batch.num_tokens));
    }
  }
}

}  // namespace gpt2fast
