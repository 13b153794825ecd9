#include "core/thread_pool.h"

#include <sched.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

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

// The threads and everything they wait on: one object, which a forked child leaves behind at once.
class ThreadPool::Team {
 public:
  explicit Team(int size) : size_(size) {
    try {
      for (int thread = 1; thread < size_; ++thread) {
        workers_.emplace_back([this, thread] { work(thread); });
      }
    } catch (...) {
      stop();
      throw;
    }
  }

  ~Team() { stop(); }

  void run(const std::function<void(int)>& body) {
    const std::lock_guard<std::mutex> turn(turn_);
    if (size_ > 1) {
      body_ = &body;
      running_.store(size_ - 1, std::memory_order_relaxed);
      wake();
    }
    body(0);
    spin_until([this] { return running_.load(std::memory_order_acquire) == 0; });
  }

  void barrier() {
    const unsigned epoch = barrier_epoch_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      barrier_epoch_.store(epoch + 1, std::memory_order_release);
      return;
    }
    spin_until([&] { return barrier_epoch_.load(std::memory_order_acquire) != epoch; });
  }

 private:
  // Sequentially consistent against `parked_`: either a worker sees the new epoch before it
  // sleeps, or this thread sees that the worker is parked.
  void wake() {
    epoch_.fetch_add(1);
    if (parked_.load() == 0) return;
    {
      const std::lock_guard<std::mutex> lock(park_mutex_);
    }
    park_.notify_all();
  }

  void stop() {
    stopping_.store(true);
    wake();
    for (std::thread& worker : workers_) worker.join();
  }

  void work(int thread) {
    for (unsigned seen = 0; wait_for_work(seen); ++seen) {
      (*body_)(thread);
      running_.fetch_sub(1, std::memory_order_release);
    }
  }

  // False when the team is being dissolved.
  bool wait_for_work(unsigned seen) {
    const auto changed = [&] { return epoch_.load() != seen; };
    const auto deadline = std::chrono::steady_clock::now() + kSpinBeforeParking;
    while (!changed()) {
      for (int i = 0; i < 64 && !changed(); ++i) relax();
      if (std::chrono::steady_clock::now() < deadline) {
        sched_yield();  // the caller may be waiting for this very core
        continue;
      }
      std::unique_lock<std::mutex> lock(park_mutex_);
      parked_.fetch_add(1);
      park_.wait(lock, changed);
      parked_.fetch_sub(1);
    }
    return !stopping_.load();
  }

  const int size_;
  std::mutex turn_;  // held by the caller of run()
  const std::function<void(int)>* body_ = nullptr;
  alignas(64) std::atomic<unsigned> epoch_{0};  // counts runs; a change wakes the workers
  alignas(64) std::atomic<int> running_{0};     // workers still inside the current run
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> barrier_epoch_{0};
  std::mutex park_mutex_;
  std::condition_variable park_;
  std::atomic<int> parked_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;  // last: they use all of the above
};

ThreadPool::ThreadPool(int size)
    : size_(size), team_([size] { return std::make_unique<Team>(size); }) {}

ThreadPool::~ThreadPool() = default;

void ThreadPool::run(const std::function<void(int)>& body) { team_.get().run(body); }

void ThreadPool::barrier() {
  if (size_ > 1) team_.get().barrier();
}

}  // namespace gpt2fast
