#include "decoder/decoder.h"

#include <algorithm>
#include <stdexcept>

#include "core/checked.h"
#include "core/float_environment.h"
#include "kernels/tasks.h"

namespace gpt2fast {
namespace {

// Up to this many rows every thread prepares the left side of a product for itself: cheaper than
// one more barrier.
constexpr int32_t kRedundantRows = 4;
constexpr int32_t kRowsAhead = 4;  // whose keys and values are fetched while one is stored
constexpr int32_t kPhasesPerLayer =
    10;  // at most: four products with their preparation, append, attention
// Embedding, last LayerNorm, head with its preparation; the seven of a Sampler.
constexpr int32_t kPhasesOutside = 4 + 7;

std::vector<int32_t> heads_of(const ModelShape& shape) {
  std::vector<int32_t> heads;
  for (const LayerShape& layer : shape.layers) heads.push_back(layer.heads);
  return heads;
}

Buffer rows_of(int64_t rows, int64_t stride) {
  return Buffer(
      static_cast<size_t>(checked_product("the workspace", {rows, stride, sizeof(float)})));
}

// Refuses a step while there are some.
void check_missing(const std::vector<std::string>& names) {
  if (names.empty()) return;
  std::string text = "step: tensors are not loaded yet: " + names.front();
  constexpr size_t kNamed = 3;
  for (size_t i = 1; i < std::min(names.size(), kNamed); ++i) text += ", " + names[i];
  if (names.size() > kNamed) text += " and " + std::to_string(names.size() - kNamed) + " more";
  throw std::invalid_argument(text);
}

// Whether the last layer can leave rows out.
bool samples_some(const StepBatch& batch) { return batch.num_logit_rows < batch.num_tokens; }

}  // namespace

Decoder::Decoder(const ModelShape& shape, Isa isa, const DecoderOptions& options)
    : shape_(checked(shape)),
      kernels_(kernel_table(isa)),
      max_batch_tokens_(options.max_batch_tokens),
      pool_(options.num_threads),
      weights_(shape, options.formats),
      cache_(heads_of(shape), {options.kv_format, shape.head_size}, options.num_blocks),
      counters_(kPhasesOutside + kPhasesPerLayer * shape.layers.size()) {
  int64_t attended = 0, inner = 0, heads = 0;
  for (const LayerShape& layer : shape_.layers) {
    attended = std::max<int64_t>(attended, int64_t{layer.heads} * shape_.head_size);
    inner = std::max<int64_t>(inner, layer.inner);
    heads = std::max<int64_t>(heads, layer.heads);
  }
  // The tasks of a phase, one for a head of a token at most and one for a row, are counted in 32
  // bits.
  check_size("max_batch_tokens", max_batch_tokens_, kMaxSize / (heads + 1));
  width_stride_ = row_stride(shape_.width);
  qkv_stride_ = row_stride(3 * attended);
  attended_stride_ = row_stride(attended);
  inner_stride_ = row_stride(inner);
  residual_ = rows_of(max_batch_tokens_, width_stride_);
  sampled_ = rows_of(max_batch_tokens_, width_stride_);
  // Either one row set for all threads, or a small one for each.
  const int64_t prepared =
      std::max<int64_t>(max_batch_tokens_, int64_t{kRedundantRows} * options.num_threads);
  normal_ = rows_of(prepared, width_stride_);
  qkv_ = rows_of(max_batch_tokens_, qkv_stride_);
  attended_ = rows_of(max_batch_tokens_, attended_stride_);
  inner_ = rows_of(max_batch_tokens_, inner_stride_);
  quantized_stride_ = round_up(std::max({width_stride_, attended_stride_, inner_stride_}), 64);
  if (!options.formats.empty()) {
    quantized_ = rows_of(prepared, quantized_stride_ / 4);
    scales_ = rows_of(prepared, most_groups());
    starts_ = rows_of(prepared, most_groups());
  }
  attention_tasks_.reserve(static_cast<size_t>(max_batch_tokens_));  // a step must not allocate
  sampled_tasks_.reserve(static_cast<size_t>(max_batch_tokens_));
}

void Decoder::plan(const StepBatch& batch) {
  for (TaskCounter& counter : counters_) counter.reset();
  attention_tasks_.clear();
  attention_split_ = false;
  for (int32_t s = 0; s < batch.num_sequences; ++s) {
    const int32_t first = batch.query_starts[s], rows = batch.query_starts[s + 1] - first;
    attention_split_ |= rows > kQueryRows;
    for (int32_t row = 0; row < rows; row += kQueryRows) {
      attention_tasks_.push_back({s, row, std::min(row + kQueryRows, rows), first + row, 0});
    }
  }
  sampled_tasks_.clear();
  if (!samples_some(batch)) return;
  for (int32_t r = 0; r < batch.num_logit_rows; ++r) {
    const int32_t* const after = std::upper_bound(
        batch.query_starts, batch.query_starts + batch.num_sequences, batch.logit_rows[r]);
    const int32_t row = batch.logit_rows[r] - after[-1];
    sampled_tasks_.push_back(
        {static_cast<int32_t>(after - batch.query_starts) - 1, row, row + 1, r, 0});
  }
}

void Decoder::check_step(const StepBatch& batch) {
  if (!weights_.complete()) check_missing(weights_.missing());
  check_batch(batch, shape_, cache_.num_blocks(), max_batch_tokens_);
}

void Decoder::step(const StepBatch& batch, float* logits, float* hidden) {
  check_step(batch);
  if (batch.num_sequences == 0) return;
  pool_.run([&](int thread) {
    const FloatEnvironment ieee;
    // Inside the team, so that the pool's turn guards the workspace as well.
    if (thread == 0) plan(batch);
    pool_.barrier();
    Worker worker{batch, logits, hidden, thread, residual_.floats(), batch.num_tokens};
    forward(worker);
  });
}

void Decoder::forward(Worker& worker) {
  embed(worker);
  for (size_t l = 0; l < shape_.layers.size(); ++l) {
    attention_block(worker, static_cast<int32_t>(l));
    mlp_block(worker, static_cast<int32_t>(l));
  }
  if (worker.batch.num_logit_rows == 0) return;
  if (worker.hidden != nullptr) last_norm(worker);
  if (worker.logits != nullptr) head(worker);
}

void Decoder::embed(Worker& worker) {
  const StepBatch& batch = worker.batch;
  phase(worker, batch.num_sequences, [&](int32_t s) {
    const int32_t begin = batch.query_starts[s];
    for (int32_t t = begin; t < batch.query_starts[s + 1]; ++t) {
      weights_.embed(batch.token_ids[t], batch.context_lens[s] + t - begin,
                     residual_.floats() + t * width_stride_);
    }
  });
}

const float* Decoder::Input::at(int32_t row) const {
  return x + (rows == nullptr ? row : rows[row]) * stride;
}

void Decoder::normalize_row(const Input& input, int32_t row, float* out) {
  kernels_.layer_norm(input.at(row), input.norm->weight.floats(), input.norm->bias.floats(),
                      shape_.epsilon, shape_.width, out);
}

// LayerNorm and quantization, as far as the product needs them, of one row into its place.
void Decoder::prepare_row(const Input& input, const MatmulArgs& args, int32_t row, float* normal) {
  const float* x = input.at(row);
  if (input.norm != nullptr) {
    float* out = normal + row * width_stride_;
    normalize_row(input, row, out);
    x = out;
  }
  if (args.weights.is_integer()) {
    kernels_.quantize(x, args.quantized, row);
  }
}

// Fills in the left side of args.
void Decoder::prepare(Worker& worker, const Input& input, MatmulArgs& args) {
  const bool redundant = input.count <= kRedundantRows;
  const int64_t first = redundant ? int64_t{worker.thread} * kRedundantRows : 0;
  float* normal = normal_.floats() + first * width_stride_;
  args.rows = input.count;
  args.x = input.norm == nullptr ? input.x : normal;
  args.x_stride = input.norm == nullptr ? input.stride : width_stride_;
  if (args.weights.is_integer()) {
    const int64_t groups = first * most_groups();
    args.quantized = {reinterpret_cast<int8_t*>(quantized_.data()) + first * quantized_stride_,
                      scales_.floats() + groups,
                      reinterpret_cast<int32_t*>(starts_.data()) + groups,
                      args.weights.format,
                      args.weights.inputs,
                      args.weights.group,
                      input.count};
  } else if (input.norm == nullptr) {
    return;
  }
  if (redundant) {
    for (int32_t row = 0; row < input.count; ++row) prepare_row(input, args, row, normal);
  } else {
    // By tiles: their rows share cache lines.
    const RowTiles tiles{input.count, kIntTileRows};
    phase(worker, tiles.count(), [&](int32_t tile) {
      for (int32_t row = tiles.begin(tile); row < tiles.begin(tile + 1); ++row) {
        prepare_row(input, args, row, normal);
      }
    });
  }
}

void Decoder::matmul(Worker& worker, const PackedMatrix& matrix, const Input& input,
                     MatmulArgs args) {
  args.weights = matrix.panels();
  args.bias = matrix.bias.floats();
  prepare(worker, input, args);
  const PanelTasks shares(args.weights.count(), pool_.size());
  phase(worker, shares.count(),
        [&](int32_t task) { kernels_.matmul(args, shares.begin(task), shares.end(task)); });
}

// residual += c_proj(attention(c_attn(ln_1(residual))))
void Decoder::attention_block(Worker& worker, int32_t layer) {
  const LayerWeights& weights = weights_.layers()[layer];
  MatmulArgs args{};
  args.out = qkv_.floats();
  args.out_stride = qkv_stride_;
  matmul(worker, weights.attention_in, {worker.residual, width_stride_, worker.rows, &weights.ln_1},
         args);

  const bool last = layer + 1 == static_cast<int32_t>(shape_.layers.size());
  if (last && samples_some(worker.batch)) {
    attend_sampled(worker, layer);
    if (worker.rows == 0) return;
  } else {
    attend(worker, layer);
  }

  args.out = worker.residual;
  args.out_stride = width_stride_;
  args.residual = args.out;
  matmul(worker, weights.attention_out, {attended_.floats(), attended_stride_, worker.rows}, args);
}

// residual += c_proj(act(c_fc(ln_2(residual))))
void Decoder::mlp_block(Worker& worker, int32_t layer) {
  if (worker.rows == 0) return;
  const LayerWeights& weights = weights_.layers()[layer];
  MatmulArgs args{};
  args.out = inner_.floats();
  args.out_stride = inner_stride_;
  args.activation = shape_.activation;
  weights_.activation_parameters(layer, args.activation_parameters);
  matmul(worker, weights.mlp_in, {worker.residual, width_stride_, worker.rows, &weights.ln_2},
         args);

  args.out = worker.residual;
  args.out_stride = width_stride_;
  args.residual = args.out;
  args.activation = Activation::kIdentity;
  matmul(worker, weights.mlp_out, {inner_.floats(), inner_stride_, worker.rows}, args);
}

Decoder::Input Decoder::sampled_rows(const Worker& worker) const {
  const StepBatch& batch = worker.batch;
  return {worker.residual, width_stride_, batch.num_logit_rows, &weights_.ln_f(),
          samples_some(batch) ? nullptr : batch.logit_rows};
}

void Decoder::last_norm(Worker& worker) {
  const Input input = sampled_rows(worker);
  phase(worker, input.count, [&](int32_t row) {
    normalize_row(input, row, worker.hidden + int64_t{row} * shape_.width);
  });
}

void Decoder::head(Worker& worker) {
  MatmulArgs args{};
  args.out = worker.logits;
  args.out_stride = shape_.vocab;
  matmul(worker, weights_.head(), sampled_rows(worker), args);
}

void Decoder::attend(Worker& worker, int32_t layer) {
  const int32_t heads = shape_.layers[layer].heads;
  const auto tasks = static_cast<int32_t>(attention_tasks_.size()) * heads;
  const auto task_at = [&](int32_t i) { return attention_tasks_[i / heads].of_head(i % heads); };
  // Where one task covers all new rows of a head it stores their keys and values itself; where
  // they are split, each task needs those of the others first.
  if (attention_split_) {
    phase(worker, tasks, [&](int32_t i) { append_task(worker.batch, layer, task_at(i)); });
  }
  phase(worker, tasks, [&](int32_t i) {
    const AttentionTask task = task_at(i);
    if (!attention_split_) append_task(worker.batch, layer, task);
    attend_task(worker.batch, layer, task);
  });
}

// In the last layer the other rows leave their keys and values and nothing else: from here on the
// residual stream has the sampled rows alone.
void Decoder::attend_sampled(Worker& worker, int32_t layer) {
  const StepBatch& batch = worker.batch;
  const int32_t heads = shape_.layers[layer].heads, sampled = batch.num_logit_rows;
  const auto appends = static_cast<int32_t>(attention_tasks_.size()) * heads;
  phase(worker, appends + sampled, [&](int32_t i) {
    if (i < appends) {
      append_task(batch, layer, attention_tasks_[i / heads].of_head(i % heads));
    } else {
      const int64_t row = i - appends;
      std::copy_n(residual_.floats() + batch.logit_rows[row] * width_stride_, shape_.width,
                  sampled_.floats() + row * width_stride_);
    }
  });
  phase(worker, sampled * heads, [&](int32_t i) {
    attend_task(batch, layer, sampled_tasks_[i / heads].of_head(i % heads));
  });
  worker.residual = sampled_.floats();
  worker.rows = sampled;
}

HeadCache Decoder::head_cache(const StepBatch& batch, int32_t layer, const AttentionTask& task) {
  return {cache_.layer(layer) + task.head * cache_.layout().bytes(), cache_.block_stride(layer),
          batch.block_tables + int64_t{task.sequence} * batch.table_width, cache_.layout()};
}

void Decoder::append_task(const StepBatch& batch, int32_t layer, const AttentionTask& task) {
  const HeadCache cache = head_cache(batch, layer, task);
  const int64_t attended = int64_t{shape_.layers[layer].heads} * shape_.head_size;
  for (int32_t row = task.row_begin; row < task.row_end; ++row) {
    const float* key = qkv_.floats() + (batch.query_starts[task.sequence] + row) * qkv_stride_ +
                       attended + int64_t{task.head} * shape_.head_size;
    // A head's part of the rows further on, which lies too far apart for the hardware to expect.
    if (row + kRowsAhead < task.row_end) {
      const float* const ahead = key + kRowsAhead * qkv_stride_;
      for (int32_t d = 0; d < shape_.head_size; d += kLanes) {
        __builtin_prefetch(ahead + d);
        __builtin_prefetch(ahead + attended + d);
      }
    }
    kernels_.append_kv(cache, batch.context_lens[task.sequence] + row, key, key + attended);
  }
}

void Decoder::attend_task(const StepBatch& batch, int32_t layer, const AttentionTask& task) {
  const int64_t row = batch.query_starts[task.sequence] + task.row_begin;
  const int64_t column = int64_t{task.head} * shape_.head_size;
  AttentionArgs args{};
  args.q = qkv_.floats() + row * qkv_stride_ + column;
  args.q_stride = qkv_stride_;
  args.rows = task.row_end - task.row_begin;
  args.position = batch.context_lens[task.sequence] + task.row_begin;
  args.scale = shape_.layers[layer].attention_scale;
  args.cache = head_cache(batch, layer, task);
  args.out = attended_.floats() + task.output * attended_stride_ + column;
  args.out_stride = attended_stride_;
  kernels_.attention(args);
}

}  // namespace gpt2fast
