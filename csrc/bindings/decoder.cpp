#include "decoder/decoder.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <system_error>

#include "bindings/arrays.h"
#include "bindings/formats.h"
#include "bindings/module.h"
#include "bindings/sampling.h"
#include "bindings/step_batch.h"
#include "bindings/without_gil.h"
#include "core/checked.h"

namespace gpt2fast {
namespace {

namespace py = pybind11;

std::unique_ptr<Decoder> make_decoder(
    int32_t vocab, int32_t positions, int32_t width, int32_t head_size, float epsilon,
    const std::string& activation, bool tied_head,
    const std::vector<std::tuple<int32_t, int32_t, float>>& layers,
    const std::map<std::string, std::pair<std::string, int32_t>>& formats,
    const std::string& kv_dtype, int32_t num_threads, int32_t num_blocks,
    int32_t max_batch_tokens) {
  check_size("num_threads", num_threads, kMostThreads);
  check_size("num_blocks", num_blocks, INT32_MAX);
  check_size("max_batch_tokens", max_batch_tokens, kMaxSize);
  ModelShape shape{
      vocab, positions, width, head_size, epsilon, activation_from_name(activation), tied_head, {}};
  for (const auto& [heads, inner, scale] : layers) shape.layers.push_back({heads, inner, scale});
  DecoderOptions options;
  for (const auto& [name, format] : formats) {
    options.formats[name] = matrix_format(format.first, format.second);
  }
  options.kv_format = kv_format(kv_dtype);
  options.num_threads = num_threads;
  options.num_blocks = num_blocks;
  options.max_batch_tokens = max_batch_tokens;
  const WithoutGil release;
  try {
    return std::make_unique<Decoder>(shape, select_isa(), options);
  } catch (const std::system_error& error) {
    throw std::invalid_argument("num_threads = " + std::to_string(num_threads) +
                                ": the system does not grant them (" + error.what() +
                                "); give fewer");
  }
}

StoredType stored_type(const std::string& dtype) {
  if (dtype == "F32") return StoredType::kFloat32;
  if (dtype == "F16") return StoredType::kFloat16;
  if (dtype == "BF16") return StoredType::kBFloat16;
  if (dtype == "F64") return StoredType::kFloat64;
  throw std::invalid_argument("unknown tensor type '" + dtype +
                              "'; F32, F16, BF16 or F64 expected");
}

void load(Decoder& decoder, const std::string& name, const std::string& dtype,
          const std::vector<int64_t>& shape, const py::buffer& data) {
  const py::buffer_info info = data.request();
  const StoredType type = stored_type(dtype);
  int64_t bytes = type == StoredType::kFloat64 ? 8 : type == StoredType::kFloat32 ? 4 : 2;
  for (const int64_t size : shape) {
    if (size < 0) throw std::invalid_argument("tensor '" + name + "' has a negative size");
    bytes = checked_product("a tensor of this shape", {bytes, size});
  }
  if (info.ndim != 1 || info.itemsize != 1 || info.strides[0] != 1 || info.size != bytes) {
    throw std::invalid_argument("tensor '" + name + "' needs " + std::to_string(bytes) +
                                " contiguous bytes, not " +
                                std::to_string(info.size * info.itemsize));
  }
  const WithoutGil release;
  decoder.weights().load(name, {info.ptr, type, shape}, decoder.pool());
}

void load_packed(Decoder& decoder, const std::string& name, const py::buffer& data) {
  const py::buffer_info info = data.request();
  if (info.ndim != 1 || info.itemsize != 1 || info.strides[0] != 1) {
    throw std::invalid_argument("tensor '" + name + "' needs contiguous bytes");
  }
  const WithoutGil release;
  decoder.weights().load_packed(name, static_cast<const uint8_t*>(info.ptr), info.size,
                                decoder.pool());
}

// (panels, panel bytes), a copy.
py::array_t<uint8_t> packed(const Decoder& decoder, const std::string& name) {
  const Panels panels = decoder.weights().packed(name);
  py::array_t<uint8_t> out({int64_t{panels.count()}, panels.panel_bytes()});
  std::memcpy(out.mutable_data(), panels.data, static_cast<size_t>(panels.bytes()));
  return out;
}

py::array_t<float> vector(const Decoder& decoder, const std::string& name) {
  const std::vector<float> values = decoder.weights().vector(name);
  return py::array_t<float>(static_cast<py::ssize_t>(values.size()), values.data());
}

void step(Decoder& decoder, const Ids& token_ids, const Ids& query_starts, const Ids& context_lens,
          const Ids& block_tables, const Ids& logit_rows, std::optional<Rows>& logits,
          std::optional<Rows>& hidden) {
  const CopiedBatch batch(decoder, token_ids, query_starts, context_lens, block_tables, logit_rows);
  const ModelShape& shape = decoder.shape();
  const int32_t rows = batch.num_logit_rows;
  float* const scores =
      logits ? rows_of(*logits, rows, shape.vocab, "logits (R, vocabulary)") : nullptr;
  float* const normal = hidden ? rows_of(*hidden, rows, shape.width, "hidden (R, width)") : nullptr;
  const WithoutGil release;
  decoder.step(batch.view(), scores, normal);
}

// Tokens (R, steps done), and when each step ended (steps done,), in seconds of
// time.perf_counter.
py::tuple sample(Decoder& decoder, const Ids& token_ids, const Ids& query_starts,
                 const Ids& context_lens, const Ids& block_tables, const Ids& logit_rows,
                 Rows& logits, const SamplingRows& sampling, int32_t steps, const Ids& stop_tokens,
                 const std::shared_ptr<StopFlag>& stop, bool keep_logits) {
  const CopiedBatch batch(decoder, token_ids, query_starts, context_lens, block_tables, logit_rows);
  const ModelShape& shape = decoder.shape();
  const int32_t rows = batch.num_logit_rows;
  check_size("steps", steps, shape.positions);
  const bool is_single = batch.num_tokens == batch.num_sequences && rows == batch.num_tokens;
  if (steps > 1 && !is_single) {
    throw std::invalid_argument("sample: several steps need one token a sequence");
  }
  check_sampling(sampling.rows, rows, shape.vocab);
  float* const scores = rows_of(logits, rows, shape.vocab, "logits (R, vocabulary)");
  SampleLimits limits{steps, {}, stop == nullptr ? nullptr : &stop->is_set, keep_logits};
  limits.stop_tokens = copied(stop_tokens, length_of(stop_tokens, "stop_tokens", 1, shape.vocab));
  std::vector<int32_t> tokens(static_cast<size_t>(int64_t{rows} * steps));
  std::vector<double> times(static_cast<size_t>(steps));
  int32_t done = 0;
  {
    const WithoutGil release;
    done = decoder.sample(batch.view(), sampling.rows, limits, scores, tokens.data(), times.data());
  }
  Ids chosen({py::ssize_t{rows}, py::ssize_t{done}});
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(tokens.data() + r * steps, done, chosen.mutable_data() + r * done);
  }
  return py::make_tuple(chosen, py::array_t<double>(done, times.data()));
}

void copy_blocks(Decoder& decoder, const Ids& pairs) {
  if (pairs.ndim() != 2 || pairs.shape(1) != 2) {
    throw std::invalid_argument("copy_blocks needs pairs (N, 2)");
  }
  const std::vector<int32_t> blocks = copied(pairs, 2);
  std::vector<BlockCopy> copies(blocks.size() / 2);
  for (size_t i = 0; i < copies.size(); ++i) copies[i] = {blocks[2 * i], blocks[2 * i + 1]};
  const WithoutGil release;
  decoder.copy_blocks(copies);
}

// Keys and values (H, length, D) of `layer`, of the sequence in the cache blocks `blocks` (M,).
py::tuple read_cache(Decoder& decoder, int32_t layer, const Ids& blocks, int32_t length) {
  const std::vector<int32_t> table =
      copied(blocks, length_of(blocks, "blocks", 1, decoder.cache().num_blocks()));
  const auto heads = static_cast<py::ssize_t>(decoder.heads_to_read(layer, table, length));
  const std::vector<py::ssize_t> shape{heads, length, decoder.shape().head_size};
  py::array_t<float> keys(shape), values(shape);
  float *const to_keys = keys.mutable_data(), *const to_values = values.mutable_data();
  {
    const WithoutGil release;
    decoder.read_cache(layer, table, length, to_keys, to_values);
  }
  return py::make_tuple(keys, values);
}

}  // namespace

void bind_decoder(py::module_& module) {
  module.attr("BLOCK_TOKENS") = kBlockTokens;
  module.attr("MAX_HEAD_SIZE") = kMaxHeadSize;
  py::class_<Decoder>(module, "Decoder",
                      "GPT-2 on the CPU: packed weights, cache, one step a call.")
      .def(py::init(&make_decoder), py::kw_only(), py::arg("vocab"), py::arg("positions"),
           py::arg("width"), py::arg("head_size"), py::arg("epsilon"), py::arg("activation"),
           py::arg("tied_head"), py::arg("layers"), py::arg("formats"), py::arg("kv_format"),
           py::arg("num_threads"), py::arg("num_blocks"), py::arg("max_batch_tokens"))
      .def("load", &load, py::arg("name"), py::arg("dtype"), py::arg("shape"), py::arg("data"))
      .def("load_packed", &load_packed, py::arg("name"), py::arg("data"))
      .def("packed", &packed, py::arg("name"))
      .def("vector", &vector, py::arg("name"))
      .def("missing", [](Decoder& decoder) { return decoder.weights().missing(); })
      .def("step", &step, py::arg("token_ids").noconvert(), py::arg("query_starts").noconvert(),
           py::arg("context_lens").noconvert(), py::arg("block_tables").noconvert(),
           py::arg("logit_rows").noconvert(), py::arg("logits").noconvert(),
           py::arg("hidden").noconvert() = py::none())
      .def("sample", &sample, py::arg("token_ids").noconvert(), py::arg("query_starts").noconvert(),
           py::arg("context_lens").noconvert(), py::arg("block_tables").noconvert(),
           py::arg("logit_rows").noconvert(), py::arg("logits").noconvert(), py::arg("sampling"),
           py::arg("steps"), py::arg("stop_tokens").noconvert(), py::arg("stop"),
           py::arg("keep_logits"))
      .def("copy_blocks", &copy_blocks, py::arg("pairs").noconvert())
      .def("read_cache", &read_cache, py::arg("layer"), py::arg("blocks").noconvert(),
           py::arg("length"))
      .def_property_readonly("weight_bytes", [](Decoder& d) { return d.weights().bytes(); })
      .def_property_readonly("bytes_per_step",
                             [](Decoder& d) { return d.weights().bytes_per_step(); })
      .def_property_readonly("cache_bytes", [](Decoder& d) { return d.cache().bytes(); })
      .def_property_readonly("num_threads", [](Decoder& d) { return d.pool().size(); });
}

}  // namespace gpt2fast
