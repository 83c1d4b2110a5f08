// Rows of a resampling, see rows.h.
#include "kernels/resampling/rows.h"

#include "kernels/common/elements.h"

namespace accel::kernels::ACCEL_ISA {

namespace {

// Taps that are summed in registers before the sum goes to memory.
constexpr int kTapsAtOnce = 4;

template <class Real, class From, class Source, int kTaps, bool kAdd>
ACCEL_INLINE void combine_taps(const Source& source, int64_t first, const Real* weights, int64_t n,
                               Real* to) {
  using V = Vector<Real>;
  constexpr int kLanes = sizeof(V) / sizeof(Real);
  const From* from[kTaps];
  V wide[kTaps];
  for (int k = 0; k < kTaps; ++k) {
    from[k] = source.at(first + k);
    wide[k] = splat<V>(weights[k]);
  }
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    V sum = load_wide(from[0] + j) * wide[0];
    if constexpr (kAdd) sum = load<V>(to + j) + sum;
    for (int k = 1; k < kTaps; ++k) sum = sum + load_wide(from[k] + j) * wide[k];
    store(to + j, sum);
  }
  for (; j < n; ++j) {
    Real sum = widen(from[0][j]) * weights[0];
    if constexpr (kAdd) sum = to[j] + sum;
    for (int k = 1; k < kTaps; ++k) sum = sum + widen(from[k][j]) * weights[k];
    to[j] = sum;
  }
}

template <class Real, class From, bool kAdd, class Source>
ACCEL_INLINE void combine_few(const Source& source, int64_t first, int64_t taps,
                              const Real* weights, int64_t n, Real* to) {
  switch (taps) {
    case 1:
      return combine_taps<Real, From, Source, 1, kAdd>(source, first, weights, n, to);
    case 2:
      return combine_taps<Real, From, Source, 2, kAdd>(source, first, weights, n, to);
    case 3:
      return combine_taps<Real, From, Source, 3, kAdd>(source, first, weights, n, to);
    default:
      return combine_taps<Real, From, Source, 4, kAdd>(source, first, weights, n, to);
  }
}

// to[j] = the sum over taps of weights[k] * source.at(first + k)[j], in ascending order.
template <class Real, class From, class Source>
void combine(const Source& source, int64_t first, int64_t taps, const Real* weights, int64_t n,
             Real* to) {
  if (taps == 0) {
    for (int64_t j = 0; j < n; ++j) to[j] = 0;
    return;
  }
  int64_t begin = taps < kTapsAtOnce ? taps : kTapsAtOnce;
  combine_few<Real, From, false>(source, first, begin, weights, n, to);
  while (begin < taps) {
    const int64_t rest = taps - begin, now = rest < kTapsAtOnce ? rest : kTapsAtOnce;
    combine_few<Real, From, true>(source, first + begin, now, weights + begin, n, to);
    begin += now;
  }
}

// Rows in memory, and rows kept round robin.
template <class From>
struct Strided {
  const From* base;
  int64_t stride;
  ACCEL_INLINE const From* at(int64_t i) const { return base + i * stride; }
};
template <class Real>
struct Kept {
  const Real* base;
  int64_t stride, slots;
  ACCEL_INLINE const Real* at(int64_t i) const { return base + i % slots * stride; }
};

template <class Element>
class Rows {
  using Real = decltype(widen(Element{}));
  using V = Vector<Real>;
  static constexpr int kLanes = sizeof(V) / sizeof(Real);
  static constexpr bool kIsReal = sizeof(Real) == sizeof(Element);

 public:
  Rows(const ResamplingPlan& plan, const ResamplingScratch& scratch)
      : rows_(plan.axes[1]),
        columns_(plan.axes[2]),
        plan_(plan),
        channels_(plan.channels),
        plane_sums_(static_cast<Real*>(scratch.plane)),
        kept_(static_cast<Real*>(scratch.rows)),
        in_row_(static_cast<Real*>(scratch.row)),
        out_row_(in_row_ + columns_.in * channels_),
        tags_(scratch.tags) {}

  void run(int64_t plane, int64_t depth, int64_t begin, int64_t end) {
    const ResamplingTaps& depths = plan_.axes[0];
    const int64_t in = rows_.in * columns_.in * channels_;
    const int64_t out = rows_.out * columns_.out * channels_;
    const Element* input = static_cast<const Element*>(plan_.input) + plane * depths.in * in;
    Element* output = static_cast<Element*>(plan_.output) + (plane * depths.out + depth) * out;
    depth_ = depth;
    if (depths.is_identity) return run_rows(input + depth * in, begin, end, output);
    // The input rows that these output rows read: runs begin and end in ascending order.
    int64_t from = rows_.in, to = 0;
    for (int64_t i = begin; i < end; ++i) {
      if (rows_.count[i] == 0) continue;
      const int64_t behind = rows_.first[i] + rows_.count[i];
      if (rows_.first[i] < from) from = rows_.first[i];
      if (behind > to) to = behind;
    }
    if (from < to) {
      const int64_t row = columns_.in * channels_;
      combine<Real, Element>(Strided<Element>{input + from * row, in}, depths.first[depth],
                             depths.count[depth], weights(depths, depth), (to - from) * row,
                             plane_sums_ + from * row);
    }
    run_rows(static_cast<const Real*>(plane_sums_), begin, end, output);
  }

 private:
  static const Real* weights(const ResamplingTaps& axis, int64_t i) {
    return static_cast<const Real*>(axis.weights) + i * axis.taps;
  }

  template <class From>
  void run_rows(const From* input, int64_t begin, int64_t end, Element* output) {
    const int64_t out = columns_.out * channels_;
    const bool divides = plan_.axes[0].divisors != nullptr;
    for (int64_t i = 0; i < rows_.taps; ++i) tags_[i] = -1;
    for (int64_t i = begin; i < end; ++i) {
      Element* to = output + i * out;
      Real* sums = kIsReal && !divides ? reinterpret_cast<Real*>(to) : out_row_;
      plan_.rows_first ? rows_then_columns(input, i, sums) : columns_then_rows(input, i, sums);
      if (divides) divide(i, sums);
      if (sums == out_row_) narrow_row(sums, out, to);
    }
  }

  template <class From>
  void rows_then_columns(const From* input, int64_t i, Real* to) {
    const int64_t in = columns_.in * channels_;
    if constexpr (sizeof(From) == sizeof(Real)) {
      if (rows_.is_identity && !columns_.is_identity) {
        return sum_columns(reinterpret_cast<const Real*>(input) + i * in, to);
      }
    }
    Real* sums = columns_.is_identity ? to : kept_;
    combine<Real, From>(Strided<From>{input, in}, rows_.first[i], rows_.count[i], weights(rows_, i),
                        in, sums);
    if (!columns_.is_identity) sum_columns(static_cast<const Real*>(kept_), to);
  }

  // Every input row is summed once, when the first output row asks for it.
  template <class From>
  void columns_then_rows(const From* input, int64_t i, Real* to) {
    const int64_t in = columns_.in * channels_, out = columns_.out * channels_;
    for (int64_t row = rows_.first[i]; row < rows_.first[i] + rows_.count[i]; ++row) {
      const int64_t slot = row % rows_.taps;
      if (tags_[slot] == row) continue;
      tags_[slot] = row;
      sum_columns(input + row * in, kept_ + slot * out);
    }
    combine<Real, Real>(Kept<Real>{kept_, out, rows_.taps}, rows_.first[i], rows_.count[i],
                        weights(rows_, i), out, to);
  }

  template <class From>
  void sum_columns(const From* row, Real* to) {
    if (channels_ > 1) {
      for (int64_t j = 0; j < columns_.out; ++j) {
        combine<Real, From>(Strided<From>{row, channels_}, columns_.first[j], columns_.count[j],
                            weights(columns_, j), channels_, to + j * channels_);
      }
      return;
    }
    if constexpr (sizeof(From) == sizeof(Real)) {
      sum_line(reinterpret_cast<const Real*>(row), to);
    } else {
      widen_row(row, columns_.in, in_row_);
      sum_line(in_row_, to);
    }
  }

  void sum_line(const Real* row, Real* to) {
    sum_any(row, to, 0, columns_.uniform_begin);
    switch (columns_.taps) {
      case 1:
        sum_uniform<1>(row, to);
        break;
      case 2:
        sum_uniform<2>(row, to);
        break;
      case 3:
        sum_uniform<3>(row, to);
        break;
      case 4:
        sum_uniform<4>(row, to);
        break;
      default:
        sum_any(row, to, columns_.uniform_begin, columns_.uniform_end);
    }
    sum_any(row, to, columns_.uniform_end, columns_.out);
  }

  template <int kTaps>
  void sum_uniform(const Real* row, Real* to) {
    const Real* w = weights(columns_, columns_.uniform_begin);
    for (int64_t j = columns_.uniform_begin; j < columns_.uniform_end; ++j, w += kTaps) {
      const Real* from = row + columns_.first[j];
      Real sum = from[0] * w[0];
      for (int k = 1; k < kTaps; ++k) sum = sum + from[k] * w[k];
      to[j] = sum;
    }
  }

  void sum_any(const Real* row, Real* to, int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      const Real *from = row + columns_.first[j], *w = weights(columns_, j);
      Real sum = columns_.count[j] > 0 ? from[0] * w[0] : 0;
      for (int64_t k = 1; k < columns_.count[j]; ++k) sum = sum + from[k] * w[k];
      to[j] = sum;
    }
  }

  void divide(int64_t i, Real* sums) const {
    const auto* depths = static_cast<const Real*>(plan_.axes[0].divisors);
    const auto* rows = static_cast<const Real*>(rows_.divisors);
    const auto* columns = static_cast<const Real*>(columns_.divisors);
    const Real window = depths[depth_] * rows[i];
    for (int64_t j = 0; j < columns_.out; ++j) {
      const Real divisor = window * columns[j];
      for (int64_t c = 0; c < channels_; ++c) sums[j * channels_ + c] /= divisor;
    }
  }

  static void widen_row(const Element* from, int64_t n, Real* to) {
    int64_t j = 0;
    for (; j + kLanes <= n; j += kLanes) store(to + j, load_wide(from + j));
    for (; j < n; ++j) to[j] = widen(from[j]);
  }

  static void narrow_row(const Real* from, int64_t n, Element* to) {
    int64_t j = 0;
    for (; j + kLanes <= n; j += kLanes) store_narrow(to + j, load<V>(from + j));
    for (; j < n; ++j) narrow(to + j, from[j]);
  }

  const ResamplingTaps &rows_, &columns_;
  const ResamplingPlan& plan_;
  const int64_t channels_;
  Real *plane_sums_, *kept_, *in_row_, *out_row_;
  int64_t* tags_;
  int64_t depth_ = 0;
};

}  // namespace

void resample_rows(const ResamplingPlan& plan, const ResamplingScratch& scratch, int64_t plane,
                   int64_t depth, int64_t begin, int64_t end) {
  switch (plan.dtype) {
    case DType::Float64:
      return Rows<double>(plan, scratch).run(plane, depth, begin, end);
    case DType::BFloat16:
      return Rows<BFloat16>(plan, scratch).run(plane, depth, begin, end);
    case DType::Float16:
      return Rows<Float16>(plan, scratch).run(plane, depth, begin, end);
    default:
      return Rows<float>(plan, scratch).run(plane, depth, begin, end);
  }
}

}  // namespace accel::kernels::ACCEL_ISA
