// The entry points of kernels/combine: which op means which, and the instruction set.
#include "kernels/combine/combine.h"

#include "kernels/combine/internal.h"
#include "kernels/common/isa.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, combine_arrays,
               (const Combination& args, void* const* outs, int out_count,
                const void* const* sources, int count, int64_t elements),
               (args, outs, out_count, sources, count, elements))

namespace {

// Bools are bytes of zero or one, so that all of their ops are those of bits.
CombineOp op_of_bools(CombineOp op) {
  switch (op) {
    case CombineOp::Sum:
    case CombineOp::Maximum:
      return CombineOp::Or;
    case CombineOp::Product:
    case CombineOp::Minimum:
      return CombineOp::And;
    default:
      return op;
  }
}

CombineOp unsigned_op(CombineOp op) {
  return op == CombineOp::Minimum   ? CombineOp::UnsignedMinimum
         : op == CombineOp::Maximum ? CombineOp::UnsignedMaximum
                                    : op;
}

void combine_into(const Combination& args, void* const* outs, int out_count,
                  const void* const* sources, int count, int64_t elements) {
  Combination combination = args;
  switch (args.dtype) {
    case DType::Bool:
      combination.op = op_of_bools(args.op);
      combination.divisor = 1;
      break;
    case DType::UInt8:
      combination.op = unsigned_op(args.op);
      break;
    case DType::ComplexFloat32:
      combination.dtype = DType::Float32;
      elements *= 2;
      break;
    case DType::ComplexFloat64:
      combination.dtype = DType::Float64;
      elements *= 2;
      break;
    default:
      break;
  }
  combine_arrays(combination, outs, out_count, sources, count, elements);
}

}  // namespace

bool can_combine(CombineOp op, DType dtype) {
  if (is_integral(dtype) || dtype == DType::Bool) return true;
  if (op == CombineOp::Sum && (dtype == DType::ComplexFloat32 || dtype == DType::ComplexFloat64)) {
    return true;
  }
  return is_floating(dtype) && op <= CombineOp::Maximum;
}

void combine(const Combination& args, void* out, const void* const* sources, int count,
             int64_t elements) {
  combine_into(args, &out, 1, sources, count, elements);
}

void combine_in_place(const Combination& args, void* const* arrays, int count, int64_t elements) {
  combine_into(args, arrays, count, arrays, count, elements);
}

}  // namespace accel::kernels
