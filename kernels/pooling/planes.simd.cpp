// Planes of a pooling, see planes.h.
#include "kernels/pooling/planes.h"

#include "kernels/common/elements.h"

namespace accel::kernels::ACCEL_ISA {

namespace {

// As wide as the elements that it is compared with.
template <class Real>
struct PlaceOf {
  using Type = int32_t;
};
template <>
struct PlaceOf<double> {
  using Type = int64_t;
};

template <class Element>
class MaxRows {
  using Real = decltype(widen(Element{}));
  using V = Vector<Real>;
  using Place = typename PlaceOf<Real>::Type;
  using VPlace = Vector<Place>;
  static constexpr int64_t kLanes = sizeof(V) / sizeof(Real);
  static constexpr Real kLowest = -static_cast<Real>(__builtin_inff());

 public:
  MaxRows(const Pooling& args, const PoolingPlan& plan)
      : args_(args), plan_(plan), rows_(args.axes[1].full), columns_(args.axes[2].full) {}

  void run(int64_t plane, int64_t depth, int64_t row, void* room) {
    const PoolingAxis* axes = args_.axes;
    const int64_t channels = args_.channels;
    const Element* input = static_cast<const Element*>(args_.input) +
                           plane * axes[0].full * rows_ * columns_ * channels;
    int64_t at = ((plane * axes[0].pooled + depth) * axes[1].pooled + row) * axes[2].pooled;
    depth_ = plan_.windows[0][depth];
    row_ = plan_.windows[1][row];
    if (channels == 1) {
      auto* most = static_cast<Real*>(room);
      auto* places = reinterpret_cast<Place*>(most + columns_);
      largest_of_columns(input, most, places);
      return largest_of_windows(most, places, static_cast<Element*>(args_.output) + at,
                                args_.indices + at);
    }
    at *= channels;
    for (int64_t j = 0; j < axes[2].pooled; ++j, at += channels) {
      column_ = plan_.windows[2][j];
      largest(input, static_cast<Element*>(args_.output) + at, args_.indices + at);
    }
  }

 private:
  // Calls visit(place) for each element of the window.
  template <class Visit>
  ACCEL_INLINE void for_each_place(const Visit& visit) const {
    for (int64_t d = depth_.begin; d < depth_.end; d += args_.axes[0].dilation) {
      for (int64_t h = row_.begin; h < row_.end; h += args_.axes[1].dilation) {
        const int64_t row = (d * rows_ + h) * columns_;
        for (int64_t w = column_.begin; w < column_.end; w += args_.axes[2].dilation)
          visit(row + w);
      }
    }
  }

  // Calls visit(row) for the first element of each row of the window, in its plane.
  template <class Visit>
  ACCEL_INLINE void for_each_row(const Visit& visit) const {
    for (int64_t d = depth_.begin; d < depth_.end; d += args_.axes[0].dilation) {
      for (int64_t h = row_.begin; h < row_.end; h += args_.axes[1].dilation) {
        visit((d * rows_ + h) * columns_);
      }
    }
  }

  // The largest of each column of the windows' rows, and its place.
  void largest_of_columns(const Element* input, Real* most, Place* places) const {
    const int64_t first = (depth_.begin * rows_ + row_.begin) * columns_;
    VPlace lanes;
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = static_cast<Place>(lane);
    int64_t w = 0;
    for (; w + kLanes <= columns_; w += kLanes) {
      V value = splat<V>(kLowest);
      VPlace place = splat<VPlace>(static_cast<Place>(first + w)) + lanes;
      for_each_row([&](int64_t row) {
        const V next = load_wide(input + row + w);
        const VPlace larger = (next > value) | (next != next);
        value = larger ? next : value;
        place = larger ? splat<VPlace>(static_cast<Place>(row + w)) + lanes : place;
      });
      store(most + w, value);
      store(places + w, place);
    }
    for (; w < columns_; ++w) {
      most[w] = kLowest;
      places[w] = static_cast<Place>(first + w);
      for_each_row([&](int64_t row) {
        const Real next = widen(input[row + w]);
        const bool larger = next > most[w] || next != next;
        most[w] = larger ? next : most[w];
        places[w] = larger ? static_cast<Place>(row + w) : places[w];
      });
    }
  }

  // Of equal columns the one whose place comes first; of NaNs the one whose place comes last.
  void largest_of_windows(const Real* most, const Place* places, Element* output,
                          int64_t* indices) const {
    const int64_t dilation = args_.axes[2].dilation;
    const int64_t first = (depth_.begin * rows_ + row_.begin) * columns_;
    for (int64_t j = 0; j < args_.axes[2].pooled; ++j) {
      const PoolingWindow window = plan_.windows[2][j];
      Real value = kLowest;
      auto place = static_cast<Place>(first + window.begin);
      for (int64_t w = window.begin; w < window.end; w += dilation) {
        const Real next = most[w];
        const Place there = places[w];
        const bool larger = (next > value) | ((next == value) & (there < place)) |
                            ((next != next) & ((value == value) | (there > place)));
        value = larger ? next : value;
        place = larger ? there : place;
      }
      narrow(output + j, value);
      indices[j] = place;
    }
  }

  void largest(const Element* input, Element* output, int64_t* indices) const {
    const int64_t channels = args_.channels;
    const int64_t first = (depth_.begin * rows_ + row_.begin) * columns_ + column_.begin;
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      V most = splat<V>(kLowest);
      VPlace places = splat<VPlace>(static_cast<Place>(first));
      for_each_place([&](int64_t place) {
        const V value = load_wide(input + place * channels + c);
        const VPlace larger = (value > most) | (value != value);
        most = larger ? value : most;
        places = larger ? splat<VPlace>(static_cast<Place>(place)) : places;
      });
      store_narrow(output + c, most);
      for (int64_t lane = 0; lane < kLanes; ++lane) indices[c + lane] = places[lane];
    }
    for (; c < channels; ++c) {
      Real most = kLowest;
      int64_t index = first;
      for_each_place([&](int64_t place) {
        const Real value = widen(input[place * channels + c]);
        const bool larger = value > most || value != value;
        most = larger ? value : most;
        index = larger ? place : index;
      });
      narrow(output + c, most);
      indices[c] = index;
    }
  }

  const Pooling& args_;
  const PoolingPlan& plan_;
  const int64_t rows_, columns_;
  PoolingWindow depth_{}, row_{}, column_{};
};

struct PlaneSizes {
  int64_t full, pooled;
};

PlaneSizes plane_sizes(const Pooling& args) {
  PlaneSizes sizes{1, 1};
  for (const PoolingAxis& axis : args.axes) {
    sizes.full *= axis.full;
    sizes.pooled *= axis.pooled;
  }
  return sizes;
}

template <class Element>
void scatter(const Pooling& args, int64_t plane, int64_t begin, int64_t end, float* room) {
  using Real = decltype(widen(Element{}));
  const auto [full, pooled] = plane_sizes(args);
  const int64_t channels = args.channels, width = end - begin;
  const Element* input = static_cast<const Element*>(args.input) + plane * pooled * channels;
  const int64_t* indices = args.indices + plane * pooled * channels;
  Element* output = static_cast<Element*>(args.output) + plane * full * channels;
  constexpr bool kInPlace = sizeof(Real) == sizeof(Element);
  const bool adds = args.kind == PoolingKind::MaxBack;

  Real* sums;
  int64_t stride = channels, first = begin;  // of `sums`: from place to place, and of channel 0
  if constexpr (kInPlace) {
    sums = reinterpret_cast<Real*>(output);
  } else {
    sums = room;
    stride = width;
    first = 0;
  }
  if (stride == width) {
    std::memset(sums, 0, static_cast<size_t>(full * width) * sizeof(Real));
  } else {
    for (int64_t i = 0; i < full; ++i) {
      std::memset(sums + i * stride + first, 0, static_cast<size_t>(width) * sizeof(Real));
    }
  }
  auto add = [&](int64_t i, int64_t c) {
    const int64_t place = indices[i * channels + begin + c];
    if (place < 0 || place >= full) return args.fault->report(place, full);
    const Real value = widen(input[i * channels + begin + c]);
    Real& target = sums[place * stride + first + c];
    target = adds ? target + value : value;
  };
  if (channels == 1) {
    for (int64_t i = 0; i < pooled; ++i) add(i, 0);
  } else {
    for (int64_t i = 0; i < pooled; ++i) {
      for (int64_t c = 0; c < width; ++c) add(i, c);
    }
  }
  if constexpr (!kInPlace) {
    for (int64_t i = 0; i < full; ++i) {
      for (int64_t c = 0; c < width; ++c) {
        narrow(output + i * channels + begin + c, sums[i * width + c]);
      }
    }
  }
}

}  // namespace

void max_pool_row(const Pooling& args, const PoolingPlan& plan, int64_t plane, int64_t depth,
                  int64_t row, void* room) {
  switch (args.dtype) {
    case DType::Float64:
      return MaxRows<double>(args, plan).run(plane, depth, row, room);
    case DType::BFloat16:
      return MaxRows<BFloat16>(args, plan).run(plane, depth, row, room);
    case DType::Float16:
      return MaxRows<Float16>(args, plan).run(plane, depth, row, room);
    default:
      return MaxRows<float>(args, plan).run(plane, depth, row, room);
  }
}

void scatter_plane(const Pooling& args, int64_t plane, int64_t begin, int64_t end, float* sums) {
  switch (args.dtype) {
    case DType::Float64:
      return scatter<double>(args, plane, begin, end, sums);
    case DType::BFloat16:
      return scatter<BFloat16>(args, plane, begin, end, sums);
    case DType::Float16:
      return scatter<Float16>(args, plane, begin, end, sums);
    default:
      return scatter<float>(args, plane, begin, end, sums);
  }
}

}  // namespace accel::kernels::ACCEL_ISA
