// Several arrays into one, element by element: the arithmetic of a reduction between ranks.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace accel::kernels {

// Integers wrap; minima and maxima of floating numbers are NaN where one of them is. The unsigned
// forms are for 16, 32 and 64 bits, whose dtypes are signed here; UInt8 and Bool need no others.
enum class CombineOp : uint8_t {
  Sum,
  Product,
  Minimum,
  Maximum,
  UnsignedMinimum,
  UnsignedMaximum,
  And,
  Or,
  Xor,
};

// Whether combine() computes the op in the dtype. Bits are combined in integers and bools alone;
// of bools, a sum is an or and a product an and.
bool can_combine(CombineOp op, DType dtype);

struct Combination {
  CombineOp op = CombineOp::Sum;
  DType dtype = DType::Float32;
  // Floating dtypes: one for each source, by which its elements are multiplied first; or null.
  const double* factors = nullptr;
  // By which the result is divided in the end; integers truncate.
  int64_t divisor = 1;
};

// out[i] = sources[0][i] op sources[1][i] op ..., from left to right, for i in [0, elements). At
// any alignment. 16-bit floats are computed in fp32 and rounded once. `out` may be one of the
// sources. Runs on the calling thread.
void combine(const Combination& args, void* out, const void* const* sources, int count,
             int64_t elements);

// The same of `arrays`, which do not overlap: each of them becomes the result.
void combine_in_place(const Combination& args, void* const* arrays, int count, int64_t elements);

}  // namespace accel::kernels
