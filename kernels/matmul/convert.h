// Element conversions for packing and storing, included by the *.simd.cpp files of this folder: all
// of it lives in the namespace of the instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
// GCC's own header trips this warning (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#include "kernels/common/dtype.h"
#include "kernels/matmul/engine.h"

namespace accel::kernels::ACCEL_ISA {

// A bf16 number as bits; distinct from uint16_t so that templates tell them apart.
struct Brain {
  uint16_t bits;
};

inline float widen(Brain value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// To nearest even. Written without branches so that loops over it vectorise.
inline Brain to_brain(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40u;
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return {static_cast<uint16_t>(nan ? quiet : rounded)};
}

// The rest of rounding to bf16, rounded to bf16. Values must be finite.
inline Brain low_part(float value) { return to_brain(value - widen(to_brain(value))); }

// Source: the type in memory. Target: float, Brain, double or int64_t.
template <typename Target, typename Source>
inline Target convert(Source value) {
  if constexpr (sizeof(Source) == sizeof(Target) && __is_same(Source, Target)) {
    return value;
  } else if constexpr (__is_same(Source, Brain)) {
    return convert<Target>(widen(value));
  } else if constexpr (__is_same(Target, Brain)) {
    return to_brain(static_cast<float>(value));
  } else {
    return static_cast<Target>(value);
  }
}

// fp16 to fp32, contiguous: the compiler converts one at a time (1.8 cycles each, this 0.15).
inline void widen_run(const _Float16* source, int64_t n, float* target) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    __m128i halves;
    std::memcpy(&halves, source + i, sizeof(halves));
    const __m256 values = _mm256_cvtph_ps(halves);
    std::memcpy(target + i, &values, sizeof(values));
  }
#endif
  for (; i < n; ++i) target[i] = static_cast<float>(source[i]);
}

// Converts n values `stride` apart to `compute` and then to Target, contiguous.
template <typename Target, typename Source>
void convert_from(const Source* source, int64_t stride, DType compute, Part part, int64_t n,
                  Target* target) {
  const auto run = [&](auto one) __attribute__((always_inline)) {
    if (stride == 1) {
      for (int64_t i = 0; i < n; ++i) target[i] = one(source[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) target[i] = one(source[i * stride]);
    }
  };
  if constexpr (__is_same(Target, Brain)) {
    if (part == Part::Low) {
      run([](Source value) { return low_part(convert<float>(value)); });
      return;
    }
  }
  if constexpr (__is_same(Target, float)) {
    if (compute == DType::BFloat16 && !__is_same(Source, Brain)) {
      run([](Source value) { return widen(to_brain(convert<float>(value))); });
      return;
    }
    if (compute == DType::Float16 && !__is_same(Source, _Float16)) {
      run([](Source value) {
        return static_cast<float>(static_cast<_Float16>(convert<float>(value)));
      });
      return;
    }
  }
  if constexpr (__is_same(Target, float) && __is_same(Source, _Float16)) {
    if (stride == 1) {
      widen_run(source, n, target);
      return;
    }
  }
  run([](Source value) { return convert<Target>(value); });
}

template <typename Target>
void convert_run(const char* source, DType dtype, int64_t stride, DType compute, Part part,
                 int64_t n, Target* target) {
  const auto from = [&](auto pointer) {
    convert_from<Target>(pointer, stride, compute, part, n, target);
  };
  switch (dtype) {
    case DType::Float32:
      return from(reinterpret_cast<const float*>(source));
    case DType::BFloat16:
      return from(reinterpret_cast<const Brain*>(source));
    case DType::Float16:
      return from(reinterpret_cast<const _Float16*>(source));
    case DType::Float64:
      return from(reinterpret_cast<const double*>(source));
    case DType::Int64:
      return from(reinterpret_cast<const int64_t*>(source));
    case DType::Int32:
      return from(reinterpret_cast<const int32_t*>(source));
    case DType::Int16:
      return from(reinterpret_cast<const int16_t*>(source));
    case DType::Int8:
      return from(reinterpret_cast<const int8_t*>(source));
    default:  // UInt8 and Bool
      return from(reinterpret_cast<const uint8_t*>(source));
  }
}

}  // namespace accel::kernels::ACCEL_ISA
