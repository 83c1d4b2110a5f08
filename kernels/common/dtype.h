// Element types as the kernels see them. The numbers are those of c10::ScalarType, so that a dtype
// crosses from csrc/ into kernels/ without a table; csrc/graph asserts that they agree.
#pragma once

#include <cstdint>

namespace accel::kernels {

enum class DType : int8_t {
  UInt8 = 0,
  Int8 = 1,
  Int16 = 2,
  Int32 = 3,
  Int64 = 4,
  Float16 = 5,
  Float32 = 6,
  Float64 = 7,
  ComplexFloat32 = 9,
  ComplexFloat64 = 10,
  Bool = 11,
  BFloat16 = 15,
  Float8E5M2 = 23,
  Float8E4M3FN = 24,
};

constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::UInt8:
    case DType::Int8:
    case DType::Bool:
    case DType::Float8E5M2:
    case DType::Float8E4M3FN:
      return 1;
    case DType::Int16:
    case DType::Float16:
    case DType::BFloat16:
      return 2;
    case DType::Int32:
    case DType::Float32:
      return 4;
    case DType::Int64:
    case DType::Float64:
    case DType::ComplexFloat32:
      return 8;
    case DType::ComplexFloat64:
      return 16;
  }
  return 0;
}

constexpr bool is_floating(DType dtype) {
  return dtype == DType::Float16 || dtype == DType::BFloat16 || dtype == DType::Float32 ||
         dtype == DType::Float64;
}

// Whether values of this dtype are computed in fp32 and rounded back.
constexpr bool is_reduced_floating(DType dtype) {
  return dtype == DType::Float16 || dtype == DType::BFloat16;
}

constexpr bool is_integral(DType dtype) {
  return dtype == DType::UInt8 || dtype == DType::Int8 || dtype == DType::Int16 ||
         dtype == DType::Int32 || dtype == DType::Int64;
}

}  // namespace accel::kernels
