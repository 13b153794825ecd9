#include "core/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <chrono>

namespace gpt2fast {
namespace {

// Longer than the work between two decode steps, far shorter than what a person would notice.
constexpr std::chrono::microseconds kSpinBeforeParking{500};
// About 10 us of spinning. Longer waits mean that a partner has lost its core, perhaps to another
// thread team of this process; yielding lets it finish.
constexpr int kSpinsBeforeYield = 400;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

std::atomic<int> g_fork_generation{0};

int current_fork_generation() {
  static const int registered = [] {
    return pthread_atfork(nullptr, nullptr, [] { g_fork_generation.fetch_add(1); });
  }();
  (void)registered;
  return g_fork_generation.load(std::memory_order_relaxed);
}

template <typename Ready>
void spin_until(Ready ready) {
  for (int spins = 0; !ready(); ++spins) {
    if (spins < kSpinsBeforeYield) {
      relax();
    } else {
      sched_yield();
    }
  }
}

}  // namespace

ThreadPool::ThreadPool(int size) : size_(size), fork_generation_(current_fork_generation()) {
  start_workers();
}

void ThreadPool::start_workers() {
  const unsigned seen = epoch_.load();
  for (int thread = 1; thread < size_; ++thread) {
    workers_.emplace_back([this, thread, seen] { work(thread, seen); });
  }
}

ThreadPool::~ThreadPool() {
  if (fork_generation_ != current_fork_generation()) {
    // The threads behind these handles live in the parent; joining or detaching them here is
    // undefined, so the handles are abandoned.
    new std::vector<std::thread>(std::move(workers_));
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(park_mutex_);
    stopping_.store(true);
  }
  park_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(const std::function<void(int)>& body) {
  const std::lock_guard<std::mutex> turn(turn_);
  if (size_ == 1) {
    body(0);
    return;
  }
  if (fork_generation_ != current_fork_generation()) {
    new std::vector<std::thread>(std::move(workers_));
    workers_.clear();
    parked_.store(0);
    fork_generation_ = current_fork_generation();
    start_workers();
  }
  body_ = &body;
  running_.store(size_ - 1, std::memory_order_relaxed);
  // Sequentially consistent against `parked_`: either the worker sees the new epoch before it
  // sleeps, or this thread sees that it is parked.
  epoch_.fetch_add(1);
  if (parked_.load() > 0) {
    {
      const std::lock_guard<std::mutex> lock(park_mutex_);
    }
    park_.notify_all();
  }
  body(0);
  spin_until([this] { return running_.load(std::memory_order_acquire) == 0; });
}

void ThreadPool::barrier() {
  if (size_ == 1) return;
  const unsigned epoch = barrier_epoch_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    barrier_epoch_.store(epoch + 1, std::memory_order_release);
    return;
  }
  spin_until([&] { return barrier_epoch_.load(std::memory_order_acquire) != epoch; });
}

// False when the pool is being destroyed.
bool ThreadPool::wait_for_work(unsigned seen) {
  const auto changed = [&] { return epoch_.load() != seen || stopping_.load(); };
  const auto deadline = std::chrono::steady_clock::now() + kSpinBeforeParking;
  while (!changed()) {
    for (int i = 0; i < 64 && !changed(); ++i) relax();
    if (std::chrono::steady_clock::now() < deadline) continue;
    std::unique_lock<std::mutex> lock(park_mutex_);
    parked_.fetch_add(1);
    park_.wait(lock, changed);
    parked_.fetch_sub(1);
  }
  return !stopping_.load();
}

void ThreadPool::work(int thread, unsigned seen) {
  while (wait_for_work(seen)) {
    ++seen;
    (*body_)(thread);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace gpt2fast
