// The end of a piece of the product, while it is in cache: rounding, epilogue, storing. Called by
// whatever made the piece, on the thread that made it.
#include "kernels/common/isa.h"
#include "kernels/matmul/operands.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, round_values, (float* values, int64_t n, DType dtype), (values, n, dtype))
ACCEL_DISPATCH(void, store_values,
               (const void* values, DType accumulator, int64_t n, void* out, DType dtype,
                int64_t stride),
               (values, accumulator, n, out, dtype, stride))

namespace {

void run_epilogue(const Matmul& args, const Region& region, const float* values, int64_t stride) {
  const Epilogue& epilogue = args.epilogue;
  vector::TileOperand operands[vector::kMaxOperands];
  for (size_t o = 0; o < epilogue.program->operands.size(); ++o) {
    const Epilogue::Operand& operand = epilogue.operands[o];
    operands[o] = {operand.data + region.batch * operand.batch_stride +
                       region.row * operand.row_stride + region.column * operand.column_stride,
                   operand.row_stride, operand.column_stride};
  }
  vector::Area area;
  area.rows = region.rows;
  area.columns = region.columns;
  area.values = values;
  area.values_stride = stride;
  area.linear_index = (region.batch * args.m + region.row) * args.n + region.column;
  area.linear_stride = args.n;
  area.column_index = region.column;
  vector::run_area(*epilogue.program, *epilogue.prepared, area, operands, epilogue.scalars);
}

}  // namespace

void finish(const Matmul& args, const Region& region, void* values, int64_t stride,
            const Engine* engine, bool rounded) {
  const DType accumulator = accumulator_of(args.compute);
  const int64_t size = size_of(accumulator);
  auto* bytes = static_cast<char*>(values);
  auto* floats = static_cast<float*>(values);
  if (!rounded && engine && rounds_sums(args, *engine)) {
    for (int64_t row = 0; row < region.rows; ++row) {
      engine->round_sums(floats + row * stride, region.columns);
    }
  } else if (!rounded && (args.epilogue.program || args.widened) && args.result != DType::Float32) {
    for (int64_t row = 0; row < region.rows; ++row) {
      round_values(floats + row * stride, region.columns, args.result);
    }
  }
  if (args.epilogue.program) run_epilogue(args, region, floats, stride);
  if (!args.out.data) return;
  char* const out = output_address(args, region.batch, region.row, region.column);
  if (out == values) return;
  if (region.columns == 1 && stride == 1) {
    store_values(values, accumulator, region.rows, out, stored_as(args), args.out.row_stride);
    return;
  }
  for (int64_t row = 0; row < region.rows; ++row) {
    store_values(bytes + row * stride * size, accumulator, region.columns,
                 output_address(args, region.batch, region.row + row, region.column),
                 stored_as(args), args.out.column_stride);
  }
}

}  // namespace accel::kernels
