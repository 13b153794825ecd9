// What a forked child has to leave behind: in it the parent's other threads are gone, and a lock
// that one of them held is held by nobody, for ever.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

namespace gpt2fast {

// Differs between a process and the children that were forked from it since the first call.
int fork_generation();

// A T of this process: get() makes a new one in a forked child. The parent's is not destroyed
// there, as its threads could not be joined.
template <typename T>
class ForkLocal {
 public:
  using Make = std::function<std::unique_ptr<T>()>;

  // Throws what `make` throws.
  explicit ForkLocal(Make make) : make_(std::move(make)), held_(new_one().release()) {}
  ~ForkLocal() {
    const std::unique_ptr<Held> held(held_.load());
    if (held->generation != fork_generation()) held->value.release();
  }
  ForkLocal(const ForkLocal&) = delete;
  ForkLocal& operator=(const ForkLocal&) = delete;

  // Throws what `make` throws, in a forked child alone. Without a lock, which a fork of the child's
  // own could leave held.
  T& get() {
    Held* held = held_.load(std::memory_order_acquire);
    while (held->generation != fork_generation()) {
      auto fresh = new_one();
      if (held_.compare_exchange_strong(held, fresh.get())) held = fresh.release();
    }
    return *held->value;
  }

 private:
  struct Held {
    int generation;
    std::unique_ptr<T> value;
  };
  std::unique_ptr<Held> new_one() const {
    const int generation = fork_generation();
    return std::make_unique<Held>(Held{generation, make_()});
  }

  const Make make_;
  std::atomic<Held*> held_;
};

}  // namespace gpt2fast
