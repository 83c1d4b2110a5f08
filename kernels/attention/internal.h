// What attention's *.simd.cpp files need from the one file that may see LibTorch (attention.cpp).
// Included by kernels/attention and its test only.
#pragma once

#include <cstdint>

namespace accel::kernels::attention_internal {

// How bf16 products are made. Convert: widened to fp32 first. Dot: our own VDPBF16PS loops.
// Tiles: PyTorch's exported brgemm, which is what reaches the AMX units.
enum class Bf16Path : uint8_t { Convert, Dot, Tiles };

// What current_isa() says; the test overrides it to run all that the machine can.
Bf16Path bf16_path();
void override_bf16_path(Bf16Path path);

// c[m, n] (+)= a[m, k] * b[k, n]: a row-major, b with rows 2i and 2i + 1 interleaved, c fp32.
// Leading dimensions in elements; for b that of the interleaved pairs. Holds the thread's AMX
// state until tile_product_release().
void tile_product_bf16(int64_t m, int64_t n, int64_t k, const void* a, int64_t lda, const void* b,
                       int64_t ldb, float* c, int64_t ldc, bool accumulate);
void tile_product_release();

}  // namespace accel::kernels::attention_internal
