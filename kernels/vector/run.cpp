// Entry points of the vector engine: run() and run_tile(), and the table of kernels they use.
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

#define ACCEL_ENGINE(isa)                                                                       \
  make_engine(isa::add_interpreter, isa::add_memory_kernels, isa::add_position_kernels,         \
              isa::add_arithmetic_kernels, isa::add_function_kernels, isa::add_special_kernels, \
              isa::add_logic_kernels, isa::add_convert_kernels, isa::add_pair_kernels,          \
              isa::add_reduce_kernels)

}  // namespace

const Engine& engine_of(Isa isa) {
  static const Engine portable_engine = ACCEL_ENGINE(portable);
  static const Engine avx2_engine = ACCEL_ENGINE(avx2);
  static const Engine avx512_engine = ACCEL_ENGINE(avx512);
  switch (isa) {
    case Isa::Portable:
      return portable_engine;
    case Isa::Avx2:
      return avx2_engine;
    default:
      return avx512_engine;
  }
}

#undef ACCEL_ENGINE

bool is_supported(Op op, Lane lane) {
  return engine_of(current_isa()).kernels[static_cast<int>(op)][static_cast<int>(lane)] != nullptr;
}

void run_on(const Engine& engine, const Program& program, const Space& space,
            const Operand* operands, const Scalar* scalars) {
  switch (program.kind) {
    case Kind::Pointwise:
      return run_pointwise(engine, program, space, operands, scalars);
    case Kind::RowReduce:
      return run_row_reduce(engine, program, space, operands, scalars);
    case Kind::ColumnReduce:
      return run_column_reduce(engine, program, space, operands, scalars);
  }
}

void run(const Program& program, const Space& space, const Operand* operands,
         const Scalar* scalars) {
  run_on(engine_of(current_isa()), program, space, operands, scalars);
}

void run_tile_on(const Engine& engine, const Program& program, const Tile& tile,
                 const TileOperand* operands, const Scalar* scalars) {
  alignas(64) char registers[kMaxRegisters * kRegisterBytes];
  Frame frame;
  frame.engine = &engine;
  frame.dtypes = program.operands.data();
  frame.operands = operands;
  frame.scalars = scalars;
  frame.set_registers(registers);
  frame.set_shape(tile.rows, tile.columns);
  frame.linear_index = tile.linear_index;
  frame.linear_stride = tile.linear_stride;
  frame.column_index = tile.column_index;
  frame.values = tile.values;
  frame.values_stride = tile.values_stride;
  const Instruction* code = program.code.data();
  engine.interpret(code, code + program.code.size(), frame);
}

void run_tile(const Program& program, const Tile& tile, const TileOperand* operands,
              const Scalar* scalars) {
  run_tile_on(engine_of(current_isa()), program, tile, operands, scalars);
}

}  // namespace accel::kernels::vector
