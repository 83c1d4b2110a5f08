// Places of a grid sampling, see places.h.
#include "kernels/grid_sampling/places.h"

#include "kernels/common/elements.h"

namespace accel::kernels::ACCEL_ISA {

namespace {

constexpr int kMostTaps = 16;  // 4 * 4 cubic; 2 * 2 * 2 linear in a volume

// --- along one dimension -------------------------------------------------------------------------

// The elements that a coordinate reads, -1 outside; their weights, and what those change by with
// the coordinate.
template <class Real>
struct AxisTaps {
  int64_t element[4];
  Real weight[4], slope[4];
};

// A position, and what it changes by with the coordinate.
template <class Real>
struct Position {
  Real at, slope;
};

// To the elements from 0 to size - 1; NaN becomes 0. Beyond and at the borders nothing changes.
template <class Real>
Position<Real> clip(Position<Real> x, int64_t size) {
  const auto last = static_cast<Real>(size - 1);
  if (!(x.at > 0)) return {0, 0};
  return x.at >= last ? Position<Real>{last, 0} : x;
}

// Back and forth between low and high.
template <class Real>
Position<Real> reflect(Position<Real> x, Real low, Real high) {
  const Real span = high - low;
  if (!(span > 0)) return {0, 0};
  Real from = x.at - low, slope = x.slope;
  if (from < 0) {
    from = -from;
    slope = -slope;
  }
  const Real turns = static_cast<Real>(__builtin_floor(from / span));
  const Real rest = static_cast<Real>(__builtin_fmod(from, span));
  const bool is_even = static_cast<Real>(__builtin_fmod(turns, Real(2))) == 0;
  return is_even ? Position<Real>{rest + low, slope} : Position<Real>{span - rest + low, -slope};
}

template <class Real>
Position<Real> pad(const GridSampling& args, Position<Real> x, int64_t size) {
  if (args.padding == GridPadding::Zeros) return x;
  if (args.padding == GridPadding::Reflection) {
    const auto last = static_cast<Real>(size - 1);
    x = args.align_corners ? reflect<Real>(x, 0, last)
                           : reflect<Real>(x, Real(-0.5), last + Real(0.5));
  }
  return clip(x, size);
}

template <class Real>
int64_t element_of(Real at, int64_t size) {
  return at >= 0 && at < static_cast<Real>(size) ? static_cast<int64_t>(at) : -1;
}

// Keys' cubic kernel and its derivative, for the four elements around a part t of the way.
template <class Real>
void cubic_weights(Real t, Real slope, AxisTaps<Real>* taps) {
  constexpr Real a = Real(-0.75);
  const Real distance[4] = {t + 1, t, 1 - t, 2 - t};
  for (int k = 0; k < 4; ++k) {
    const Real x = distance[k], sign = k < 2 ? slope : -slope;
    const bool is_inner = k == 1 || k == 2;
    taps->weight[k] =
        is_inner ? ((a + 2) * x - (a + 3)) * x * x + 1 : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    taps->slope[k] =
        sign * (is_inner ? (3 * (a + 2) * x - 2 * (a + 3)) * x : (3 * a * x - 10 * a) * x + 8 * a);
  }
}

template <class Real>
void axis_taps(const GridSampling& args, Real coordinate, int64_t size, AxisTaps<Real>* taps) {
  const auto extent = static_cast<Real>(size);
  Position<Real> x = args.align_corners
                         ? Position<Real>{(coordinate + 1) / 2 * (extent - 1), (extent - 1) / 2}
                         : Position<Real>{((coordinate + 1) * extent - 1) / 2, extent / 2};
  if (args.interpolation == GridInterpolation::Cubic) {
    const Real floor = static_cast<Real>(__builtin_floor(x.at));
    cubic_weights(x.at - floor, x.slope, taps);
    for (int k = 0; k < 4; ++k) {
      const Real at = pad(args, Position<Real>{floor - 1 + static_cast<Real>(k), 0}, size).at;
      taps->element[k] = element_of(at, size);
    }
    return;
  }
  x = pad(args, x, size);
  if (args.interpolation == GridInterpolation::Nearest) {
    taps->element[0] = element_of(static_cast<Real>(__builtin_nearbyint(x.at)), size);
    taps->weight[0] = 1;
    taps->slope[0] = 0;
    return;
  }
  const Real floor = static_cast<Real>(__builtin_floor(x.at));
  taps->element[0] = element_of(floor, size);
  taps->element[1] = element_of(floor + 1, size);
  taps->weight[0] = floor + 1 - x.at;
  taps->weight[1] = x.at - floor;
  taps->slope[0] = -x.slope;
  taps->slope[1] = x.slope;
}

// --- a block of places ---------------------------------------------------------------------------

// Tap by tap, for each place of the block: the element in its plane, -1 outside, its weight, and
// what that changes by with each coordinate.
template <class Real>
struct BlockTaps {
  int taps = 0;
  int64_t count = 0;  // places
  int32_t element[kMostTaps][kGridBlock];
  Real weight[kMostTaps][kGridBlock];
  Real slope[3][kMostTaps][kGridBlock];  // by dimension: depth, rows, columns
};

template <class Element, class Real>
void find_taps(const GridSampling& args, int64_t image, int64_t begin, bool with_slopes,
               BlockTaps<Real>* block) {
  const int64_t left = args.places - begin;
  block->count = left < kGridBlock ? left : kGridBlock;
  const int each = args.interpolation == GridInterpolation::Cubic     ? 4
                   : args.interpolation == GridInterpolation::Nearest ? 1
                                                                      : 2;
  const int depths = args.dims == 3 ? each : 1;
  block->taps = depths * each * each;
  const Element* grid =
      static_cast<const Element*>(args.grid) + (image * args.places + begin) * args.dims;
  AxisTaps<Real> axes[3];
  axes[0].element[0] = 0;
  axes[0].weight[0] = 1;
  axes[0].slope[0] = 0;
  for (int64_t j = 0; j < block->count; ++j, grid += args.dims) {
    for (int d = 0; d < args.dims; ++d) {
      axis_taps<Real>(args, widen(grid[d]), args.sizes[2 - d], &axes[2 - d]);
    }
    int tap = 0;
    for (int z = 0; z < depths; ++z) {
      for (int y = 0; y < each; ++y) {
        for (int x = 0; x < each; ++x, ++tap) {
          const int64_t d = axes[0].element[z], h = axes[1].element[y], w = axes[2].element[x];
          const bool inside = d >= 0 && h >= 0 && w >= 0;
          block->element[tap][j] =
              inside ? static_cast<int32_t>((d * args.sizes[1] + h) * args.sizes[2] + w) : -1;
          const Real wz = axes[0].weight[z], wy = axes[1].weight[y], wx = axes[2].weight[x];
          block->weight[tap][j] = wz * wy * wx;
          if (!with_slopes) continue;
          block->slope[0][tap][j] = axes[0].slope[z] * wy * wx;
          block->slope[1][tap][j] = wz * axes[1].slope[y] * wx;
          block->slope[2][tap][j] = wz * wy * axes[2].slope[x];
        }
      }
    }
  }
}

template <class Element>
ACCEL_INLINE auto value_at(const Element* plane, int32_t element) {
  using Real = decltype(widen(Element{}));
  return element < 0 ? Real(0) : widen(plane[element]);
}

#if defined(__AVX512F__)
// values[j] = the elements of a plane, zero outside.
ACCEL_INLINE void gather(const float* plane, const int32_t* elements, int64_t n, float* values) {
  for (int64_t j = 0; j < n; j += 16) {
    const __m512i at = _mm512_loadu_si512(elements + j);
    const __mmask16 inside = _mm512_cmpge_epi32_mask(at, _mm512_setzero_si512());
    _mm512_storeu_ps(values + j,
                     _mm512_mask_i32gather_ps(_mm512_setzero_ps(), inside, at, plane, 4));
  }
}
#endif
template <class Element, class Real>
ACCEL_INLINE void gather(const Element* plane, const int32_t* elements, int64_t n, Real* values) {
  for (int64_t j = 0; j < n; ++j) values[j] = value_at(plane, elements[j]);
}

// sums[j] = the elements of place j by their weights, in the order of taps.
#if defined(__AVX512F__)
ACCEL_INLINE void sum_taps(const BlockTaps<float>& block, const float* plane, int64_t n,
                           float* sums) {
  for (int64_t j = 0; j < n; j += 16) {
    __m512 sum = _mm512_setzero_ps();
    for (int tap = 0; tap < block.taps; ++tap) {
      const __m512i at = _mm512_loadu_si512(block.element[tap] + j);
      const __mmask16 inside = _mm512_cmpge_epi32_mask(at, _mm512_setzero_si512());
      const __m512 value = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), inside, at, plane, 4);
      sum = _mm512_add_ps(sum, _mm512_mul_ps(value, _mm512_loadu_ps(block.weight[tap] + j)));
    }
    _mm512_storeu_ps(sums + j, sum);
  }
}
#endif
template <class Element, class Real>
ACCEL_INLINE void sum_taps(const BlockTaps<Real>& block, const Element* plane, int64_t n,
                           Real* sums) {
  for (int64_t j = 0; j < n; ++j) {
    Real sum = 0;
    for (int tap = 0; tap < block.taps; ++tap) {
      sum += value_at(plane, block.element[tap][j]) * block.weight[tap][j];
    }
    sums[j] = sum;
  }
}

// Rounded up to whole vectors; what lies behind the places is -1 outside.
template <class Real>
int64_t padded_count(BlockTaps<Real>* block) {
  const int64_t count = (block->count + 15) / 16 * 16;
  for (int tap = 0; tap < block->taps; ++tap) {
    for (int64_t j = block->count; j < count; ++j) block->element[tap][j] = -1;
  }
  return count;
}

template <class Element>
void sample(const GridSampling& args, int64_t image, int64_t begin) {
  using Real = decltype(widen(Element{}));
  BlockTaps<Real> block;
  find_taps<Element>(args, image, begin, /*with_slopes=*/false, &block);
  const int64_t size = args.sizes[0] * args.sizes[1] * args.sizes[2], n = padded_count(&block);
  const Element* plane = static_cast<const Element*>(args.input) + image * args.channels * size;
  Element* output =
      static_cast<Element*>(args.output) + image * args.channels * args.places + begin;
  for (int64_t c = 0; c < args.channels; ++c, plane += size, output += args.places) {
    Real sums[kGridBlock];
    sum_taps(block, plane, n, sums);
    for (int64_t j = 0; j < block.count; ++j) narrow(output + j, sums[j]);
  }
}

template <class Element>
void grid_gradient(const GridSampling& args, int64_t image, int64_t begin) {
  using Real = decltype(widen(Element{}));
  BlockTaps<Real> block;
  find_taps<Element>(args, image, begin, /*with_slopes=*/true, &block);
  const int64_t size = args.sizes[0] * args.sizes[1] * args.sizes[2], n = padded_count(&block);
  const Element* plane = static_cast<const Element*>(args.input) + image * args.channels * size;
  const Element* grad =
      static_cast<const Element*>(args.grad) + image * args.channels * args.places + begin;
  Real sums[3][kGridBlock] = {};
  const int first = 3 - args.dims;
  for (int64_t c = 0; c < args.channels; ++c, plane += size, grad += args.places) {
    Real gradient[kGridBlock] = {}, values[kGridBlock];
    for (int64_t j = 0; j < block.count; ++j) gradient[j] = widen(grad[j]);
    for (int tap = 0; tap < block.taps; ++tap) {
      gather(plane, block.element[tap], n, values);
      for (int64_t j = 0; j < n; ++j) values[j] *= gradient[j];
      for (int d = first; d < 3; ++d) {
        for (int64_t j = 0; j < n; ++j) sums[d][j] += values[j] * block.slope[d][tap][j];
      }
    }
  }
  Element* output = static_cast<Element*>(args.output) + (image * args.places + begin) * args.dims;
  for (int64_t j = 0; j < block.count; ++j) {
    for (int d = 0; d < args.dims; ++d) narrow(output + j * args.dims + d, sums[2 - d][j]);
  }
}

template <class Element>
void scatter(const GridSampling& args, int64_t image, int64_t begin, int64_t end, float* room) {
  using Real = decltype(widen(Element{}));
  const int64_t size = args.sizes[0] * args.sizes[1] * args.sizes[2];
  const int64_t planes = end - begin, first = image * args.channels + begin;
  Element* output = static_cast<Element*>(args.output) + first * size;
  const Element* grad = static_cast<const Element*>(args.grad) + first * args.places;
  constexpr bool kInPlace = sizeof(Real) == sizeof(Element);
  Real* sums;
  if constexpr (kInPlace) {
    sums = reinterpret_cast<Real*>(output);
  } else {
    sums = room;
  }
  for (int64_t i = 0; i < planes * size; ++i) sums[i] = 0;
  BlockTaps<Real> block;
  for (int64_t at = 0; at < args.places; at += kGridBlock) {
    find_taps<Element>(args, image, at, /*with_slopes=*/false, &block);
    for (int64_t c = 0; c < planes; ++c) {
      Real* plane = sums + c * size;
      const Element* gradient = grad + c * args.places + at;
      for (int64_t j = 0; j < block.count; ++j) {
        const Real value = widen(gradient[j]);
        for (int tap = 0; tap < block.taps; ++tap) {
          const int32_t element = block.element[tap][j];
          if (element >= 0) plane[element] += block.weight[tap][j] * value;
        }
      }
    }
  }
  if constexpr (!kInPlace) {
    for (int64_t i = 0; i < planes * size; ++i) narrow(output + i, sums[i]);
  }
}

}  // namespace

void sample_places(const GridSampling& args, int64_t image, int64_t begin) {
  const bool is_forward = args.kind == GridSamplingKind::Forward;
  switch (args.dtype) {
    case DType::Float64:
      return is_forward ? sample<double>(args, image, begin)
                        : grid_gradient<double>(args, image, begin);
    case DType::BFloat16:
      return is_forward ? sample<BFloat16>(args, image, begin)
                        : grid_gradient<BFloat16>(args, image, begin);
    case DType::Float16:
      return is_forward ? sample<Float16>(args, image, begin)
                        : grid_gradient<Float16>(args, image, begin);
    default:
      return is_forward ? sample<float>(args, image, begin)
                        : grid_gradient<float>(args, image, begin);
  }
}

void scatter_places(const GridSampling& args, int64_t image, int64_t begin, int64_t end,
                    float* sums) {
  switch (args.dtype) {
    case DType::Float64:
      return scatter<double>(args, image, begin, end, sums);
    case DType::BFloat16:
      return scatter<BFloat16>(args, image, begin, end, sums);
    case DType::Float16:
      return scatter<Float16>(args, image, begin, end, sums);
    default:
      return scatter<float>(args, image, begin, end, sums);
  }
}

}  // namespace accel::kernels::ACCEL_ISA
