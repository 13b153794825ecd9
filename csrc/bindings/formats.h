// Formats from the names that Python gives them. Each throws std::invalid_argument.
#pragma once

#include <string>

#include "decoder/packing.h"
#include "decoder/weights.h"
#include "kernels/kv_layout.h"

namespace gpt2fast {

inline MatrixFormat matrix_format(const std::string& name, int32_t group) {
  const Format format = format_from_name(name);
  const bool possible = is_integer(format)
                            ? group >= kMinGroup && group <= kMaxGroup && group % kMinGroup == 0
                            : group == 0;
  if (!possible) {
    throw std::invalid_argument("formats: " + name + " in groups of " + std::to_string(group));
  }
  return {format, group};
}

inline KvFormat kv_format(const std::string& name) {
  if (name == "float32") return KvFormat::kFloat32;
  if (name == "bfloat16") return KvFormat::kBFloat16;
  if (name == "int8") return KvFormat::kInt8;
  throw std::invalid_argument("unknown cache format '" + name + "'");
}

}  // namespace gpt2fast
