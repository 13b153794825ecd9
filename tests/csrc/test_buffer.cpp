#include "core/buffer.h"

#include <algorithm>
#include <vector>

#include "check.h"

namespace gpt2fast {
namespace {

bool is_zero(const Buffer& buffer) {
  return std::all_of(buffer.data(), buffer.data() + buffer.bytes(),
                     [](uint8_t b) { return b == 0; });
}

TEST(buffers_of_an_arena_are_apart_aligned_and_outlive_it) {
  std::vector<Buffer> buffers;
  const std::vector<size_t> sizes = {1,        64,       65,       0,        3 << 20,
                                     40 << 20, 15 << 20, 15 << 20, 30 << 20, 100};
  {
    Arena arena;
    for (const size_t bytes : sizes) buffers.push_back(arena.take(bytes));
  }
  for (size_t i = 0; i < sizes.size(); ++i) {
    CHECK(buffers[i].bytes() == sizes[i]);
    CHECK(reinterpret_cast<uintptr_t>(buffers[i].data()) % 64 == 0);
    CHECK(is_zero(buffers[i]));
    std::fill_n(buffers[i].data(), sizes[i], static_cast<uint8_t>(i + 1));
  }
  Buffer moved = std::move(buffers[4]);
  buffers[4] = Buffer(8);
  CHECK(is_zero(buffers[4]));
  std::swap(buffers[4], moved);
  for (size_t i = 0; i < sizes.size(); ++i) {
    const uint8_t* const data = buffers[i].data();
    CHECK(std::all_of(data, data + sizes[i], [i](uint8_t b) { return b == i + 1; }));
  }
}

}  // namespace
}  // namespace gpt2fast
