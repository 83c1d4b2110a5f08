// How indexing ops become Nodes: the space that kernels/indexing/indexing.h walks.
#pragma once

#include "csrc/aten/recording.h"
#include "kernels/indexing/indexing.h"

namespace accel::aten {

using kernels::IncludeSelf;
using kernels::IndexingMode;
using kernels::NegativeIndex;

// `values` is what is read into, or written or reduced from; strides are over `sizes`, in elements,
// and 0 where a Tensor has not the dimension. See kernels::Indexing.
struct IndexingSpace {
  struct Index {
    const Tensor& tensor;
    IntArrayRef strides;
    int64_t bound, target_stride;
  };
  const Tensor& target;
  const Tensor& values;
  IntArrayRef sizes, target_strides, value_strides;
  c10::SmallVector<Index, 2> indices;
};

struct IndexingRules {
  IndexingMode mode = IndexingMode::Read;
  NegativeIndex negative = NegativeIndex::Fault;
  IncludeSelf include_self = IncludeSelf::Yes;
  int64_t skipped = kernels::Indexing::kNothing;
};

// Whether values of this dtype can be reduced: vector programs' dtypes, and sums of complex ones.
bool can_reduce(ScalarType type, IndexingMode mode);

void record_indexing(Opcode opcode, const IndexingSpace& space, const IndexingRules& rules);

// Each index names a row of the table; `values` has the row's elements as its last dimension.
void record_indexed_rows(Opcode opcode, const Tensor& table, const Tensor& indices,
                         const Tensor& values, const IndexingRules& rules);

}  // namespace accel::aten
