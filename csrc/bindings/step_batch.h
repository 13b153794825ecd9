// The arrays of a step, as Python gives them.
#pragma once

#include <pybind11/numpy.h>

#include <vector>

#include "decoder/decoder.h"

namespace gpt2fast {

using Ids = pybind11::array_t<int32_t, pybind11::array::c_style>;
using Rows = pybind11::array_t<float, pybind11::array::c_style>;

// Of an array's first axis: at most `most`.
int32_t length_of(const Ids& array, const char* name, int ndim, int64_t most);

// The values of `array` (R, C), of at least `rows` rows and just `columns` columns.
float* rows_of(Rows& array, int32_t rows, int32_t columns, const char* what);

// Copies of the integers of a step: another thread may change the caller's.
struct CopiedBatch {
  CopiedBatch(const Decoder& decoder, const Ids& token_ids, const Ids& query_starts,
              const Ids& context_lens, const Ids& block_tables, const Ids& logit_rows);

  StepBatch view() const;

  int32_t num_tokens, num_sequences, num_logit_rows, table_width;
  std::vector<int32_t> token_ids, query_starts, context_lens, block_tables, logit_rows;
};

}  // namespace gpt2fast
