// A team of threads that runs one function together and meets at barriers inside it.
//
// One decode step passes some sixty barriers in a few milliseconds, so waiting is spinning; after
// a short while without work the workers park and cost nothing.
#pragma once

#include <atomic>
#include <functional>

#include "core/fork_local.h"

namespace gpt2fast {

class ThreadPool {
 public:
  // `size` threads in all; the caller of run() is one of them. Throws std::system_error when the
  // system does not grant them.
  explicit ThreadPool(int size);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls body(thread) once on each thread, thread 0 being the caller, and returns when all are
  // done. `body` must not throw. Callers from several threads take turns. In a forked child the
  // first call starts a team of its own.
  void run(const std::function<void(int)>& body);

  // Waits until every thread of the current run() has arrived.
  void barrier();

 private:
  class Team;

  const int size_;
  ForkLocal<Team> team_;
};

// Tasks 0 .. n-1 of one phase, handed out one by one to whichever thread is free. Who computes a
// task never changes its result, so the split may follow the noise of the machine.
class TaskCounter {
 public:
  void reset() { next_.store(0, std::memory_order_relaxed); }
  int take() { return next_.fetch_add(1, std::memory_order_relaxed); }

 private:
  alignas(64) std::atomic<int> next_{0};
};

}  // namespace gpt2fast
