#include "kernels/convolution/geometry.h"

#include <algorithm>

namespace accel::kernels {

namespace {

// Along one dimension: the elements of the kernel that a phase uses, by ascending offset.
struct Line {
  int64_t origin, count;
  struct Element {
    int64_t offset, index;
  };
  std::vector<Element> elements;
};

std::vector<Line> lines_of(const Convolution& args, int dim) {
  const int64_t stride = args.stride[dim], padding = args.padding[dim];
  const int64_t dilation = args.dilation[dim];
  std::vector<Line> lines;
  if (args.kind != ConvolutionKind::InputGradient) {
    Line line{0, args.output_size[dim], {}};
    for (int64_t t = 0; t < args.kernel[dim]; ++t) {
      line.elements.push_back({t * dilation - padding, t});
    }
    return {line};
  }
  // Input pixel q takes output pixel (q + padding - t * dilation) / stride where that is whole.
  for (int64_t origin = 0; origin < stride; ++origin) {
    Line line{origin, std::max<int64_t>(0, divide_up(args.input_size[dim] - origin, stride)), {}};
    for (int64_t t = args.kernel[dim] - 1; t >= 0; --t) {
      const int64_t distance = origin + padding - t * dilation;
      if (distance % stride == 0) line.elements.push_back({distance / stride, t});
    }
    lines.push_back(line);
  }
  return lines;
}

}  // namespace

Geometry geometry_of(const Convolution& args) {
  const bool backward = args.kind == ConvolutionKind::InputGradient;
  Geometry geometry;
  std::vector<Line> lines[3];
  for (int dim = 0; dim < 3; ++dim) {
    geometry.source[dim] = backward ? args.output_size[dim] : args.input_size[dim];
    geometry.target[dim] = backward ? args.input_size[dim] : args.output_size[dim];
    geometry.source_step[dim] = backward ? 1 : args.stride[dim];
    geometry.target_step[dim] = backward ? args.stride[dim] : 1;
    lines[dim] = lines_of(args, dim);
    geometry.low[dim] = INT64_MAX;
    geometry.high[dim] = INT64_MIN;
    geometry.count[dim] = 0;
    for (const Line& line : lines[dim]) {
      geometry.count[dim] = std::max(geometry.count[dim], line.count);
      for (const Line::Element& element : line.elements) {
        geometry.low[dim] = std::min(geometry.low[dim], element.offset);
        geometry.high[dim] = std::max(geometry.high[dim], element.offset);
      }
    }
  }
  int64_t position = 0;
  for (const Line& z : lines[0]) {
    for (const Line& y : lines[1]) {
      for (const Line& x : lines[2]) {
        Phase phase{{z.origin, y.origin, x.origin}, {z.count, y.count, x.count}, {}};
        for (const auto& a : z.elements) {
          for (const auto& b : y.elements) {
            for (const auto& c : x.elements) {
              phase.taps.push_back({{a.offset, b.offset, c.offset},
                                    (a.index * args.kernel[1] + b.index) * args.kernel[2] + c.index,
                                    position++});
            }
          }
        }
        geometry.phases.push_back(std::move(phase));
      }
    }
  }
  return geometry;
}

}  // namespace accel::kernels
