// What this machine can do at most, measured: bytes read from memory, arithmetic done in registers.
#pragma once

#include <vector>

#include "core/cpu_isa.h"
#include "kernels/panels.h"

namespace gpt2fast {

// Bytes per second of each of `repeats` passes over `megabytes` of memory.
std::vector<double> measure_read_bandwidth(Isa isa, int num_threads, int megabytes, int repeats);

// Operations per second, two a multiply-add, of each of `repeats` passes of a few milliseconds.
std::vector<double> measure_arithmetic_peak(Isa isa, Format format, int num_threads, int repeats);

}  // namespace gpt2fast
