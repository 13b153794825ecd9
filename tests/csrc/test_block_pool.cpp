#include "kv_cache/block_pool.h"

#include <algorithm>
#include <limits>
#include <map>
#include <memory>

#include "check.h"
#include "kv_cache/sequence_group.h"

namespace gpt2fast {
namespace {

using Tokens = std::vector<int32_t>;

Tokens counting(int32_t count, int32_t first = 0) {
  Tokens tokens(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) tokens[static_cast<size_t>(i)] = first + i;
  return tokens;
}

void append(BlockPool& pool, SequenceId id, const Tokens& tokens) {
  pool.reserve(id, pool.length(id) + static_cast<int32_t>(tokens.size()));
  pool.commit(id, tokens.data(), static_cast<int32_t>(tokens.size()));
}

std::pair<SequenceId, int32_t> create(BlockPool& pool, const Tokens& tokens) {
  return pool.create(tokens.data(), static_cast<int32_t>(tokens.size()));
}

TEST(a_prefix_cached_prefix_is_reused_but_never_whole) {
  BlockPool pool(16, 4, true);
  const auto [first, cached] = create(pool, counting(12));
  CHECK(cached == 0);
  append(pool, first, counting(12));
  CHECK(create(pool, counting(12)).second == 8);  // one token must be left to run
  CHECK(create(pool, counting(13)).second == 12);
  CHECK(create(pool, counting(12, 1)).second == 0);
  pool.free(first);
  const SequenceId heir = create(pool, counting(13)).first;
  CHECK(pool.length(heir) == 12);  // survives its first owner
  CHECK(pool.stats().lookup_tokens == 12 && pool.stats().hit_tokens == 0);  // only what was run
  append(pool, heir, {12});
  CHECK(pool.stats().lookup_tokens == 25 && pool.stats().hit_tokens == 12);
}

TEST(equal_blocks_behind_different_prefixes_are_different) {
  BlockPool pool(16, 4, true);
  Tokens a = counting(8), b = counting(8);
  b[0] = 99;  // the second blocks hold the same tokens
  append(pool, create(pool, a).first, a);
  append(pool, create(pool, b).first, b);
  b.push_back(1);
  a.push_back(1);
  const SequenceId of_a = create(pool, a).first, of_b = create(pool, b).first;
  CHECK(pool.blocks(of_a).size() == 2 && pool.blocks(of_b).size() == 2);
  CHECK(pool.blocks(of_a)[1] != pool.blocks(of_b)[1]);
}

TEST(exhaustion_changes_nothing) {
  BlockPool pool(4, 4, true);
  const SequenceId id = create(pool, counting(10)).first;
  append(pool, id, counting(10));
  const auto before = pool.blocks(id);
  CHECK_THROWS(pool.reserve(id, 17), PoolExhausted);
  CHECK(pool.blocks(id) == before && pool.length(id) == 10 && pool.num_free() == 1);
  pool.reserve(id, 16);
  CHECK(pool.num_free() == 0);
}

TEST(least_recently_used_blocks_are_evicted_first) {
  BlockPool pool(4, 4, true);
  const Tokens old = counting(5), recent = counting(5, 100);
  for (const Tokens& tokens : {old, recent}) {
    const SequenceId id = create(pool, tokens).first;
    append(pool, id, Tokens(tokens.begin(), tokens.begin() + 4));
    pool.free(id);
  }
  CHECK(pool.stats().cached == 2);
  const SequenceId big = create(pool, counting(12, 500)).first;
  pool.reserve(big, 12);  // takes the two free blocks and one that must be evicted
  CHECK(pool.stats().evictions == 1);
  CHECK(create(pool, old).second == 0);
  CHECK(create(pool, recent).second == 4);
}

TEST(the_books_of_a_large_cache_grow_with_its_use) {
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  BlockPool pool(kMost, kMost, true);
  const Tokens tokens = counting(4);
  const SequenceId id = create(pool, tokens).first;
  pool.reserve(id, kMost);
  pool.commit(id, tokens.data(), 4);
  CHECK(pool.blocks(id) == std::vector<int32_t>{0});
  CHECK(pool.stats().used == 1 && pool.num_free() == kMost - 1);
  pool.free(id);
  CHECK(pool.num_free() == kMost);
  BlockPool small(kMost, 1, true);
  const SequenceId other = create(small, tokens).first;
  small.reserve(other, 3);
  CHECK(small.blocks(other) == (std::vector<int32_t>{0, 1, 2}));
}

TEST(misuse_is_an_error) {
  CHECK_THROWS(BlockPool(0, 16, true), std::invalid_argument);
  BlockPool pool(4, 4, true);
  const SequenceId id = create(pool, counting(4)).first;
  const Tokens tokens = counting(4);
  CHECK_THROWS(pool.commit(id, tokens.data(), 4), std::logic_error);
  CHECK_THROWS(pool.truncate(id, 1), std::invalid_argument);
  CHECK_THROWS(pool.reserve(id, -1), std::invalid_argument);
  pool.reserve(id, 6);
  pool.commit(id, tokens.data(), 2);
  const SequenceId twin = pool.fork(id);
  CHECK_THROWS(pool.commit(twin, tokens.data(), 1), std::logic_error);  // would write to both
  pool.free(twin);
  pool.free(id);
  CHECK_THROWS(pool.free(id), std::out_of_range);
  CHECK_THROWS(pool.length(77), std::out_of_range);
}

// Random operations against a plain model: every sequence must read back, through its block table
// and a storage that honours the copies, exactly the tokens that were committed to it.
class RandomWalk {
 public:
  explicit RandomWalk(unsigned seed) : random_(seed), storage_(kBlocks * kSize, -1) {}

  void step() {
    const int action = pick(10);
    if (live_.empty() || action == 0) return begin();
    auto it = live_.begin();
    std::advance(it, pick(static_cast<int>(live_.size())));
    if (action <= 5) return extend(it->first, it->second);
    if (action <= 7) return fork(it->first);
    if (action == 8) return shorten(it->first, it->second);
    pool_.free(it->first);
    live_.erase(it);
  }

  void check() const {
    const PoolStats stats = pool_.stats();
    CHECK(stats.used + stats.cached + stats.free == kBlocks);
    CHECK(stats.sequences == static_cast<int64_t>(live_.size()));
    for (const auto& [id, tokens] : live_) {
      CHECK(pool_.length(id) == static_cast<int32_t>(tokens.size()));
      for (size_t i = 0; i < tokens.size(); ++i) CHECK(at(id, i) == tokens[i]);
    }
  }

  void finish() {
    for (const auto& [id, tokens] : live_) pool_.free(id);
    CHECK(pool_.stats().used == 0);
    pool_.clear();
    CHECK(pool_.stats().free == kBlocks);
  }

 private:
  static constexpr int kBlocks = 24, kSize = 4;

  int pick(int below) { return static_cast<int>(random_() % static_cast<unsigned>(below)); }

  int32_t at(SequenceId id, size_t i) const {
    return storage_[static_cast<size_t>(pool_.blocks(id)[i / kSize]) * kSize + i % kSize];
  }

  // Two letters only, so that prefixes repeat.
  Tokens letters(int count) {
    Tokens tokens;
    for (int i = 0; i < count; ++i) tokens.push_back(pick(2));
    return tokens;
  }

  void begin() {
    const Tokens prompt = letters(1 + pick(20));
    const auto [id, cached] = create(pool_, prompt);
    CHECK(cached < static_cast<int32_t>(prompt.size()) && cached % kSize == 0);
    live_[id] = Tokens(prompt.begin(), prompt.begin() + cached);
  }

  void extend(SequenceId id, Tokens& tokens) {
    const Tokens more = letters(1 + pick(7));
    const auto length = static_cast<int32_t>(tokens.size() + more.size());
    try {
      for (const BlockCopy& copy : pool_.reserve(id, length)) {
        std::copy_n(storage_.begin() + copy.source * kSize, kSize,
                    storage_.begin() + copy.destination * kSize);
      }
    } catch (const PoolExhausted&) {
      return;
    }
    for (const int32_t token : more) {
      const size_t i = tokens.size();
      storage_[static_cast<size_t>(pool_.blocks(id)[i / kSize]) * kSize + i % kSize] = token;
      tokens.push_back(token);
    }
    pool_.commit(id, more.data(), static_cast<int32_t>(more.size()));
  }

  void fork(SequenceId id) {
    if (live_.size() < 12) live_[pool_.fork(id)] = live_[id];
  }

  void shorten(SequenceId id, Tokens& tokens) {
    tokens.resize(static_cast<size_t>(pick(static_cast<int>(tokens.size()) + 1)));
    pool_.truncate(id, static_cast<int32_t>(tokens.size()));
  }

  std::mt19937 random_;
  BlockPool pool_{kBlocks, kSize, true};
  Tokens storage_;
  std::map<SequenceId, Tokens> live_;
};

TEST(random_operations_never_lose_a_token) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    RandomWalk walk(seed);
    for (int i = 0; i < 300; ++i) {
      walk.step();
      walk.check();
    }
    walk.finish();
  }
}

TEST(a_group_of_sequences_ends_with_its_object) {
  const auto pool = std::make_shared<BlockPool>(16, 4, false);
  {
    const SequenceGroup group(pool, 2);
    for (const SequenceId id : group.ids()) append(*pool, id, counting(6));
    {
      const auto forked = group.fork({1, 1, 0});
      CHECK(forked->ids().size() == 3 && pool->stats().sequences == 5 && pool->stats().used == 4);
      CHECK(pool->length(forked->ids()[2]) == 6);
    }
    CHECK(pool->stats().sequences == 2 && pool->stats().used == 4);
    CHECK_THROWS(group.fork({0, 2}), std::out_of_range);
    CHECK(pool->stats().sequences == 2);
    pool->free(group.ids()[0]);  // by hand
  }
  CHECK(pool->stats().sequences == 0 && pool->stats().free == 16);
}

}  // namespace
}  // namespace gpt2fast
