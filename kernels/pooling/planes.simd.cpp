// Planes of a pooling, see planes.h.
#include "kernels/pooling/planes.h"

#include "kernels/common/elements.h"

namespace accel::kernels::ACCEL_ISA {

namespace {

template <class Element>
class Planes {
  using Real = decltype(widen(Element{}));

 public:
  Planes(const Pooling& args, const PoolingPlan& plan)
      : args_(args), rows_(plan.windows[0]), columns_(plan.windows[1]) {}

  // sums: room for a plane, where elements are not sums themselves.
  void run(int64_t plane, Real* sums) const {
    const int64_t full = args_.full[0] * args_.full[1], pooled = args_.pooled[0] * args_.pooled[1];
    const auto* input = static_cast<const Element*>(args_.input);
    auto* output = static_cast<Element*>(args_.output);
    int64_t* indices = args_.indices ? args_.indices + plane * pooled : nullptr;
    if (args_.backward) {
      return scatter(input + plane * pooled, indices, output + plane * full, sums);
    }
    input += plane * full;
    output += plane * pooled;
    for (int64_t i = 0; i < args_.pooled[0]; ++i) {
      const PoolingWindow row = rows_[i];
      for (int64_t j = 0; j < args_.pooled[1]; ++j) {
        const PoolingWindow column = columns_[j];
        if (args_.kind == PoolingKind::Nearest) {
          *output = input[row.begin * args_.full[1] + column.begin];
        } else if (args_.kind == PoolingKind::Average) {
          narrow(output, average(input, row, column));
        } else {
          *indices = largest(input, row, column);
          *output = input[*indices++];
        }
        ++output;
      }
    }
  }

 private:
  Real divisor(const PoolingWindow& row, const PoolingWindow& column) const {
    if (args_.divisor) return static_cast<Real>(args_.divisor);
    return static_cast<Real>(args_.count_padding
                                 ? row.padded * column.padded
                                 : (row.end - row.begin) * (column.end - column.begin));
  }

  Real average(const Element* input, const PoolingWindow& row, const PoolingWindow& column) const {
    if (row.begin >= row.end || column.begin >= column.end) return 0;
    Real sum = 0;
    for (int64_t h = row.begin; h < row.end; ++h) {
      for (int64_t w = column.begin; w < column.end; ++w) {
        sum += widen(input[h * args_.full[1] + w]);
      }
    }
    return sum / divisor(row, column);
  }

  // The first of the largest; NaN is larger than all, and the last NaN counts.
  int64_t largest(const Element* input, const PoolingWindow& row,
                  const PoolingWindow& column) const {
    int64_t place = row.begin * args_.full[1] + column.begin;
    Real most = -static_cast<Real>(__builtin_inff());
    for (int64_t h = row.begin; h < row.end; h += args_.windows.dilation[0]) {
      for (int64_t w = column.begin; w < column.end; w += args_.windows.dilation[1]) {
        const Real value = widen(input[h * args_.full[1] + w]);
        if (value > most || value != value) {
          most = value;
          place = h * args_.full[1] + w;
        }
      }
    }
    return place;
  }

  // The gradient of every window to the elements that it came from.
  void scatter(const Element* grad, const int64_t* indices, Element* output, Real* sums) const {
    const int64_t full = args_.full[0] * args_.full[1];
    constexpr bool kInPlace = sizeof(Real) == sizeof(Element);
    if constexpr (kInPlace) sums = reinterpret_cast<Real*>(output);
    for (int64_t i = 0; i < full; ++i) sums[i] = 0;
    for (int64_t i = 0; i < args_.pooled[0]; ++i) {
      const PoolingWindow row = rows_[i];
      for (int64_t j = 0; j < args_.pooled[1]; ++j) {
        const PoolingWindow column = columns_[j];
        Real value = widen(*grad++);
        if (args_.kind == PoolingKind::Max) {
          const int64_t place = *indices++;
          if (place >= 0 && place < full) {
            sums[place] += value;
          } else {
            args_.fault->report(place, full);
          }
          continue;
        }
        if (args_.kind == PoolingKind::Average) value /= divisor(row, column);
        for (int64_t h = row.begin; h < row.end; ++h) {
          for (int64_t w = column.begin; w < column.end; ++w) sums[h * args_.full[1] + w] += value;
        }
      }
    }
    if constexpr (!kInPlace) {
      for (int64_t i = 0; i < full; ++i) narrow(output + i, sums[i]);
    }
  }

  const Pooling& args_;
  const PoolingWindow *rows_, *columns_;
};

template <class Element>
void run(const Pooling& args, const PoolingPlan& plan, int64_t begin, int64_t end, void* sums) {
  const Planes<Element> planes(args, plan);
  using Real = decltype(widen(Element{}));
  for (int64_t plane = begin; plane < end; ++plane) planes.run(plane, static_cast<Real*>(sums));
}

}  // namespace

void pool_planes(const Pooling& args, const PoolingPlan& plan, int64_t begin, int64_t end,
                 void* sums) {
  switch (args.dtype) {
    case DType::Float64:
      return run<double>(args, plan, begin, end, sums);
    case DType::BFloat16:
      return run<BFloat16>(args, plan, begin, end, sums);
    case DType::Float16:
      return run<Float16>(args, plan, begin, end, sums);
    default:
      return run<float>(args, plan, begin, end, sums);
  }
}

}  // namespace accel::kernels::ACCEL_ISA
