// What the files of this folder that split a product among the team share: addresses of pieces of
// its operands, and the finishing of a piece. Only matmul.cpp, blocked.cpp and finish.cpp use it.
#pragma once

#include <cstdint>

#include "kernels/common/parallel.h"
#include "kernels/matmul/engine.h"
#include "kernels/matmul/matmul.h"

namespace accel::kernels {

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// Chunks on the team, or on the calling thread where a region is not worth it.
enum class Team : uint8_t { All, Caller };

template <typename Body>
void for_chunks(Team team, int64_t chunks, Body&& body) {
  if (team == Team::All && chunks > 1) {
    parallel_for(chunks, body);
  } else {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk);
  }
}

inline PanelSource rows_of(const Matmul& args, int64_t batch) {
  const MatrixOperand& a = args.a;
  const char* data = static_cast<const char*>(a.data) + batch * a.batch_stride * size_of(a.dtype);
  return {data, a.dtype, a.row_stride, a.column_stride};
}

inline PanelSource columns_of(const Matmul& args, int64_t batch) {
  const MatrixOperand& b = args.b;
  const char* data = static_cast<const char*>(b.data) + batch * b.batch_stride * size_of(b.dtype);
  return {data, b.dtype, b.column_stride, b.row_stride};
}

inline PanelSource advance(PanelSource source, int64_t lane, int64_t k) {
  source.data += (lane * source.lane_stride + k * source.k_stride) * size_of(source.dtype);
  return source;
}

inline DType accumulator_of(DType compute) {
  if (compute == DType::Float64) return DType::Float64;
  return is_floating(compute) ? DType::Float32 : DType::Int64;
}

// Some rows and columns of the product in one batch.
struct Region {
  int64_t batch, row, column, rows, columns;
};

// What a plain output holds.
inline DType stored_as(const Matmul& args) { return args.widened ? DType::Float32 : args.result; }

inline char* output_address(const Matmul& args, int64_t batch, int64_t row, int64_t column) {
  return static_cast<char*>(args.out.data) +
         (batch * args.out.batch_stride + row * args.out.row_stride +
          column * args.out.column_stride) *
             size_of(stored_as(args));
}

// Whether the engine that makes a product rounds it, too.
inline bool rounds_sums(const Matmul& args, const Engine& engine) {
  return engine.round_sums && args.compute == DType::BFloat16 && args.result == DType::BFloat16;
}

// Takes a finished piece of the product, `stride` elements a row, to where it goes: rounds it,
// unless it is `rounded`, runs the epilogue and stores it, unless it lies in the output. May
// overwrite it. `engine` made it, if any did.
void finish(const Matmul& args, const Region& region, void* values, int64_t stride,
            const Engine* engine, bool rounded = false);

}  // namespace accel::kernels
