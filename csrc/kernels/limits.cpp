#include "kernels/limits.h"

#include <atomic>
#include <chrono>

#include "core/buffer.h"
#include "core/thread_pool.h"
#include "kernels/kernels.h"

namespace gpt2fast {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Additions per second, each of which waits for the one before: the core's clock, since every CPU
// adds in one cycle. Both operands are hidden in registers: an addition of a constant some CPUs do
// on the way.
double clock_rate() {
  constexpr int kRounds = 1 << 11, kUnrolled = 16;
  int64_t sum = 1, one = 1;
  asm volatile("" : "+r"(sum), "+r"(one));
  const auto start = Clock::now();
  for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kUnrolled; ++i) {
      sum += one;
      asm volatile("" : "+r"(sum));
    }
  }
  return kRounds * kUnrolled / seconds_since(start);
}

}  // namespace

std::vector<double> measure_read_bandwidth(Isa isa, int num_threads, int megabytes, int repeats) {
  constexpr int64_t kChunk = int64_t{1} << 16;  // floats a task: 256 KiB
  const KernelTable& kernels = kernel_table(isa);
  Buffer buffer(static_cast<size_t>(megabytes) << 20);
  const auto floats = static_cast<int64_t>(buffer.bytes() / sizeof(float));
  // Untouched pages all map to one page of zeros, which would be read from the cache.
  for (int64_t i = 0; i < floats; i += 1024) buffer.floats()[i] = 1.0f;
  ThreadPool pool(num_threads);
  std::vector<double> rates;
  std::atomic<float> sink{0.0f};
  for (int r = 0; r < repeats; ++r) {
    TaskCounter tasks;
    const auto start = Clock::now();
    pool.run([&](int) {
      float sum = 0.0f;
      for (int64_t i = tasks.take(); i < floats / kChunk; i = tasks.take()) {
        sum += kernels.stream(buffer.floats() + i * kChunk, kChunk);
      }
      sink.store(sum, std::memory_order_relaxed);  // keeps the reads alive
    });
    rates.push_back(static_cast<double>(floats / kChunk * kChunk) * sizeof(float) /
                    seconds_since(start));
  }
  return rates;
}

std::vector<double> measure_arithmetic_peak(Isa isa, Format format, int num_threads, int repeats) {
  constexpr int64_t kRounds = 1 << 20;
  const KernelTable& kernels = kernel_table(isa);
  ThreadPool pool(num_threads);
  std::vector<double> rates;
  std::atomic<float> sink{0.0f};
  for (int r = 0; r < repeats; ++r) {
    std::atomic<int64_t> done{0};
    const auto start = Clock::now();
    pool.run([&](int) {
      int64_t mine = 0;
      sink.store(kernels.peak(format, kRounds, &mine), std::memory_order_relaxed);
      done += mine;
    });
    rates.push_back(2.0 * static_cast<double>(done) / seconds_since(start));
  }
  return rates;
}

std::vector<CyclePass> measure_peak_per_cycle(Isa isa, Format format, int repeats) {
  constexpr int64_t kRounds = 1 << 13;
  const KernelTable& kernels = kernel_table(isa);
  std::vector<CyclePass> passes;
  volatile float sink;
  for (int r = 0; r < repeats; ++r) {
    const double before = clock_rate();
    int64_t done = 0;
    const auto start = Clock::now();
    sink = kernels.peak(format, kRounds, &done);
    const double elapsed = seconds_since(start);
    passes.push_back({2.0 * static_cast<double>(done) / elapsed, before, clock_rate()});
  }
  static_cast<void>(sink);
  return passes;
}

}  // namespace gpt2fast
