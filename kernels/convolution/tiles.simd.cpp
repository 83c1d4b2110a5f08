// Into and out of the layout in which convolutions run, and their depthwise products. See tiles.h.
#include "kernels/convolution/tiles.h"

#include <cstring>

#include "kernels/common/convert.h"

namespace accel::kernels::ACCEL_ISA {
namespace {

constexpr int kLanes = kLanes32;

template <DType kType>
ACCEL_INLINE VectorF32 widen(const void* source) {
  if constexpr (kType == DType::BFloat16) return load_bf16(source);
  if constexpr (kType == DType::Float16) return load_f16(source);
  if constexpr (kType == DType::Float32) return load<VectorF32>(source);
}

template <DType kType>
ACCEL_INLINE void narrow(void* target, VectorF32 value) {
  if constexpr (kType == DType::BFloat16) store_bf16(target, value);
  if constexpr (kType == DType::Float16) store_f16(target, value);
  if constexpr (kType == DType::Float32) store(target, value);
}

// The first n < kLanes elements, zeros behind; touches no others.
template <DType kType>
ACCEL_INLINE VectorF32 widen_first(const void* source, int64_t n) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << n) - 1);
  if constexpr (kType == DType::Float32) {
    return (VectorF32)_mm512_maskz_loadu_ps(mask, source);
  } else {
    const __m256i half = _mm256_maskz_loadu_epi16(mask, source);
    return widen<kType>(&half);
  }
#else
  alignas(64) char piece[kVectorBytes] = {};
  std::memcpy(piece, source, n * size_of(kType));
  return widen<kType>(piece);
#endif
}

template <DType kType>
ACCEL_INLINE void narrow_first(void* target, int64_t n, VectorF32 value) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << n) - 1);
  if constexpr (kType == DType::Float32) {
    _mm512_mask_storeu_ps(target, mask, (__m512)value);
  } else {
    __m256i half;
    narrow<kType>(&half, value);
    _mm256_mask_storeu_epi16(target, mask, half);
  }
#else
  alignas(64) char piece[kVectorBytes];
  narrow<kType>(piece, value);
  std::memcpy(target, piece, n * size_of(kType));
#endif
}

template <DType kType>
ACCEL_INLINE VectorF32 widen_some(const void* source, int64_t n) {
  return n >= kLanes ? widen<kType>(source) : widen_first<kType>(source, n);
}

template <DType kType>
ACCEL_INLINE void narrow_some(void* target, int64_t n, VectorF32 value) {
  if (n >= kLanes) {
    narrow<kType>(target, value);
  } else {
    narrow_first<kType>(target, n, value);
  }
}

// A DType as a type, so that a generic lambda has it as a constant.
template <DType kType>
struct Typed {
  static constexpr DType value = kType;
};
template <class Body>
ACCEL_INLINE void with_dtype(DType dtype, Body body) {
  if (dtype == DType::BFloat16) {
    body(Typed<DType::BFloat16>{});
  } else if (dtype == DType::Float16) {
    body(Typed<DType::Float16>{});
  } else {
    body(Typed<DType::Float32>{});
  }
}

// `lines` lines of n elements, `stride` bytes apart, transposed into rows; zeros beyond both.
template <DType kType>
ACCEL_INLINE void load_transposed(const char* source, int64_t stride, int64_t lines, int64_t n,
                                  VectorF32* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    rows[i] = i < lines ? widen_some<kType>(source + i * stride, n) : VectorF32{};
  }
  transpose_rows<kLanes>(rows);
}

float widen_one(const char* source, DType dtype) {
  if (dtype == DType::Float32) {
    float value;
    std::memcpy(&value, source, sizeof(value));
    return value;
  }
  uint16_t half;
  std::memcpy(&half, source, sizeof(half));
  return dtype == DType::BFloat16 ? bf16_to_f32(half) : f16_to_f32(half);
}

void narrow_one(char* target, DType dtype, float value) {
  if (dtype == DType::Float32) {
    std::memcpy(target, &value, sizeof(value));
    return;
  }
  const uint16_t half = dtype == DType::BFloat16 ? f32_to_bf16(value) : f32_to_f16(value);
  std::memcpy(target, &half, sizeof(half));
}

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// The upper halves of two rows of fp32, as pairs.
ACCEL_INLINE VectorU32 pair_of(VectorF32 first, VectorF32 second) {
  return (VectorU32)first >> 16 | ((VectorU32)second & 0xffff0000u);
}

template <DType kFrom, DType kTo>
void load_pixels_as(const Pixels& source, int64_t channels, int64_t padded, int64_t count,
                    void* target, int64_t pitch) {
  constexpr int64_t kFromSize = size_of(kFrom), kSize = size_of(kTo);
  auto* to = static_cast<char*>(target);
  const int64_t pixel_bytes = source.pixel_stride * kFromSize;
  const int64_t channel_bytes = source.channel_stride * kFromSize;
  if (source.channel_stride == 1 && source.pixel_stride == channels && pitch == channels) {
    const int64_t values = count * channels;  // one run
    for (int64_t i = 0; i < values; i += kLanes) {
      narrow_some<kTo>(to + i * kSize, values - i,
                       widen_some<kFrom>(source.data + i * kFromSize, values - i));
    }
    return;
  }
  if (source.channel_stride == 1 || channels == 1) {
    for (int64_t i = 0; i < count; ++i) {
      const char* from = source.data + i * pixel_bytes;
      char* row = to + i * pitch * kSize;
      for (int64_t c = 0; c < padded; c += kLanes) {
        const VectorF32 value =
            c < channels ? widen_some<kFrom>(from + c * kFromSize, channels - c) : VectorF32{};
        narrow_some<kTo>(row + c * kSize, padded - c, value);
      }
    }
    return;
  }
  if (source.pixel_stride == 1 && channels > 4) {
    for (int64_t first = 0; first < padded; first += kLanes) {
      const int64_t lines = least(channels - first, kLanes);
      const int64_t width = least(padded - first, kLanes);
      for (int64_t i = 0; i < count; i += kLanes) {
        const int64_t here = least(count - i, kLanes);
        VectorF32 rows[kLanes];
        load_transposed<kFrom>(source.data + first * channel_bytes + i * kFromSize, channel_bytes,
                               lines, here, rows);
        char* row = to + (i * pitch + first) * kSize;
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) {
          if (j < here) narrow_some<kTo>(row + j * pitch * kSize, width, rows[j]);
        }
      }
    }
    return;
  }
  for (int64_t c = 0; c < padded; ++c) {
    const char* from = source.data + c * channel_bytes;
    char* column = to + c * kSize;
    for (int64_t i = 0; i < count; ++i) {
      const float value = c < channels ? widen_one(from + i * pixel_bytes, kFrom) : 0;
      narrow_one(column + i * pitch * kSize, kTo, value);
    }
  }
}

template <DType kType>
void store_pixels_as(const float* values, int64_t stride, int64_t count, int64_t channels,
                     const float* bias, const Pixels& target) {
  constexpr int64_t kSize = size_of(kType);
  const int64_t pixel_bytes = target.pixel_stride * kSize;
  const int64_t channel_bytes = target.channel_stride * kSize;
  if (target.channel_stride != 1 && target.pixel_stride != 1) {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t c = 0; c < channels; ++c) {
        const float value = values[i * stride + c];
        narrow_one(target.data + i * pixel_bytes + c * channel_bytes, kType,
                   bias ? value + bias[c] : value);
      }
    }
    return;
  }
  for (int64_t c = 0; c < channels; c += kLanes) {
    const int64_t lines = least(channels - c, kLanes);
    const VectorF32 shift = bias ? widen_some<DType::Float32>(bias + c, lines) : VectorF32{};
    if (target.channel_stride == 1) {
      for (int64_t i = 0; i < count; ++i) {
        VectorF32 value = load<VectorF32>(values + i * stride + c);
        if (bias) value += shift;
        narrow_some<kType>(target.data + i * pixel_bytes + c * kSize, lines, value);
      }
      continue;
    }
    for (int64_t i = 0; i < count; i += kLanes) {
      const int64_t here = least(count - i, kLanes);
      VectorF32 rows[kLanes];
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) {
        rows[j] = load<VectorF32>(values + (i + (j < here ? j : 0)) * stride + c);
        if (bias) rows[j] += shift;
      }
      transpose_rows<kLanes>(rows);
      char* to = target.data + c * channel_bytes + i * kSize;
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) {
        if (j < lines) narrow_some<kType>(to + j * channel_bytes, here, rows[j]);
      }
    }
  }
}

template <DType kType>
void pack_weight_as(const WeightPanel& panel, float* to) {
  constexpr int kColumns = 2 * kLanes;
  constexpr int64_t kSize = size_of(kType);
  const int64_t lane_bytes = panel.lane_stride * kSize;
  const int64_t channel_bytes = panel.channel_stride * kSize;
  const int64_t tap_elements = panel.channels_padded * kColumns;
  for (int64_t t = 0; t < panel.taps; ++t) {
    std::memset(to + t * tap_elements + panel.channels * kColumns, 0,
                (panel.channels_padded - panel.channels) * kColumns * sizeof(float));
  }
  for (int first = 0; first < kColumns; first += kLanes) {
    const int64_t lanes = panel.lanes - first;  // may be none
    const char* from = panel.data + first * lane_bytes;
    if (panel.lane_stride == 1 || lanes <= 0) {
      for (int64_t t = 0; t < panel.taps; ++t) {
        const char* line = from + panel.offsets[t] * kSize;
        float* row = to + panel.positions[t] * tap_elements + first;
        for (int64_t k = 0; k < panel.channels; ++k) {
          store(row + k * kColumns,
                lanes <= 0 ? VectorF32{} : widen_some<kType>(line + k * channel_bytes, lanes));
        }
      }
    } else if (panel.channel_stride == 1) {
      for (int64_t t = 0; t < panel.taps; ++t) {
        const char* line = from + panel.offsets[t] * kSize;
        float* row = to + panel.positions[t] * tap_elements + first;
        for (int64_t k = 0; k < panel.channels; k += kLanes) {
          const int64_t here = least(panel.channels - k, kLanes);
          VectorF32 rows[kLanes];
          load_transposed<kType>(line + k * kSize, lane_bytes, lanes, here, rows);
          for (int64_t j = 0; j < here; ++j) store(row + (k + j) * kColumns, rows[j]);
        }
      }
    } else if (panel.taps_contiguous) {
      for (int64_t k = 0; k < panel.channels; ++k) {
        for (int64_t t = 0; t < panel.taps; t += kLanes) {
          const int64_t here = least(panel.taps - t, kLanes);
          VectorF32 rows[kLanes];
          load_transposed<kType>(from + k * channel_bytes + t * kSize, lane_bytes, lanes, here,
                                 rows);
          for (int64_t j = 0; j < here; ++j) {
            store(to + panel.positions[t + j] * tap_elements + k * kColumns + first, rows[j]);
          }
        }
      }
    } else {
      for (int64_t t = 0; t < panel.taps; ++t) {
        const char* line = from + panel.offsets[t] * kSize;
        float* row = to + panel.positions[t] * tap_elements + first;
        for (int64_t k = 0; k < panel.channels; ++k) {
          for (int64_t i = 0; i < kLanes; ++i) {
            row[k * kColumns + i] =
                i < lanes ? widen_one(line + k * channel_bytes + i * lane_bytes, kType) : 0;
          }
        }
      }
    }
  }
}

}  // namespace

void load_pixels(const Pixels& source, int64_t channels, int64_t padded, int64_t count,
                 DType packed, void* target, int64_t pitch) {
  with_dtype(source.dtype, [&](auto type) {
    constexpr DType kType = decltype(type)::value;
    if (packed == DType::BFloat16) {
      load_pixels_as<kType, DType::BFloat16>(source, channels, padded, count, target, pitch);
    } else {
      load_pixels_as<kType, DType::Float32>(source, channels, padded, count, target, pitch);
    }
  });
}

void store_pixels(const float* values, int64_t stride, int64_t count, int64_t channels,
                  const float* bias, const Pixels& target) {
  with_dtype(target.dtype, [&](auto type) {
    store_pixels_as<decltype(type)::value>(values, stride, count, channels, bias, target);
  });
}

void widen_values(const void* source, DType dtype, int64_t n, float* target) {
  with_dtype(dtype, [&](auto type) {
    constexpr DType kType = decltype(type)::value;
    for (int64_t i = 0; i < n; i += kLanes) {
      narrow_some<DType::Float32>(
          target + i, n - i,
          widen_some<kType>(static_cast<const char*>(source) + i * size_of(kType), n - i));
    }
  });
}

void pack_weight(const WeightPanel& panel, bool pairs, float* workspace, void* packed) {
  constexpr int kColumns = 2 * kLanes;
  with_dtype(panel.dtype, [&](auto type) {
    pack_weight_as<decltype(type)::value>(panel, pairs ? workspace : static_cast<float*>(packed));
  });
  if (!pairs) return;
  auto* words = static_cast<uint32_t*>(packed);
  for (int64_t k = 0; k < panel.taps * panel.channels_padded; k += 2, words += kColumns) {
    const float* row = workspace + k * kColumns;
    for (int v = 0; v < kColumns; v += kLanes) {
      store(words + v, pair_of(load<VectorF32>(row + v), load<VectorF32>(row + kColumns + v)));
    }
  }
}

void pair_pixels(const uint16_t* source, int64_t pixel_stride, int64_t count, int64_t channels,
                 uint32_t* target, int64_t pitch) {
  for (int64_t i = 0; i < count; i += 2, target += pitch) {
    const uint16_t* even = source + i * pixel_stride;
    const bool last = i + 1 == count;
    const uint16_t* odd = last ? even : even + pixel_stride;
    const uint32_t keep = last ? 0xffffu : ~0u;
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const VectorU32 low = __builtin_convertvector(load<HalfU16>(even + c), VectorU32);
      const VectorU32 high = __builtin_convertvector(load<HalfU16>(odd + c), VectorU32) << 16;
      store(target + c, (low | high) & keep);
    }
    for (; c < channels; ++c) {
      target[c] = (even[c] | static_cast<uint32_t>(odd[c]) << 16) & keep;
    }
  }
}

// --- depthwise -----------------------------------------------------------------------------------

namespace {

// Pixels whose sums stay in registers.
#if defined(__AVX512F__)
constexpr int kMostPixels = 14;
#else
constexpr int kMostPixels = 7;
#endif

// kPixels pixels of one vector of channels: each tap's weight is loaded once. kStride is how far
// apart they are, where that is known: addresses then cost nothing.
template <int kPixels, int kStride>
void depthwise_pixels(const DepthwiseRow& row, const float* a, const float* weight, float* c) {
  VectorF32 sums[kPixels] = {};
  const int64_t pixel = kStride != 0 ? kStride : row.a_pixel;
  for (int64_t t = 0; t < row.taps; ++t) {
    const VectorF32 w = load<VectorF32>(weight + t * row.weight_pitch);
    const float* from = a + row.offsets[t];
#pragma GCC unroll 14
    for (int i = 0; i < kPixels; ++i) {
      sums[i] = fma(load<VectorF32>(from + i * pixel), w, sums[i]);
    }
  }
#pragma GCC unroll 14
  for (int i = 0; i < kPixels; ++i) store(c + i * row.c_stride, sums[i]);
}

template <int kStride, int kPixels = kMostPixels>
ACCEL_INLINE void choose_pixels(int64_t pixels, const DepthwiseRow& row, const float* a,
                                const float* weight, float* c) {
  if (pixels == kPixels) {
    depthwise_pixels<kPixels, kStride>(row, a, weight, c);
  } else if constexpr (kPixels > 1) {
    choose_pixels<kStride, kPixels - 1>(pixels, row, a, weight, c);
  }
}

// kTaps taps: the gradient is loaded once for them.
template <int kTaps>
ACCEL_INLINE void depthwise_taps(const DepthwiseSums& s, const float* a, const float* grad,
                                 const int64_t* offsets, float* to) {
  VectorF32 sums[kTaps];
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) sums[t] = load<VectorF32>(to + t * s.sums_pitch);
  for (int64_t y = 0; y < s.rows; ++y) {
    const float* from = a + y * s.a_row;
    const float* g = grad + y * s.grad_row;
    for (int64_t i = 0; i < s.pixels; ++i, from += s.a_pixel, g += s.grad_pixel) {
      const VectorF32 value = load<VectorF32>(g);
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) {
        sums[t] = fma(load<VectorF32>(from + offsets[t]), value, sums[t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) store(to + t * s.sums_pitch, sums[t]);
}

}  // namespace

void depthwise_row(const DepthwiseRow& row) {
  // Dealt evenly: a few pixels alone would wait for their own sums.
  const int64_t pieces = (row.pixels + kMostPixels - 1) / kMostPixels;
  for (int64_t v = 0; v < row.channels; v += kLanes) {
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t begin = row.pixels * piece / pieces;
      const int64_t end = row.pixels * (piece + 1) / pieces;
      const float* a = row.a + begin * row.a_pixel + v;
      float* c = row.c + begin * row.c_stride + v;
      if (row.a_pixel == kDepthwiseStep) {
        choose_pixels<kDepthwiseStep>(end - begin, row, a, row.weight + v, c);
      } else {
        choose_pixels<0>(end - begin, row, a, row.weight + v, c);
      }
    }
  }
}

void depthwise_sums(const DepthwiseSums& s) {
  for (int64_t v = 0; v < s.channels; v += kLanes) {
    int64_t t = 0;
    for (; t + 7 <= s.taps; t += 7) {
      depthwise_taps<7>(s, s.a + v, s.grad + v, s.offsets + t, s.sums + t * s.sums_pitch + v);
    }
    for (; t + 3 <= s.taps; t += 3) {
      depthwise_taps<3>(s, s.a + v, s.grad + v, s.offsets + t, s.sums + t * s.sums_pitch + v);
    }
    for (; t < s.taps; ++t) {
      depthwise_taps<1>(s, s.a + v, s.grad + v, s.offsets + t, s.sums + t * s.sums_pitch + v);
    }
  }
}

}  // namespace accel::kernels::ACCEL_ISA
