// Engines: what multiplies one packed panel of A with one packed panel of B. matmul.cpp blocks over
// them; engine.simd.cpp and brgemm.cpp implement them. Nothing here knows about threads.
//
// A panel holds `lanes` rows of A or columns of B over a range of k. Panels are packed, so all
// strides, transposes and dtype conversions end there. The sum of one output element over a block
// of k depends on that block alone: not on its place in a panel, nor on the size of the panel.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace accel::kernels {

// Rows of A or columns of B as they lie in memory. Strides in elements.
struct PanelSource {
  const char* data = nullptr;  // element (lane 0, k 0)
  DType dtype = DType::Float32;
  int64_t lane_stride = 0, k_stride = 0;
};

// What is packed of each value x, which was converted to the compute dtype first. Low is the error
// of rounding to bf16, itself rounded to bf16: x is Value + Low up to 16 bits.
enum class Part : uint8_t { Value, Low };

// What is done with the block of C that a product belongs to.
enum class Update : uint8_t { Store, Add };

// c[i, j] = (or +=) the sum over k of a[i, k] * b[k, j], for i < rows and j < columns.
struct PanelProduct {
  const void* a = nullptr;  // a packed panel
  // Not 0: `a` is memory as it is, of the packed dtype, k contiguous and a multiple of k_group, and
  // this many bytes from row to row.
  int64_t a_row_bytes = 0;
  const void* b = nullptr;  // a packed panel
  int rows = 0, columns = 0;
  int64_t k = 0;
  void* c = nullptr;  // contiguous along columns, c_stride elements from row to row
  int64_t c_stride = 0;
  Update update = Update::Store;
  // Whether the sums are rounded to bf16. With `rounded` they are stored there, and c is at most
  // read; without, in c.
  bool rounds = false;
  uint16_t* rounded = nullptr;
  int64_t rounded_stride = 0;
};

struct Engine {
  int rows = 0;       // of A in a panel, at most
  int row_pitch = 0;  // lanes that a packed panel of A takes
  int columns = 0;    // of B in a panel; a packed panel always takes all of them
  int k_block = 0;    // largest k of one multiply()
  // The part of C that is best computed at a time, with a block of A and B in the caches.
  int tile_rows = 128, tile_columns = 256;
  int k_group = 1;                     // k is padded with zeros to a multiple of this
  DType packed = DType::Float32;       // dtype of a packed element
  int packed_size = 0;                 // and its bytes
  DType accumulator = DType::Float32;  // dtype of C: Float32, Float64 or Int64

  // Packs `lanes` lanes and k values each, k <= k_block. Takes row_pitch (columns) times k, rounded
  // up to k_group, elements.
  void (*pack_rows)(const PanelSource& source, DType compute, Part part, int lanes, int64_t k,
                    void* packed);
  void (*pack_columns)(const PanelSource& source, DType compute, Part part, int lanes, int64_t k,
                       void* packed);
  void (*multiply)(const PanelProduct& product);
  // Whether panels whose lanes lie side by side are packed together, in pieces of k: multiples of
  // k_group that lie one behind the other.
  bool packs_pieces = false;
  bool reads_rows = false;  // whether multiply() takes a_row_bytes
  // Rounds n fp32 sums to bf16 in place, as multiply() does for `rounds`. Null: it does not.
  void (*round_sums)(float* sums, int64_t n) = nullptr;
  // Ends the use of the engine on the calling thread; may be null.
  void (*release)() = nullptr;
};

// Engines that multiply packed fp32, fp64, int64, and pairs of bf16 (for Isa::Avx512Bf16 and above;
// fp32 serves elsewhere).
const Engine* float32_engine();
const Engine* float64_engine();
const Engine* int64_engine();
const Engine* bfloat16_engine();

// Engines over at::native::cpublas::brgemm, which uses AMX where the machine has it; null where
// `dtype` (BFloat16 or Float16) has no packed brgemm.
const Engine* brgemm_engine(DType dtype);
// The packing of such an engine: rows of A as they are multiplied, columns of B in pairs of k.
Engine brgemm_packing(DType dtype);
inline constexpr int kBrgemmPanel = 64;    // rows and columns of a panel: 2 × 2 pairs of AMX tiles
inline constexpr int kBrgemmRowStep = 16;  // rows and k are padded with zeros to multiples of these
inline constexpr int kBrgemmGroup = 32;
// For tests: the bf16 brgemm engine also where brgemm runs on AVX512-BF16 instead of AMX.
void use_brgemm_without_amx(bool use);

// Whether every value can be written as the sum of two bf16 parts: infinities, NaN and what rounds
// to infinity cannot.
bool splits_safely(const PanelSource& source, int64_t lanes, int64_t k);

// Rounds n contiguous fp32 values to `dtype` (BFloat16 or Float16), to nearest even, in place.
void round_values(float* values, int64_t n, DType dtype);
// Stores n contiguous values of dtype `accumulator` as `dtype`, `stride` elements apart. Floats
// round to nearest even, integers wrap.
void store_values(const void* values, DType accumulator, int64_t n, void* out, DType dtype,
                  int64_t stride);

// Matrix times vector, y[i] = sum over k of a[i, k] * x[k], for rows [begin, end) of A. Term k goes
// to lane k % 16 of sixteen fused multiply-add chains in ascending order; the lanes are added
// pairwise at the end. `accumulator` is the dtype of x and y: Float32, Float64 or Int64.
void matrix_vector(const PanelSource& a, DType compute, DType accumulator, int64_t begin,
                   int64_t end, int64_t k, const void* x, void* y);
// x[i] = values of a strided vector, converted to `compute` and then to `accumulator`.
void gather_vector(const PanelSource& source, DType compute, DType accumulator, int64_t k, void* x);

}  // namespace accel::kernels
