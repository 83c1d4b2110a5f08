// The walk behind all indexing. What may be split is cut into boxes of the space for the team; in a
// box, indices are resolved to places a block at a time, and a loop of runs.simd.cpp moves or
// reduces the rows there. Where that would leave the team without work, and for results that are
// rounded once for several values, points are sorted by place instead.
#include "kernels/indexing/indexing.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <numeric>
#include <optional>
#include <utility>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/indexing/runs.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, set_places, (int64_t * places, int64_t count, int64_t first, int64_t step),
               (places, count, first, step))
ACCEL_DISPATCH(int64_t, add_places,
               (const IndexRun& run, int64_t* places, bool* has_bad, int64_t* bad),
               (run, places, has_bad, bad))
ACCEL_DISPATCH(void, read_run, (const Run& run, int64_t element_size), (run, element_size))
ACCEL_DISPATCH(void, write_run, (const Run& run, int64_t element_size), (run, element_size))
ACCEL_DISPATCH(void, reduce_run, (const Run& run, DType dtype, IndexingMode mode),
               (run, dtype, mode))
ACCEL_DISPATCH(void, reduce_groups,
               (const GroupedRows& rows, DType dtype, IndexingMode mode, IncludeSelf include),
               (rows, dtype, mode, include))
ACCEL_DISPATCH(void, reduce_dense,
               (const DenseList& list, DType dtype, IndexingMode mode, IncludeSelf include),
               (list, dtype, mode, include))
ACCEL_DISPATCH(void, write_groups, (const GroupedRows& rows, int64_t element_size),
               (rows, element_size))

namespace {

using Dims = std::vector<int64_t>;

// Memory that a chunk of work writes: about 10 µs.
constexpr int64_t kChunkBytes = 128 * 1024;
// Places resolved at a time: they stay in the first level cache.
constexpr int64_t kBlock = 1024;

int64_t product(const Dims& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

int64_t chunks_of(int64_t count, int64_t each) { return (count + each - 1) / each; }

struct Addresses {
  char* target;
  char* other;
  const void* const* indices;
};

// A part of the space: offsets of its first point, in elements.
struct Box {
  Dims sizes;
  int64_t target = 0, other = 0;
  Dims indices;

  explicit Box(const Indexing& args) : sizes(args.sizes), indices(args.indices.size(), 0) {}

  // Keeps [begin, begin + size) of a dimension.
  void narrow(const Indexing& args, size_t dim, int64_t begin, int64_t size) {
    move(args, dim, begin);
    sizes[dim] = size;
  }
  void move(const Indexing& args, size_t dim, int64_t steps) {
    target += steps * args.target_strides[dim];
    other += steps * args.other_strides[dim];
    for (size_t k = 0; k < indices.size(); ++k) {
      indices[k] += steps * args.indices[k].strides[dim];
    }
  }
};

bool is_indexed(const Indexing& args, size_t dim) {
  return std::any_of(args.indices.begin(), args.indices.end(),
                     [&](const auto& index) { return index.strides[dim] != 0; });
}

// Calls body for every point of the dimensions in [0, dims) of a Box, in row-major order; the Box
// stands at that point meanwhile, whole in the other dimensions.
template <class Body>
void for_each_point(const Indexing& args, Box& box, size_t dims, const Body& body) {
  if (std::find(box.sizes.begin(), box.sizes.end(), 0) != box.sizes.end()) return;
  Dims at(dims, 0);
  for (;;) {
    body();
    size_t dim = dims;
    for (;;) {
      if (dim-- == 0) return;
      if (++at[dim] < box.sizes[dim]) {
        box.move(args, dim, 1);
        break;
      }
      box.move(args, dim, 1 - box.sizes[dim]);
      at[dim] = 0;
    }
  }
}

// Calls body(run) for the points of a Box in row-major order: blocks along a dimension, of rows
// where the innermost dimension is walked without an index. The offsets of run.places are from
// run.target; body may move the points' other side, which is left as it lies in `other`.
template <class Body>
void for_each_run(const Indexing& args, Box box, const Addresses& data, Fault* fault,
                  const Body& body) {
  const int64_t element = size_of(args.dtype);
  const size_t dims = box.sizes.size();
  const bool has_rows = dims > 0 && !is_indexed(args, dims - 1) && args.target_strides[dims - 1];
  Run run;
  if (has_rows) {
    run.width = box.sizes[dims - 1];
    run.target_row_stride = args.target_strides[dims - 1];
    run.other_row_stride = args.other_strides[dims - 1];
  }
  const size_t inner = dims - has_rows;  // of which the last is the run's
  const size_t outer = inner > 0 ? inner - 1 : 0;
  const int64_t count = inner > 0 ? box.sizes[outer] : 1;
  const int64_t target_stride = inner > 0 ? args.target_strides[outer] : 0;
  run.other_stride = inner > 0 ? args.other_strides[outer] : 0;
  int64_t places[kBlock];
  run.places = places;
  auto resolve = [&](int64_t begin) {
    set_places(places, run.count, begin * target_stride, target_stride);
    bool has_bad = false;
    int64_t bad = 0;
    for (size_t k = 0; k < args.indices.size(); ++k) {
      const Indexing::Index& index = args.indices[k];
      IndexRun indices;
      indices.count = run.count;
      indices.stride = inner > 0 ? index.strides[outer] : 0;
      indices.indices = static_cast<const char*>(data.indices[k]) +
                        (box.indices[k] + begin * indices.stride) * size_of(index.dtype);
      indices.dtype = index.dtype;
      indices.bound = index.bound;
      indices.target_stride = index.target_stride;
      indices.negative = args.negative;
      indices.skipped = args.skipped;
      const int64_t nowhere = add_places(indices, places, &has_bad, &bad);
      if (has_bad) fault->report(bad, index.bound);
      run.has_nowhere = nowhere > 0;
    }
  };
  std::optional<Dims> resolved;  // the offsets of the indices whose places are at hand
  for_each_point(args, box, outer, [&] {
    run.target = data.target + box.target * element;
    for (int64_t begin = 0; begin < count; begin += kBlock) {
      run.count = std::min(kBlock, count - begin);
      if (count > kBlock || resolved != box.indices) resolve(begin);
      run.other = data.other + (box.other + begin * run.other_stride) * element;
      body(run);
    }
    resolved = box.indices;
  });
}

// --- one point after the other -------------------------------------------------------------------

// How a space is cut into Boxes.
struct Grid {
  Dims pieces;  // the size of a piece in each dimension
  int64_t chunks = 1;
};

// Dimensions are cut from the outermost, if `may_cut` allows, until a Box writes no more than
// kChunkBytes. The innermost one is left in pieces that the cache's lines and vectors are used for.
template <class MayCut>
Grid cut(const Indexing& args, const MayCut& may_cut) {
  constexpr int64_t kLeastInner = 64;
  Grid grid{args.sizes, 1};
  int64_t bytes = product(args.sizes) * size_of(args.dtype);
  for (size_t dim = 0; dim < args.sizes.size() && bytes > kChunkBytes; ++dim) {
    if (!may_cut(dim)) continue;
    const int64_t slice = std::max<int64_t>(1, bytes / args.sizes[dim]);
    const int64_t least = dim + 1 == args.sizes.size() ? kLeastInner : 1;
    grid.pieces[dim] = std::min(args.sizes[dim], std::max(least, kChunkBytes / slice));
    grid.chunks *= chunks_of(args.sizes[dim], grid.pieces[dim]);
    bytes = slice * grid.pieces[dim];
  }
  return grid;
}

void walk(const Indexing& args, const Grid& grid, const Addresses& data, Fault* fault) {
  const int64_t element = size_of(args.dtype);
  parallel_for(grid.chunks, [&](int64_t chunk) {
    Box box(args);
    for (size_t dim = args.sizes.size(); dim-- > 0;) {
      const int64_t size = args.sizes[dim], piece = grid.pieces[dim];
      const int64_t pieces = chunks_of(size, piece);
      const int64_t begin = chunk % pieces * piece;
      chunk /= pieces;
      box.narrow(args, dim, begin, std::min(piece, size - begin));
    }
    for_each_run(args, std::move(box), data, fault, [&](const Run& run) {
      switch (args.mode) {
        case IndexingMode::Read:
          return read_run(run, element);
        case IndexingMode::Write:
          return write_run(run, element);
        default:
          return reduce_run(run, args.dtype, args.mode);
      }
    });
  });
}

// --- together by place ---------------------------------------------------------------------------

// Sorts by the bits from `low_bit` on. Least significant digits first: stable, and its time depends
// on how many bits there are, not on their values.
uint64_t* radix_sort(uint64_t* entries, uint64_t* spare, int64_t count, int low_bit, int bits) {
  constexpr int kMostBits = 11;
  int64_t counts[1 << kMostBits];
  const int passes = (bits + kMostBits - 1) / kMostBits;
  for (int pass = 0; pass < passes; ++pass) {
    const int digit_bits = (bits + passes - 1) / passes;
    const int shift = low_bit + pass * digit_bits;
    const uint64_t mask = (uint64_t{1} << digit_bits) - 1;
    std::fill(counts, counts + mask + 1, 0);
    for (int64_t i = 0; i < count; ++i) ++counts[entries[i] >> shift & mask];
    int64_t start = 0;
    for (uint64_t digit = 0; digit <= mask; ++digit) {
      start += std::exchange(counts[digit], start);
    }
    for (int64_t i = 0; i < count; ++i) spare[counts[entries[i] >> shift & mask]++] = entries[i];
    std::swap(entries, spare);
  }
  return entries;
}

// The dimensions of a space by what tells its points apart.
struct Roles {
  Dims batch;    // walked by the target and by an index: each has a list of places of its own
  Dims indexed;  // walked by indices alone
  Dims rows;     // walked without an index: what lies at a place

  explicit Roles(const Indexing& args) {
    for (size_t dim = 0; dim < args.sizes.size(); ++dim) {
      (args.target_strides[dim] == 0 ? indexed
       : is_indexed(args, dim)       ? batch
                                     : rows)
          .push_back(static_cast<int64_t>(dim));
    }
  }

  static int64_t points(const Indexing& args, const Dims& dims) {
    int64_t points = 1;
    for (int64_t dim : dims) points *= args.sizes[static_cast<size_t>(dim)];
    return points;
  }
};

// The dimensions of `args` in the given order.
Indexing select(const Indexing& args, const Dims& dims) {
  Indexing result = args;
  auto pick = [&](const Dims& from, Dims* to) {
    to->clear();
    for (int64_t dim : dims) to->push_back(from[static_cast<size_t>(dim)]);
  };
  pick(args.sizes, &result.sizes);
  pick(args.target_strides, &result.target_strides);
  pick(args.other_strides, &result.other_strides);
  for (size_t k = 0; k < args.indices.size(); ++k) {
    pick(args.indices[k].strides, &result.indices[k].strides);
  }
  return result;
}

// One list of places and the rows there, on the team.
class Grouped {
 public:
  Grouped(const Indexing& args, const Roles& roles)
      : lists_(select(args, roles.indexed)), rows_(select(args, roles.rows)) {
    count_ = product(lists_.sizes);
    int64_t reach = 0;
    for (const Indexing::Index& index : args.indices) {
      unit_ = std::gcd(unit_, index.target_stride);
      reach += std::max<int64_t>(0, index.bound - 1) * index.target_stride;
    }
    unit_ = std::max<int64_t>(1, unit_);
    position_bits_ = std::bit_width(static_cast<uint64_t>(std::max<int64_t>(1, count_ - 1)));
    size_ = reach / unit_ + 1;
    place_bits_ = std::bit_width(static_cast<uint64_t>(size_ - 1));
    // A pass over all places costs about as much as a fourth of sorting as many.
    is_dense_ = rows_.sizes.empty() && args.mode != IndexingMode::Write && size_ <= 4 * count_;
  }

  // The list of places that begins at `data`.
  void run(const Addresses& data, Fault* fault) const {
    auto* memory = static_cast<uint64_t*>(
        scratch(ScratchSlot::B, static_cast<size_t>(3 * count_) * sizeof(uint64_t)));
    uint64_t* entries = memory;
    // Of several dimensions, positions are looked up; of one, they are a multiple.
    const bool looks_up = lists_.sizes.size() > 1;
    auto* offsets = reinterpret_cast<int64_t*>(memory + 2 * count_);
    int64_t position = 0, count = 0;
    bool sorted = true;
    auto* places = reinterpret_cast<int64_t*>(memory);
    const Addresses from_zero{nullptr, data.other, data.indices};
    for_each_run(lists_, Box(lists_), from_zero, fault, [&](const Run& run) {
      const int64_t first = (run.other - data.other) / size_of(lists_.dtype);
      for (int64_t i = 0; i < run.count; ++i, ++position) {
        if (looks_up) offsets[position] = first + i * run.other_stride;
        if (is_dense_) places[position] = run.places[i] < 0 ? kNowhere : unit_of(run.places[i]);
        if (is_dense_ || run.places[i] < 0) continue;
        entries[count] = static_cast<uint64_t>(unit_of(run.places[i])) << position_bits_ |
                         static_cast<uint64_t>(position);
        sorted &= count == 0 || entries[count - 1] < entries[count];
        ++count;
      }
    });
    const int64_t other_stride = lists_.sizes.empty() ? 0 : lists_.other_strides[0];
    if (is_dense_) {
      return reduce_all(data, places, looks_up ? offsets : nullptr, other_stride);
    }
    if (!sorted) {
      entries = radix_sort(entries, memory + count_, count, position_bits_, place_bits_);
    }
    GroupedRows rows;
    rows.entries = entries;
    rows.position_bits = position_bits_;
    rows.unit = unit_;
    rows.other_offsets = looks_up ? offsets : nullptr;
    rows.other_stride = other_stride;
    reduce(rows, count, data);
  }

 private:
  // Divisions are slow.
  int64_t unit_of(int64_t place) const { return unit_ == 1 ? place : place / unit_; }

  void reduce_all(const Addresses& data, const int64_t* places, const int64_t* offsets,
                  int64_t other_stride) const {
    constexpr size_t kMostBytes = 16;
    auto* results = static_cast<char*>(
        scratch(ScratchSlot::C, static_cast<size_t>(size_) * (kMostBytes + sizeof(int32_t))));
    DenseList list;
    list.count = count_;
    list.size = size_;
    list.unit = unit_;
    list.places = places;
    list.target = data.target;
    list.other = data.other;
    list.other_offsets = offsets;
    list.other_stride = other_stride;
    list.results = results;
    list.counts = reinterpret_cast<int32_t*>(results + static_cast<size_t>(size_) * kMostBytes);
    reduce_dense(list, lists_.dtype, lists_.mode, lists_.include_self);
  }

  // Every chunk takes the groups that begin in its part of the entries, and a band of the rows.
  void reduce(GroupedRows rows, int64_t count, const Addresses& data) const {
    const int64_t element = size_of(rows_.dtype);
    const size_t dims = rows_.sizes.size();
    const size_t outer = dims > 0 ? dims - 1 : 0;
    const int64_t width = dims > 0 ? rows_.sizes[outer] : 1;
    if (dims > 0) {
      rows.target_row_stride = rows_.target_strides[outer];
      rows.other_row_stride = rows_.other_strides[outer];
    }
    const int64_t band = std::min(width, kChunkBytes / 8 / element);
    const int64_t bands = chunks_of(width, band);
    const int64_t part = std::max<int64_t>(1, kChunkBytes / (band * element));
    const int64_t parts = chunks_of(count, part);
    Box box(rows_);
    for_each_point(rows_, box, outer, [&] {
      parallel_for(parts * bands, [&](int64_t chunk) {
        GroupedRows mine = rows;
        auto place = [&](int64_t i) { return rows.entries[i] >> position_bits_; };
        auto group_from = [&](int64_t i) {
          while (i > 0 && i < count && place(i) == place(i - 1)) ++i;
          return std::min(i, count);
        };
        mine.begin = group_from(chunk / bands * part);
        mine.end = group_from((chunk / bands + 1) * part);
        const int64_t first = chunk % bands * band;
        mine.width = std::min(band, width - first);
        mine.target = data.target + (box.target + first * rows.target_row_stride) * element;
        mine.other = data.other + (box.other + first * rows.other_row_stride) * element;
        if (rows_.mode == IndexingMode::Write) return write_groups(mine, element);
        reduce_groups(mine, rows_.dtype, rows_.mode, rows_.include_self);
      });
    });
  }

  Indexing lists_, rows_;
  int64_t count_ = 0, size_ = 0, unit_ = 0;
  int position_bits_ = 0, place_bits_ = 0;
  bool is_dense_ = false;
};

void walk_grouped(const Indexing& args, const Roles& roles, const Addresses& data, Fault* fault) {
  const Grouped grouped(args, roles);
  const Indexing batch = select(args, roles.batch);
  const int64_t lists = product(batch.sizes), element = size_of(args.dtype);
  auto run_list = [&](int64_t list) {
    Box box(batch);
    for (size_t dim = batch.sizes.size(); dim-- > 0;) {
      box.move(batch, dim, list % batch.sizes[dim]);
      list /= batch.sizes[dim];
    }
    std::vector<const void*> indices;
    for (size_t k = 0; k < args.indices.size(); ++k) {
      indices.push_back(static_cast<const char*>(data.indices[k]) +
                        box.indices[k] * size_of(args.indices[k].dtype));
    }
    grouped.run(
        {data.target + box.target * element, data.other + box.other * element, indices.data()},
        fault);
  };
  if (lists == 1) return run_list(0);
  const int64_t bytes = std::max<int64_t>(1, product(args.sizes) / std::max<int64_t>(1, lists)) * 8;
  const int64_t per_chunk = std::max<int64_t>(1, kChunkBytes / bytes);
  parallel_for(chunks_of(lists, per_chunk), [&](int64_t chunk) {
    const int64_t end = std::min(lists, (chunk + 1) * per_chunk);
    for (int64_t list = chunk * per_chunk; list < end; ++list) run_list(list);
  });
}

// Whether values of one place must meet in a register: one rounding, a count, or a place's own
// value left out.
bool needs_groups(const Indexing& args) {
  return args.mode >= IndexingMode::Sum &&
         (is_reduced_floating(args.dtype) || args.mode == IndexingMode::Mean ||
          args.include_self == IncludeSelf::No);
}

}  // namespace

Indexing simplify(const Indexing& indexing) {
  Dims kept;
  for (size_t dim = 0; dim < indexing.sizes.size(); ++dim) {
    if (indexing.sizes[dim] != 1) kept.push_back(static_cast<int64_t>(dim));
  }
  const Indexing all = select(indexing, kept);
  Indexing joined = select(indexing, {});
  auto lists = [](auto& args) {
    std::vector<decltype(&args.sizes)> result{&args.target_strides, &args.other_strides};
    for (auto& index : args.indices) result.push_back(&index.strides);
    return result;
  };
  const auto from = lists(all);
  const auto to = lists(joined);
  for (size_t dim = 0; dim < all.sizes.size(); ++dim) {
    bool joins = dim > 0;
    for (size_t i = 0; joins && i < from.size(); ++i) {
      joins = to[i]->back() == (*from[i])[dim] * all.sizes[dim];
    }
    if (joins) {
      joined.sizes.back() *= all.sizes[dim];
    } else {
      joined.sizes.push_back(all.sizes[dim]);
    }
    for (size_t i = 0; i < from.size(); ++i) {
      if (joins) {
        to[i]->back() = (*from[i])[dim];
      } else {
        to[i]->push_back((*from[i])[dim]);
      }
    }
  }
  return joined;
}

void indexing(const Indexing& args, void* target, void* other, const void* const* index_data,
              Fault* fault) {
  const int64_t points = product(args.sizes);
  if (points == 0) return;
  const Addresses data{static_cast<char*>(target), static_cast<char*>(other), index_data};
  if (args.mode == IndexingMode::Read) {
    return walk(args, cut(args, [](size_t) { return true; }), data, fault);
  }
  const Roles roles(args);
  if (needs_groups(args)) return walk_grouped(args, roles, data, fault);
  // Points that may meet in one place are in one Box.
  const Grid grid = cut(args, [&](size_t dim) { return args.target_strides[dim] != 0; });
  const int64_t bytes = points * size_of(args.dtype);
  // Sorting costs several times what a short row does.
  constexpr int64_t kEnoughChunks = 16, kShortRow = 64;
  const bool is_cut = grid.chunks >= std::min(kEnoughChunks, chunks_of(bytes, kChunkBytes));
  const bool has_rows = Roles::points(args, roles.rows) * size_of(args.dtype) >= kShortRow;
  if (is_cut || !has_rows) return walk(args, grid, data, fault);
  walk_grouped(args, roles, data, fault);
}

}  // namespace accel::kernels
