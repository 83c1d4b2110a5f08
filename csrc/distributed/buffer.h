// Memory that stays from one collective to the next, so that its pages are made once: making those
// of a large message takes longer than sending it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>

namespace accel::distributed {

class Buffer {
 public:
  // `bytes` of memory with anything in it, until the next call. Not null, even for none.
  char* take(size_t bytes) {
    if (data_ == nullptr || bytes > size_) {
      data_.reset();
      size_ = std::max<size_t>(bytes, 64);
      data_ = std::make_unique_for_overwrite<char[]>(size_);
    }
    return data_.get();
  }
  // At the end of a collective: very large ones are rare, and their memory may be wanted elsewhere.
  void settle() {
    constexpr size_t kKept = size_t{64} << 20;
    if (size_ <= kKept) return;
    data_.reset();
    size_ = 0;
  }

 private:
  std::unique_ptr<char[]> data_;
  size_t size_ = 0;
};

}  // namespace accel::distributed
