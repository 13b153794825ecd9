// Options of sampling as Python gives them.
#pragma once

#include <atomic>
#include <vector>

#include "sampling/sampler.h"

namespace gpt2fast {

// For some rows; the Python class is of the same name.
struct SamplingRows {
  std::vector<RowSampling> rows;
};

// Set by one thread for another that runs without the interpreter lock.
struct StopFlag {
  std::atomic<bool> is_set{false};
};

// Throws std::invalid_argument for a processing that names a token from `vocab` on.
void check_sampling(const std::vector<RowSampling>& rows, int32_t num_rows, int32_t vocab);

}  // namespace gpt2fast
