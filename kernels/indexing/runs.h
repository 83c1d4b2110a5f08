// The loops behind indexing.cpp, compiled per instruction set (runs.simd.cpp).
#pragma once

#include <cstdint>

#include "kernels/indexing/indexing.h"

namespace accel::kernels {

// The place of an index that is out of range or skipped.
inline constexpr int64_t kNowhere = -1;

// places[i] = first + i * step.
void set_places(int64_t* places, int64_t count, int64_t first, int64_t step);

// `count` indices on their way to places: offsets into the target, in elements.
struct IndexRun {
  int64_t count = 0;
  const void* indices = nullptr;
  DType dtype = DType::Int64;
  int64_t stride = 1;
  int64_t bound = 0, target_stride = 0;
  NegativeIndex negative = NegativeIndex::Wraps;
  int64_t skipped = Indexing::kNothing;
};
// places[i] += index i's part; kNowhere where it is not in range, or was kNowhere. Returns how many
// became kNowhere here; *bad is one that is out of range, if *has_bad.
int64_t add_places(const IndexRun& run, int64_t* places, bool* has_bad, int64_t* bad);

// Rows of `width` elements at `places`, paired with rows that lie other_stride apart. Strides in
// elements.
struct Run {
  int64_t count = 0;
  const int64_t* places = nullptr;
  bool has_nowhere = false;
  char* target = nullptr;
  char* other = nullptr;
  int64_t other_stride = 0;
  int64_t width = 1, target_row_stride = 1, other_row_stride = 1;
};
void read_run(const Run& run, int64_t element_size);
void write_run(const Run& run, int64_t element_size);
// Reduces into the target, one point after the other; not for Mean nor 16-bit floating types.
void reduce_run(const Run& run, DType dtype, IndexingMode mode);

// Points sorted by place: an entry is (place / unit) << position_bits | position in the walk.
struct GroupedRows {
  const uint64_t* entries = nullptr;
  int64_t begin = 0, end = 0;  // whole groups of entries with one place
  int position_bits = 0;
  int64_t unit = 1;
  char* target = nullptr;
  const char* other = nullptr;
  const int64_t* other_offsets = nullptr;  // by position; null: position * other_stride
  int64_t other_stride = 0;
  int64_t width = 1, target_row_stride = 1, other_row_stride = 1;
};
// Reduces every group in order of position, rounding once.
void reduce_groups(const GroupedRows& rows, DType dtype, IndexingMode mode, IncludeSelf include);
// One list of values for `size` places that lie `unit` apart, all of which have room to meet in:
// faster than sorting where there are not many more places than values. Reduces in order of
// position, rounding once, as reduce_groups() does.
struct DenseList {
  int64_t count = 0, size = 0, unit = 1;
  const int64_t* places = nullptr;  // in units, or kNowhere
  char* target = nullptr;
  const char* other = nullptr;
  const int64_t* other_offsets = nullptr;
  int64_t other_stride = 0;
  void* results = nullptr;    // room for `size` complex doubles
  int32_t* counts = nullptr;  // and for as many counts
};
void reduce_dense(const DenseList& list, DType dtype, IndexingMode mode, IncludeSelf include);
// Writes the last of every group.
void write_groups(const GroupedRows& rows, int64_t element_size);

}  // namespace accel::kernels
