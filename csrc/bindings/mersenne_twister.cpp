#include "core/mersenne_twister.h"

#include <pybind11/numpy.h>

#include <algorithm>

#include "bindings/module.h"

namespace gpt2fast {
namespace {

namespace py = pybind11;
using Words = py::array_t<uint64_t, py::array::c_style>;
using Places = py::array_t<int64_t, py::array::c_style>;

py::tuple doubles(Words& words, int32_t used, int64_t count, const Places& places) {
  MersenneTwister twister;
  if (words.ndim() != 1 || words.size() != MersenneTwister::kWords || used < 0 ||
      used > MersenneTwister::kWords || count < 0) {
    throw std::invalid_argument("uniform_doubles needs 624 words, 0 to 624 used, and a count");
  }
  const int64_t *begin = places.data(), *end = begin + places.size();
  if (places.ndim() != 1 || !std::is_sorted(begin, end) ||
      (begin != end && (begin[0] < 0 || end[-1] >= count))) {
    throw std::invalid_argument("places must ascend from 0 to below the count");
  }
  uint64_t* const given = words.mutable_data();
  for (int32_t i = 0; i < MersenneTwister::kWords; ++i) {
    twister.words[i] = static_cast<uint32_t>(given[i]);
  }
  twister.used = used;
  py::array_t<double> out(places.size());
  twister.doubles(count, begin, places.size(), out.mutable_data());
  std::copy_n(twister.words, MersenneTwister::kWords, given);
  return py::make_tuple(out, twister.used);
}

}  // namespace

void bind_mersenne_twister(py::module_& module) {
  module.def("uniform_doubles", doubles, py::arg("words").noconvert(), py::arg("used"),
             py::arg("count"), py::arg("places"),
             "Of the next `count` doubles in [0, 1) of a Mersenne Twister those at `places` (N,), "
             "which ascend. Its `words` (624,), of which `used` are used up, become those after "
             "them; returns the doubles (N,) and how many words are used up then.");
}

}  // namespace gpt2fast
