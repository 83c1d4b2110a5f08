// Folding against the definition, element by element.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/folding/folding.h"

namespace accel::kernels {
namespace {

struct Case {
  int64_t rows, columns, kernel, stride, padding, dilation;
};

class FoldingOf : public ::testing::TestWithParam<Case> {};

TEST_P(FoldingOf, IsTheDefinition) {
  const Case& c = GetParam();
  for (int64_t step : {1, 3}) {  // between neighbours of the columns
    Folding a;
    a.planes = 5;
    auto set = [&](FoldingAxis& axis, int64_t image) {
      axis.image = image;
      axis.kernel = c.kernel;
      axis.stride = c.stride;
      axis.padding = c.padding;
      axis.dilation = c.dilation;
      axis.windows = (image + 2 * c.padding - (c.kernel - 1) * c.dilation - 1) / c.stride + 1;
    };
    set(a.rows, c.rows);
    set(a.columns, c.columns);
    a.columns.window_stride = step;
    a.rows.window_stride = a.columns.windows * step;
    a.columns.kernel_stride = a.rows.windows * a.rows.window_stride;
    a.rows.kernel_stride = c.kernel * a.columns.kernel_stride;
    a.plane_stride = c.kernel * a.rows.kernel_stride;
    std::mt19937 random(1);
    auto values = [&](int64_t count) {
      std::vector<float> result(static_cast<size_t>(count));
      for (float& x : result) x = static_cast<float>(random() % 1000);  // sums are exact
      return result;
    };
    const std::vector<float> image = values(a.planes * c.rows * c.columns);
    const std::vector<float> columns = values(a.planes * a.plane_stride);
    std::vector<float> unfolded(columns.size(), -1), folded(image.size(), -1);
    std::vector<float> expected_unfolded = unfolded, expected_folded(image.size(), 0);
    for (int64_t plane = 0; plane < a.planes; ++plane) {
      for (int64_t m = 0; m < c.kernel; ++m) {
        for (int64_t n = 0; n < c.kernel; ++n) {
          for (int64_t i = 0; i < a.rows.windows; ++i) {
            for (int64_t j = 0; j < a.columns.windows; ++j) {
              const int64_t y = i * c.stride + m * c.dilation - c.padding;
              const int64_t x = j * c.stride + n * c.dilation - c.padding;
              const auto at = static_cast<size_t>(
                  plane * a.plane_stride + m * a.rows.kernel_stride + n * a.columns.kernel_stride +
                  i * a.rows.window_stride + j * a.columns.window_stride);
              const bool inside = y >= 0 && y < c.rows && x >= 0 && x < c.columns;
              const auto place = static_cast<size_t>((plane * c.rows + y) * c.columns + x);
              expected_unfolded[at] = inside ? image[place] : 0;
              if (inside) expected_folded[place] += columns[at];
            }
          }
        }
      }
    }
    for (int width : {1, 2}) {
      set_team_width(width);
      a.fold = false;
      a.input = image.data();
      a.output = unfolded.data();
      folding(a);
      EXPECT_EQ(unfolded, expected_unfolded);
      a.fold = true;
      a.input = columns.data();
      a.output = folded.data();
      folding(a);
      EXPECT_EQ(folded, expected_folded);
    }
    set_team_width(1);
  }
}

INSTANTIATE_TEST_SUITE_P(Windows, FoldingOf,
                         ::testing::Values(Case{9, 20, 3, 1, 1, 1}, Case{9, 20, 2, 2, 0, 1},
                                           Case{9, 21, 3, 2, 1, 1}, Case{9, 40, 3, 1, 2, 2},
                                           Case{5, 5, 5, 1, 4, 1}, Case{9, 9, 2, 3, 0, 4}));

}  // namespace
}  // namespace accel::kernels
