// Values in chunks on the team, see search.h.
#include "kernels/search/search.h"

#include <algorithm>
#include <vector>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/search/rows.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, search_row, (const Search& args, int64_t row, int64_t begin, int64_t end),
               (args, row, begin, end))

namespace {

// About 10 µs of searches.
constexpr int64_t kChunkValues = 1024;
constexpr int64_t kChunkPlaces = 64 * 1024;

bool sorter_in_range(const Search& args, Fault* fault) {
  if (!args.sorter) return true;
  const int64_t count = args.length * (args.shares_sequence ? 1 : args.rows);
  for (int64_t i = 0; i < count; ++i) {
    if (args.sorter[i] >= 0 && args.sorter[i] < args.length) continue;
    fault->report(args.sorter[i], args.length);
    return false;
  }
  return true;
}

template <class Index>
void repeat(const Segments& args, Fault* fault) {
  const auto* lengths = static_cast<const Index*>(args.lengths);
  auto* places = static_cast<Index*>(args.places);
  std::vector<int64_t> ends(static_cast<size_t>(args.count));
  int64_t end = 0;
  for (int64_t i = 0; i < args.count; ++i) {
    if (lengths[i] < 0) return fault->report(lengths[i], args.total + 1);
    end += lengths[i];
    ends[static_cast<size_t>(i)] = end;
  }
  if (end != args.total) return fault->report(end, args.total + 1);
  parallel_for((args.total + kChunkPlaces - 1) / kChunkPlaces, [&](int64_t chunk) {
    int64_t at = chunk * kChunkPlaces;
    const int64_t stop = std::min(args.total, at + kChunkPlaces);
    auto segment = std::upper_bound(ends.begin(), ends.end(), at);
    for (; at < stop; ++segment) {
      const int64_t until = std::min(stop, *segment);
      std::fill(places + at, places + until, static_cast<Index>(segment - ends.begin()));
      at = until;
    }
  });
}

}  // namespace

void search(const Search& args, Fault* fault) {
  if (args.count == 0 || !sorter_in_range(args, fault)) return;
  // Short rows share a chunk, long ones are cut.
  const int64_t piece = std::min(args.count, kChunkValues);
  const int64_t pieces = (args.count + piece - 1) / piece, all = args.rows * pieces;
  const int64_t each = std::max<int64_t>(1, kChunkValues / piece);
  parallel_for((all + each - 1) / each, [&](int64_t chunk) {
    for (int64_t i = chunk * each; i < std::min(all, (chunk + 1) * each); ++i) {
      const int64_t begin = i % pieces * piece;
      search_row(args, i / pieces, begin, std::min(args.count, begin + piece));
    }
  });
}

void repeat_places(const Segments& args, Fault* fault) {
  args.dtype == DType::Int32 ? repeat<int32_t>(args, fault) : repeat<int64_t>(args, fault);
}

}  // namespace accel::kernels
