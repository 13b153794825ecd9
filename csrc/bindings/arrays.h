// What is asked of arrays beyond their type and order, which pybind11 sees to.
#pragma once

#include <pybind11/numpy.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace gpt2fast {

constexpr int kMostThreads = 1024;  // of a team: asking for more would take them from all others

// Kernels read and write whole values; numpy makes arrays at odd addresses too.
template <typename T, int FLAGS>
void require_aligned(const pybind11::array_t<T, FLAGS>& array, const char* name) {
  const auto address =
      reinterpret_cast<uintptr_t>(static_cast<const pybind11::array&>(array).data());
  if (array.size() > 0 && address % alignof(T) != 0) {
    throw std::invalid_argument(std::string(name) + " is not aligned; copy it first");
  }
}

// The first `columns` values of each row of a small array (R, C), or of the only row of one (C,),
// in memory of our own: what is checked must not change while the interpreter lock is released, and
// the array, which may be at an odd address, is the caller's.
template <typename T, int FLAGS>
std::vector<T> copied(const pybind11::array_t<T, FLAGS>& array, int64_t columns) {
  static_assert(FLAGS & pybind11::array::c_style, "rows must be whole");
  const int64_t rows = array.ndim() == 2 ? array.shape(0) : 1;
  const int64_t width = array.shape(array.ndim() - 1);
  std::vector<T> values(static_cast<size_t>(rows * columns));
  const auto* from = static_cast<const char*>(static_cast<const pybind11::array&>(array).data());
  const size_t bytes = static_cast<size_t>(columns) * sizeof(T);
  for (int64_t row = 0; bytes > 0 && row < rows; ++row) {
    std::memcpy(values.data() + row * columns, from + row * width * int64_t{sizeof(T)}, bytes);
  }
  return values;
}

}  // namespace gpt2fast
