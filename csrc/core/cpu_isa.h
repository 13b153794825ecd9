// Which instruction set the kernels run with: the best this CPU has, or the one that
// GPT2FAST_FORCE_ISA names.
#pragma once

#include <string>
#include <vector>

namespace gpt2fast {

enum class Isa { kGeneric, kAvx2, kAvx512, kAvx512Vnni };

// The name used by GPT2FAST_FORCE_ISA: "generic", "avx2", "avx512", "avx512_vnni".
const char* isa_name(Isa isa);

// Sets that are both compiled in and usable on this CPU, weakest first.
std::vector<Isa> available_isas();

// Throws std::invalid_argument when GPT2FAST_FORCE_ISA names a set that is unknown or cannot run.
Isa select_isa();

}  // namespace gpt2fast
