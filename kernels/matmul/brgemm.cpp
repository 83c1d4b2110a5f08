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
void multiply(const PanelProduct& product) {
  constexpr int kColumns = kBrgemmPanel;
  const int64_t padded_k = round_up(product.k, kBrgemmGroup);
  const int64_t padded_rows = round_up(product.rows, kBrgemmRowStep);
  const bool add = product.update == Update::Add;
  const auto run = [&](float* to, int64_t stride) {
    at::native::cpublas::brgemm(padded_rows, kColumns, padded_k, padded_k, kColumns, stride, add,
                                static_cast<const Value*>(product.a),
                                static_cast<const Value*>(product.b), to, true);
  };
  auto* c = static_cast<float*>(product.c);
  if (product.rows == padded_rows && product.columns == kColumns) {
    run(c, product.c_stride);
    return;
  }
  // At the edge the padding must not reach C.
  alignas(64) float tile[kBrgemmPanel * kColumns];
  const size_t bytes = product.columns * sizeof(float);
  if (add) {
    for (int row = 0; row < product.rows; ++row) {
      std::memcpy(tile + row * kColumns, c + row * product.c_stride, bytes);
    }
  }
  run(tile, kColumns);
  for (int row = 0; row < product.rows; ++row) {
    std::memcpy(c + row * product.c_stride, tile + row * kColumns, bytes);
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
  // Asked each time: with torch.backends.mkldnn switched off, brgemm refuses to run.
  const bool half = dtype == DType::Float16;
  const bool amx = current_isa() == Isa::Amx &&
                   at::native::cpublas::could_pack(half ? at::kHalf : at::kBFloat16);
  if (half) {
    static const Engine engine = make_engine<at::Half>(dtype);
    return amx ? &engine : nullptr;
  }
  static const Engine engine = make_engine<at::BFloat16>(dtype);
  return amx || g_without_amx.load(std::memory_order_relaxed) ? &engine : nullptr;
}

void use_brgemm_without_amx(bool use) { g_without_amx.store(use, std::memory_order_relaxed); }

}  // namespace accel::kernels
