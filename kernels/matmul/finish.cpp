// The end of a piece of the product, while it is in cache: rounding, epilogue, storing. Called by
// whatever made the piece, on the thread that made it.
#include <algorithm>

#include "kernels/common/isa.h"
#include "kernels/matmul/operands.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, round_values, (float* values, int64_t n, DType dtype), (values, n, dtype))
ACCEL_DISPATCH(void, store_values,
               (const void* values, DType accumulator, int64_t n, void* out, DType dtype,
                int64_t stride),
               (values, accumulator, n, out, dtype, stride))

namespace {

void run_epilogue(const Matmul& args, const Region& region, float* values, int64_t stride) {
  using namespace vector;
  const int columns_at_once = static_cast<int>(std::min<int64_t>(region.columns, kTileElements));
  const int rows_at_once = kTileElements / columns_at_once;
  const size_t operand_count = args.epilogue.program->operands.size();
  TileOperand operands[kMaxOperands];
  for (int64_t row = 0; row < region.rows; row += rows_at_once) {
    for (int64_t column = 0; column < region.columns; column += columns_at_once) {
      const int64_t i = region.row + row, j = region.column + column;
      for (size_t o = 0; o < operand_count; ++o) {
        const Epilogue::Operand& operand = args.epilogue.operands[o];
        operands[o] = {operand.data + region.batch * operand.batch_stride + i * operand.row_stride +
                           j * operand.column_stride,
                       operand.row_stride, operand.column_stride};
      }
      Tile tile;
      tile.rows = static_cast<int>(std::min<int64_t>(rows_at_once, region.rows - row));
      tile.columns = static_cast<int>(std::min<int64_t>(columns_at_once, region.columns - column));
      tile.values = values + row * stride + column;
      tile.values_stride = stride;
      tile.linear_index = (region.batch * args.m + i) * args.n + j;
      tile.linear_stride = args.n;
      tile.column_index = j;
      run_tile(*args.epilogue.program, tile, operands, args.epilogue.scalars);
    }
  }
}

}  // namespace

void finish(const Matmul& args, const Region& region, void* values, int64_t stride,
            const Engine* engine) {
  const DType accumulator = accumulator_of(args.compute);
  const int64_t size = size_of(accumulator);
  auto* bytes = static_cast<char*>(values);
  auto* floats = static_cast<float*>(values);
  const bool rounded = engine && rounds_sums(args, *engine);
  if (rounded) {
    for (int64_t row = 0; row < region.rows; ++row) {
      engine->round_sums(floats + row * stride, region.columns);
    }
  }
  if (args.epilogue.program) {
    if (args.result != DType::Float32 && !rounded) {
      for (int64_t row = 0; row < region.rows; ++row) {
        round_values(floats + row * stride, region.columns, args.result);
      }
    }
    run_epilogue(args, region, floats, stride);
  } else if (region.columns == 1 && stride == 1) {
    store_values(values, accumulator, region.rows,
                 output_address(args, region.batch, region.row, region.column), args.result,
                 args.out.row_stride);
  } else {
    for (int64_t row = 0; row < region.rows; ++row) {
      store_values(bytes + row * stride * size, accumulator, region.columns,
                   output_address(args, region.batch, region.row + row, region.column), args.result,
                   args.out.column_stride);
    }
  }
}

}  // namespace accel::kernels
