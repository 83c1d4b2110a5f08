// Matrix products with an epilogue: out[b, i, j] = epilogue(sum over k of a[b, i, k] * b[b, k, j]).
//
// Inputs may be strided in any way (transposes and batch broadcasts cost a packing pass, never a
// copy of the whole), and may be stored in another dtype than the one they are multiplied in: a
// cast in front of a matmul is folded into the packing.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/vector/program.h"

namespace accel::kernels {

// Strides in elements. batch_stride 0 broadcasts over the batch.
struct MatrixOperand {
  const void* data = nullptr;
  DType dtype = DType::Float32;  // in memory
  int64_t batch_stride = 0, row_stride = 0, column_stride = 0;
};

// What is done with each tile of the product while it is in cache: a Pointwise program whose
// LoadTile reads the product as F32, already rounded to Matmul::result. Operand i has a byte stride
// for batch, row and column (0 = broadcast). Row-major index of the program: over (batch, m, n).
struct Epilogue {
  struct Operand {
    char* data = nullptr;
    int64_t batch_stride = 0, row_stride = 0, column_stride = 0;  // bytes
  };
  const vector::Program* program = nullptr;
  const vector::Prepared* prepared = nullptr;  // what vector::prepare() made of it
  const Operand* operands = nullptr;
  const vector::Scalar* scalars = nullptr;
};

// How fp32 products are computed: torch.set_float32_matmul_precision's highest, high, medium.
enum class Float32Precision : uint8_t { Highest, High, Medium };

struct Matmul {
  int64_t batch = 1, m = 0, n = 0, k = 0;
  MatrixOperand a, b;
  // Both inputs are converted to `compute` first. Float32, BFloat16 and Float16 accumulate in fp32;
  // Float64 in fp64; integers in int64 and wrap to `result`.
  DType compute = DType::Float32;
  DType result = DType::Float32;  // what each element is rounded to before the epilogue
  Float32Precision precision = Float32Precision::Highest;
  // A plain output, strides in elements, no overlap with the inputs: of dtype `result`, or, where
  // `widened`, of Float32 (F32 accumulation). Or an epilogue program (F32 accumulation only); or
  // both, if the output is widened and no operand of the program overlaps it.
  Epilogue epilogue;
  bool widened = false;
  struct Output {
    void* data = nullptr;
    int64_t batch_stride = 0, row_stride = 0, column_stride = 0;
  } out;
};

// K = 0 gives zeros. The K-blocking follows from m, n, k and dtypes alone: the same bits for any
// team, strides and epilogue.
void matmul(const Matmul& args);

}  // namespace accel::kernels
