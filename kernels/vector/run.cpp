// Entry points of the vector engine: run() and run_area(), and the table of kernels they use.
#include <algorithm>

#include "kernels/common/prefetch.h"
#include "kernels/vector/interpreter.h"
#include "kernels/vector/space.h"

namespace accel::kernels::vector {

namespace {

template <class... Families>
Engine make_engine(Families... families) {
  Engine engine{};
  (families(engine), ...);
  return engine;
}

}  // namespace

// Each is built when it is asked for: what fills it is code of its instruction set too.
#define ACCEL_ENGINE(isa)                                                                       \
  []() -> const Engine& {                                                                       \
    static const Engine engine =                                                                \
        make_engine(isa::add_interpreter, isa::add_memory_kernels, isa::add_position_kernels,   \
                    isa::add_arithmetic_kernels, isa::add_function_kernels,                     \
                    isa::add_special_kernels, isa::add_logic_kernels, isa::add_convert_kernels, \
                    isa::add_pair_kernels, isa::add_reduce_kernels);                            \
    return engine;                                                                              \
  }()

const Engine& engine_of(Isa isa) {
  switch (isa) {
    case Isa::Portable:
      return ACCEL_ENGINE(portable);
    case Isa::Avx2:
      return ACCEL_ENGINE(avx2);
    default:
      return ACCEL_ENGINE(avx512);
  }
}

#undef ACCEL_ENGINE

bool is_supported(Op op, Lane lane) {
  return engine_of(current_isa()).kernels[static_cast<int>(op)][static_cast<int>(lane)] != nullptr;
}

void run(const Program& program, const Prepared& prepared, const Space& space,
         const Operand* operands, const Scalar* scalars) {
  switch (program.kind) {
    case Kind::Pointwise:
      return run_pointwise(program, prepared, space, operands, scalars);
    case Kind::RowReduce:
      return run_row_reduce(program, prepared, space, operands, scalars);
    case Kind::ColumnReduce:
      return run_column_reduce(program, prepared, space, operands, scalars);
  }
}

namespace {

// Rows of operands that are asked for before their turn.
constexpr int64_t kRowsAhead = 4;

// Asks for rows [begin, end) of the operands that lie in rows: a store that waits for its line
// holds up all stores behind it, those to registers too.
[[gnu::always_inline]] inline void prefetch_operands(const Program& program,
                                                     const TileOperand* operands, int64_t columns,
                                                     int64_t begin, int64_t end) {
  for (size_t o = 0; o < program.operands.size(); ++o) {
    const int64_t size = size_of(program.operands[o]), stride = operands[o].row_stride;
    const bool fills_lines = operands[o].column_stride == size && columns * size >= 64;
    if (!fills_lines || stride == 0) continue;
    prefetch_rows(operands[o].data + begin * stride, end - begin, stride, columns * size);
  }
}

}  // namespace

void run_area(const Program& program, const Prepared& prepared, const Area& area,
              const TileOperand* operands, const Scalar* scalars) {
  Workspace work(program, prepared, scalars);
  const int64_t columns_at_once = std::min<int64_t>(area.columns, kTileElements);
  const int64_t rows_at_once = kTileElements / columns_at_once;
  const size_t count = program.operands.size();
  for (size_t o = 0; o < count; ++o) work.operands[o] = operands[o];
  int64_t asked = 1;  // rows; the first one's turn is now
  for (int64_t row = 0; row < area.rows; row += rows_at_once) {
    const int64_t ahead = std::min(area.rows, row + rows_at_once + kRowsAhead);
    prefetch_operands(program, operands, area.columns, asked, ahead);
    asked = ahead;
    const auto rows = static_cast<int>(std::min(rows_at_once, area.rows - row));
    for (int64_t column = 0; column < area.columns; column += columns_at_once) {
      for (size_t o = 0; o < count; ++o) {
        work.operands[o].data =
            operands[o].data + row * operands[o].row_stride + column * operands[o].column_stride;
      }
      work.frame.set_shape(rows,
                           static_cast<int>(std::min(columns_at_once, area.columns - column)));
      work.frame.values = area.values + row * area.values_stride + column;
      work.frame.values_stride = area.values_stride;
      work.frame.linear_index = area.linear_index + row * area.linear_stride + column;
      work.frame.linear_stride = area.linear_stride;
      work.frame.column_index = area.column_index + column;
      work.run_steps(prepared.begin(0), prepared.end(0));
    }
  }
}

}  // namespace accel::kernels::vector
