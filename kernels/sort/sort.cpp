// Sorts and selections: every line becomes a line of entries (key, place), which are compared as
// unsigned numbers; values are fetched from their places in the end.
#include "kernels/sort/sort.h"

#include <algorithm>
#include <cstring>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/copy/transpose.h"
#include "kernels/sort/keys.h"
#include "kernels/sort/radix.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, make_keys,
               (DType dtype, const void* from, void* keys, int64_t count, bool descending),
               (dtype, from, keys, count, descending))
ACCEL_DISPATCH(Found, collect_narrow,
               (const uint32_t* keys, int64_t begin, int64_t end, uint32_t limit, uint64_t* to,
                int64_t room),
               (keys, begin, end, limit, to, room))
ACCEL_DISPATCH(Found, collect_wide,
               (const uint64_t* keys, int64_t begin, int64_t end, uint64_t limit, WideEntry* to,
                int64_t room),
               (keys, begin, end, limit, to, room))
ACCEL_DISPATCH(void, sort_by_rank, (uint64_t * numbers, int64_t n, uint64_t* to), (numbers, n, to))
ACCEL_DISPATCH(void, take_least, (uint64_t * numbers, int64_t n, int64_t k, uint64_t* to),
               (numbers, n, k, to))

namespace {

// Elements of the lines that a thread takes at a time.
constexpr int64_t kChunkElements = 8 * 1024;
// From here on one line is work for the team.
constexpr int64_t kLongLine = 128 * 1024;
// Lines that share memory's cache lines are fetched and written together: as many, and no more
// elements than stay in the second-level cache.
constexpr int64_t kGroupLines = 16;
constexpr int64_t kGroupElements = 64 * 1024;

enum Side { kIn, kValues, kIndices };

// Calls body(line, values, indices) for every line, contiguous, with room for `count` results.
// together: one line after the other, each on the whole team.
template <class Arguments, class Body>
void for_each_line(const Arguments& args, int64_t count, bool together, const Body& body) {
  const int64_t size = size_of(args.in.dtype);
  LineDimensions dimensions(args.sizes.size());
  for (size_t i = 0; i < args.sizes.size(); ++i) {
    dimensions[i] = {args.sizes[i], {args.in.strides[i], args.values.strides[i], 0, 0}};
    if (args.indices.data) dimensions[i].strides[kIndices] = args.indices.strides[i];
  }
  dimensions = joined(dimensions);
  const bool direct = args.in.stride == size;
  const bool direct_results =
      count == 1 || (args.values.stride == size && args.indices.stride == 8);
  // The dimension along which lines are next to each other.
  LineDimension lines;
  if (!dimensions.empty()) {
    const auto nearest = std::min_element(
        dimensions.begin(), dimensions.end(), [](const LineDimension& x, const LineDimension& y) {
          return std::abs(x.strides[kIn]) < std::abs(y.strides[kIn]);
        });
    lines = *nearest;
    dimensions.erase(nearest);
  }
  const int64_t width = direct && direct_results
                            ? 1
                            : std::clamp<int64_t>(kGroupElements / args.length, 1, kGroupLines);
  const int64_t groups = (lines.size + width - 1) / width;
  auto run_group = [&](int64_t unit) {
    const int64_t first = unit % groups * width, here = std::min(width, lines.size - first);
    int64_t offsets[LineDimension::kSides] = {};
    for (int side = 0; side < LineDimension::kSides; ++side) {
      offsets[side] = first * lines.strides[side];
    }
    add_offsets(dimensions, unit / groups, offsets);
    // Copies of the lines, then their results.
    const int64_t copied = direct ? 0 : here * args.length * size;
    const int64_t values_at = (copied + 63) / 64 * 64;
    const int64_t indices_at = values_at + (here * count * size + 63) / 64 * 64;
    char* const memory = static_cast<char*>(
        scratch(ScratchSlot::C, static_cast<size_t>(indices_at + here * count * 8)));
    const char* in = static_cast<const char*>(args.in.data) + offsets[kIn];
    int64_t in_step = lines.strides[kIn];
    if (!direct) {
      copy_tile({memory, in, args.length, here, size, args.length * size, args.in.stride, in_step},
                size);
      in = memory;
      in_step = args.length * size;
    }
    char* const values = static_cast<char*>(args.values.data) + offsets[kValues];
    char* const indices =
        args.indices.data ? static_cast<char*>(args.indices.data) + offsets[kIndices] : nullptr;
    for (int64_t line = 0; line < here; ++line) {
      const char* from = in + line * in_step;
      if (direct_results) {
        body(from, values + line * lines.strides[kValues],
             indices ? reinterpret_cast<int64_t*>(indices + line * lines.strides[kIndices])
                     : nullptr);
      } else {
        body(from, memory + values_at + line * count * size,
             reinterpret_cast<int64_t*>(memory + indices_at) + line * count);
      }
    }
    if (direct_results) return;
    copy_tile({values, memory + values_at, here, count, lines.strides[kValues], args.values.stride,
               count * size, size},
              size);
    copy_tile({indices, memory + indices_at, here, count, lines.strides[kIndices],
               args.indices.stride, count * 8, 8},
              8);
  };
  const int64_t units = count_of(dimensions) * groups;
  if (together) {
    for (int64_t unit = 0; unit < units; ++unit) run_group(unit);
    return trim_scratch();
  }
  const int64_t per_chunk = std::max<int64_t>(1, kChunkElements / (args.length * width));
  parallel_for((units + per_chunk - 1) / per_chunk, [&](int64_t chunk) {
    const int64_t end = std::min(units, (chunk + 1) * per_chunk);
    for (int64_t unit = chunk * per_chunk; unit < end; ++unit) run_group(unit);
    trim_scratch();
  });
}

// body(begin, end) for pieces of a line, on the team.
template <class Body>
void for_each_piece(int64_t length, const Body& body) {
  constexpr int64_t kPiece = 16 * 1024;
  parallel_for((length + kPiece - 1) / kPiece, [&](int64_t piece) {
    body(piece * kPiece, std::min(length, (piece + 1) * kPiece));
  });
}

template <class Key>
Key* key_memory(int64_t count) {
  return static_cast<Key*>(scratch(ScratchSlot::D, static_cast<size_t>(count) * sizeof(Key)));
}
template <class Key>
typename EntryOf<Key>::Type* entry_memory(ScratchSlot slot, int64_t count) {
  using Entry = typename EntryOf<Key>::Type;
  return static_cast<Entry*>(scratch(slot, static_cast<size_t>(count) * sizeof(Entry)));
}

Found collect(const uint32_t* keys, int64_t begin, int64_t end, uint32_t limit, uint64_t* to,
              int64_t room) {
  return collect_narrow(keys, begin, end, limit, to, room);
}
Found collect(const uint64_t* keys, int64_t begin, int64_t end, uint64_t limit, WideEntry* to,
              int64_t room) {
  return collect_wide(keys, begin, end, limit, to, room);
}

// What costs length * length, but on vectors and without a branch.
constexpr int64_t kFew = 96;

// A line's keys, on the team.
template <class Key>
Key* line_keys(DType dtype, const char* line, int64_t length, bool descending) {
  Key* const keys = key_memory<Key>(length);
  for_each_piece(length, [&](int64_t begin, int64_t end) {
    make_keys(dtype, line + begin * size_of(dtype), keys + begin, end - begin, descending);
  });
  return keys;
}

// Wide keys that lie within 32 bits of each other become narrow ones, in their own memory.
bool narrow_keys(uint64_t* keys, int64_t length) {
  const auto [least, greatest] = std::minmax_element(keys, keys + length);
  const uint64_t first = *least;
  if (*greatest - first > UINT32_MAX) return false;
  auto* const bytes = reinterpret_cast<char*>(keys);
  for (int64_t i = 0; i < length; ++i) {
    const auto key = static_cast<uint32_t>(keys[i] - first);
    std::memcpy(bytes + i * 4, &key, 4);
  }
  return true;
}

// A line's entries, on the team; room for 7 more.
template <class Key>
typename EntryOf<Key>::Type* make_entries(const Key* keys, int64_t length) {
  auto* const entries = entry_memory<Key>(ScratchSlot::A, length + 7);
  for_each_piece(length, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) entries[i] = EntryOf<Key>::make(keys[i], i);
  });
  return entries;
}

// The k least entries of a line in order. Whatever is not below the k-th so far is passed by: of a
// line in random order that is nearly all.
template <class Key>
typename EntryOf<Key>::Type* filter_least(const Key* keys, int64_t length, int64_t k) {
  using Entry = typename EntryOf<Key>::Type;
  const int64_t capacity = k + std::max<int64_t>(k, 128);
  Entry* const entries = entry_memory<Key>(ScratchSlot::A, capacity + 7);
  int64_t filled = std::min(length, capacity);
  for (int64_t i = 0; i < filled; ++i) entries[i] = EntryOf<Key>::make(keys[i], i);
  auto keep_least = [&] {
    if (filled > k) std::nth_element(entries, entries + k - 1, entries + filled);
    filled = k;
  };
  keep_least();
  for (int64_t i = std::min(length, capacity); i < length;) {
    const Found found = collect(keys, i, length, EntryOf<Key>::key(entries[k - 1]),
                                entries + filled, capacity - filled);
    i = found.next;
    filled += found.entries;
    keep_least();
  }
  if constexpr (sizeof(Key) == 4) {
    if (k <= kFew) {
      uint64_t* const sorted = entry_memory<Key>(ScratchSlot::B, k);
      sort_by_rank(entries, k, sorted);
      return sorted;
    }
  }
  std::sort(entries, entries + k);
  return entries;
}

// The first k entries of a line in order.
template <class Key>
typename EntryOf<Key>::Type* first_entries(const Key* keys, int64_t length, int64_t k) {
  constexpr int64_t kFewProducts = 4096;  // as kFew, of length * k
  if constexpr (sizeof(Key) == 4) {
    const bool by_rank = k == length && length <= kFew;
    if (by_rank || (k < length && length * k <= kFewProducts)) {
      uint64_t* const entries = make_entries(keys, length);
      uint64_t* const first = entry_memory<Key>(ScratchSlot::B, k);
      by_rank ? sort_by_rank(entries, length, first) : take_least(entries, length, k, first);
      return first;
    }
  }
  if (k * 4 <= length) return filter_least(keys, length, k);
  auto* const entries = make_entries(keys, length);
  return RadixSort<Key>::run(entries, entry_memory<Key>(ScratchSlot::B, length), length);
}

template <class Key, class Element>
void fetch(const typename EntryOf<Key>::Type* entries, int64_t count, const char* line,
           char* values, int64_t* indices) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t place = EntryOf<Key>::place(entries[i]);
    reinterpret_cast<Element*>(values)[i] = reinterpret_cast<const Element*>(line)[place];
    indices[i] = place;
  }
}

template <class Key, class Element>
void sort_lines(const Sort& args) {
  const bool together = args.length >= kLongLine && args.count == args.length;
  const bool descending = args.order == SortOrder::Descending;
  for_each_line(args, args.count, together, [&](const char* line, char* values, int64_t* indices) {
    Key* const keys = line_keys<Key>(args.in.dtype, line, args.length, descending);
    if (args.in.dtype == DType::Int64 &&
        narrow_keys(reinterpret_cast<uint64_t*>(keys), args.length)) {
      const auto* narrow = reinterpret_cast<const uint32_t*>(keys);
      const auto* entries = first_entries(narrow, args.length, args.count);
      return fetch<uint32_t, Element>(entries, args.count, line, values, indices);
    }
    const auto* entries = first_entries(keys, args.length, args.count);
    fetch<Key, Element>(entries, args.count, line, values, indices);
  });
}

// The place of number k in ascending order of (key, place). Of many keys only those that share
// their first digits with it are compared.
template <class Key>
int64_t place_of_rank(const Key* keys, int64_t length, int64_t k) {
  using Entry = typename EntryOf<Key>::Type;
  constexpr int64_t kMany = 1024;
  constexpr int kShift = static_cast<int>(sizeof(Key)) * 8 - 11;
  Entry* const entries = entry_memory<Key>(ScratchSlot::A, length);
  int64_t count = length;
  if (length < kMany) {
    for (int64_t i = 0; i < length; ++i) entries[i] = EntryOf<Key>::make(keys[i], i);
  } else {
    uint32_t counts[1 << 11] = {};
    for (int64_t i = 0; i < length; ++i) ++counts[keys[i] >> kShift];
    Key bucket = 0;
    for (; k >= counts[bucket]; ++bucket) k -= counts[bucket];
    count = 0;
    for (int64_t i = 0; i < length; ++i) {
      if (keys[i] >> kShift == bucket) entries[count++] = EntryOf<Key>::make(keys[i], i);
    }
  }
  std::nth_element(entries, entries + k, entries + count);
  return EntryOf<Key>::place(entries[k]);
}

template <class Key>
int64_t place_of_rank(const Select& args, const char* line) {
  Key* const keys = key_memory<Key>(args.length);
  make_keys(args.in.dtype, line, keys, args.length, /*descending=*/false);
  int64_t k = args.k;
  if (args.rank != Rank::Kth) {
    int64_t numbers = args.length;
    if (is_floating(args.in.dtype)) {
      constexpr Key kNan = ~Key{0};
      numbers -= std::count(keys, keys + args.length, kNan);
      if (numbers < args.length && (numbers == 0 || args.rank == Rank::Median)) {
        return std::find(keys, keys + args.length, kNan) - keys;
      }
    }
    k = (numbers - 1) / 2;
  }
  return place_of_rank(keys, args.length, k);
}

}  // namespace

void sort(const Sort& args) {
  switch (size_of(args.in.dtype)) {
    case 1:
      return sort_lines<uint32_t, uint8_t>(args);
    case 2:
      return sort_lines<uint32_t, uint16_t>(args);
    case 4:
      return sort_lines<uint32_t, uint32_t>(args);
    default:
      return sort_lines<uint64_t, uint64_t>(args);
  }
}

void select(const Select& args) {
  const size_t size = static_cast<size_t>(size_of(args.in.dtype));
  const bool narrow = has_narrow_keys(args.in.dtype);
  for_each_line(args, 1, false, [&](const char* line, char* value, int64_t* index) {
    const int64_t place =
        narrow ? place_of_rank<uint32_t>(args, line) : place_of_rank<uint64_t>(args, line);
    std::memcpy(value, line + place * static_cast<int64_t>(size), size);
    if (index) *index = place;
  });
}

}  // namespace accel::kernels
