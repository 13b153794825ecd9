#include "kv_cache/block_pool.h"

#include <algorithm>
#include <string>
#include <utility>

namespace gpt2fast {

BlockPool::BlockPool(int32_t num_blocks, int32_t block_size, bool prefix_caching)
    : num_blocks_(num_blocks), block_size_(block_size), prefix_caching_(prefix_caching) {
  if (num_blocks < 1 || block_size < 1) {
    throw std::invalid_argument(
        "a block pool needs at least one block of at least one token, not " +
        std::to_string(num_blocks) + " of " + std::to_string(block_size));
  }
}

const BlockPool::Sequence& BlockPool::find(SequenceId id) const {
  const auto it = sequences_.find(id);
  if (it == sequences_.end()) {
    throw std::out_of_range("the block pool has no sequence " + std::to_string(id));
  }
  return it->second;
}

BlockPool::Sequence& BlockPool::find(SequenceId id) {
  return const_cast<Sequence&>(static_cast<const BlockPool*>(this)->find(id));
}

std::pair<SequenceId, int32_t> BlockPool::create(const int32_t* tokens, int32_t count) {
  Sequence sequence;
  if (prefix_caching_) {
    sequence.lookup_tokens = count;
    ContentId parent = 0;
    for (int64_t start = 0; start + block_size_ < count; start += block_size_) {
      const int32_t block = find_prefix_cached(parent, tokens + start);
      if (block < 0) break;
      Block& found = blocks_[block];
      if (found.references++ == 0) unlink(block);
      parent = found.content;
      sequence.blocks.push_back(block);
      sequence.contents.push_back(parent);
    }
    const auto cached = static_cast<int32_t>(sequence.blocks.size()) * block_size_;
    sequence.tokens.assign(tokens, tokens + cached);
  }
  const SequenceId id = next_sequence_++;
  const int32_t cached = sequence.length();
  sequences_.emplace(id, std::move(sequence));
  return {id, cached};
}

std::vector<BlockCopy> BlockPool::reserve(SequenceId id, int32_t length) {
  Sequence& sequence = find(id);
  if (length < 0) {
    throw std::invalid_argument("cannot reserve room for " + std::to_string(length) + " tokens");
  }
  const auto owned = static_cast<int64_t>(sequence.blocks.size());
  const int64_t missing = std::max<int64_t>(0, blocks_for(length) - owned);
  const int32_t tail = sequence.length() / block_size_;  // index of the block written next
  const bool writes_tail = length > sequence.length() && tail < owned;
  const bool shared = writes_tail && blocks_[sequence.blocks[tail]].references > 1;
  if (missing + (shared ? 1 : 0) > num_free()) {
    throw PoolExhausted("the KV cache is full: " + std::to_string(missing + (shared ? 1 : 0)) +
                        " more blocks of " + std::to_string(block_size_) + " tokens are needed, " +
                        std::to_string(num_free()) + " of " + std::to_string(num_blocks_) +
                        " are free");
  }
  std::vector<BlockCopy> copies;
  if (shared) {
    const int32_t source = sequence.blocks[tail];
    const int32_t copy = allocate();
    blocks_[source].references--;
    sequence.blocks[tail] = copy;
    // An empty tail (reserved, then truncated to a block boundary) holds nothing worth copying.
    if (sequence.length() % block_size_ != 0) {
      copies.push_back({source, copy});
      copies_++;
    }
  } else if (writes_tail) {
    uncache_prefix(sequence.blocks[tail]);  // its content is about to change
  }
  for (int64_t i = 0; i < missing; ++i) sequence.blocks.push_back(allocate());
  return copies;
}

void BlockPool::commit(SequenceId id, const int32_t* tokens, int32_t count) {
  Sequence& sequence = find(id);
  const int64_t length = int64_t{sequence.length()} + count;
  if (length > INT32_MAX || blocks_for(length) > static_cast<int64_t>(sequence.blocks.size())) {
    throw std::invalid_argument("commit of " + std::to_string(count) + " tokens without reserve");
  }
  const auto tail = static_cast<size_t>(sequence.length() / block_size_);
  if (count > 0 && (blocks_[sequence.blocks[tail]].references > 1 ||
                    blocks_[sequence.blocks[tail]].content != 0)) {
    throw std::invalid_argument("commit to a shared block: reserve makes it private first");
  }
  if (sequence.lookup_tokens > 0) {
    // Counted with the first tokens run: a scheduler may ask again and again before it has room.
    lookup_tokens_ += std::exchange(sequence.lookup_tokens, 0);
    hit_tokens_ += sequence.length();
  }
  sequence.tokens.insert(sequence.tokens.end(), tokens, tokens + count);
  if (!prefix_caching_) return;
  const auto full = static_cast<size_t>(sequence.length() / block_size_);
  while (sequence.contents.size() < full) {
    const size_t index = sequence.contents.size();
    const ContentId parent = index == 0 ? 0 : sequence.contents.back();
    const int32_t* content = sequence.tokens.data() + index * static_cast<size_t>(block_size_);
    sequence.contents.push_back(cache_prefix(sequence.blocks[index], parent, content));
  }
}

SequenceId BlockPool::fork(SequenceId id) {
  Sequence copy = find(id);
  copy.lookup_tokens = 0;
  // Room that was reserved but not written stays with the original.
  copy.blocks.resize(static_cast<size_t>(blocks_for(copy.length())));
  for (const int32_t block : copy.blocks) blocks_[block].references++;
  const SequenceId forked = next_sequence_++;
  sequences_.emplace(forked, std::move(copy));
  return forked;
}

void BlockPool::truncate(SequenceId id, int32_t length) {
  Sequence& sequence = find(id);
  if (length < 0 || length > sequence.length()) {
    throw std::invalid_argument("cannot truncate a sequence of " +
                                std::to_string(sequence.length()) + " tokens to " +
                                std::to_string(length));
  }
  while (static_cast<int64_t>(sequence.blocks.size()) > blocks_for(length)) {
    release(sequence.blocks.back());
    sequence.blocks.pop_back();
  }
  sequence.tokens.resize(static_cast<size_t>(length));
  const auto full = static_cast<size_t>(length / block_size_);
  if (sequence.contents.size() > full) sequence.contents.resize(full);
}

void BlockPool::free(SequenceId id) {
  Sequence& sequence = find(id);
  // Last block first: a block is then always evicted before the block it continues, which would
  // otherwise leave it unreachable.
  for (auto it = sequence.blocks.rbegin(); it != sequence.blocks.rend(); ++it) release(*it);
  sequences_.erase(id);
}

int32_t BlockPool::allocate() {
  // Block 0 first, and one that was given back before a new one: a short run touches little memory.
  if (free_.empty() && static_cast<int64_t>(blocks_.size()) < num_blocks_) {
    blocks_.emplace_back();  // first: where memory runs out, no index without a block is left
    free_.push_back(static_cast<int32_t>(blocks_.size()) - 1);
  }
  if (free_.empty()) evict_oldest();
  const int32_t block = free_.back();
  free_.pop_back();
  blocks_[block].references = 1;
  return block;
}

void BlockPool::release(int32_t block) {
  if (--blocks_[block].references > 0) return;
  if (blocks_[block].content != 0) {
    link_newest(block);
  } else {
    free_.push_back(block);
  }
}

void BlockPool::evict_oldest() {
  const int32_t block = oldest_;
  unlink(block);
  uncache_prefix(block);
  free_.push_back(block);
  evictions_++;
}

void BlockPool::unlink(int32_t block) {
  Block& entry = blocks_[block];
  (entry.older >= 0 ? blocks_[entry.older].newer : oldest_) = entry.newer;
  (entry.newer >= 0 ? blocks_[entry.newer].older : newest_) = entry.older;
  entry.older = entry.newer = -1;
  cached_--;
}

void BlockPool::link_newest(int32_t block) {
  Block& entry = blocks_[block];
  entry.older = newest_;
  entry.newer = -1;
  (newest_ >= 0 ? blocks_[newest_].newer : oldest_) = block;
  newest_ = block;
  cached_++;
}

uint64_t BlockPool::hash_content(ContentId parent, const int32_t* tokens) const {
  // splitmix64 finaliser over a running sum: cheap, and equality is checked on the content itself.
  uint64_t hash = parent;
  for (int32_t i = 0; i < block_size_; ++i) {
    hash += static_cast<uint32_t>(tokens[i]) + 0x9e3779b97f4a7c15ULL;
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9ULL;
    hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebULL;
    hash ^= hash >> 31;
  }
  return hash;
}

int32_t BlockPool::find_prefix_cached(ContentId parent, const int32_t* tokens) const {
  const auto [begin, end] = prefix_cached_.equal_range(hash_content(parent, tokens));
  for (auto it = begin; it != end; ++it) {
    const Block& block = blocks_[it->second];
    if (block.parent == parent && std::equal(block.tokens.begin(), block.tokens.end(), tokens)) {
      return it->second;
    }
  }
  return -1;
}

BlockPool::ContentId BlockPool::cache_prefix(int32_t block, ContentId parent,
                                             const int32_t* tokens) {
  const int32_t twin = find_prefix_cached(parent, tokens);
  if (twin >= 0) return blocks_[twin].content;  // computed twice at the same time: one is enough
  Block& entry = blocks_[block];
  entry.content = next_content_++;
  entry.parent = parent;
  entry.hash = hash_content(parent, tokens);
  entry.tokens.assign(tokens, tokens + block_size_);
  prefix_cached_.emplace(entry.hash, block);
  return entry.content;
}

void BlockPool::uncache_prefix(int32_t block) {
  Block& entry = blocks_[block];
  if (entry.content == 0) return;
  const auto [begin, end] = prefix_cached_.equal_range(entry.hash);
  for (auto it = begin; it != end; ++it) {
    if (it->second == block) {
      prefix_cached_.erase(it);
      break;
    }
  }
  entry.content = 0;
  entry.tokens.clear();
}

PoolStats BlockPool::stats() const {
  return {num_blocks_,    block_size_, num_blocks_ - unused() - cached_,
          cached_,        unused(),    static_cast<int64_t>(sequences_.size()),
          lookup_tokens_, hit_tokens_, evictions_,
          copies_};
}

void BlockPool::clear() {
  while (oldest_ >= 0) {
    const int32_t block = oldest_;
    unlink(block);
    uncache_prefix(block);
    free_.push_back(block);
  }
}

}  // namespace gpt2fast
