#include "core/buffer.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace gpt2fast {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and the widest vector
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kChunk = 32 * kHugePage;  // what is not touched of it takes no memory
constexpr size_t kAlone = kChunk / 4;      // buffers from this size on lose little at their ends

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

constexpr size_t kMost = SIZE_MAX / 2;  // rounding it up does not wrap around

}  // namespace

NoMemory::NoMemory(size_t bytes) {
  std::snprintf(text_, sizeof(text_), "the system has no memory for %zu bytes", bytes);
}

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  if (bytes > kMost) throw NoMemory(bytes);
  if (bytes < kHugePage) {
    if (posix_memalign(&data_, kAlignment, round_up(bytes, kAlignment)) != 0) {
      throw NoMemory(bytes);
    }
    std::memset(data_, 0, round_up(bytes, kAlignment));
    return;
  }
  const size_t wanted = round_up(bytes, kHugePage);
  // One huge page more than needed, so that an aligned start can be cut out of the mapping.
  const size_t padded = wanted + kHugePage;
  void* raw = mmap(nullptr, padded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) throw NoMemory(bytes);
  const auto start = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = round_up(start, kHugePage);
  if (aligned != start) munmap(raw, aligned - start);
  const uintptr_t end = start + padded;
  if (aligned + wanted != end)
    munmap(reinterpret_cast<void*>(aligned + wanted), end - aligned - wanted);
  data_ = reinterpret_cast<void*>(aligned);
  mapped_ = wanted;
#if defined(MADV_HUGEPAGE)
  // Not the end: a whole huge page would be taken for the few bytes in it.
  madvise(data_, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
}

Buffer::~Buffer() {
  if (mapped_ != 0) {
    munmap(data_, mapped_);
  } else if (chunk_ == nullptr) {
    std::free(data_);
  }
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      mapped_(std::exchange(other.mapped_, 0)),
      chunk_(std::move(other.chunk_)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  std::swap(chunk_, other.chunk_);
  return *this;
}

Buffer Arena::take(size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  return Buffer(bytes);  // of the heap, where it is seen what reaches beyond one
#endif
  if (bytes == 0 || bytes >= kAlone) return Buffer(bytes);
  const size_t size = round_up(bytes, kAlignment);
  if (chunk_ == nullptr || used_ + size > kChunk) {
    chunk_ = std::make_shared<Buffer>(kChunk);
    used_ = 0;
  }
  Buffer part;
  part.data_ = chunk_->data() + used_;
  part.bytes_ = bytes;
  part.chunk_ = chunk_;
  used_ += size;
  return part;
}

}  // namespace gpt2fast
