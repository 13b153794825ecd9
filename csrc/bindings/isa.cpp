#include <pybind11/stl.h>

#include "bindings/arrays.h"
#include "bindings/module.h"
#include "bindings/without_gil.h"
#include "core/cpu_isa.h"
#include "decoder/model_shape.h"
#include "decoder/packing.h"
#include "kernels/limits.h"

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
  module.def(
      "measure_read_bandwidth",
      [](int num_threads, int megabytes, int repeats) {
        if (num_threads < 1 || megabytes < 1 || repeats < 1) {
          throw std::invalid_argument("measure_read_bandwidth: all arguments must be positive");
        }
        check_size("num_threads", num_threads, kMostThreads);
        const WithoutGil release;
        return measure_read_bandwidth(select_isa(), num_threads, megabytes, repeats);
      },
      pybind11::arg("num_threads"), pybind11::arg("megabytes") = 512, pybind11::arg("repeats") = 5,
      "Bytes per second of each of `repeats` passes over `megabytes` (2^20) of memory.");
  module.def(
      "measure_arithmetic_peak",
      [](const std::string& format, int num_threads, int repeats) {
        if (num_threads < 1 || repeats < 1) {
          throw std::invalid_argument("measure_arithmetic_peak: all arguments must be positive");
        }
        check_size("num_threads", num_threads, kMostThreads);
        const Format parsed = format_from_name(format);
        const WithoutGil release;
        return measure_arithmetic_peak(select_isa(), parsed, num_threads, repeats);
      },
      pybind11::arg("format"), pybind11::arg("num_threads"), pybind11::arg("repeats") = 5,
      "Operations per second, two a multiply-add, of the instructions that products with weights "
      "of `format` use, in registers, in each of `repeats` passes of some milliseconds.");
  module.def(
      "measure_peak_per_cycle",
      [](const std::string& format, int repeats) {
        if (repeats < 1) {
          throw std::invalid_argument("measure_peak_per_cycle: repeats must be positive");
        }
        const Format parsed = format_from_name(format);
        const WithoutGil release;
        std::vector<std::tuple<double, double, double>> passes;
        for (const CyclePass& pass : measure_peak_per_cycle(select_isa(), parsed, repeats)) {
          passes.emplace_back(pass.operations_per_second, pass.clock_before, pass.clock_after);
        }
        return passes;
      },
      pybind11::arg("format"), pybind11::arg("repeats") = 100,
      "Of each of `repeats` short passes of the same on this thread: operations per second, and "
      "the "
      "core's clock in cycles per second just before and after.");
}

}  // namespace gpt2fast
