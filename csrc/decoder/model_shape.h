// Shapes and constants of one model. Layers have their own, since pruned models differ by layer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace gpt2fast {

// Of sizes that are no inputs of a product, so that those next to them, rounded up or in steps of
// what a kernel takes at once, are in 32 bits too.
constexpr int32_t kMaxSize = 1 << 30;

struct LayerShape {
  int32_t heads;          // H
  int32_t inner;          // width of the MLP
  float attention_scale;  // on q . k
};

struct ModelShape {
  int32_t vocab;      // V
  int32_t positions;  // longest context
  int32_t width;      // C
  int32_t head_size;  // D
  float epsilon;      // of LayerNorm
  Activation activation;
  bool tied_head;  // the head is wte
  std::vector<LayerShape> layers;
};

// The shape itself. Throws std::invalid_argument, naming it, for a size that is not positive or
// beyond what the kernels count; nothing that follows from the others needs a check of its own, but
// for bytes, which may be more than memory has.
const ModelShape& checked(const ModelShape& shape);
void check_size(const char* name, int64_t size, int64_t most);

// From a name of transformers' ACT2FN. Throws std::invalid_argument for one that is not known.
Activation activation_from_name(const std::string& name);

}  // namespace gpt2fast
