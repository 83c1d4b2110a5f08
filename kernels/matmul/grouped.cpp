// A product a group, each on the whole team; see grouped.h.
#include "kernels/matmul/grouped.h"

#include <cstring>

namespace accel::kernels {

namespace {

void move(MatrixOperand& operand, int64_t elements) {
  operand.data = static_cast<const char*>(operand.data) + elements * size_of(operand.dtype);
}

void move(Matmul::Output& out, int64_t elements, DType dtype) {
  out.data = static_cast<char*>(out.data) + elements * size_of(dtype);
}

// Group `g`, from `begin` to `end` in the dimension that is divided.
Matmul group_of(const GroupedMatmul& args, int64_t g, int64_t begin, int64_t end) {
  Matmul group = args.matmul;
  group.batch = 1;
  switch (args.grouped) {
    case GroupedDimension::Rows:
      group.m = end - begin;
      move(group.a, begin * group.a.row_stride);
      move(group.b, g * group.b.batch_stride);
      move(group.out, begin * group.out.row_stride, group.result);
      break;
    case GroupedDimension::Columns:
      group.n = end - begin;
      move(group.a, g * group.a.batch_stride);
      move(group.b, begin * group.b.column_stride);
      move(group.out, begin * group.out.column_stride, group.result);
      break;
    case GroupedDimension::Inner:
      group.k = end - begin;
      move(group.a, begin * group.a.column_stride);
      move(group.b, begin * group.b.row_stride);
      move(group.out, g * group.out.batch_stride, group.result);
      break;
  }
  return group;
}

void zero(const Matmul& matmul) {
  const int64_t element = size_of(matmul.result);
  auto* row = static_cast<char*>(matmul.out.data);
  for (int64_t i = 0; i < matmul.m; ++i, row += matmul.out.row_stride * element) {
    std::memset(row, 0, static_cast<size_t>(matmul.n * element));
  }
}

}  // namespace

void grouped_matmul(const GroupedMatmul& args, Fault* fault) {
  const int64_t extent = args.grouped == GroupedDimension::Rows      ? args.matmul.m
                         : args.grouped == GroupedDimension::Columns ? args.matmul.n
                                                                     : args.matmul.k;
  int64_t begin = 0;
  for (int64_t g = 0; g < args.matmul.batch; ++g) {
    const int64_t end = args.ends[g];
    if (end < begin || end > extent) {
      fault->report(end, extent + 1);
      continue;
    }
    const Matmul group = group_of(args, g, begin, end);
    if (group.m > 0 && group.n > 0) matmul(group);
    begin = end;
  }
  if (args.grouped != GroupedDimension::Inner && begin < extent) {
    zero(group_of(args, 0, begin, extent));
  }
}

}  // namespace accel::kernels
