// Releases the interpreter lock for work in C++, unless the interpreter is about to end.
//
// A thread that comes back for the lock during finalisation is killed inside C++ code, which
// aborts the process. So the module's exit hook waits for the work under way and lets no more
// begin.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <stdexcept>

namespace gpt2fast {

class WithoutGil {
 public:
  WithoutGil() {
    if (closed()) throw std::runtime_error("the interpreter is shutting down");
    active()++;
    released_ = PyEval_SaveThread();
  }
  ~WithoutGil() {
    PyEval_RestoreThread(released_);
    active()--;
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

  static void register_exit_hook();

 private:
  // Both change only under the interpreter lock; atomic for the waiting thread's sake.
  static std::atomic<int>& active();
  static std::atomic<bool>& closed();

  PyThreadState* released_;
};

}  // namespace gpt2fast
