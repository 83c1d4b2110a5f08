// Matrix products: the choice of the engine and of how the team shares the batch. Called by Plans
// through matmul.h. What is summed in which order follows from sizes and dtypes alone.
#include "kernels/matmul/matmul.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "kernels/common/isa.h"
#include "kernels/common/scratch.h"
#include "kernels/matmul/blocked.h"
#include "kernels/matmul/operands.h"

namespace accel::kernels {

ACCEL_DISPATCH(const Engine*, float32_engine, (), ())
ACCEL_DISPATCH(const Engine*, float64_engine, (), ())
ACCEL_DISPATCH(const Engine*, int64_engine, (), ())
ACCEL_DISPATCH(const Engine*, bfloat16_engine, (), ())
ACCEL_DISPATCH(bool, splits_safely, (const PanelSource& source, int64_t lanes, int64_t k),
               (source, lanes, k))
ACCEL_DISPATCH(void, matrix_vector,
               (const PanelSource& a, DType compute, DType accumulator, int64_t begin, int64_t end,
                int64_t k, const void* x, void* y),
               (a, compute, accumulator, begin, end, k, x, y))
ACCEL_DISPATCH(void, gather_vector,
               (const PanelSource& source, DType compute, DType accumulator, int64_t k, void* x),
               (source, compute, accumulator, k, x))

namespace {

// Below this many multiply-adds (4 µs of one core at fp32) a parallel region costs more than it
// saves; and what a chunk of a batch should have at least.
constexpr int64_t kSerialWork = 1 << 19, kChunkWork = 1 << 20;
// Matrix times vector: multiply-adds per chunk at least (128 KiB of fp32), and results at most.
constexpr int64_t kVectorWork = 1 << 15, kVectorBlock = 256;

// One row or one column.
void vector_products(const Matmul& args) {
  const bool single_column = args.n == 1;
  const DType accumulator = accumulator_of(args.compute);
  const int64_t lanes = single_column ? args.m : args.n;
  // Blocks of at most 256 results: where the matrix is contiguous along them, 1 KiB at a time is
  // what the memory likes.
  const int64_t block =
      std::clamp<int64_t>(round_up(divide_up(lanes, 4 * team_width()), 64), 64, kVectorBlock);
  const int64_t blocks = divide_up(lanes, block), all_blocks = args.batch * blocks;
  const int64_t group =
      std::max<int64_t>(1, kVectorWork / (std::min(lanes, block) * std::max<int64_t>(args.k, 1)));
  const auto run_block = [&](int64_t index) {
    const int64_t batch = index / blocks;
    const int64_t begin = index % blocks * block, end = std::min(lanes, begin + block);
    PanelSource matrix = rows_of(args, batch), vector = columns_of(args, batch);
    if (!single_column) std::swap(matrix, vector);
    const void* x = vector.data;
    if (vector.dtype != accumulator || args.compute != vector.dtype || vector.k_stride != 1) {
      void* gathered = scratch(ScratchSlot::D, args.k * size_of(accumulator));
      gather_vector(vector, args.compute, accumulator, args.k, gathered);
      x = gathered;
    }
    alignas(64) int64_t y[kVectorBlock];  // room for any accumulator
    matrix_vector(matrix, args.compute, accumulator, begin, end, args.k, x, y);
    if (single_column) {
      finish(args, {batch, begin, 0, end - begin, 1}, y, 1, nullptr);
    } else {
      finish(args, {batch, 0, begin, 1, end - begin}, y, end - begin, nullptr);
    }
  };
  parallel_for(divide_up(all_blocks, group), [&](int64_t chunk) {
    const int64_t end = std::min(all_blocks, (chunk + 1) * group);
    for (int64_t index = chunk * group; index < end; ++index) run_block(index);
  });
}

// Whether all values of an operand can be split into two bf16 parts: an infinity has no low part.
bool splits_safely_on_team(PanelSource source, int64_t batch_stride, int64_t batch, int64_t lanes,
                           int64_t k) {
  constexpr int64_t kLanesAtOnce = 64;
  const int64_t chunks = divide_up(lanes, kLanesAtOnce);
  if (batch_stride == 0) batch = 1;
  std::atomic<bool> safe{true};
  for_chunks(Team::All, batch * chunks, [&](int64_t chunk) {
    if (!safe.load(std::memory_order_relaxed)) return;
    const int64_t first = chunk % chunks * kLanesAtOnce;
    PanelSource part = advance(source, first, 0);
    part.data += chunk / chunks * batch_stride * size_of(source.dtype);
    if (!splits_safely(part, std::min(kLanesAtOnce, lanes - first), k)) {
      safe.store(false, std::memory_order_relaxed);
    }
  });
  return safe.load();
}

struct Choice {
  const Engine* engine;
  int parts;
};

Choice choose_engine(const Matmul& args) {
  if (args.compute == DType::Float64) return {float64_engine(), 1};
  if (!is_floating(args.compute)) return {int64_engine(), 1};
  const bool medium = args.compute == DType::Float32 && args.precision == Float32Precision::Medium;
  if (args.compute == DType::BFloat16 || medium) {
    const Engine* brgemm = brgemm_engine(DType::BFloat16);
    if (brgemm) return {brgemm, 1};
    return {current_isa() >= Isa::Avx512Bf16 ? bfloat16_engine() : float32_engine(), 1};
  }
  if (args.compute == DType::Float16) {
    const Engine* brgemm = brgemm_engine(DType::Float16);
    return {brgemm ? brgemm : float32_engine(), 1};
  }
  // Three bf16 products only pay with AMX, where one is 16 times faster than fp32; with
  // VDPBF16PS it is twice as fast at best.
  if (args.precision == Float32Precision::High) {
    const Engine* brgemm = brgemm_engine(DType::BFloat16);
    if (brgemm &&
        splits_safely_on_team(rows_of(args, 0), args.a.batch_stride, args.batch, args.m, args.k) &&
        splits_safely_on_team(columns_of(args, 0), args.b.batch_stride, args.batch, args.n,
                              args.k)) {
      return {brgemm, 2};
    }
  }
  return {float32_engine(), 1};
}

}  // namespace

void matmul(const Matmul& args) {
  if (args.batch == 0 || args.m == 0 || args.n == 0) return;
  if (args.m == 1 || args.n == 1) {
    vector_products(args);
    return;
  }
  const Choice choice = choose_engine(args);
  const int64_t work = args.m * args.n * std::max<int64_t>(args.k, 1);
  const int width = team_width();
  // Many matrices: each is one thread's work. Few: the team works on one after the other.
  if (width > 1 && args.batch >= 2 * width && args.batch * work > kSerialWork) {
    const Blocking blocking = choose_blocking(args, *choice.engine, choice.parts, 1);
    const int64_t group =
        std::clamp<int64_t>(kChunkWork / work, 1, divide_up(args.batch, 4 * width));
    parallel_for(divide_up(args.batch, group), [&](int64_t chunk) {
      const int64_t end = std::min(args.batch, (chunk + 1) * group);
      for (int64_t batch = chunk * group; batch < end; ++batch) {
        blocked_product(args, blocking, batch, Team::Caller);
      }
    });
    return;
  }
  const Team team = width == 1 || work <= kSerialWork ? Team::Caller : Team::All;
  const Blocking blocking =
      choose_blocking(args, *choice.engine, choice.parts, team == Team::All ? width : 1);
  for (int64_t batch = 0; batch < args.batch; ++batch) {
    blocked_product(args, blocking, batch, team);
  }
}

}  // namespace accel::kernels
