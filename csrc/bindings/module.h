// One function a bound object, each in the file of the same name.
#pragma once

#include <pybind11/pybind11.h>

namespace gpt2fast {

void bind_isa(pybind11::module_& module);
void bind_block_pool(pybind11::module_& module);
void bind_decoder(pybind11::module_& module);
void bind_kernels(pybind11::module_& module);
void bind_sampling(pybind11::module_& module);
void bind_torch_rng(pybind11::module_& module);

}  // namespace gpt2fast
