// Block tables of the KV cache: which blocks of tokens each sequence owns. Keys and values live
// elsewhere (kv_storage.h for the CPU), so that one pool serves every device.
//
// A block holds `block_size` tokens and is shared by reference count. A block that is full is
// cached under its content, which is the block before it plus its tokens; a new sequence that
// starts with the same tokens takes it over instead of computing it again. Prefix-cached blocks
// that nobody references stay, and are evicted least recently used first when room is needed.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <unordered_map>
#include <utility>
#include <vector>

namespace gpt2fast {

using SequenceId = int64_t;

struct BlockCopy {
  int32_t source;
  int32_t destination;
};

struct PoolExhausted : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct PoolStats {
  int64_t num_blocks, block_size;
  int64_t used;    // referenced by a sequence
  int64_t cached;  // unreferenced, kept for reuse
  int64_t free;
  int64_t sequences;
  int64_t lookup_tokens, hit_tokens;  // tokens asked of the prefix cache, and found
  int64_t evictions, copies;
};

class BlockPool {
 public:
  BlockPool(int32_t num_blocks, int32_t block_size, bool prefix_caching);

  // A new sequence that references the longest cached prefix of `tokens`, but never all of
  // them: at least one is left to run. Second: the number of tokens taken over.
  std::pair<SequenceId, int32_t> create(const int32_t* tokens, int32_t count);

  // Makes room for `length` tokens and makes the tail private. The caller copies the blocks
  // returned before it writes. Throws PoolExhausted, or std::invalid_argument for a negative
  // length, and then nothing has changed.
  std::vector<BlockCopy> reserve(SequenceId id, int32_t length);

  // Records that the keys and values of `tokens` have been written behind the current length.
  // Throws std::invalid_argument, and records nothing, where reserve() has not made room for them.
  void commit(SequenceId id, const int32_t* tokens, int32_t count);

  // A second sequence with the same content; the blocks are shared until one of them writes.
  SequenceId fork(SequenceId id);
  void truncate(SequenceId id, int32_t length);
  void free(SequenceId id);

  int32_t length(SequenceId id) const { return find(id).length(); }
  const std::vector<int32_t>& blocks(SequenceId id) const { return find(id).blocks; }

  int32_t block_size() const { return block_size_; }
  int64_t num_free() const { return unused() + cached_; }
  PoolStats stats() const;

  // Forgets every reusable block that no sequence references.
  void clear();

 private:
  using ContentId = uint64_t;  // never reused, so equal ids mean equal content

  struct Block {
    int32_t references = 0;
    ContentId content = 0;  // 0: not prefix-cached
    ContentId parent = 0;
    uint64_t hash = 0;
    std::vector<int32_t> tokens;     // of a prefix-cached block
    int32_t older = -1, newer = -1;  // neighbours in the eviction list
  };

  struct Sequence {
    std::vector<int32_t> blocks;
    std::vector<int32_t> tokens;
    std::vector<ContentId> contents;  // of its full blocks
    int32_t lookup_tokens = 0;        // asked of the prefix cache, and not in the statistics yet
    int32_t length() const { return static_cast<int32_t>(tokens.size()); }
  };

  const Sequence& find(SequenceId id) const;
  Sequence& find(SequenceId id);
  int64_t blocks_for(int64_t length) const { return (length + block_size_ - 1) / block_size_; }

  int32_t allocate();
  void release(int32_t block);
  void evict_oldest();
  void unlink(int32_t block);
  void link_newest(int32_t block);

  uint64_t hash_content(ContentId parent, const int32_t* tokens) const;
  int32_t find_prefix_cached(ContentId parent, const int32_t* tokens) const;
  ContentId cache_prefix(int32_t block, ContentId parent, const int32_t* tokens);
  void uncache_prefix(int32_t block);

  // Blocks with nothing in them: given back, or never handed out.
  int64_t unused() const {
    return static_cast<int64_t>(free_.size()) + num_blocks_ - static_cast<int64_t>(blocks_.size());
  }

  const int32_t num_blocks_, block_size_;
  const bool prefix_caching_;
  std::vector<Block> blocks_;          // handed out so far: a large cache's grow with its use
  std::vector<int32_t> free_;          // of these
  int32_t oldest_ = -1, newest_ = -1;  // eviction list
  int64_t cached_ = 0;                 // its length
  std::unordered_multimap<uint64_t, int32_t> prefix_cached_;
  std::unordered_map<SequenceId, Sequence> sequences_;
  SequenceId next_sequence_ = 1;
  ContentId next_content_ = 1;
  int64_t lookup_tokens_ = 0, hit_tokens_ = 0, evictions_ = 0, copies_ = 0;
};

}  // namespace gpt2fast
