// The kernels that exist once per instruction set, behind one table.
//
// Every result depends only on its own inputs and never on how many rows, tasks or threads there
// are: each output is one lane, reductions run in a fixed order, and multiply-adds are fused
// exactly where the source says so (the files are compiled with -ffp-contract=off).
//
// Letters: M rows, K inputs, N outputs, C width, H heads, D head size, S cached tokens.
#pragma once

#include <cstdint>

#include "core/cpu_isa.h"

namespace gpt2fast {

constexpr int kLanes = 16;          // outputs in a weight panel
constexpr int kBlockTokens = 16;    // tokens in a cache block: one vector of scores
constexpr int kMaxHeadSize = 1024;  // attention keeps one output row a query on the stack

constexpr int64_t round_up_lanes(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// The activations of transformers' ACT2FN. Several names of the library are one function; see
// activation_from_name() in decoder/model_shape.cpp.
enum class Activation : int32_t {
  kIdentity,
  kGeluTanh,   // gelu_new and its synonyms
  kGeluErf,    // gelu
  kGeluQuick,  // x * sigmoid(1.702 x)
  kGelu10,     // gelu clipped to [-10, 10]
  kRelu,
  kRelu2,
  kRelu6,
  kLeakyRelu,
  kSilu,
  kSigmoid,
  kTanh,
  kMish,
  kLaplace,
  kHardSwish,     // x relu6(x + 3) / 6
  kSqrtSoftplus,  // sqrt(log(1 + e^x))
  kPRelu,         // x < 0 ? p[0] x : x
  kXIelu,         // x > 0 ? p[0] x^2 + p[2] x : (expm1(min(x, p[3])) - x) p[1] + p[2] x
};

// out[m][n] = act(sum_k x[m][k] * w[k][n] + bias[n]) + residual[m][n]
struct MatmulArgs {
  const float* x;  // (M, K), rows x_stride apart
  int64_t x_stride;
  int32_t rows;           // M
  int32_t inputs;         // K
  int32_t outputs;        // N
  const float* panels;    // (ceil(N / 16), K, 16), zero beyond N
  const float* bias;      // (N padded to 16), or null
  const float* residual;  // as out, or null; may be out itself
  float* out;             // (M, N), rows out_stride apart; written up to N
  int64_t out_stride;
  Activation activation;
  float activation_parameters[4];  // p of those that learn some
};

// One head's cache as seen by one sequence.
struct HeadCache {
  float* base;            // this layer's storage at this head
  int64_t block_stride;   // floats
  const int32_t* blocks;  // the sequence's block table
  int32_t head_size;      // D
};

struct AttentionArgs {
  const float* q;  // (M, D), rows q_stride apart
  int64_t q_stride;
  int32_t rows;      // M
  int32_t position;  // of row 0; row i attends to tokens 0 .. position + i
  float scale;       // on q . k
  HeadCache cache;
  float* out;  // (M, D), rows out_stride apart
  int64_t out_stride;
};

struct KernelTable {
  // Outputs of panels [begin, end) for all rows.
  void (*matmul)(const MatmulArgs& args, int32_t panel_begin, int32_t panel_end);
  // out[c] = (x[c] - mean) / sqrt(variance + epsilon) * weight[c] + bias[c], c < width
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float epsilon,
                     int32_t width, float* out);
  // Stores the key and value (D,) of the token at `position`.
  void (*append_kv)(const HeadCache& cache, int32_t position, const float* key, const float* value);
  void (*attention)(const AttentionArgs& args);
  // The sum of `count` floats, a multiple of 64: reads memory and does nothing else.
  float (*stream)(const float* data, int64_t count);
};

// The table compiled for `isa`, which must be one of available_isas().
const KernelTable& kernel_table(Isa isa);

}  // namespace gpt2fast
