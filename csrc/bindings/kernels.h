// Single kernels, shared out over threads as a decoder's step shares them.
#pragma once

#include <algorithm>
#include <mutex>

#include "core/buffer.h"
#include "core/float_environment.h"
#include "core/fork_local.h"
#include "core/thread_pool.h"
#include "kernels/kernels.h"
#include "kernels/tasks.h"
#include "kv_cache/kv_storage.h"

namespace gpt2fast {

// LayerNorm of so few rows is not worth waking a thread for.
constexpr int32_t kNormRows = 4;

// What B sequences attend with: T new tokens each, after `context_lens` cached ones.
struct Attended {
  const int32_t* block_tables;  // (B, table_width)
  const int32_t* context_lens;  // (B,)
  const float* queries;         // (B, T, H, D)
  int32_t batch, rows;          // B, T
  int64_t table_width;
};

// One that several teams may be called with: they take turns.
struct SharedStorage : KvStorage {
  using KvStorage::KvStorage;
  std::mutex turn;
};

// A team of threads and the kernels of one instruction set.
class Kernels {
 public:
  Kernels(Isa isa, int num_threads) : isa_(isa), table_(kernel_table(isa)), pool_(num_threads) {}

  const char* isa() const { return isa_name(isa_); }
  ThreadPool& pool() { return pool_; }

  // args.x is quantized here where the weights are integers.
  void matmul(MatmulArgs args) {
    const std::lock_guard<std::mutex> turn(turn_.get());
    const Panels& weights = args.weights;
    const bool integer = weights.is_integer();
    if (integer) args.quantized = make_room(args.rows, weights);
    const PanelTasks shares(weights.count(), pool_.size());
    TaskCounter tiles, tasks;
    pool_.run([&](int) {
      const FloatEnvironment ieee;
      if (integer) {
        const RowTiles all = args.quantized.tiles();
        for (int32_t tile = tiles.take(); tile < all.count(); tile = tiles.take()) {
          for (int32_t row = all.begin(tile); row < all.begin(tile + 1); ++row) {
            table_.quantize(args.x + row * args.x_stride, args.quantized, row);
          }
        }
        pool_.barrier();
      }
      for (int32_t i = tasks.take(); i < shares.count(); i = tasks.take()) {
        table_.matmul(args, shares.begin(i), shares.end(i));
      }
    });
  }

  // Rows of x (M, C) into out (M, C).
  void layer_norm(const float* x, const float* weight, const float* bias, float epsilon,
                  int32_t rows, int32_t width, float* out) {
    share_out((rows + kNormRows - 1) / kNormRows, [&](int32_t task) {
      const int32_t end = std::min((task + 1) * kNormRows, rows);
      for (int32_t row = task * kNormRows; row < end; ++row) {
        const int64_t at = int64_t{row} * width;
        table_.layer_norm(x + at, weight, bias, epsilon, width, out + at);
      }
    });
  }

  // keys and values (T, H, D) of the tokens from `position` on.
  void append(KvStorage& storage, const int32_t* blocks, int32_t position, int32_t tokens,
              const float* keys, const float* values) {
    const int64_t size = storage.layout().head_size;
    const int32_t heads = heads_of(storage);
    share_out(heads, [&](int32_t head) {
      const HeadCache cache = head_cache(storage, blocks, head);
      for (int32_t t = 0; t < tokens; ++t) {
        const int64_t at = (int64_t{t} * heads + head) * size;
        table_.append_kv(cache, position + t, keys + at, values + at);
      }
    });
  }

  // out (B, T, H, D)
  void attend(KvStorage& storage, const Attended& a, float scale, float* out) {
    const int32_t heads = heads_of(storage);
    const int32_t chunks = (a.rows + kQueryRows - 1) / kQueryRows;
    const int64_t size = storage.layout().head_size, stride = heads * size;
    share_out(a.batch * chunks * heads, [&](int32_t task) {
      const int32_t head = task % heads, chunk = task / heads % chunks;
      const int32_t sequence = task / heads / chunks, begin = chunk * kQueryRows;
      const int64_t at = (int64_t{sequence} * a.rows + begin) * stride + head * size;
      table_.attention({a.queries + at, stride, std::min(kQueryRows, a.rows - begin),
                        a.context_lens[sequence] + begin, scale,
                        head_cache(storage, a.block_tables + sequence * a.table_width, head),
                        out + at, stride});
    });
  }

  static int32_t heads_of(const KvStorage& storage) {
    return static_cast<int32_t>(storage.block_stride(0) / storage.layout().bytes());
  }

 private:
  template <typename Task>
  void share_out(int32_t count, Task task) {
    const std::lock_guard<std::mutex> turn(turn_.get());
    if (count == 1) {
      const FloatEnvironment ieee;
      return task(0);
    }
    TaskCounter tasks;
    pool_.run([&](int) {
      const FloatEnvironment ieee;
      for (int32_t i = tasks.take(); i < count; i = tasks.take()) task(i);
    });
  }

  static HeadCache head_cache(KvStorage& storage, const int32_t* blocks, int32_t head) {
    return {storage.layer(0) + head * storage.layout().bytes(), storage.block_stride(0), blocks,
            storage.layout()};
  }

  QuantizedRows make_room(int32_t rows, const Panels& weights) {
    QuantizedRows room{nullptr,        nullptr,       nullptr, weights.format,
                       weights.inputs, weights.group, rows};
    const auto grow = [](Buffer& buffer, int64_t bytes) {
      if (static_cast<int64_t>(buffer.bytes()) < bytes) buffer = Buffer(static_cast<size_t>(bytes));
      return buffer.data();
    };
    room.values = reinterpret_cast<int8_t*>(grow(values_, rows * room.value_bytes()));
    room.scales = reinterpret_cast<float*>(grow(scales_, int64_t{rows} * room.groups() * 4));
    room.starts = reinterpret_cast<int32_t*>(grow(starts_, int64_t{rows} * room.spans() * 4));
    return room;
  }

  const Isa isa_;
  const KernelTable& table_;
  ThreadPool pool_;
  ForkLocal<std::mutex> turn_{std::make_unique<std::mutex>};  // guards the buffers
  Buffer values_, scales_, starts_;
};

}  // namespace gpt2fast
