#include "core/cpu_isa.h"

#include <cstdlib>
#include <stdexcept>

namespace gpt2fast {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kGeneric: return "generic";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx512Vnni: return "avx512_vnni";
  }
  return "unknown";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas{Isa::kGeneric};
#if defined(GPT2FAST_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    isas.push_back(Isa::kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      isas.push_back(Isa::kAvx512);
      if (__builtin_cpu_supports("avx512vnni")) isas.push_back(Isa::kAvx512Vnni);
    }
  }
#endif
  return isas;
}

Isa select_isa() {
  const std::vector<Isa> isas = available_isas();
  const char* forced = std::getenv("GPT2FAST_FORCE_ISA");
  if (forced == nullptr || *forced == '\0') return isas.back();
  std::string usable;
  for (const Isa isa : isas) {
    if (std::string(forced) == isa_name(isa)) return isa;
    usable += std::string(usable.empty() ? "" : ", ") + isa_name(isa);
  }
  throw std::invalid_argument("GPT2FAST_FORCE_ISA=" + std::string(forced) +
                              " is unknown or cannot run on this CPU; it can run: " + usable);
}

}  // namespace gpt2fast
