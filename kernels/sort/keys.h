// Elements as unsigned keys in the same order, compiled per instruction set (keys.simd.cpp).
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace accel::kernels {

// Keys are uint32 for dtypes of up to 4 bytes, else uint64. NaN has the greatest one; descending
// keys are the complements.
constexpr bool has_narrow_keys(DType dtype) { return size_of(dtype) <= 4; }
void make_keys(DType dtype, const void* from, void* keys, int64_t count, bool descending);

// Entries: a key and the place it comes from, compared in that order. Narrow ones hold the key
// above the place in one word.
struct WideEntry {
  uint64_t key, place;
  bool operator<(const WideEntry& other) const {
    return key != other.key ? key < other.key : place < other.place;
  }
};

// The entries of all keys[i] < limit, i from `begin` on, in order of i. Stops at `end`, or when the
// entries found may be more than `room`, which is at least kMostLanes.
inline constexpr int64_t kMostLanes = 16;
struct Found {
  int64_t entries;  // how many
  int64_t next;     // the first i that was not looked at
};
Found collect_narrow(const uint32_t* keys, int64_t begin, int64_t end, uint32_t limit, uint64_t* to,
                     int64_t room);
Found collect_wide(const uint64_t* keys, int64_t begin, int64_t end, uint64_t limit, WideEntry* to,
                   int64_t room);

// to[0 ... k) = the least of n different numbers in ascending order, at a cost of n * k: for few of
// few. `numbers` has room for 7 more and is used up.
void take_least(uint64_t* numbers, int64_t n, int64_t k, uint64_t* to);

// to[0 ... n) = n different numbers in ascending order, at a cost of n * n without a branch: for
// few. `numbers` has room for 7 more.
void sort_by_rank(uint64_t* numbers, int64_t n, uint64_t* to);

}  // namespace accel::kernels
