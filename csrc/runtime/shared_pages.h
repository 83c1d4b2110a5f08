// Pages of the host driver's memory that other processes can map: they move into a file without a
// name, which is mapped in their place. Called by the host driver; knows nothing of arenas.
//
// Shared pages are 4 KiB ones on most systems, so only what is worth it is shared. A place in the
// file is never used a second time: who still has an old mapping writes into nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>

#include "csrc/runtime/driver.h"

namespace accel::runtime {

class SharedPages {
 public:
  SharedPages() = default;
  ~SharedPages();
  SharedPages(const SharedPages&) = delete;
  SharedPages& operator=(const SharedPages&) = delete;

  // Whole pages. Their contents and addresses stay; nobody else may write to them meanwhile. Those
  // that are shared already stay where they are if they are one piece, and move otherwise. Null
  // where the system has no more memory or mappings.
  std::optional<SharedMemory> share(void* address, size_t bytes);
  // The pages among these that are shared become private again, with what is in them.
  void unshare(void* address, size_t bytes);
  // The pages are about to be unmapped.
  void forget(void* address, size_t bytes);

  // Bytes that are shared now.
  size_t shared_bytes();

 private:
  // Each is a mapping that the system keeps, of which a process may have 65,530.
  static constexpr size_t kMaximumPieces = 4096;

  struct Piece {
    size_t bytes;
    int64_t offset;  // in the file
  };
  using Pieces = std::map<uintptr_t, Piece>;  // by address

  bool move_into_file(char* address, size_t bytes, int64_t offset);
  static size_t move_out(char* address, size_t bytes);
  void free_in_file(int64_t offset, size_t bytes);
  Pieces::iterator piece_behind(uintptr_t start);
  void drop(uintptr_t start, size_t bytes);

  std::mutex mutex_;
  int descriptor_ = -1;
  int64_t end_ = 0;  // of the file
  Pieces pieces_;
};

}  // namespace accel::runtime
