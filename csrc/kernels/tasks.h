// How the work of a kernel is cut into the tasks that a team of threads shares out, and how the
// rows lie that it works on.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/panels.h"

namespace gpt2fast {

// Weight panels of one matmul task: at least so many that it can be read as several streams, and no
// more than are handed out evenly.
constexpr int32_t kMinPanels = 4, kMaxPanels = 32;

// Two tasks a thread at least, so that a thread that was held up does not hold up the others for
// long, and as many for each thread.
inline int32_t panels_per_task(int32_t panels, int32_t threads) {
  const int32_t least = (panels + kMaxPanels - 1) / kMaxPanels;
  const auto tasks = static_cast<int32_t>(round_up(std::max(least, 2 * threads), threads));
  return static_cast<int32_t>(round_up((panels + tasks - 1) / tasks, kMinPanels));
}

// Floats of a workspace row: an odd number of cache lines, so that a column of outputs, one line in
// each row, spreads over the whole cache instead of a few of its sets.
inline int64_t row_stride(int64_t floats) {
  const int64_t lines = round_up_lanes(floats) / kLanes;
  return (lines | 1) * kLanes;
}

}  // namespace gpt2fast
