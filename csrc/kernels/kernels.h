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
#include "kernels/kv_layout.h"
#include "kernels/philox.h"
#include "kernels/row_tiles.h"

namespace gpt2fast {

constexpr int kMaxHeadSize = 1024;  // attention keeps one output row a query on the stack

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
  Panels weights;
  int32_t rows;    // M
  const float* x;  // (M, K), rows x_stride apart: for the float formats
  int64_t x_stride;
  QuantizedRows quantized;  // for the integer formats, as the weights want them
  const float* bias;        // (N padded to 16), or null
  const float* residual;    // as out, or null; may be out itself
  float* out;               // (M, N), rows out_stride apart; written up to N
  int64_t out_stride;
  Activation activation;
  float activation_parameters[4];  // p of those that learn some
};

// One head's cache as seen by one sequence.
struct HeadCache {
  uint8_t* base;          // this layer's storage at this head
  int64_t block_stride;   // bytes
  const int32_t* blocks;  // the sequence's block table
  KvLayout layout;
};

// Query rows of one attention task: enough to share what is done to a key block, few enough to
// split a long prompt over many threads.
constexpr int32_t kQueryRows = 24;

struct AttentionArgs {
  const float* q;  // (M, D), rows q_stride apart
  int64_t q_stride;
  int32_t rows;      // M; kQueryRows at a time are worked on
  int32_t position;  // of row 0; row i attends to tokens 0 .. position + i
  float scale;       // on q . k
  HeadCache cache;
  float* out;  // (M, D), rows out_stride apart
  int64_t out_stride;
};

// Weights of tokens are integers, so that sums are the same in any order: this one for the
// largest logit.
constexpr int64_t kWeightOfMost = int64_t{1} << 30;

// One row of logits from which a token is chosen.
struct SampleArgs {
  const float* logits;  // (V,)
  const float* maxima;  // (blocks,), of block_maxima
  int32_t vocab;
  float most;                              // the largest logit
  float bound;                             // logits below it are left out
  float temperature, inverse_temperature;  // above 0; the inverse is finite
  NoiseKey noise;
};

// A token with its logit over the temperature, less the largest such, plus noise.
struct Perturbed {
  double score;
  int32_t token;
};

// Sums of kWeightOfMost * exp((logit - most) / temperature), rounded.
struct WeightSums {
  int64_t all, larger;
};

struct KernelTable {
  // Outputs of panels [begin, end) for all rows.
  void (*matmul)(const MatmulArgs& args, int32_t panel_begin, int32_t panel_end);
  // Quantizes x (inputs,) into row `row`: each group to [-127, 127] by its largest magnitude. NaN
  // and infinity make the scale of their group NaN. The rows of a tile share cache lines.
  void (*quantize)(const float* x, const QuantizedRows& out, int32_t row);
  // out[c] = (x[c] - mean) / sqrt(variance + epsilon) * weight[c] + bias[c], c < width
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float epsilon,
                     int32_t width, float* out);
  // Stores the key and value (D,) of the token at `position`.
  void (*append_kv)(const HeadCache& cache, int32_t position, const float* key, const float* value);
  void (*attention)(const AttentionArgs& args);
  // The largest logit of each of the blocks [begin, end) of kNoiseBlock tokens; infinity where one
  // is that, or no number.
  void (*block_maxima)(const float* logits, int32_t vocab, int32_t begin, int32_t end,
                       float* maxima);
  // Sums over logits in these blocks: of those from `bound` on, and of those from `above` on, which
  // is not less.
  void (*weigh)(const SampleArgs& args, float above, int32_t begin, int32_t end, WeightSums* sums);
  // The logits from `bound` on, in order of their tokens, into `out` (V,); returns how many.
  int32_t (*logits_from)(const SampleArgs& args, float* out);
  // The largest of `best` and of the tokens from `bound` on in these blocks; of equal ones the
  // first.
  void (*gumbel_max)(const SampleArgs& args, int32_t begin, int32_t end, Perturbed* best);
  // Of one token.
  double (*perturbed)(const SampleArgs& args, int32_t token);
  // The sum of `count` floats, a multiple of 64: reads memory and does nothing else.
  float (*stream)(const float* data, int64_t count);
  // `rounds` (a multiple of 16) of a format's multiply-adds in registers; adds their number to the
  // last.
  float (*peak)(Format format, int64_t rounds, int64_t* multiply_adds);
};

// The table compiled for `isa`, which must be one of available_isas().
const KernelTable& kernel_table(Isa isa);

}  // namespace gpt2fast
