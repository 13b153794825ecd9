#include <pybind11/numpy.h>

#include <algorithm>
#include <cmath>

#include "bindings/arrays.h"
#include "bindings/module.h"
#include "torch_rng/draw.h"
#include "torch_rng/mersenne_twister.h"

namespace gpt2fast {
namespace {

namespace py = pybind11;
using Words = py::array_t<uint64_t, py::array::c_style>;
using Tokens = py::array_t<int64_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;

constexpr int64_t kMost = int64_t{1} << 40;  // numbers: more would take an hour

// A generator whose words lie in an array of numpy, one in 64 bits, as torch keeps them.
MersenneTwister take(const Words& words, int32_t used) {
  if (words.ndim() != 1 || words.size() != MersenneTwister::kWords || used < 0 ||
      used > MersenneTwister::kWords) {
    throw std::invalid_argument("a generator has 624 words, of which 0 to 624 are used");
  }
  require_aligned(words, "words");
  MersenneTwister twister;
  std::transform(words.data(), words.data() + words.size(), twister.words,
                 [](uint64_t word) { return static_cast<uint32_t>(word); });
  twister.used = used;
  return twister;
}

int32_t put_back(const MersenneTwister& twister, Words& words) {
  std::copy_n(twister.words, MersenneTwister::kWords, words.mutable_data());
  return twister.used;
}

py::tuple uniform_doubles(Words& words, int32_t used, int64_t count, const Tokens& places) {
  MersenneTwister twister = take(words, used);
  require_aligned(places, "places");
  const int64_t *begin = places.data(), *end = begin + places.size();
  if (count < 0 || count > kMost || places.ndim() != 1 || !std::is_sorted(begin, end) ||
      (begin != end && (begin[0] < 0 || end[-1] >= count))) {
    throw std::invalid_argument("places must ascend from 0 to below a count of at most 2^40");
  }
  py::array_t<double> out(places.size());
  twister.doubles(count, begin, places.size(), out.mutable_data());
  return py::make_tuple(out, put_back(twister, words));
}

py::tuple draw_tokens(const Floats& logits, float temperature, int64_t top_k, double top_p,
                      int64_t least, Words& words, int32_t used) {
  MersenneTwister twister = take(words, used);
  if (logits.ndim() != 2 || logits.size() == 0 || !(temperature > 0.0f) || top_k < 1 ||
      !(top_p >= 0.0) || least < 1 || least > std::min<int64_t>(top_k, logits.shape(1))) {
    throw std::invalid_argument(
        "draw_tokens needs logits (B, V), a temperature above 0, top_k, top_p and the least "
        "tokens that it keeps");
  }
  require_aligned(logits, "logits");
  // What it makes of infinite logits is no number, which has no order.
  if (std::isinf(temperature)) return py::make_tuple(py::none(), used);
  top_k = std::min<int64_t>(top_k, logits.shape(1));
  Drawing drawing({temperature, top_k, top_p, least}, logits.shape(1));
  Tokens tokens(logits.shape(0));
  if (!drawing.draw(logits.data(), logits.shape(0), twister, tokens.mutable_data())) {
    return py::make_tuple(py::none(), used);
  }
  return py::make_tuple(tokens, put_back(twister, words));
}

}  // namespace

void bind_torch_rng(py::module_& module) {
  module.def("uniform_doubles", uniform_doubles, py::arg("words").noconvert(), py::arg("used"),
             py::arg("count"), py::arg("places"),
             "Of the next `count` doubles in [0, 1) of a Mersenne Twister those at `places` (N,), "
             "which ascend. Its `words` (624,), of which `used` are used up, become those after "
             "them; returns the doubles (N,) and how many words are used up then.");
  module.def("draw_tokens", draw_tokens, py::arg("logits").noconvert(), py::arg("temperature"),
             py::arg("top_k"), py::arg("top_p"), py::arg("least"), py::arg("words").noconvert(),
             py::arg("used"),
             "A token of each row of `logits` (B, V) as torch.multinomial draws it behind "
             "transformers' warpers, by the generator of `words` and `used`, as in "
             "uniform_doubles; None in place of tokens (B,), and nothing changed, where torch's "
             "roundings decide.");
}

}  // namespace gpt2fast
