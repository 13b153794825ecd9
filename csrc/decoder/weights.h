// A model's weights, packed for the kernels as they are loaded, tensor by tensor, under the names
// they have in a checkpoint.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/thread_pool.h"
#include "decoder/model_shape.h"

namespace gpt2fast {

enum class StoredType { kFloat32, kFloat16, kBFloat16, kFloat64 };

struct StoredArray {
  const void* data;
  StoredType type;
  std::vector<int64_t> shape;
};

// A matrix as panels of 16 outputs, (ceil(N / 16), K, 16): the kernels read it front to back.
struct PackedMatrix {
  int32_t inputs = 0;   // K
  int32_t outputs = 0;  // N
  Buffer panels;
  Buffer bias;  // N padded to 16; empty where there is none

  int32_t num_panels() const { return static_cast<int32_t>(round_up_lanes(outputs) / kLanes); }
};

struct LayerNormWeights {
  Buffer weight, bias;
};

struct LayerWeights {
  LayerNormWeights ln_1, ln_2;
  PackedMatrix attention_in, attention_out, mlp_in, mlp_out;
  Buffer activation[4];  // of activations that learn parameters, in the order of their names
};

class Weights {
 public:
  // Throws std::bad_alloc when the weights do not fit into memory.
  explicit Weights(const ModelShape& shape);

  // Converts and packs one tensor. Throws std::invalid_argument, naming the tensor, for a name or
  // shape that the model does not have, or a value that is NaN or infinite.
  void load(const std::string& name, const StoredArray& array, ThreadPool& pool);

  // Names that have not been loaded yet.
  std::vector<std::string> missing() const;
  int64_t bytes() const;

  // wte[token] + wpe[position] into out (C,); the embedding is read from the panels of the tied
  // head.
  void embed(int32_t token, int32_t position, float* out) const;

  const std::vector<LayerWeights>& layers() const { return layers_; }
  // The learned parameters of `layer`'s activation, as the kernels take them, into p (4,).
  void activation_parameters(int32_t layer, float* p) const;
  const LayerNormWeights& ln_f() const { return ln_f_; }
  const PackedMatrix& head() const { return shape_.tied_head ? wte_ : lm_head_; }

 private:
  enum class Layout { kVector, kRows, kConv1d, kLinear };
  struct Target {
    Layout layout;
    std::vector<int64_t> shape;
    Buffer* buffer;
    bool loaded;
  };

  void expect_vector(const std::string& name, int64_t size, Buffer* buffer);
  void expect_conv1d(const std::string& name, int32_t inputs, int32_t outputs, PackedMatrix* m);
  void expect_linear(const std::string& name, int32_t inputs, int32_t outputs, PackedMatrix* m);
  void expect_activation(const std::string& prefix, LayerWeights* layer);
  void expect_layer_norm(const std::string& name, LayerNormWeights* norm);

  const ModelShape shape_;
  std::map<std::string, Target> targets_;
  bool bfloat16_activation_ = false;  // the activation's parameters are stored in bfloat16
  PackedMatrix wte_, lm_head_;
  Buffer wpe_;
  std::vector<LayerWeights> layers_;
  LayerNormWeights ln_f_;
};

}  // namespace gpt2fast
