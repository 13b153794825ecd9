#include "bindings/without_gil.h"

#include <pthread.h>

#include <chrono>
#include <thread>

namespace gpt2fast {

std::atomic<int>& WithoutGil::active() {
  static std::atomic<int> count{0};
  return count;
}

std::atomic<bool>& WithoutGil::closed() {
  static std::atomic<bool> value{false};
  return value;
}

void WithoutGil::register_exit_hook() {
  // The threads whose work is under way are the parent's: a child would wait for them for ever.
  pthread_atfork(nullptr, nullptr, [] { active() = 0; });
  pybind11::module_::import("atexit").attr("register")(pybind11::cpp_function([] {
    closed() = true;
    const pybind11::gil_scoped_release release;  // those under way need it to come back
    while (active() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }));
}

}  // namespace gpt2fast
