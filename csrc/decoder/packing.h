// From a stored matrix to panels of a format, one panel at a time.
#pragma once

#include "core/buffer.h"
#include "core/thread_pool.h"
#include "decoder/stored_array.h"
#include "kernels/panels.h"

namespace gpt2fast {

// "float32", "bfloat16", "int8", "int4", "int3". Throws std::invalid_argument for another name.
Format format_from_name(const std::string& name);

// A matrix as the kernels read it, with the memory that holds it.
struct PackedMatrix {
  Panels layout{};  // its data is null; see panels()
  Buffer data;
  Buffer bias;  // N padded to 16; empty where there is none

  Panels panels() const {
    Panels view = layout;
    view.data = data.data();
    return view;
  }
};

enum class Orientation {
  kConv1d,  // (K, N)
  kLinear,  // (N, K)
};

// Packs all of `array` into matrix.data, each weight times input_scales[k] (K,) where that is not
// null. False where a value is NaN or infinite.
bool pack_matrix(const StoredArray& array, Orientation orientation, const float* input_scales,
                 PackedMatrix& matrix, ThreadPool& pool);

// out[k] (K,): the root mean square over the outputs of input k of a Conv1D matrix (K, N).
void input_magnitudes(const StoredArray& array, ThreadPool& pool, float* out);

// All inputs of one output into out (K,).
void unpack_output(const Panels& panels, int32_t output, float* out);

}  // namespace gpt2fast
