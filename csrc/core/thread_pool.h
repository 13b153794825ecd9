// A team of threads that runs one function together and meets at barriers inside it.
//
// One decode step passes some sixty barriers in a few milliseconds, so waiting is spinning; after
// a short while without work the workers park and cost nothing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace gpt2fast {

class ThreadPool {
 public:
  // `size` threads in all; the caller of run() is one of them.
  explicit ThreadPool(int size);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls body(thread) once on each thread, thread 0 being the caller, and returns when all are
  // done. `body` must not throw. Callers from several threads take turns.
  void run(const std::function<void(int)>& body);

  // Waits until every thread of the current run() has arrived.
  void barrier();

 private:
  void start_workers();
  void work(int thread, unsigned seen);
  bool wait_for_work(unsigned seen);

  const int size_;
  int fork_generation_;  // threads do not survive fork(): a child starts its own
  std::vector<std::thread> workers_;
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
