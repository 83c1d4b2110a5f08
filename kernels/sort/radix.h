// Radix sort of entries, least significant digit first: stable, and linear in their number.
// Entries are a key and the place it comes from; places are different, so that the order is total.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/sort/keys.h"

namespace accel::kernels {

template <class Key>
struct EntryOf;

template <>
struct EntryOf<uint32_t> {
  using Type = uint64_t;
  static constexpr int kDigits = 4;
  static Type make(uint32_t key, int64_t place) {
    return static_cast<uint64_t>(key) << 32 | static_cast<uint64_t>(place);
  }
  static uint32_t key(Type entry) { return static_cast<uint32_t>(entry >> 32); }
  static int64_t place(Type entry) { return static_cast<int64_t>(entry & 0xffffffffu); }
};

template <>
struct EntryOf<uint64_t> {
  using Type = WideEntry;
  static constexpr int kDigits = 8;
  static Type make(uint64_t key, int64_t place) { return {key, static_cast<uint64_t>(place)}; }
  static uint64_t key(const Type& entry) { return entry.key; }
  static int64_t place(const Type& entry) { return static_cast<int64_t>(entry.place); }
};

// Sorts n entries that are in order of their places. Returns where they are then: in `entries`, or
// in `other`, which has room for as many.
template <class Key>
class RadixSort {
 public:
  using Entry = typename EntryOf<Key>::Type;

  static Entry* run(Entry* entries, Entry* other, int64_t n) {
    if (n <= kFew) {
      std::sort(entries, entries + n);
      return entries;
    }
    return n <= kChunk ? in_one_chunk(entries, other, n) : in_chunks(entries, other, n);
  }

 private:
  static constexpr int kDigits = EntryOf<Key>::kDigits, kBuckets = 256;
  // Below, counting buckets costs more than comparing.
  static constexpr int64_t kFew = 64;
  // What a thread counts and moves at a time.
  static constexpr int64_t kChunk = 64 * 1024;

  static int digit(const Entry& entry, int number) {
    return static_cast<int>(EntryOf<Key>::key(entry) >> 8 * number & 255);
  }

  static Entry* in_one_chunk(Entry* entries, Entry* other, int64_t n) {
    uint32_t counts[kDigits][kBuckets] = {};
    for (int64_t i = 0; i < n; ++i) {
      for (int number = 0; number < kDigits; ++number) ++counts[number][digit(entries[i], number)];
    }
    for (int number = 0; number < kDigits; ++number) {
      if (counts[number][digit(entries[0], number)] == n) continue;  // the digit of all
      uint32_t next = 0;
      for (uint32_t& count : counts[number]) next += std::exchange(count, next);
      for (int64_t i = 0; i < n; ++i)
        other[counts[number][digit(entries[i], number)]++] = entries[i];
      std::swap(entries, other);
    }
    return entries;
  }

  static Entry* in_chunks(Entry* entries, Entry* other, int64_t n) {
    const int64_t chunks = (n + kChunk - 1) / kChunk;
    struct Counts {
      uint32_t buckets[kBuckets];
    };
    std::vector<Counts> counts(static_cast<size_t>(chunks));
    for (int number = 0; number < kDigits; ++number) {
      parallel_for(chunks, [&](int64_t chunk) {
        Counts& mine = counts[static_cast<size_t>(chunk)];
        mine = {};
        const int64_t end = std::min(n, (chunk + 1) * kChunk);
        for (int64_t i = chunk * kChunk; i < end; ++i) ++mine.buckets[digit(entries[i], number)];
      });
      // Where each chunk's share of each bucket begins.
      uint32_t next = 0;
      bool one_digit = false;
      for (int bucket = 0; bucket < kBuckets; ++bucket) {
        const uint32_t first = next;
        for (Counts& each : counts) next += std::exchange(each.buckets[bucket], next);
        one_digit |= next - first == n;
      }
      if (one_digit) continue;
      parallel_for(chunks, [&](int64_t chunk) {
        Counts mine = counts[static_cast<size_t>(chunk)];
        const int64_t end = std::min(n, (chunk + 1) * kChunk);
        for (int64_t i = chunk * kChunk; i < end; ++i) {
          other[mine.buckets[digit(entries[i], number)]++] = entries[i];
        }
      });
      std::swap(entries, other);
    }
    return entries;
  }
};

}  // namespace accel::kernels
