// The engines over at::native::cpublas::brgemm, the oneDNN micro-kernels that LibTorch exports: the
// way to AMX. Called through the Engine tables; machines without AMX use own micro-kernels.
#include <ATen/native/CPUBlas.h>

#include <atomic>
#include <cstring>

#include "kernels/common/isa.h"
#include "kernels/matmul/engine.h"

namespace accel::kernels {

ACCEL_DISPATCH(Engine, brgemm_packing, (DType dtype), (dtype))

namespace {

std::atomic<bool> g_without_amx{false};

constexpr int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

// brgemm generates code for each combination of sizes and strides, on each thread anew, in about
// 0.2 ms. Rows are therefore padded to a multiple of kBrgemmRowStep and k to one of k_group.
template <typename Value>
void multiply(const void* a, const void* b, int rows, int columns, int64_t k, void* c,
              int64_t c_stride, Update update) {
  constexpr int kColumns = kBrgemmPanel;
  const int64_t padded_k = round_up(k, kBrgemmGroup);
  const int64_t padded_rows = round_up(rows, kBrgemmRowStep);
  const auto run = [&](float* to, int64_t stride) {
    at::native::cpublas::brgemm(padded_rows, kColumns, padded_k, padded_k, kColumns, stride,
                                update == Update::Add, static_cast<const Value*>(a),
                                static_cast<const Value*>(b), to, true);
  };
  auto* target = static_cast<float*>(c);
  if (rows == padded_rows && columns == kColumns) {
    run(target, c_stride);
    return;
  }
  // At the edge the padding must not reach C.
  alignas(64) float tile[kBrgemmPanel * kColumns];
  if (update == Update::Add) {
    for (int row = 0; row < rows; ++row) {
      std::memcpy(tile + row * kColumns, target + row * c_stride, columns * sizeof(float));
    }
  }
  run(tile, kColumns);
  for (int row = 0; row < rows; ++row) {
    std::memcpy(target + row * c_stride, tile + row * kColumns, columns * sizeof(float));
  }
}

// Frees the tile configuration, which is state of the thread: other code may run next.
void release() { at::native::cpublas::brgemm_release(); }

template <typename Value>
Engine make_engine(DType dtype) {
  Engine engine = brgemm_packing(dtype);
  engine.multiply = multiply<Value>;
  engine.release = release;
  return engine;
}

}  // namespace

const Engine* brgemm_engine(DType dtype) {
  using at::native::cpublas::could_pack;
  if (dtype == DType::BFloat16) {
    static const bool amx = current_isa() == Isa::Amx && could_pack(at::kBFloat16);
    static const Engine engine = make_engine<at::BFloat16>(dtype);
    return amx || g_without_amx.load(std::memory_order_relaxed) ? &engine : nullptr;
  }
  static const bool amx = current_isa() == Isa::Amx && could_pack(at::kHalf);
  static const Engine engine = make_engine<at::Half>(dtype);
  return amx ? &engine : nullptr;
}

void use_brgemm_without_amx(bool use) { g_without_amx.store(use, std::memory_order_relaxed); }

}  // namespace accel::kernels
