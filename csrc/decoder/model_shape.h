// Shapes and constants of one model. Layers have their own, since pruned models differ by layer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace gpt2fast {

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

// From a name of transformers' ACT2FN. Throws std::invalid_argument for one that is not known.
Activation activation_from_name(const std::string& name);

}  // namespace gpt2fast
