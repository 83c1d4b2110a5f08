// Block: the allocator's reference-counted piece of memory behind a storage.
//
// A storage's DataPtr holds the user's reference; Recorder, Segments and Plans in flight hold
// others. When the user's goes, the Block is dead to the user, irrevocably; when the last goes, the
// memory returns to the allocator. Neither takes a lock or the GIL, so a Block may be dropped on
// any thread, in any state, also in a forked child (where it does nothing).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include <c10/core/Allocator.h>

namespace accel::runtime {

// Block::device of pinned host memory.
constexpr int kHost = -1;

struct Block {
  char* address = nullptr;  // device address, aligned to 64 bytes at least
  size_t size = 0;          // usable bytes
  size_t requested = 0;     // bytes the user asked for
  int device = 0;

  std::atomic<int32_t> references{1};
  std::atomic<bool> user_alive{true};

  // The last recorded Node that writes it, as (stream, sequence number): what a value has to wait
  // for. Written under the stream's recorder lock.
  std::atomic<void*> writer{nullptr};
  std::atomic<uint64_t> write_sequence{0};
  // The host has filled it at the call, before any Node knew it.
  std::atomic<bool> filled_by_host{false};
  // The capture whose Nodes were the first to write it; 0: none.
  std::atomic<uint64_t> first_capture{0};
  // What should have been its first content was not computed, because an operation before that had
  // failed. All its bits are set (NaN, -1), and the host's reading it is an error.
  std::atomic<bool> lost{false};
  // Whether anybody but the user and the work queued on the stream of its writer has ever held it.
  // While nobody has, its end is a matter of that stream's order alone.
  std::atomic<bool> held_elsewhere{false};

  // Set by the allocator.
  Block* next_free = nullptr;
  void* arena = nullptr;

  // Whether somebody has written it, or is to, as far as the host has come.
  bool has_content() const {
    return device == kHost || writer.load(std::memory_order_relaxed) != nullptr ||
           filled_by_host.load(std::memory_order_relaxed);
  }

  void retain() {
    held_elsewhere.store(true, std::memory_order_relaxed);
    references.fetch_add(1, std::memory_order_relaxed);
  }
  // For work on a stream. stream: as in `writer`.
  void retain_for(const void* stream) {
    const void* last = writer.load(std::memory_order_relaxed);
    if (last != nullptr && last != stream) held_elsewhere.store(true, std::memory_order_relaxed);
    references.fetch_add(1, std::memory_order_relaxed);
  }
  void drop() {
    if (references.fetch_sub(1, std::memory_order_acq_rel) == 1) give_back();
  }

 private:
  void give_back();  // the last reference is gone
};

// The deleter of the allocators' DataPtrs: the user's reference goes.
void delete_block(void* block);

// The Block behind a DataPtr of the accel allocator (or of pinned host memory: device is kHost), or
// null for memory from elsewhere and for zero bytes.
inline Block* block_of(const c10::DataPtr& pointer) {
  return pointer.get_deleter() == &delete_block ? static_cast<Block*>(pointer.get_context())
                                                : nullptr;
}

// An owning reference.
class BlockReference {
 public:
  BlockReference() = default;
  explicit BlockReference(Block* block) : block_(block) {
    if (block_) block_->retain();
  }
  BlockReference(Block* block, const void* stream) : block_(block) {
    if (block_) block_->retain_for(stream);
  }
  BlockReference(const BlockReference& other) : BlockReference(other.block_) {}
  BlockReference(BlockReference&& other) noexcept : block_(other.block_) { other.block_ = nullptr; }
  BlockReference& operator=(BlockReference other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~BlockReference() {
    if (block_) block_->drop();
  }
  Block* get() const { return block_; }
  Block* operator->() const { return block_; }
  explicit operator bool() const { return block_ != nullptr; }

 private:
  Block* block_ = nullptr;
};

}  // namespace accel::runtime
