// A model's weights, packed for the kernels as they are loaded, tensor by tensor, under the names
// they have in a checkpoint.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/thread_pool.h"
#include "decoder/model_shape.h"
#include "decoder/packing.h"
#include "decoder/stored_array.h"

namespace gpt2fast {

struct LayerNormWeights {
  Buffer weight, bias;
};

struct LayerWeights {
  LayerNormWeights ln_1, ln_2;
  PackedMatrix attention_in, attention_out, mlp_in, mlp_out;
  Buffer activation[4];  // of activations that learn parameters, in the order of their names
};

// What a matrix is stored as; `group` is 0 for the float formats.
struct MatrixFormat {
  Format format = Format::kFloat32;
  int32_t group = 0;
};
// By tensor name; float32 for those that are not named.
using MatrixFormats = std::map<std::string, MatrixFormat>;

class Weights {
 public:
  // Throws std::bad_alloc when the weights do not fit into memory, std::invalid_argument for a
  // format of something that is no matrix of the model.
  Weights(const ModelShape& shape, const MatrixFormats& formats);

  // Converts and packs one tensor. A matrix of an integer format that follows a LayerNorm is
  // balanced against it, so that LayerNorm must be loaded before. Throws std::invalid_argument,
  // naming the tensor, for a name or shape that the model does not have, a value that is NaN or
  // infinite, a tensor that is loaded already, or a matrix before its LayerNorm. Nothing has
  // changed then, and the tensor can be loaded still. Callers from several threads take turns, here
  // and below.
  void load(const std::string& name, const StoredArray& array, ThreadPool& pool);

  // The bytes of a matrix as packed, (panels, panel bytes): what packed() gives back. Throws
  // std::invalid_argument, naming the tensor, when it is no matrix, has another size, or is loaded
  // already; packed() when it is not loaded yet.
  void load_packed(const std::string& name, const uint8_t* data, int64_t bytes, ThreadPool& pool);
  Panels packed(const std::string& name) const;
  // A vector of the model as it stands, such as a LayerNorm's weight after balancing: (size,).
  // Throws as packed() does.
  std::vector<float> vector(const std::string& name) const;

  // Whether all tensors are loaded: nothing changes from then on.
  bool complete() const { return num_missing_.load(std::memory_order_acquire) == 0; }
  // Names that have not been loaded yet.
  std::vector<std::string> missing() const;
  int64_t bytes() const;
  // What a step of one token reads: all but the embedding tables' other rows.
  int64_t bytes_per_step() const;

  // wte[token] + wpe[position] into out (C,); the embedding is read from the panels of the tied
  // head.
  void embed(int32_t token, int32_t position, float* out) const;

  const std::vector<LayerWeights>& layers() const { return layers_; }
  // The learned parameters of `layer`'s activation, as the kernels take them, into p (4,).
  void activation_parameters(int32_t layer, float* p) const;
  const LayerNormWeights& ln_f() const { return ln_f_; }
  const PackedMatrix& head() const { return shape_.tied_head ? wte_ : lm_head_; }

 private:
  struct Target {
    std::vector<int64_t> shape;
    Buffer* buffer;                  // of a vector or of rows
    PackedMatrix* matrix = nullptr;  // of a matrix
    Orientation orientation = Orientation::kLinear;
    LayerNormWeights* norm = nullptr;  // that feeds the matrix alone
    bool loaded = false;
  };

  void expect_vector(const std::string& name, int64_t size, Buffer* buffer);
  void expect_conv1d(const std::string& name, int32_t inputs, int32_t outputs, PackedMatrix* m,
                     LayerNormWeights* norm);
  void expect_matrix(const std::string& name, const Target& target, int32_t inputs,
                     int32_t outputs);
  void expect_activation(const std::string& prefix, LayerWeights* layer);
  void expect_layer_norm(const std::string& name, LayerNormWeights* norm);
  Target& find_missing(const std::string& name);
  const Target& find_loaded(const std::string& name, bool matrix) const;
  void finish(Target& target);
  std::vector<float> balance_factors(const Target& target, const StoredArray& array,
                                     ThreadPool& pool);
  static void balance(const std::vector<float>& factors, LayerNormWeights& norm);
  bool load_vector(const Target& target, const StoredArray& array);
  bool load_matrix(const std::string& name, const Target& target, const StoredArray& array,
                   ThreadPool& pool);

  const ModelShape shape_;
  const MatrixFormats formats_;
  mutable std::mutex loading_;  // guards all of the below until it is complete
  std::atomic<size_t> num_missing_{0};
  std::map<std::string, Target> targets_;
  // Of the matrices, in the order in which a step reads them. Vectors, which are loaded before
  // them, would touch each of its pages, and all the memory would be taken from the start.
  Arena arena_;
  bool bfloat16_activation_ = false;  // the activation's parameters are stored in bfloat16
  PackedMatrix wte_, lm_head_;
  Buffer wpe_;
  std::vector<LayerWeights> layers_;
  LayerNormWeights ln_f_;
};

}  // namespace gpt2fast
