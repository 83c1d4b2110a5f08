// Vector programs: the instruction lists of fused pointwise and reduction kernels.
//
// A program works on tiles. A tile is a small two-dimensional piece, rows × columns, of an
// iteration space; a register holds one value for each of its at most kTileElements elements. Every
// instruction runs over the whole tile before the next one starts, so a tile stays in the first
// level cache and the cost of interpreting is shared by all its elements.
//
// csrc/graph builds programs out of Nodes; the engines run them: run() below for pointwise and
// reduction kernels, run_area() on what another engine made (a matmul's epilogue).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/common/dtype.h"

namespace accel::kernels::vector {

inline constexpr int kTileElements = 256;
inline constexpr int kMaxRegisters = 32;
inline constexpr int kMaxOperands = 40;
inline constexpr int kMaxScalars = 64;
inline constexpr int kMaxSlots = 8;
inline constexpr int kMaxDims = 12;

// What a register holds per element. bf16 and fp16 are computed as F32 and rounded with Round after
// each op that produces them; every integer type is computed as I64 and wrapped with Round.
enum class Lane : uint8_t { F32, F64, I64, Bool };

// Whether programs load and store this dtype.
constexpr bool computes(DType dtype) {
  return is_floating(dtype) || is_integral(dtype) || dtype == DType::Bool;
}

constexpr Lane lane_of(DType dtype) {
  if (dtype == DType::Float64) return Lane::F64;
  if (dtype == DType::Bool) return Lane::Bool;
  return is_integral(dtype) ? Lane::I64 : Lane::F32;
}

// One family of ops a line, which clang-format would make a line an op.
// clang-format off
enum class Op : uint8_t {
  // Memory. `index` names an operand; memory is converted between its dtype and the lane exactly as
  // a cast does (float to integer truncates, to bool tests for non-zero, F32 to bf16 rounds to even).
  Load,      // dst ← operand[index]
  Store,     // operand[index] ← a; `dtype` may say that a is a value of this dtype already
  LoadTile,  // dst ← the F32 values handed to run_area()
  Scalar,    // dst ← scalars[index], the same for all elements
  Slot,      // dst ← reduction slot[index] of this element's kept index
  // Positions, I64.
  LinearIndex,  // dst ← row-major index of the element in the iteration space (among the kept
                // indices, in phases over those)
  ColumnIndex,  // dst ← index of the element along the innermost dimension (kept dimension)
  DiagonalIndex,  // dst ← column minus row of the element, where the iteration space is cut into
                  // matrices of scalars[index] rows and scalars[index + 1] columns
  // Conversions.
  Convert,  // dst (lane) ← a (lane2): value conversion as between dtypes of these lanes
  Round,    // dst ← a rounded to `dtype` and kept in its lane: bf16/fp16 in F32, intN wrap in I64
  // Arithmetic: operands and result in `lane`. Integer division by zero gives 0 (the device does not
  // trap). Bool lanes: Add is or, Mul is and.
  Add, Sub, Mul, Div, TruncDiv, FloorDiv, Fmod, Remainder, Pow, Atan2, Hypot,
  Minimum, Maximum,  // propagate NaN
  Fmin, Fmax,        // ignore NaN
  MulAdd,            // dst ← a * b + c, rounded after the product and after the sum (two roundings)
  Neg, Abs, Sign, Square, Sqrt, Rsqrt, Reciprocal,
  Exp, Exp2, Expm1, Log, Log2, Log10, Log1p,
  Sin, Cos, Tan, Asin, Acos, Atan, Sinh, Cosh, Tanh, Asinh, Acosh, Atanh,
  Erf, Erfc, Erfinv, Sigmoid, Lgamma,
  Gelu, GeluTanh, GeluSlope, GeluTanhSlope,  // and their derivatives
  Digamma, Trigamma, BesselI0, BesselI0e, BesselI1, BesselI1e,  // I0e: times e^-|x|
  Erfcx,                  // e^(a^2) erfc(a)
  Zeta,                   // Hurwitz's, of a and b
  Igamma, Igammac,        // regularised incomplete gamma functions of a and b, lower and upper
  CopySign,               // magnitude of a, sign of b
  Floor, Ceil, Trunc, RoundEven,
  // Bits and logic: I64 or Bool lanes.
  BitAnd, BitOr, BitXor, BitNot, ShiftLeft, ShiftRight,
  // Comparisons: operands in `lane`, result Bool.
  Eq, Ne, Lt, Le, Gt, Ge, IsNan, SignBit, IsInf,
  Select,  // dst ← a (Bool) ? b : c, with b and c in `lane`
  // Random, F32 (or F64 where lane says so). scalars[index] holds the seed (bits of an int64),
  // scalars[index + 1] the Philox offset. Element i of the iteration space (LinearIndex) takes word
  // i % 4 of the Philox4x32-10 block with counter (offset + i / 4) and key seed, so the values do
  // not depend on tiling, team or fusion.
  Uniform,    // in [0, 1): 24 bits (F32) or 53 bits (F64, see kernels/common/philox.h)
  RandomBits, // the 32-bit word itself, as I64
  // Reductions, into slot[index]: RowReduce programs reduce over columns, ColumnReduce programs
  // over rows. The order of the sums is fixed by the space's sizes (see reduce.h). In a RowReduce
  // phase over kept indices there is one value to reduce: it goes to the slot as it is, where
  // later phases over elements find it.
  ReduceSum, ReduceProd, ReduceMin, ReduceMax,  // Min and Max propagate NaN
  ReduceAny, ReduceAll,                         // Bool lane
};
// clang-format on

// Whether there is a kernel for an op in a lane; programs may only hold such pairs. F32 and F64
// have all of arithmetic, I64 what makes sense for integers, Bool its logic.
bool is_supported(Op op, Lane lane);

struct Instruction {
  Op op;
  Lane lane = Lane::F32;   // of the operands; of the result too, where Op does not say otherwise
  Lane lane2 = Lane::F32;  // Convert: the source's lane
  uint8_t dst = 0, a = 0, b = 0, c = 0;  // registers
  DType dtype = DType::Float32;          // Round, Store
  int16_t index = 0;                     // operand, scalar or slot
};

// A value known at the call: d for F32 and F64 lanes, i for I64 and Bool.
union Scalar {
  double d;
  int64_t i;
};

enum class Kind : uint8_t {
  Pointwise,     // one phase over all elements
  RowReduce,     // the last dimensions are reduced: phases over elements and over kept indices
  ColumnReduce,  // the first dimensions are reduced: one phase over elements, then one over kept
};

// A phase is a run of instructions. RowReduce: for each kept index (a row), phases run in order;
// phases over elements pass through the whole row, phases over kept indices run once, on registers
// that hold one value a row. Registers do not survive a phase; slots do, and Slot reads them in
// both kinds. A reduction into a slot is complete when its phase ends.
enum class Over : uint8_t { Elements, Kept };

struct Phase {
  Over over = Over::Elements;
  int begin = 0, end = 0;  // into Program::code
};

struct Program {
  Kind kind = Kind::Pointwise;
  std::vector<Instruction> code;
  std::vector<Phase> phases;
  std::vector<DType> operands;  // dtype in memory of each operand
  int scalars = 0;
  std::vector<Lane> slots;  // lane of each reduction slot
};

// The iteration space, outermost dimension first. RowReduce: sizes = kept..., reduced...;
// ColumnReduce: sizes = reduced..., kept.... `kept` is how many of the dimensions are kept ones
// (Pointwise: ignored).
struct Space {
  int dims = 0;
  int kept = 0;
  int64_t sizes[kMaxDims] = {};
};

// Where an operand lives: address of its first element, and for each dimension of the space a
// stride in bytes (0 where it is broadcast, and on reduced dimensions for operands of Kept phases).
struct Operand {
  char* data = nullptr;
  int64_t strides[kMaxDims] = {};
};

// A program made ready for this processor, once for all its runs; see prepare.h.
struct Prepared;
// For run() over a space, with operands of these strides.
std::shared_ptr<const Prepared> prepare(const Program& program, const Space& space,
                                        const Operand* operands);
// For run_area(): a Pointwise program.
std::shared_ptr<const Prepared> prepare(const Program& program);

// Runs a program over a space with the calling thread's team. Operands that are stored may be the
// very memory that is loaded (same address and strides) but may not overlap otherwise.
// Bits follow from program, sizes and scalars alone: not from strides, team or tiling.
void run(const Program& program, const Prepared& prepared, const Space& space,
         const Operand* operands, const Scalar* scalars);

// Rows and columns of what an engine made, of any number.
struct Area {
  int64_t rows = 0, columns = 0;
  // What LoadTile reads: element (r, c) at values[r * values_stride + c].
  const float* values = nullptr;
  int64_t values_stride = 0;
  int64_t linear_index = 0;   // LinearIndex of element (0, 0)
  int64_t linear_stride = 0;  // by which it grows per row; per column it grows by one
  int64_t column_index = 0;   // ColumnIndex of element (0, 0)
};

// Where an operand lives as a tile or an area sees it: address of element (0, 0), strides in bytes.
struct TileOperand {
  char* data = nullptr;
  int64_t row_stride = 0, column_stride = 0;
};

// Runs a Pointwise program on an area, on the calling thread.
void run_area(const Program& program, const Prepared& prepared, const Area& area,
              const TileOperand* operands, const Scalar* scalars);

}  // namespace accel::kernels::vector
