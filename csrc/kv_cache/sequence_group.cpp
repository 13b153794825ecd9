#include "kv_cache/sequence_group.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace gpt2fast {

SequenceGroup::SequenceGroup(std::shared_ptr<BlockPool> pool, int32_t count)
    : pool_(std::move(pool)) {
  for (int32_t i = 0; i < count; ++i) ids_.push_back(pool_->create(nullptr, 0).first);
}

SequenceGroup::~SequenceGroup() {
  for (const SequenceId id : ids_) {
    try {
      pool_->free(id);
    } catch (const std::out_of_range&) {  // somebody has freed it by its id
    }
  }
}

std::unique_ptr<SequenceGroup> SequenceGroup::fork(const std::vector<int32_t>& rows) const {
  auto forked = std::make_unique<SequenceGroup>(pool_, 0);
  for (const int32_t row : rows) {
    if (row < 0 || static_cast<size_t>(row) >= ids_.size()) {
      throw std::out_of_range("there is no sequence " + std::to_string(row) + " of " +
                              std::to_string(ids_.size()));
    }
    forked->ids_.push_back(pool_->fork(ids_[static_cast<size_t>(row)]));
  }
  return forked;
}

}  // namespace gpt2fast
