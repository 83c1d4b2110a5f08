#include "csrc/runtime/shared_pages.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <memory>

namespace accel::runtime {

namespace {

// What is moved at a time: a huge page, so that what a move frees is whole huge pages, and a move
// needs no more memory than one.
constexpr size_t kStep = size_t{2} << 20;

// Runs body(address, bytes) for the parts of a range between multiples of kStep, until one fails;
// returns the bytes done.
template <class Body>
size_t in_steps(char* address, size_t bytes, Body body) {
  size_t done = 0;
  while (done < bytes) {
    const size_t behind = (reinterpret_cast<uintptr_t>(address) + done) % kStep;
    const size_t step = std::min(bytes - done, kStep - behind);
    if (!body(address + done, step)) break;
    done += step;
  }
  return done;
}

bool write_all(int descriptor, const char* data, size_t bytes, int64_t offset) {
  while (bytes > 0) {
    const ssize_t written = pwrite(descriptor, data, bytes, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    data += written;
    bytes -= static_cast<size_t>(written);
    offset += written;
  }
  return true;
}

}  // namespace

SharedPages::~SharedPages() {
  if (descriptor_ >= 0) close(descriptor_);
}

// Written, not mapped twice and copied: where there is no memory left, that is an error of a call
// and no signal.
bool SharedPages::move_into_file(char* address, size_t bytes, int64_t offset) {
  if (!write_all(descriptor_, address, bytes, offset)) return false;
  if (mmap(address, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE,
           descriptor_, offset) == MAP_FAILED) {
    return false;
  }
  madvise(address, bytes, MADV_DONTFORK);
  return true;
}

// Returns the bytes done.
size_t SharedPages::move_out(char* address, size_t bytes) {
  const auto copy = std::make_unique_for_overwrite<char[]>(std::min(bytes, kStep));
  return in_steps(address, bytes, [&](char* part, size_t size) {
    std::memcpy(copy.get(), part, size);
    if (mmap(part, size, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
      std::fprintf(stderr, "[accel] memory stays shared with other processes: %s\n",
                   std::strerror(errno));
      return false;
    }
    madvise(part, size, MADV_HUGEPAGE);
    madvise(part, size, MADV_DONTFORK);
    std::memcpy(part, copy.get(), size);
    return true;
  });
}

void SharedPages::free_in_file(int64_t offset, size_t bytes) {
  fallocate(descriptor_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
            static_cast<off_t>(bytes));
}

// The first piece that ends behind an address.
SharedPages::Pieces::iterator SharedPages::piece_behind(uintptr_t start) {
  const auto next = pieces_.upper_bound(start);
  if (next == pieces_.begin()) return next;
  const auto piece = std::prev(next);
  return start < piece->first + piece->second.bytes ? piece : next;
}

// Takes a range out of the pieces and gives its memory back; what is left of a piece stays one.
void SharedPages::drop(uintptr_t start, size_t bytes) {
  const uintptr_t end = start + bytes;
  auto next = piece_behind(start);
  while (next != pieces_.end() && next->first < end) {
    const auto [piece_start, piece] = *next;
    const uintptr_t piece_end = piece_start + piece.bytes;
    next = pieces_.erase(next);
    const uintptr_t from = std::max(start, piece_start), to = std::min(end, piece_end);
    const auto offset_of = [&](uintptr_t address) {
      return piece.offset + static_cast<int64_t>(address - piece_start);
    };
    if (piece_start < from) pieces_[piece_start] = {from - piece_start, piece.offset};
    if (to < piece_end) pieces_[to] = {piece_end - to, offset_of(to)};
    free_in_file(offset_of(from), to - from);
  }
}

std::optional<SharedMemory> SharedPages::share(void* address, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto start = reinterpret_cast<uintptr_t>(address);
  const auto found = piece_behind(start);
  if (found != pieces_.end() && found->first <= start &&
      start + bytes <= found->first + found->second.bytes) {
    const auto inside = static_cast<int64_t>(start - found->first);
    return SharedMemory{descriptor_, found->second.offset + inside};
  }
  if (pieces_.size() >= kMaximumPieces) return std::nullopt;
  if (descriptor_ < 0) descriptor_ = memfd_create("accel", MFD_CLOEXEC);
  if (descriptor_ < 0) return std::nullopt;
  const int64_t offset = end_;
  end_ += static_cast<int64_t>(bytes);
  char* const data = static_cast<char*>(address);
  const size_t moved = in_steps(data, bytes, [&](char* part, size_t size) {
    return move_into_file(part, size, offset + (part - data));
  });
  drop(start, moved);  // the places in the file that these pages had before
  if (moved > 0) pieces_[start] = {moved, offset};
  if (moved == bytes) return SharedMemory{descriptor_, offset};
  free_in_file(offset + static_cast<int64_t>(moved), bytes - moved);
  drop(start, move_out(data, moved));
  return std::nullopt;
}

void SharedPages::unshare(void* address, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto start = reinterpret_cast<uintptr_t>(address), end = start + bytes;
  auto piece = piece_behind(start);
  while (piece != pieces_.end() && piece->first < end) {
    const uintptr_t from = std::max(start, piece->first);
    const uintptr_t to = std::min(end, piece->first + piece->second.bytes);
    ++piece;
    drop(from, move_out(reinterpret_cast<char*>(from), to - from));
  }
}

void SharedPages::forget(void* address, size_t bytes) {
  const std::lock_guard lock(mutex_);
  drop(reinterpret_cast<uintptr_t>(address), bytes);
}

size_t SharedPages::shared_bytes() {
  const std::lock_guard lock(mutex_);
  size_t bytes = 0;
  for (const auto& [start, piece] : pieces_) bytes += piece.bytes;
  return bytes;
}

}  // namespace accel::runtime
