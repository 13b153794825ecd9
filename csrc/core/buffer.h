// Large zero-initialised memory, backed by huge pages where the system grants them: streaming
// through weights with 4 KiB pages spends a noticeable share of its time in the TLB.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace gpt2fast {

class Arena;

// Says how much was asked for.
class NoMemory : public std::bad_alloc {
 public:
  explicit NoMemory(size_t bytes);
  const char* what() const noexcept override { return text_; }

 private:
  char text_[64];
};

class Buffer {
 public:
  Buffer() = default;
  // Throws NoMemory when the system has none.
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  size_t bytes() const { return bytes_; }
  uint8_t* data() { return static_cast<uint8_t*>(data_); }
  const uint8_t* data() const { return static_cast<const uint8_t*>(data_); }
  float* floats() { return static_cast<float*>(data_); }
  const float* floats() const { return static_cast<const float*>(data_); }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  size_t mapped_ = 0;              // bytes mapped, 0 where the memory is not its own mapping
  std::shared_ptr<Buffer> chunk_;  // of an arena, where the memory is a part of it

  friend class Arena;
};

// Buffers cut one after the other from large mappings, each of which lives as long as a buffer from
// it does. By itself a buffer of less than two megabytes, as most matrices of a small model are,
// gets no huge page.
class Arena {
 public:
  // Throws NoMemory when the system has none.
  Buffer take(size_t bytes);

 private:
  std::shared_ptr<Buffer> chunk_;
  size_t used_ = 0;
};

}  // namespace gpt2fast
