// The runs and weights of a resampling, and its rows in chunks on the team.
#include "kernels/resampling/resampling.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <utility>
#include <vector>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/resampling/rows.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, resample_rows,
               (const ResamplingPlan& plan, const ResamplingScratch& scratch, int64_t plane,
                int64_t depth, int64_t begin, int64_t end),
               (plan, scratch, plane, depth, begin, end))

namespace {

// Elements of a chunk: some tens of microseconds.
constexpr int64_t kChunkElements = 32 * 1024;
// Rows of a chunk, at least: neighbouring chunks sum the input rows between them twice.
constexpr int64_t kChunkRows = 16;

// The elements of the result, one run each: it begins at `first`, and its weights lie in `weights`
// from `offsets[i]` to `offsets[i + 1]`.
template <class Real>
struct Runs {
  std::vector<int64_t> first;
  std::vector<size_t> offsets{0};
  std::vector<Real> weights, divisors;

  size_t size() const { return first.size(); }
  size_t count(size_t i) const { return offsets[i + 1] - offsets[i]; }
  void add(int64_t begin, std::initializer_list<Real> values, Real divisor = 1) {
    weights.insert(weights.end(), values);
    close(begin, divisor);
  }
  // `count` weights of one.
  void add_ones(int64_t begin, int64_t count, Real divisor) {
    weights.resize(weights.size() + static_cast<size_t>(count), 1);
    close(begin, divisor);
  }
  // A run of what was appended to `weights` since the last one.
  void close(int64_t begin, Real divisor = 1) {
    first.push_back(begin);
    offsets.push_back(weights.size());
    divisors.push_back(divisor);
  }
};

// --- methods -------------------------------------------------------------------------------------
// Places and weights are computed in the precision in which ATen's CPU kernels compute them
// (aten/src/ATen/native/UpSample.h), so that both choose the same elements.

// Input elements an output element.
template <class Real>
Real scale_of(const Resampling& args, const ResamplingAxis& axis) {
  if (args.align_corners) {
    return axis.resampled > 1
               ? static_cast<Real>(axis.full - 1) / static_cast<Real>(axis.resampled - 1)
               : 0;
  }
  return axis.scale > 0 ? static_cast<Real>(axis.scale)
                        : static_cast<Real>(axis.full) / static_cast<Real>(axis.resampled);
}

template <class Real>
void add_window(const Resampling& args, const ResamplingAxis& axis, int64_t i, Runs<Real>& runs) {
  const int64_t from = i * axis.stride - axis.padding, to = from + axis.kernel;
  const int64_t begin = std::max<int64_t>(from, 0), end = std::min(to, axis.full);
  const int64_t size =
      args.count_padding ? std::min(to, axis.full + axis.padding) - from : end - begin;
  // A window without elements is 0, whatever it is divided by.
  const auto divisor = static_cast<Real>(args.divisor ? 1 : std::max<int64_t>(1, size));
  runs.add_ones(begin, std::max<int64_t>(0, end - begin), divisor);
}

template <class Real>
void add_adaptive(const ResamplingAxis& axis, int64_t i, Runs<Real>& runs) {
  const int64_t begin = i * axis.full / axis.resampled;
  const int64_t end = ((i + 1) * axis.full + axis.resampled - 1) / axis.resampled;
  runs.add_ones(begin, end - begin, static_cast<Real>(end - begin));
}

template <class Real>
void add_nearest(const Resampling& args, const ResamplingAxis& axis, int64_t i, Runs<Real>& runs) {
  const Real at =
      static_cast<Real>(i) + (args.method == ResamplingMethod::NearestExact ? Real(0.5) : Real(0));
  const auto element = static_cast<int64_t>(std::floor(at * scale_of<Real>(args, axis)));
  runs.add(std::min(element, axis.full - 1), {1});
}

// Where in the input the centre of output element i lies: an element, and a part of the way to the
// next.
template <class Real>
struct Place {
  int64_t element;
  Real part;
};

template <class Real>
Place<Real> place_of(const Resampling& args, const ResamplingAxis& axis, int64_t i) {
  const Real scale = scale_of<Real>(args, axis);
  Real at = args.align_corners ? scale * static_cast<Real>(i)
                               : scale * (static_cast<Real>(i) + Real(0.5)) - Real(0.5);
  if (args.method == ResamplingMethod::Linear) at = std::max(at, Real(0));
  const int64_t element = std::min(static_cast<int64_t>(std::floor(at)), axis.full - 1);
  return {element, std::clamp(at - static_cast<Real>(element), Real(0), Real(1))};
}

template <class Real>
void add_linear(const Resampling& args, const ResamplingAxis& axis, int64_t i, Runs<Real>& runs) {
  if (axis.full == axis.resampled) return runs.add(i, {1});
  const auto [element, part] = place_of<Real>(args, axis, i);
  if (element + 1 >= axis.full) return runs.add(element, {1});
  runs.add(element, {1 - part, part});
}

// The cubic convolution kernel at distance x (Keys 1981).
template <class Real>
Real cubic(Real x, Real a) {
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

// Elements beyond the border are those at the border, which so get more than one weight.
template <class Real>
void add_cubic(const Resampling& args, const ResamplingAxis& axis, int64_t i, Runs<Real>& runs) {
  const auto [element, part] = place_of<Real>(args, axis, i);
  constexpr Real a = -0.75;
  const Real weights[4] = {cubic(part + 1, a), cubic(part, a), cubic(1 - part, a),
                           cubic(2 - part, a)};
  auto inside = [&](int64_t x) { return std::clamp<int64_t>(x, 0, axis.full - 1); };
  const int64_t first = inside(element - 1);
  const size_t begin = runs.weights.size();
  runs.weights.resize(begin + static_cast<size_t>(inside(element + 2) - first + 1));
  for (int64_t k = 0; k < 4; ++k) {
    runs.weights[begin + static_cast<size_t>(inside(element - 1 + k) - first)] += weights[k];
  }
  runs.close(first);
}

// Half the width of the filter, and its value at x.
int64_t half_width(ResamplingMethod method) {
  return method == ResamplingMethod::LinearAntialiased  ? 1
         : method == ResamplingMethod::CubicAntialiased ? 2
                                                        : 3;
}
template <class Real>
Real filter(ResamplingMethod method, Real x) {
  x = std::abs(x);
  if (method == ResamplingMethod::LinearAntialiased) return x < 1 ? 1 - x : 0;
  if (method == ResamplingMethod::CubicAntialiased) return cubic(x, Real(-0.5));
  if (x >= 3) return 0;
  auto sinc = [](Real y) {
    y *= static_cast<Real>(M_PI);
    return y == 0 ? Real(1) : std::sin(y) / y;
  };
  return sinc(x) * sinc(x / 3);
}

template <class Real>
void add_antialiased(const Resampling& args, const ResamplingAxis& axis, int64_t i,
                     Runs<Real>& runs) {
  const Real scale = scale_of<Real>(args, axis);
  const auto half = static_cast<Real>(half_width(args.method));
  const Real support = scale >= 1 ? half * scale : half;
  const Real inverse = scale >= 1 ? 1 / scale : 1;
  const auto centre = static_cast<Real>(scale * (static_cast<double>(i) + 0.5));
  const auto first = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5), 0);
  const int64_t behind = std::min(static_cast<int64_t>(centre + support + 0.5), axis.full);
  const int64_t most = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  const int64_t size = std::clamp<int64_t>(behind - first, 0, most);
  const auto begin = static_cast<std::ptrdiff_t>(runs.weights.size());
  Real total = 0;
  for (int64_t k = 0; k < size; ++k) {
    const Real distance = static_cast<Real>(k + first) - centre;
    runs.weights.push_back(filter(args.method, static_cast<Real>((distance + 0.5) * inverse)));
    total += runs.weights.back();
  }
  if (total != 0) {
    std::for_each(runs.weights.begin() + begin, runs.weights.end(),
                  [&](Real& weight) { weight /= total; });
  }
  runs.close(first);
}

template <class Real>
Runs<Real> runs_of(const Resampling& args, const ResamplingAxis& axis) {
  Runs<Real> runs;
  for (int64_t i = 0; i < axis.resampled; ++i) {
    switch (args.method) {
      case ResamplingMethod::Window:
        add_window(args, axis, i, runs);
        break;
      case ResamplingMethod::Adaptive:
        add_adaptive(axis, i, runs);
        break;
      case ResamplingMethod::Nearest:
      case ResamplingMethod::NearestExact:
        add_nearest(args, axis, i, runs);
        break;
      case ResamplingMethod::Linear:
        add_linear(args, axis, i, runs);
        break;
      case ResamplingMethod::Cubic:
        add_cubic(args, axis, i, runs);
        break;
      default:
        add_antialiased(args, axis, i, runs);
    }
  }
  return runs;
}

// What each input element gives to which output elements: neighbours, since runs ascend.
template <class Real>
Runs<Real> transposed(const Runs<Real>& runs, int64_t size) {
  Runs<Real> result;
  size_t begin = 0, end = 0;  // the runs that may reach the element
  for (int64_t element = 0; element < size; ++element) {
    auto ends_before = [&](size_t i) {
      return runs.first[i] + static_cast<int64_t>(runs.count(i)) <= element;
    };
    while (begin < runs.size() && ends_before(begin)) ++begin;
    end = std::max(end, begin);
    while (end < runs.size() && runs.first[end] <= element) ++end;
    for (size_t i = begin; i < end; ++i) {
      const auto k = static_cast<size_t>(element - runs.first[i]);
      result.weights.push_back(
          k < runs.count(i) ? runs.weights[runs.offsets[i] + k] / runs.divisors[i] : 0);
    }
    result.close(static_cast<int64_t>(begin));
  }
  return result;
}

// --- plans ---------------------------------------------------------------------------------------

// The lists of one dimension as rows.simd.cpp reads them, and their memory.
template <class Real>
class Axis {
 public:
  Axis(const Resampling& args, int dim) {
    const ResamplingAxis& axis = args.axes[dim];
    Runs<Real> runs = runs_of<Real>(args, axis);
    if (args.divisor && dim == 0) {
      runs.divisors.assign(runs.size(), static_cast<Real>(args.divisor));
    }
    if (args.backward) runs = transposed(runs, axis.full);
    taps_.in = args.backward ? axis.resampled : axis.full;
    taps_.out = static_cast<int64_t>(runs.size());
    flatten(std::move(runs));
  }

  const ResamplingTaps& taps() const { return taps_; }

 private:
  void flatten(Runs<Real>&& runs) {
    size_t taps = 0;
    for (size_t i = 0; i < runs.size(); ++i) taps = std::max(taps, runs.count(i));
    weights_.resize(runs.size() * taps);
    bool is_identity = taps_.in == taps_.out;
    for (size_t i = 0; i < runs.size(); ++i) {
      const size_t count = runs.count(i);
      const Real* weights = runs.weights.data() + runs.offsets[i];
      count_.push_back(static_cast<int64_t>(count));
      std::copy(weights, weights + count, weights_.data() + i * taps);
      is_identity =
          is_identity && runs.first[i] == static_cast<int64_t>(i) && count == 1 && weights[0] == 1;
    }
    first_ = std::move(runs.first);
    divisors_ = std::move(runs.divisors);
    taps_.taps = static_cast<int64_t>(taps);
    taps_.first = first_.data();
    taps_.count = count_.data();
    taps_.weights = weights_.data();
    taps_.divisors = divisors_.data();
    taps_.is_identity = is_identity;
    const auto is_full = [&](int64_t count) { return count == taps_.taps; };
    const auto begin = std::find_if(count_.begin(), count_.end(), is_full);
    const auto end = std::find_if_not(begin, count_.end(), is_full);
    taps_.uniform_begin = begin - count_.begin();
    taps_.uniform_end = end - count_.begin();
  }

  std::vector<int64_t> first_, count_;
  std::vector<Real> weights_, divisors_;
  ResamplingTaps taps_;
};

template <class Real>
void resample(const Resampling& args) {
  const Axis<Real> axes[3] = {{args, 0}, {args, 1}, {args, 2}};
  ResamplingPlan plan;
  plan.dtype = args.dtype;
  plan.channels = args.channels;
  plan.input = args.input;
  plan.output = args.output;
  const bool averages =
      args.method == ResamplingMethod::Window || args.method == ResamplingMethod::Adaptive;
  for (int dim = 0; dim < 3; ++dim) {
    plan.axes[dim] = axes[dim].taps();
    if (!averages || args.backward) plan.axes[dim].divisors = nullptr;
  }
  const ResamplingTaps &depths = plan.axes[0], &rows = plan.axes[1], &columns = plan.axes[2];
  plan.rows_first = columns.is_identity || rows.out <= rows.in;

  const int64_t in_row = columns.in * args.channels, out_row = columns.out * args.channels;
  const int64_t in_plane = rows.in * in_row, out_plane = rows.out * out_row;
  const int64_t plane_work = out_plane + in_plane * std::max<int64_t>(1, depths.taps);
  const int64_t row_work = std::max<int64_t>(1, plane_work / rows.out);
  // A chunk is some rows of a plane, or some planes.
  const int64_t chunk_rows = std::min(rows.out, std::max(kChunkRows, kChunkElements / row_work));
  const int64_t row_chunks = (rows.out + chunk_rows - 1) / chunk_rows;
  const int64_t planes = args.planes * depths.out;
  const int64_t chunk_planes =
      row_chunks > 1 ? 1 : std::max<int64_t>(1, kChunkElements / std::max<int64_t>(1, plane_work));
  const int64_t kept = plan.rows_first ? in_row : rows.taps * out_row;
  auto room = [](int64_t elements) {
    return static_cast<size_t>(std::max<int64_t>(1, elements)) * sizeof(Real);
  };
  parallel_for((planes + chunk_planes - 1) / chunk_planes * row_chunks, [&](int64_t chunk) {
    const ResamplingScratch memory{
        depths.is_identity ? nullptr : scratch(ScratchSlot::A, room(in_plane)),
        scratch(ScratchSlot::B, room(kept)), scratch(ScratchSlot::C, room(in_row + out_row)),
        static_cast<int64_t*>(
            scratch(ScratchSlot::D, static_cast<size_t>(rows.taps + 1) * sizeof(int64_t)))};
    const int64_t first = chunk / row_chunks * chunk_planes;
    const int64_t row = chunk % row_chunks * chunk_rows;
    for (int64_t i = first; i < std::min(first + chunk_planes, planes); ++i) {
      resample_rows(plan, memory, i / depths.out, i % depths.out, row,
                    std::min(row + chunk_rows, rows.out));
    }
  });
}

}  // namespace

void resampling(const Resampling& args) {
  args.dtype == DType::Float64 ? resample<double>(args) : resample<float>(args);
}

}  // namespace accel::kernels
