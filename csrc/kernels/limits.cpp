#include "kernels/limits.h"

#include <atomic>
#include <chrono>

#include "core/buffer.h"
#include "core/thread_pool.h"
#include "kernels/kernels.h"

namespace gpt2fast {

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
    const auto start = std::chrono::steady_clock::now();
    pool.run([&](int) {
      float sum = 0.0f;
      for (int64_t i = tasks.take(); i < floats / kChunk; i = tasks.take()) {
        sum += kernels.stream(buffer.floats() + i * kChunk, kChunk);
      }
      sink.store(sum, std::memory_order_relaxed);  // keeps the reads alive
    });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    rates.push_back(static_cast<double>(floats / kChunk * kChunk) * sizeof(float) /
                    elapsed.count());
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
    const auto start = std::chrono::steady_clock::now();
    pool.run([&](int) {
      int64_t mine = 0;
      sink.store(kernels.peak(format, kRounds, &mine), std::memory_order_relaxed);
      done += mine;
    });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    rates.push_back(2.0 * static_cast<double>(done) / elapsed.count());
  }
  return rates;
}

}  // namespace gpt2fast
