#include "core/thread_pool.h"

#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <mutex>
#include <thread>

#include "check.h"

namespace gpt2fast {
namespace {

TEST(every_task_runs_once_and_barriers_separate_phases) {
  ThreadPool pool(3);
  for (int round = 0; round < 300; ++round) {
    constexpr int kTasks = 17;
    TaskCounter first, second;
    std::vector<int> done(kTasks, 0);
    std::atomic<int> sum{0};
    pool.run([&](int) {
      for (int i = first.take(); i < kTasks; i = first.take()) done[static_cast<size_t>(i)]++;
      pool.barrier();
      // Plain reads of what other threads wrote: right, and free of races, only behind a barrier.
      for (int i = second.take(); i < kTasks; i = second.take())
        sum += done[static_cast<size_t>(kTasks - 1 - i)];
    });
    CHECK(sum == kTasks);
  }
}

TEST(workers_wake_after_parking_and_cost_nothing_while_parked) {
  ThreadPool pool(2);
  std::atomic<int> calls{0};
  pool.run([&](int) { ++calls; });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // long enough to park
  const auto cpu_seconds = [] {
    timespec t{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  CHECK(cpu_seconds() - before < 0.05);
  pool.run([&](int) { ++calls; });
  CHECK(calls == 4);
}

TEST(callers_from_two_threads_take_turns) {
  ThreadPool pool(2);
  std::atomic<int> inside{0}, calls{0};
  const auto caller = [&] {
    for (int i = 0; i < 200; ++i) {
      pool.run([&](int) {
        CHECK(++inside <= 2);
        ++calls;
        pool.barrier();
        --inside;
      });
    }
  };
  std::thread other(caller);
  caller();
  other.join();
  CHECK(calls == 800);
}

TEST(a_forked_child_finds_open_what_a_thread_of_its_parent_held) {
  ForkLocal<std::mutex> lock(std::make_unique<std::mutex>);
  std::atomic<bool> held{false}, done{false};
  std::thread other([&] {
    const std::lock_guard<std::mutex> mine(lock.get());
    held = true;
    while (!done) std::this_thread::yield();
  });
  while (!held) std::this_thread::yield();
  const pid_t child = fork();
  if (child == 0) {
    std::mutex& mine = lock.get();
    const bool open = mine.try_lock();
    if (open) mine.unlock();
    _exit(open && &mine == &lock.get() ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  done = true;
  other.join();
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__
#endif
#endif
#if !defined(__SANITIZE_THREAD__)  // TSan does not follow threads that are started after fork()
TEST(a_forked_child_gets_threads_of_its_own) {
  ThreadPool pool(2);
  std::atomic<int> calls{0};
  pool.run([&](int) { ++calls; });
  // Parked workers are the hard case: the child's copy of the condition variable counts them.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const pid_t child = fork();
  if (child == 0) {
    {
      ThreadPool inherited(2);
      for (int round = 0; round < 3; ++round) {
        pool.run([&](int) { ++calls; });
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
    }
    pool.~ThreadPool();  // what the interpreter does at the child's end
    _exit(calls == 8 ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

}  // namespace
}  // namespace gpt2fast
