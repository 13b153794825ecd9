// What a step works on.
#pragma once

#include <cstdint>

#include "decoder/model_shape.h"

namespace gpt2fast {

// S sequences with T new tokens in all; the letters are those of gpt2fast/runners/base.py.
struct StepBatch {
  const int32_t* token_ids;     // (T,)
  const int32_t* query_starts;  // (S + 1,)
  const int32_t* context_lens;  // (S,)
  const int32_t* block_tables;  // (S, table_width)
  const int32_t* logit_rows;    // (R,)
  int32_t num_tokens;           // T
  int32_t num_sequences;        // S
  int32_t table_width;
  int32_t num_logit_rows;  // R
};

// Throws std::invalid_argument for a batch that points outside of the model, of a cache of
// `num_blocks` blocks, or of a workspace of `max_tokens` rows.
void check_batch(const StepBatch& batch, const ModelShape& shape, int32_t num_blocks,
                 int32_t max_tokens);

}  // namespace gpt2fast
