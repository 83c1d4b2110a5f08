// Rounding and storing of sums, once per instruction set. Called by finish.cpp.
#include "kernels/common/isa.h"
#include "kernels/matmul/convert.h"
#include "kernels/matmul/engine.h"

namespace accel::kernels::ACCEL_ISA {

void round_values(float* values, int64_t n, DType dtype) {
  if (dtype == DType::BFloat16) {
    for (int64_t i = 0; i < n; ++i) values[i] = widen(to_brain(values[i]));
  } else if (dtype == DType::Float16) {
    for (int64_t i = 0; i < n; ++i) {
      values[i] = static_cast<float>(static_cast<_Float16>(values[i]));
    }
  }
}

namespace {

template <typename Target, typename Source>
void store_as(const Source* values, int64_t n, void* out, int64_t stride) {
  auto* target = static_cast<Target*>(out);
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) target[i] = convert<Target>(values[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) target[i * stride] = convert<Target>(values[i]);
  }
}

}  // namespace

void store_values(const void* values, DType accumulator, int64_t n, void* out, DType dtype,
                  int64_t stride) {
  if (accumulator == DType::Float32) {
    const auto* from = static_cast<const float*>(values);
    if (dtype == DType::BFloat16) return store_as<Brain>(from, n, out, stride);
    if (dtype == DType::Float16) return store_as<_Float16>(from, n, out, stride);
    if (dtype == DType::Float64) return store_as<double>(from, n, out, stride);
    return store_as<float>(from, n, out, stride);
  }
  if (accumulator == DType::Float64) {
    const auto* from = static_cast<const double*>(values);
    if (dtype == DType::Float32) return store_as<float>(from, n, out, stride);
    return store_as<double>(from, n, out, stride);
  }
  const auto* from = static_cast<const int64_t*>(values);
  switch (dtype) {
    case DType::Int64:
      return store_as<int64_t>(from, n, out, stride);
    case DType::Int32:
      return store_as<int32_t>(from, n, out, stride);
    case DType::Int16:
      return store_as<int16_t>(from, n, out, stride);
    case DType::Int8:
      return store_as<int8_t>(from, n, out, stride);
    default:
      return store_as<uint8_t>(from, n, out, stride);
  }
}

}  // namespace accel::kernels::ACCEL_ISA
