#include "core/fork_local.h"

#include <pthread.h>

namespace gpt2fast {
namespace {

std::atomic<int> g_generation{0};

}  // namespace

int fork_generation() {
  static const int registered = [] {
    return pthread_atfork(nullptr, nullptr, [] { g_generation.fetch_add(1); });
  }();
  (void)registered;
  return g_generation.load(std::memory_order_relaxed);
}

}  // namespace gpt2fast
