// How the work of a kernel is cut into the tasks that a team of threads shares out, and how the
// rows lie that it works on.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/panels.h"

namespace gpt2fast {

// The panels of a product cut into tasks: as many for each thread, and two at least, so that a
// thread that was held up does not hold up the others for long; none with more than kMostPanels.
// They differ by four panels at most, which is how many streams a task reads.
class PanelTasks {
 public:
  PanelTasks(int32_t panels, int32_t threads) : panels_(panels) {
    const int32_t least = (panels + kMostPanels - 1) / kMostPanels;
    tasks_ = static_cast<int32_t>(round_up(std::max(least, 2 * threads), threads));
  }
  int32_t count() const { return tasks_; }
  int32_t begin(int32_t task) const {
    const int64_t fours = (panels_ + kStreams - 1) / kStreams;
    return std::min(static_cast<int32_t>(fours * task / tasks_) * kStreams, panels_);
  }
  int32_t end(int32_t task) const { return begin(task + 1); }

 private:
  static constexpr int32_t kStreams = 4, kMostPanels = 32;

  int32_t panels_, tasks_;
};

// Floats of a workspace row: an odd number of cache lines, so that a column of outputs, one line in
// each row, spreads over the whole cache instead of a few of its sets.
inline int64_t row_stride(int64_t floats) {
  const int64_t lines = round_up_lanes(floats) / kLanes;
  return (lines | 1) * kLanes;
}

}  // namespace gpt2fast
