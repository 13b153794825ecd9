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

struct CyclePass {
  double operations_per_second, clock_before, clock_after;  // clocks in cycles per second
};
// The same of the calling thread in `repeats` passes of some ten microseconds, each between two
// measurements of the core's clock: wide vectors may lower it, and it recovers in a millisecond.
std::vector<CyclePass> measure_peak_per_cycle(Isa isa, Format format, int repeats);

}  // namespace gpt2fast
