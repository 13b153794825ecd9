// How a weight matrix lies in memory: panels of 16 outputs, each read front to back.
//
//   float32   (K, 16) floats
//   bfloat16  (K / 2, 16, 2): the two inputs of a pair side by side, one 32-bit lane an output
//   int8      scales, then (K / 4, 16, 4) signed bytes: the shape that 8-bit dot products take
//   int4      scales, then (K / 8, 16, 4) bytes of two values: input 8 i + j in the low half of
//             byte j, 8 i + 4 + j in the high one, each plus 8
//   int3      scales, then (K / 32, 3, 64) bytes: of the fours of 32 inputs, each plus 4, as bytes
//             (8, 16, 4), two and a quarter in each line of 64:
//
//               bits     0..2    3..5    6..7
//               line 0   four 0  four 1  low bits of four 6
//               line 1   four 2  four 3  low bits of four 7
//               line 2   four 4  four 5  the high bits of fours 6 and 7
//
// scales: (groups, 16) bfloat16, padded to a cache line. A weight is scale * integer; a group is
// `group` consecutive inputs of one output. K is padded to whole units with what stands for zero.
#pragma once

#include <stdint.h>

namespace gpt2fast {

constexpr int kLanes = 16;  // outputs in a weight panel

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
constexpr int64_t round_up_lanes(int64_t n) { return round_up(n, kLanes); }

enum class Format : int32_t { kFloat32, kBFloat16, kInt8, kInt4, kInt3 };
constexpr bool is_integer(Format format) {
  return format != Format::kFloat32 && format != Format::kBFloat16;
}
constexpr int kInt3Unit = 32;                    // inputs
constexpr int32_t kMaxInputs = 1 << 26;          // what a panel holds is counted in 32 bits
constexpr int kMinGroup = 32, kMaxGroup = 1024;  // of the integer formats; multiples of 32

// A view of a packed matrix.
struct Panels {
  Format format;
  int32_t inputs;   // K
  int32_t outputs;  // N
  int32_t group;    // inputs that share a scale; 0 for the float formats
  const uint8_t* data;

  bool is_integer() const { return gpt2fast::is_integer(format); }
  int32_t count() const { return static_cast<int32_t>(round_up_lanes(outputs) / kLanes); }
  int32_t padded_inputs() const {
    switch (format) {
      case Format::kFloat32: return inputs;
      case Format::kBFloat16: return static_cast<int32_t>(round_up(inputs, 2));
      case Format::kInt3: return static_cast<int32_t>(round_up(inputs, kInt3Unit));
      default: return static_cast<int32_t>(round_up(inputs, 8));
    }
  }
  int32_t groups() const { return is_integer() ? (inputs + group - 1) / group : 0; }
  int64_t scale_bytes() const { return round_up(int64_t{groups()} * kLanes * 2, 64); }
  int64_t value_bytes() const {
    const int64_t values = int64_t{padded_inputs()} * kLanes;
    switch (format) {
      case Format::kFloat32: return values * 4;
      case Format::kBFloat16: return values * 2;
      case Format::kInt8: return values;
      case Format::kInt4: return values / 2;
      default: return values / 8 * 3;
    }
  }
  int64_t panel_bytes() const { return round_up(scale_bytes() + value_bytes(), 64); }
  int64_t bytes() const { return panel_bytes() * count(); }
  const uint8_t* panel(int64_t index) const { return data + index * panel_bytes(); }
};

}  // namespace gpt2fast
