// The interpreter of vector programs: runs a stretch of instructions on one tile. Called by the
// traversals (pointwise.cpp, row_reduce.cpp, column_reduce.cpp) and by run_area(). It knows nothing
// of spaces: where a tile lies, and where reductions go, it reads from the Frame.
#pragma once

#include <cstdint>

#include "kernels/common/isa.h"
#include "kernels/vector/program.h"
#include "kernels/vector/reduce.h"

namespace accel::kernels::vector {

// A register holds 256 values of 8 bytes and 64 bytes of padding: kernels work on whole vectors,
// and the odd number of cache lines spreads the registers over the cache's sets.
inline constexpr int kRegisterBytes = kTileElements * 8 + 64;
// Kernels may process a tile's elements rounded up to a multiple of this many, inside registers.
inline constexpr int kTilePadding = 32;

constexpr int bytes_of(Lane lane) { return lane == Lane::Bool ? 1 : lane == Lane::F32 ? 4 : 8; }

struct Engine;

// Where a Reduce instruction puts its tile.
enum class ReduceInto : uint8_t {
  Slots,        // the tile holds whole rows: results go to the slots
  RowStates,    // the tile holds a piece of each of its rows
  ColumnState,  // the tile holds rows of one stretch of columns
};

// A tile and the registers of the thread that runs it.
struct Frame {
  const Engine* engine = nullptr;
  const DType* dtypes = nullptr;  // of the operands
  const TileOperand* operands = nullptr;
  const Scalar* scalars = nullptr;

  int rows = 0, columns = 0;
  int count = 0;   // rows * columns
  int padded = 0;  // count rounded up to kTilePadding
  int64_t linear_index = 0, linear_stride = 0, column_index = 0;
  const float* values = nullptr;  // LoadTile
  int64_t values_stride = 0;

  // Reductions. Registers are dense: with e the position in the tile, e / row_length counts kept
  // indices (1 in phases over kept indices), and slot_row is the first one's place in the slots.
  int row_length = 1;
  int slot_row = 0;
  ReduceInto reduce_into = ReduceInto::Slots;
  char* slots[kMaxSlots] = {};           // values in the slot's lane
  RowState* row_states[kMaxSlots] = {};  // one a row of the tile
  ColumnState* column_states[kMaxSlots] = {};

  // A register's values lie at source[r]: in its own place, or in an operand's memory where a Load
  // had nothing to convert and no padding is read. `borrowed` has a bit for each of the latter.
  uint32_t borrowed = 0;
  const void* source[kMaxRegisters];
  char* place[kMaxRegisters];

  // `registers`: kMaxRegisters * kRegisterBytes, 64-byte aligned.
  void set_registers(char* registers) {
    for (int r = 0; r < kMaxRegisters; ++r) place[r] = registers + r * kRegisterBytes;
  }

  void set_shape(int new_rows, int new_columns) {
    rows = new_rows;
    columns = new_columns;
    count = rows * columns;
    padded = (count + kTilePadding - 1) / kTilePadding * kTilePadding;
  }
};

using Kernel = void (*)(const Instruction&, Frame&);

// An instruction made ready by prepare_on(): its kernel found, perhaps two instructions in one.
struct Step {
  Kernel kernel;
  Instruction instruction;
  // The operand that the next step stores the result into, where that allows to write it there at
  // once; -1 elsewhere.
  int16_t aim = -1;
  // A bit for each register whose value may still be read after this step.
  uint32_t live = ~0u;
};

// Pairs of F32 instructions that have a kernel of their own: the first's result t is used by the
// second only, and stays in a vector register. Their instruction's a, b and c are the first's
// operands, `index` is x, the second's other operand; c is y where the second is MulAdd.
enum class First : uint8_t { Add, Sub, Mul, MulAdd };
enum class Second : uint8_t {
  Add,      // t + x
  Sub,      // t - x
  SubFrom,  // x - t
  Mul,      // t * x
  MulAdd,   // t * x + y
  AddTo,    // x * y + t
  Square,   // t * t; from here on without x
  RoundBF16,
  RoundF16,
};
inline constexpr int kFirsts = 4, kSeconds = 9;

inline constexpr int kOps = static_cast<int>(Op::ReduceAll) + 1;
inline constexpr int kLanes = 4;
inline constexpr int kDTypes = 25;

// How one reduction works, in one lane.
struct Reducer {
  // Rows: prepares `rows` states, whose finished chunks go to partials + row * partials_stride, or
  // into the state's total where partials is null; ends them and writes each total to the slot.
  void (*start_rows)(RowState* states, int rows, Total* partials, int64_t partials_stride);
  void (*finish_rows)(RowState* states, int rows, char* slot);
  // Ends the last, incomplete chunk of a state with partials.
  void (*flush_row)(RowState& state);
  // Columns: prepares a state; ends it and writes the totals of its first `columns` columns.
  void (*start_columns)(ColumnState& state);
  void (*finish_columns)(ColumnState& state, int columns, Total* totals);
  // For each of `items` items, combines its parts in order into the slot: part p of item i is
  // partials[p * part_stride + i * item_stride].
  void (*combine)(const Total* partials, int64_t parts, int64_t part_stride, int64_t item_stride,
                  int items, char* slot);
  // Fills slot[0, items) with the identity.
  void (*fill_identity)(char* slot, int items);
};

inline constexpr int kReductions = 6;

// All that depends on the instruction set. Entries without a kernel are null.
struct Engine {
  Kernel kernels[kOps][kLanes];
  Kernel loads[kDTypes][kLanes];  // by the operand's dtype
  Kernel stores[kDTypes][kLanes];
  Kernel store_rounded_bf16;  // of F32 values that are bf16 values: they lose no bit
  Reducer reducers[kReductions][kLanes];
  Kernel pairs[kFirsts][kSeconds];
  void (*execute)(const Step* begin, const Step* end, Frame& frame);

  void set(Op op, Lane lane, Kernel kernel) {
    kernels[static_cast<int>(op)][static_cast<int>(lane)] = kernel;
  }
  const Reducer& reducer(Op op, Lane lane) const {
    return reducers[static_cast<int>(op) - static_cast<int>(Op::ReduceSum)][static_cast<int>(lane)];
  }
};

// The engine of an instruction set (Amx: that of Avx512), built once.
const Engine& engine_of(Isa isa);

// Parts of run().
void run_pointwise(const Program& program, const Prepared& prepared, const Space& space,
                   const Operand* operands, const Scalar* scalars);
void run_row_reduce(const Program& program, const Prepared& prepared, const Space& space,
                    const Operand* operands, const Scalar* scalars);
void run_column_reduce(const Program& program, const Prepared& prepared, const Space& space,
                       const Operand* operands, const Scalar* scalars);

}  // namespace accel::kernels::vector

// Each fills the engine's entries of one family of ops, for one instruction set.
#define ACCEL_VECTOR_FAMILIES(isa)                     \
  namespace accel::kernels::isa {                      \
  void add_interpreter(vector::Engine& engine);        \
  void add_memory_kernels(vector::Engine& engine);     \
  void add_position_kernels(vector::Engine& engine);   \
  void add_arithmetic_kernels(vector::Engine& engine); \
  void add_function_kernels(vector::Engine& engine);   \
  void add_special_kernels(vector::Engine& engine);    \
  void add_logic_kernels(vector::Engine& engine);      \
  void add_convert_kernels(vector::Engine& engine);    \
  void add_reduce_kernels(vector::Engine& engine);     \
  void add_pair_kernels(vector::Engine& engine);       \
  }
ACCEL_VECTOR_FAMILIES(portable)
ACCEL_VECTOR_FAMILIES(avx2)
ACCEL_VECTOR_FAMILIES(avx512)
#undef ACCEL_VECTOR_FAMILIES
