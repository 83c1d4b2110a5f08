// Strided copies: brings the dimensions into the destination's order, joins those that lie end to
// end on both sides, and copies what is left as runs of memory or as tiles with cache lines on both
// sides.
#include "kernels/copy/copy.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/copy/transpose.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, copy_tile, (const CopyTile& tile, int64_t element_size), (tile, element_size))

namespace {

struct Dimension {
  int64_t size, destination, source;  // strides in bytes
};
using Dimensions = std::vector<Dimension>;

// A chunk of work for one thread: about 10 µs of memory traffic.
constexpr int64_t kChunkBytes = 128 * 1024;
// Sides of a tile, in bytes of each side's memory: 64 rows of 256 bytes on either side stay in the
// first level cache (16 KiB read, 16 KiB written).
constexpr int64_t kTileRowBytes = 256;
constexpr int64_t kTileRows = 64;

// Outermost dimension of the destination first; joined where two are one on both sides.
Dimensions simplify(int dims, const int64_t* sizes, const int64_t* destination_strides,
                    const int64_t* source_strides) {
  Dimensions all;
  for (int i = 0; i < dims; ++i) {
    if (sizes[i] != 1) all.push_back({sizes[i], destination_strides[i], source_strides[i]});
  }
  std::stable_sort(all.begin(), all.end(), [](const Dimension& x, const Dimension& y) {
    return std::llabs(x.destination) > std::llabs(y.destination);
  });
  Dimensions joined;
  for (const Dimension& inner : all) {
    if (!joined.empty()) {
      Dimension& outer = joined.back();
      if (outer.destination == inner.destination * inner.size &&
          outer.source == inner.source * inner.size) {
        outer = {outer.size * inner.size, inner.destination, inner.source};
        continue;
      }
    }
    joined.push_back(inner);
  }
  return joined;
}

// Offsets of the outer index `flat`, row-major over `outer`.
struct Offsets {
  int64_t destination = 0, source = 0;
};
Offsets offsets_of(const Dimensions& outer, int64_t flat) {
  Offsets offsets;
  for (size_t i = outer.size(); i-- > 0;) {
    const int64_t index = flat % outer[i].size;
    flat /= outer[i].size;
    offsets.destination += index * outer[i].destination;
    offsets.source += index * outer[i].source;
  }
  return offsets;
}

int64_t count_of(const Dimensions& dimensions) {
  int64_t count = 1;
  for (const Dimension& each : dimensions) count *= each.size;
  return count;
}

// Runs body(unit) for all units on the team, as many in a chunk as move kChunkBytes.
template <class Body>
void for_each_unit(int64_t units, int64_t bytes_per_unit, const Body& body) {
  const int64_t per_chunk =
      std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(1, bytes_per_unit));
  parallel_for((units + per_chunk - 1) / per_chunk, [&](int64_t chunk) {
    const int64_t end = std::min(units, (chunk + 1) * per_chunk);
    for (int64_t unit = chunk * per_chunk; unit < end; ++unit) body(unit);
  });
}

// Rows of `bytes` contiguous on both sides.
void copy_runs(const Dimensions& outer, int64_t bytes, char* destination, const char* source) {
  const int64_t pieces = (bytes + kChunkBytes - 1) / kChunkBytes;
  // A piece of a long row, or a whole short one; the last dimension of `outer` advances most often
  // and is stepped through without recomputing the offsets.
  const Dimension last = outer.empty() ? Dimension{1, 0, 0} : outer.back();
  const Dimensions rest(outer.begin(), outer.empty() ? outer.end() : outer.end() - 1);
  if (pieces > 1) {
    for_each_unit(count_of(outer) * pieces, std::min(bytes, kChunkBytes), [&](int64_t unit) {
      const Offsets at = offsets_of(outer, unit / pieces);
      const int64_t begin = unit % pieces * kChunkBytes;
      std::memcpy(destination + at.destination + begin, source + at.source + begin,
                  static_cast<size_t>(std::min(kChunkBytes, bytes - begin)));
    });
    return;
  }
  const int64_t rows = std::max<int64_t>(1, std::min(last.size, kChunkBytes / bytes));
  const int64_t groups = (last.size + rows - 1) / rows;
  for_each_unit(count_of(rest) * groups, rows * bytes, [&](int64_t unit) {
    const Offsets at = offsets_of(rest, unit / groups);
    const int64_t begin = unit % groups * rows, end = std::min(last.size, begin + rows);
    for (int64_t row = begin; row < end; ++row) {
      std::memcpy(destination + at.destination + row * last.destination,
                  source + at.source + row * last.source, static_cast<size_t>(bytes));
    }
  });
}

// Elements apart on at least one side: tiles over the destination's innermost dimension and, where
// there is a better one, the source's.
void copy_tiles(Dimensions outer, int64_t element_size, char* destination, const char* source) {
  const Dimension a = outer.back();
  outer.pop_back();
  Dimension b{1, 0, 0};
  // Where the source is broadcast or runs along with the destination, rows are as good as tiles.
  size_t best = outer.size();
  for (size_t i = 0; i < outer.size(); ++i) {
    const int64_t stride = std::llabs(outer[i].source);
    const int64_t beaten = std::llabs(best == outer.size() ? a.source : outer[best].source);
    if (stride != 0 && stride < beaten) best = i;
  }
  const bool tiled = best != outer.size();
  if (!tiled && !outer.empty()) best = outer.size() - 1;
  if (best != outer.size()) {
    b = outer[best];
    outer.erase(outer.begin() + static_cast<std::ptrdiff_t>(best));
  }
  const int64_t side = std::max(kTileRows, kTileRowBytes / element_size);
  const int64_t rows_a = tiled ? side : std::max<int64_t>(1, kChunkBytes / element_size);
  const int64_t rows_b =
      tiled ? side : std::max<int64_t>(1, kChunkBytes / (element_size * std::min(a.size, rows_a)));
  const int64_t tiles_a = (a.size + rows_a - 1) / rows_a, tiles_b = (b.size + rows_b - 1) / rows_b;
  const int64_t bytes = std::min(rows_a, a.size) * std::min(rows_b, b.size) * element_size;
  for_each_unit(count_of(outer) * tiles_b * tiles_a, bytes, [&](int64_t unit) {
    const Offsets at = offsets_of(outer, unit / (tiles_a * tiles_b));
    const int64_t first_a = unit % tiles_a * rows_a, first_b = unit / tiles_a % tiles_b * rows_b;
    copy_tile({destination + at.destination + first_a * a.destination + first_b * b.destination,
               source + at.source + first_a * a.source + first_b * b.source,
               std::min(rows_a, a.size - first_a), std::min(rows_b, b.size - first_b),
               a.destination, b.destination, a.source, b.source},
              element_size);
  });
}

}  // namespace

void strided_copy(int dims, const int64_t* sizes, int64_t element_size, void* destination,
                  const int64_t* destination_strides, const void* source,
                  const int64_t* source_strides) {
  for (int i = 0; i < dims; ++i) {
    if (sizes[i] == 0) return;
  }
  char* to = static_cast<char*>(destination);
  const char* from = static_cast<const char*>(source);
  Dimensions dimensions = simplify(dims, sizes, destination_strides, source_strides);
  if (dimensions.empty()) {
    std::memcpy(to, from, static_cast<size_t>(element_size));
    return;
  }
  const Dimension& inner = dimensions.back();
  if (inner.destination == element_size && inner.source == element_size) {
    const int64_t bytes = inner.size * element_size;
    dimensions.pop_back();
    // Short rows whose size is a power of two are elements themselves: no call for each.
    const bool is_element = bytes <= 64 && (bytes & (bytes - 1)) == 0 && !dimensions.empty();
    if (!is_element) return copy_runs(dimensions, bytes, to, from);
    element_size = bytes;
  }
  copy_tiles(std::move(dimensions), element_size, to, from);
}

}  // namespace accel::kernels
