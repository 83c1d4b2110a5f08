// Elements and rows addressed by integer index: read, written, or reduced into. One walk over a
// space of logical indices serves gather, index_select, advanced indexing, embeddings, scatter and
// their gradients.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/common/dtype.h"
#include "kernels/common/fault.h"

namespace accel::kernels {

// What happens at each point of the space. Write: of several values for one place, the last in
// row-major order stays.
enum class IndexingMode : uint8_t { Read, Write, Sum, Product, Mean, Maximum, Minimum };

// What an index below zero means: counted from the end, or out of range.
enum class NegativeIndex : uint8_t { Wraps, Fault };

// Whether a reduction begins with the value that is there. Places that no index names always keep
// theirs.
enum class IncludeSelf : uint8_t { Yes, No };

// At each point p of `sizes`, with i_k = indices[k] at p, the address in the target is
//   sum_d p_d target_strides[d] + sum_k i_k indices[k].target_stride;
// `other` is what is read into, or written or reduced from. Strides in elements of what they walk.
// A dimension whose target stride is 0 is walked by indices alone: only along these can two points
// meet in one place. Reductions add in their row-major order, in fp32 for the 16-bit floating
// types, and round once: their bits depend on nothing else.
struct Indexing {
  struct Index {
    DType dtype = DType::Int64;  // Int32 or Int64
    int64_t bound = 0;           // valid indices are below it
    int64_t target_stride = 0;
    std::vector<int64_t> strides;
  };

  // An index that names no place, as the padding of an embedding; none is equal to kNothing.
  static constexpr int64_t kNothing = INT64_MIN;

  IndexingMode mode = IndexingMode::Read;
  DType dtype = DType::Float32;  // of target and other; Read and Write: any of the same size
  NegativeIndex negative = NegativeIndex::Wraps;
  IncludeSelf include_self = IncludeSelf::Yes;
  int64_t skipped = kNothing;
  std::vector<int64_t> sizes, target_strides, other_strides;
  std::vector<Index> indices;
};

// Without dimensions of size 1, neighbours joined where one stride walks both: what indexing()
// takes.
Indexing simplify(const Indexing& indexing);

// target and other overlap nowhere. An index out of range is a fault; nothing is read or written
// for it. index_data: one address an Index.
void indexing(const Indexing& args, void* target, void* other, const void* const* index_data,
              Fault* fault);

}  // namespace accel::kernels
