// Reading and writing elements of floating dtypes and bool, for references in double precision.
// With conversions of its own, so that kernels are not tested with theirs.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/common/dtype.h"

namespace accel::kernels {

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Element `index` as a double; of a bool, its byte.
inline double read_element(const void* data, int64_t index, DType dtype) {
  switch (dtype) {
    case DType::Float32:
      return static_cast<const float*>(data)[index];
    case DType::Float64:
      return static_cast<const double*>(data)[index];
    case DType::BFloat16:
      return bits_to_float(static_cast<uint32_t>(static_cast<const uint16_t*>(data)[index]) << 16);
    case DType::Float16: {
      const uint16_t bits = static_cast<const uint16_t*>(data)[index];
      const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
      const double sign = bits & 0x8000 ? -1 : 1;
      if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
      return sign *
             (exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24));
    }
    default:
      return static_cast<const uint8_t*>(data)[index];
  }
}

// 16-bit dtypes truncate, and a half too small to be normal becomes zero.
inline void write_element(void* data, int64_t index, DType dtype, double value) {
  switch (dtype) {
    case DType::Float32:
      static_cast<float*>(data)[index] = static_cast<float>(value);
      return;
    case DType::Float64:
      static_cast<double*>(data)[index] = value;
      return;
    case DType::BFloat16: {
      const float narrow = static_cast<float>(value);
      uint32_t bits;
      std::memcpy(&bits, &narrow, 4);
      static_cast<uint16_t*>(data)[index] =
          static_cast<uint16_t>(std::isnan(value) ? 0x7fc0 : bits >> 16);
      return;
    }
    case DType::Float16: {
      int exponent;
      const double fraction = std::frexp(std::fabs(value), &exponent);
      uint16_t bits = 0;
      if (std::isnan(value)) {
        bits = 0x7e00;
      } else if (std::isinf(value)) {
        bits = 0x7c00;
      } else if (value != 0 && exponent > -14) {
        bits = static_cast<uint16_t>((exponent + 14) << 10 |
                                     (static_cast<int>(fraction * 2048) & 1023));
      }
      static_cast<uint16_t*>(data)[index] =
          static_cast<uint16_t>(bits | (std::signbit(value) ? 0x8000 : 0));
      return;
    }
    default:
      static_cast<uint8_t*>(data)[index] = value != 0;
  }
}

}  // namespace accel::kernels
