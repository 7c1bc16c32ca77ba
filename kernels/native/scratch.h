#pragma once
#include <cstddef>
#include <memory>
#include <new>

namespace dbf {

// Memory of a thread, kept for its next call: aligned, grown as needed.
class Scratch {
 public:
  void* ensure(size_t bytes) {
    if (bytes > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(::operator new(bytes, std::align_val_t{64}));
      size_ = bytes;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{64}); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t size_ = 0;
};

}  // namespace dbf
