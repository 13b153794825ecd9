// How fast this machine reads memory: the limit that a decode step at batch 1 is held against.
#pragma once

#include <vector>

#include "core/cpu_isa.h"

namespace gpt2fast {

// Bytes per second of `repeats` passes over `megabytes` (2^20) of memory with `num_threads`
// threads, each pass timed by itself. Choose more memory than the last-level cache holds.
// Throws std::bad_alloc.
std::vector<double> measure_read_bandwidth(Isa isa, int num_threads, int megabytes, int repeats);

}  // namespace gpt2fast
