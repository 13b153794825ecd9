// One forward step of GPT-2 over packed weights: any mix of prefill chunks and decode rows.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "core/thread_pool.h"
#include "decoder/step_batch.h"
#include "decoder/weights.h"
#include "kernels/kernels.h"
#include "kv_cache/block_pool.h"
#include "kv_cache/kv_storage.h"
#include "sampling/sampler.h"

namespace gpt2fast {

// Everything about how a model is run that is not the model.
struct DecoderOptions {
  MatrixFormats formats;  // of the weights
  KvFormat kv_format = KvFormat::kFloat32;
  int32_t num_threads = 1;
  int32_t num_blocks = 1;        // of the cache
  int32_t max_batch_tokens = 1;  // the largest T of a step
};

// How far Decoder::sample runs.
struct SampleLimits {
  int32_t steps = 1;
  std::vector<int32_t> stop_tokens;  // the step that chooses one of them is the last
  std::atomic<bool>* stop =
      nullptr;               // a step at whose end it is true is the last; it is false then
  bool keep_logits = false;  // those of the last step are left as the model gave them
};

class Decoder {
 public:
  // Throws NoMemory or std::length_error when weights, cache or workspace do not fit into memory,
  // std::invalid_argument for sizes beyond what the kernels count.
  Decoder(const ModelShape& shape, Isa isa, const DecoderOptions& options);

  Weights& weights() { return weights_; }
  const Weights& weights() const { return weights_; }
  ThreadPool& pool() { return pool_; }
  KvStorage& cache() { return cache_; }
  const ModelShape& shape() const { return shape_; }
  int32_t max_batch_tokens() const { return max_batch_tokens_; }

  // Writes keys and values to the cache, and of the sampled rows logits (R, V) and what the last
  // LayerNorm makes of them (R, width); neither is computed where it is null. Throws
  // std::invalid_argument, before anything is written, while tensors are missing and for a batch
  // that points outside of the model or the cache. Callers from several threads take turns.
  // A block that is written belongs to one sequence of the batch: what others read there is
  // anything.
  void step(const StepBatch& batch, float* logits, float* hidden = nullptr);

  // One step, and a token for each row whose logits are wanted, by `sampling` (R,). With more
  // `limits.steps` each sequence brings a single token, and the token chosen is its next input;
  // block_tables have room for all of them. Writes tokens (R, steps), of which the first columns
  // are chosen, and into `times` (steps,) when they were, in seconds of std::chrono::steady_clock;
  // returns how many. A token below 0 stands for one that could not be chosen, and ends the run.
  // `logits` (R, V) are memory to work with. Throws what `step` does.
  int32_t sample(const StepBatch& batch, std::vector<RowSampling> sampling,
                 const SampleLimits& limits, float* logits, int32_t* tokens, double* times);

  // Copies cache blocks, all layers, one pair after the other, in turn with steps. Throws
  // std::invalid_argument, before anything is written, for a block that is not there.
  void copy_blocks(const std::vector<BlockCopy>& pairs);

  // Heads of `layer`, of which read_cache can read `length` tokens of the sequence in `blocks`.
  // Throws std::invalid_argument for a layer, a block or a length that is not there.
  int32_t heads_to_read(int32_t layer, const std::vector<int32_t>& blocks, int32_t length) const;

  // Keys and values (H, length, D) of such tokens, in turn with steps.
  void read_cache(int32_t layer, const std::vector<int32_t>& blocks, int32_t length, float* keys,
                  float* values);

 private:
  // Query rows of one head of one sequence.
  struct AttentionTask {
    int32_t sequence, row_begin, row_end;  // rows counted in the sequence
    int32_t output;                        // where row_begin's goes
    int32_t head;

    AttentionTask of_head(int32_t other) const {
      return {sequence, row_begin, row_end, output, other};
    }
  };
  // One thread's view of one step. What is not const advances alike on every thread.
  struct Worker {
    const StepBatch& batch;
    float* logits;
    float* hidden;
    const int thread;
    float* residual;  // the residual stream (rows, width_stride_)
    int32_t rows;
    size_t phase = 0;
  };

  // The left side of a product: rows of a workspace, through LayerNorm where there is one.
  struct Input {
    const float* x;  // (rows, stride)
    int64_t stride;
    int32_t count;
    const LayerNormWeights* norm = nullptr;
    const int32_t* rows = nullptr;  // which of them; all where null

    const float* at(int32_t row) const;
  };

  void check_step(const StepBatch& batch);
  void plan(const StepBatch& batch);

  // Each method below is called by every thread of the team; they share out the tasks of a phase
  // and meet at its end.
  template <typename Task>
  void phase(Worker& worker, int32_t tasks, Task task);
  void forward(Worker& worker);
  void embed(Worker& worker);
  void attention_block(Worker& worker, int32_t layer);
  void mlp_block(Worker& worker, int32_t layer);
  void last_norm(Worker& worker);
  void head(Worker& worker);
  void choose(Worker& worker, Sampler& sampler);
  Input sampled_rows(const Worker& worker) const;
  void matmul(Worker& worker, const PackedMatrix& matrix, const Input& input, MatmulArgs args);
  // Of any product's left side; of spans there are no more.
  int64_t most_groups() const { return quantized_stride_ / kMinGroup; }
  void prepare(Worker& worker, const Input& input, MatmulArgs& args);
  void normalize_row(const Input& input, int32_t row, float* out);
  void prepare_row(const Input& input, const MatmulArgs& args, int32_t row, float* normal);
  void attend(Worker& worker, int32_t layer);
  void attend_sampled(Worker& worker, int32_t layer);

  HeadCache head_cache(const StepBatch& batch, int32_t layer, const AttentionTask& task);
  void append_task(const StepBatch& batch, int32_t layer, const AttentionTask& task);
  void attend_task(const StepBatch& batch, int32_t layer, const AttentionTask& task);

  const ModelShape shape_;
  const KernelTable& kernels_;
  const int32_t max_batch_tokens_;
  ThreadPool pool_;
  Weights weights_;
  KvStorage cache_;

  // Workspace, rows padded to whole vectors: the residual stream, those of its rows that are
  // sampled, their LayerNorm, q k v, the attention output, the MLP; the left side of a product as
  // integers.
  int64_t width_stride_, qkv_stride_, attended_stride_, inner_stride_, quantized_stride_;
  Buffer residual_, sampled_, normal_, qkv_, attended_, inner_;
  Buffer quantized_, scales_, starts_;
  // For one head; others repeat them. In the last layer only the rows that are sampled attend.
  std::vector<AttentionTask> attention_tasks_, sampled_tasks_;
  bool attention_split_ = false;       // a sequence has several tasks a head
  std::vector<TaskCounter> counters_;  // one a phase
};

template <typename Task>
void Decoder::phase(Worker& worker, int32_t tasks, Task task) {
  TaskCounter& counter = counters_[worker.phase++];
  for (int32_t i = counter.take(); i < tasks; i = counter.take()) task(i);
  pool_.barrier();
}

}  // namespace gpt2fast
