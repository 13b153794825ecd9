#include "bindings/module.h"

#include "bindings/without_gil.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "gpt2fast's compiled core: block pool, CPU decoder, its kernels.";
  gpt2fast::WithoutGil::register_exit_hook();
  gpt2fast::bind_isa(module);
  gpt2fast::bind_block_pool(module);
  gpt2fast::bind_sampling(module);
  gpt2fast::bind_decoder(module);
  gpt2fast::bind_kernels(module);
  gpt2fast::bind_torch_rng(module);
}
