#include "bindings/step_batch.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "bindings/arrays.h"
#include "core/checked.h"

namespace gpt2fast {

int32_t length_of(const Ids& array, const char* name, int ndim, int64_t most) {
  if (array.ndim() != ndim) {
    throw std::invalid_argument(std::string("step: ") + name + " needs " + std::to_string(ndim) +
                                " dimensions");
  }
  if (array.shape(0) > most) {
    throw std::invalid_argument(std::string("step: ") + std::to_string(array.shape(0)) + " " +
                                name + " exceed " + std::to_string(most));
  }
  return static_cast<int32_t>(array.shape(0));
}

float* rows_of(Rows& array, int32_t rows, int32_t columns, const char* what) {
  if (array.ndim() != 2 || array.shape(0) < rows || array.shape(1) != columns) {
    throw std::invalid_argument(std::string("step: a float32 array is needed for ") + what);
  }
  require_aligned(array, what);
  return array.mutable_data();
}

CopiedBatch::CopiedBatch(const Decoder& decoder, const Ids& tokens, const Ids& starts,
                         const Ids& contexts, const Ids& tables, const Ids& sampled) {
  // Sizes first, which bound what is copied. A sequence has a new token at least.
  const int64_t most = decoder.max_batch_tokens();
  num_tokens = length_of(tokens, "token_ids", 1, most);
  num_sequences = length_of(contexts, "context_lens", 1, num_tokens);
  num_logit_rows = length_of(sampled, "logit_rows", 1, most);
  if (length_of(starts, "query_starts", 1, most + 1) != num_sequences + 1 ||
      length_of(tables, "block_tables", 2, num_sequences) != num_sequences) {
    throw std::invalid_argument("step: query_starts, context_lens and block_tables disagree");
  }
  const int64_t positions = decoder.shape().positions;
  table_width = static_cast<int32_t>(
      std::min<int64_t>(tables.shape(1), round_up(positions, kBlockTokens) / kBlockTokens));
  token_ids = copied(tokens, num_tokens);
  query_starts = copied(starts, num_sequences + 1);
  context_lens = copied(contexts, num_sequences);
  block_tables = copied(tables, table_width);
  logit_rows = copied(sampled, num_logit_rows);
}

StepBatch CopiedBatch::view() const {
  return {token_ids.data(),    query_starts.data(), context_lens.data(),
          block_tables.data(), logit_rows.data(),   num_tokens,
          num_sequences,       table_width,         num_logit_rows};
}

}  // namespace gpt2fast
