// Sequences of a pool that end with the object that holds them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kv_cache/block_pool.h"

namespace gpt2fast {

// Whoever makes sequences one by one and frees them later can be stopped in between, by an
// exception that comes from outside; nobody can be stopped inside a destructor.
class SequenceGroup {
 public:
  // `count` sequences that are empty.
  SequenceGroup(std::shared_ptr<BlockPool> pool, int32_t count);
  ~SequenceGroup();
  SequenceGroup(const SequenceGroup&) = delete;
  SequenceGroup& operator=(const SequenceGroup&) = delete;

  const std::vector<SequenceId>& ids() const { return ids_; }

  // A group of forks of the sequences at `rows`. Throws std::out_of_range for a row that there is
  // not.
  std::unique_ptr<SequenceGroup> fork(const std::vector<int32_t>& rows) const;

 private:
  const std::shared_ptr<BlockPool> pool_;
  std::vector<SequenceId> ids_;
};

}  // namespace gpt2fast
