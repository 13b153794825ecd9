#include "kv_cache/block_pool.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>

#include "bindings/arrays.h"
#include "bindings/module.h"
#include "kv_cache/sequence_group.h"

namespace gpt2fast {
namespace {

namespace py = pybind11;
using Tokens = py::array_t<int32_t, py::array::c_style>;

int32_t count_of(const Tokens& tokens) {
  if (tokens.ndim() != 1 || tokens.size() > INT32_MAX) {
    throw std::invalid_argument("tokens must be a one-dimensional array of at most 2^31 - 1");
  }
  require_aligned(tokens, "tokens");
  return static_cast<int32_t>(tokens.size());
}

py::list reserve(BlockPool& pool, SequenceId id, int32_t length) {
  py::list pairs;
  for (const BlockCopy& copy : pool.reserve(id, length)) {
    pairs.append(py::make_tuple(copy.source, copy.destination));
  }
  return pairs;
}

void fill_block_tables(const BlockPool& pool, const py::array_t<int64_t, py::array::c_style>& ids,
                       py::array_t<int32_t, py::array::c_style>& out) {
  if (ids.ndim() != 1 || out.ndim() != 2 || out.shape(0) < ids.shape(0)) {
    throw std::invalid_argument("fill_block_tables needs ids (S,) and an int32 table (S, M)");
  }
  require_aligned(ids, "sequences");
  require_aligned(out, "the block table");
  const auto width = static_cast<size_t>(out.shape(1));
  for (py::ssize_t s = 0; s < ids.shape(0); ++s) {
    const std::vector<int32_t>& blocks = pool.blocks(ids.at(s));
    if (blocks.size() > width) throw std::invalid_argument("the block table is too narrow");
    int32_t* row = out.mutable_data() + s * out.shape(1);
    std::fill(std::copy(blocks.begin(), blocks.end(), row), row + width, -1);
  }
}

py::dict stats(const BlockPool& pool) {
  const PoolStats s = pool.stats();
  py::dict out;
  out["num_blocks"] = s.num_blocks;
  out["block_size"] = s.block_size;
  out["used"] = s.used;
  out["cached"] = s.cached;
  out["free"] = s.free;
  out["sequences"] = s.sequences;
  out["lookup_tokens"] = s.lookup_tokens;
  out["hit_tokens"] = s.hit_tokens;
  out["evictions"] = s.evictions;
  out["copies"] = s.copies;
  return out;
}

// PoolExhausted as the package's own class, so that one except clause serves every runner.
void register_errors() {
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const PoolExhausted& exhausted) {
      const py::object type = py::module_::import("gpt2fast.errors").attr("CacheExhaustedError");
      PyErr_SetString(type.ptr(), exhausted.what());
    }
  });
}

}  // namespace

void bind_block_pool(py::module_& module) {
  register_errors();
  py::class_<BlockPool, std::shared_ptr<BlockPool>>(
      module, "BlockPool", "Block tables of the KV cache: references, reuse by content.")
      .def(py::init<int32_t, int32_t, bool>(), py::arg("num_blocks"), py::arg("block_size"),
           py::arg("prefix_caching") = true)
      .def(
          "create",
          [](BlockPool& pool, const Tokens& tokens) {
            const auto [id, cached] = pool.create(tokens.data(), count_of(tokens));
            return py::make_tuple(id, cached);
          },
          py::arg("tokens").noconvert())
      .def("reserve", &reserve, py::arg("sequence"), py::arg("length"))
      .def(
          "commit",
          [](BlockPool& pool, SequenceId id, const Tokens& tokens) {
            pool.commit(id, tokens.data(), count_of(tokens));
          },
          py::arg("sequence"), py::arg("tokens").noconvert())
      .def("fork", &BlockPool::fork, py::arg("sequence"))
      .def("truncate", &BlockPool::truncate, py::arg("sequence"), py::arg("length"))
      .def("free", &BlockPool::free, py::arg("sequence"))
      .def("length", &BlockPool::length, py::arg("sequence"))
      .def(
          "block_table",
          [](const BlockPool& pool, SequenceId id) {
            const std::vector<int32_t>& blocks = pool.blocks(id);
            return py::array_t<int32_t>(static_cast<py::ssize_t>(blocks.size()), blocks.data());
          },
          py::arg("sequence"))
      .def("fill_block_tables", &fill_block_tables, py::arg("sequences").noconvert(),
           py::arg("out").noconvert())
      .def_property_readonly("block_size", &BlockPool::block_size)
      .def_property_readonly("num_free", &BlockPool::num_free)
      .def("stats", &stats)
      .def("clear", &BlockPool::clear);
  py::class_<SequenceGroup>(module, "SequenceGroup", "Sequences of a pool, freed with this object.")
      .def(py::init<std::shared_ptr<BlockPool>, int32_t>(), py::arg("pool"), py::arg("count"))
      .def_property_readonly("ids", &SequenceGroup::ids)
      .def("fork", &SequenceGroup::fork, py::arg("rows"));
}

}  // namespace gpt2fast
