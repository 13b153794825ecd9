#include <pybind11/stl.h>

#include "bindings/module.h"
#include "core/cpu_isa.h"

namespace gpt2fast {

void bind_isa(pybind11::module_& module) {
  module.def(
      "isa", [] { return std::string(isa_name(select_isa())); },
      "The instruction set the kernels use. ValueError where GPT2FAST_FORCE_ISA cannot be had.");
  module.def(
      "available_isas",
      [] {
        std::vector<std::string> names;
        for (const Isa isa : available_isas()) names.emplace_back(isa_name(isa));
        return names;
      },
      "The instruction sets that this build has and this CPU can run, weakest first.");
}

}  // namespace gpt2fast
