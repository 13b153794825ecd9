#include "bindings/sampling.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cmath>
#include <stdexcept>
#include <string>

#include "bindings/arrays.h"
#include "bindings/module.h"
#include "bindings/without_gil.h"
#include "core/cpu_isa.h"

namespace gpt2fast {
namespace {

namespace py = pybind11;
using Ints = py::array_t<int32_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;
using Seeds = py::array_t<uint64_t, py::array::c_style>;

void check_tokens(const Ints& tokens, const char* name) {
  if (tokens.ndim() != 1) throw std::invalid_argument(std::string(name) + " needs one dimension");
}

std::vector<int32_t> tokens_of(const Ints& tokens, const char* name) {
  check_tokens(tokens, name);
  std::vector<int32_t> values = copied(tokens, tokens.size());
  for (const int32_t token : values) {
    if (token < 0) throw std::invalid_argument(std::string(name) + " holds a negative token");
  }
  return values;
}

std::shared_ptr<LogitsProcessing> make_processing(
    const std::vector<std::pair<int32_t, float>>& bias, float repetition, float presence,
    float frequency, const Ints& banned, int32_t min_tokens) {
  if (!(repetition > 0.0f) || !std::isfinite(repetition) || !std::isfinite(presence) ||
      !std::isfinite(frequency) || min_tokens < 0) {
    throw std::invalid_argument(
        "LogitsProcessing needs a repetition penalty above 0, finite penalties and min_tokens of "
        "at "
        "least 0");
  }
  for (const auto& [token, value] : bias) {
    if (token < 0 || !std::isfinite(value)) {
      throw std::invalid_argument(
          "LogitsProcessing: bias needs tokens of at least 0, finite values");
    }
  }
  auto made = std::make_shared<LogitsProcessing>();
  made->bias = bias;
  made->repetition = repetition;
  made->presence = presence;
  made->frequency = frequency;
  made->banned = tokens_of(banned, "banned");
  made->min_tokens = min_tokens;
  return made;
}

void see(LogitsProcessing& processing, const Ints& tokens, bool is_output) {
  for (const int32_t token : tokens_of(tokens, "tokens")) {
    if (is_output) {
      processing.choose(token);
    } else {
      processing.see(token, false);
    }
  }
}

void apply(const LogitsProcessing& processing, Floats& logits) {
  if (logits.ndim() != 1 || processing.largest_token() >= logits.size()) {
    throw std::invalid_argument("LogitsProcessing.apply: logits (V,) with all its tokens needed");
  }
  require_aligned(logits, "logits");
  processing.apply(logits.mutable_data());
}

template <typename T, int FLAGS>
std::vector<T> column(const py::array_t<T, FLAGS>& array, py::ssize_t rows, const char* name) {
  if (array.ndim() != 1 || array.shape(0) != rows) {
    throw std::invalid_argument(std::string("SamplingRows: ") + name + " needs one value a row");
  }
  return copied(array, rows);
}

SamplingRows make_rows(const Floats& temperature, const Ints& top_k, const Floats& top_p,
                       const Floats& min_p, const Seeds& seed, const Ints& stream, const Ints& draw,
                       const std::vector<std::shared_ptr<LogitsProcessing>>& processing) {
  const py::ssize_t count = temperature.size();
  const auto temperatures = column(temperature, count, "temperature");
  const auto top_ks = column(top_k, count, "top_k");
  const auto top_ps = column(top_p, count, "top_p");
  const auto min_ps = column(min_p, count, "min_p");
  const auto seeds = column(seed, count, "seed");
  const auto streams = column(stream, count, "stream");
  const auto draws = column(draw, count, "draw");
  if (!processing.empty() && processing.size() != static_cast<size_t>(count)) {
    throw std::invalid_argument("SamplingRows: processing needs one object, or None, a row");
  }
  SamplingRows made;
  made.rows.resize(static_cast<size_t>(count));
  for (size_t r = 0; r < made.rows.size(); ++r) {
    const bool is_valid = temperatures[r] >= 0.0f && std::isfinite(temperatures[r]) &&
                          top_ks[r] >= 0 && top_ps[r] > 0.0f && top_ps[r] <= 1.0f &&
                          min_ps[r] >= 0.0f && min_ps[r] <= 1.0f;
    if (!is_valid) {
      throw std::invalid_argument(
          "SamplingRows: temperature and top_k are 0 or more, top_p is in (0, 1], min_p in [0, 1]");
    }
    const NoiseKey noise{seeds[r], static_cast<uint32_t>(streams[r]),
                         static_cast<uint32_t>(draws[r])};
    made.rows[r] = {temperatures[r], top_ks[r], top_ps[r],
                    min_ps[r],       noise,     processing.empty() ? nullptr : processing[r]};
  }
  return made;
}

Ints sample(Floats logits, const SamplingRows& sampling) {
  const auto count = static_cast<py::ssize_t>(sampling.rows.size());
  if (logits.ndim() != 2 || logits.shape(0) != count || logits.shape(1) < 1 ||
      logits.shape(1) > INT32_MAX) {
    throw std::invalid_argument("sample: logits (R, V) need a row for each of those of sampling");
  }
  require_aligned(logits, "logits");
  const auto vocab = static_cast<int32_t>(logits.shape(1));
  check_sampling(sampling.rows, static_cast<int32_t>(count), vocab);
  Ints tokens(count);
  const KernelTable& kernels = kernel_table(select_isa());
  const float* const from = logits.data();
  int32_t* const to = tokens.mutable_data();
  {
    const WithoutGil release;
    sample_rows(kernels, from, vocab, true, sampling.rows, to);
  }
  return tokens;
}

}  // namespace

void check_sampling(const std::vector<RowSampling>& rows, int32_t num_rows, int32_t vocab) {
  if (rows.size() != static_cast<size_t>(num_rows)) {
    throw std::invalid_argument("sampling has " + std::to_string(rows.size()) + " rows for " +
                                std::to_string(num_rows) + " rows of logits");
  }
  for (const RowSampling& row : rows) {
    if (row.processing != nullptr && row.processing->largest_token() >= vocab) {
      throw std::invalid_argument("sampling names the token " +
                                  std::to_string(row.processing->largest_token()) +
                                  ", outside of the vocabulary of " + std::to_string(vocab));
    }
  }
}

void bind_sampling(py::module_& module) {
  py::class_<LogitsProcessing, std::shared_ptr<LogitsProcessing>>(
      module, "LogitsProcessing",
      "Bias, penalties and banned tokens of one completion: tokens of the prompt and of the output "
      "are told to it with `see`.")
      .def(py::init(&make_processing), py::kw_only(), py::arg("bias"), py::arg("repetition"),
           py::arg("presence"), py::arg("frequency"), py::arg("banned").noconvert(),
           py::arg("min_tokens"))
      .def("apply", &apply, py::arg("logits").noconvert())
      .def("see", &see, py::arg("tokens").noconvert(), py::arg("is_output"));
  py::class_<SamplingRows>(module, "SamplingRows",
                           "How a token is chosen from each of R rows of logits; arrays (R,).")
      .def(py::init(&make_rows), py::arg("temperature").noconvert(), py::arg("top_k").noconvert(),
           py::arg("top_p").noconvert(), py::arg("min_p").noconvert(), py::arg("seed").noconvert(),
           py::arg("stream").noconvert(), py::arg("draw").noconvert(), py::arg("processing"));
  py::class_<StopFlag, std::shared_ptr<StopFlag>>(
      module, "StopFlag", "Ends Decoder.sample after the step under way, from another thread.")
      .def(py::init())
      .def("set", [](StopFlag& flag) { flag.is_set = true; })
      .def("clear", [](StopFlag& flag) { flag.is_set = false; })
      .def("is_set", [](const StopFlag& flag) { return flag.is_set.load(); });
  module.attr("LOGITS_NOT_FINITE") = kLogitsNotFinite;
  module.attr("NO_TOKEN_LEFT") = kNoTokenLeft;
  module.attr("PROCESSING_OVERFLOW") = kProcessingOverflow;
  module.def(
      "sample", &sample, py::arg("logits").noconvert(), py::arg("sampling"),
      "A token (R,) for each row of `logits` (R, V), or a negative value that says why there "
      "is none.");
}

}  // namespace gpt2fast
