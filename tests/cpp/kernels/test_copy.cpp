// Strided copies against an element-by-element reference.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/copy/copy.h"

namespace accel::kernels {
namespace {

using Shape = std::vector<int64_t>;

// Strides, in elements, of a dense tensor whose dimensions lie in memory in this order, outermost
// first, each with `gap` unused elements behind it.
Shape strides_of(const Shape& sizes, const std::vector<int>& order, int64_t gap = 0) {
  Shape strides(sizes.size());
  int64_t step = 1;
  for (size_t i = order.size(); i-- > 0;) {
    strides[static_cast<size_t>(order[i])] = step;
    step *= sizes[static_cast<size_t>(order[i])] + gap;
  }
  return strides;
}

int64_t extent(const Shape& sizes, const Shape& strides) {
  int64_t last = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] > 0 && strides[i] > 0) last += (sizes[i] - 1) * strides[i];
  }
  return last + 1;
}

void check(const Shape& sizes, const Shape& destination_strides, const Shape& source_strides,
           int64_t element_size, int64_t source_start = 0, int64_t destination_start = 0) {
  std::string name = "element " + std::to_string(element_size) + " sizes";
  for (const int64_t n : sizes) name += " " + std::to_string(n);
  name += " to";
  for (const int64_t n : destination_strides) name += " " + std::to_string(n);
  name += " from";
  for (const int64_t n : source_strides) name += " " + std::to_string(n);
  SCOPED_TRACE(name);
  const auto bytes = [&](int64_t elements) { return static_cast<size_t>(elements * element_size); };
  std::vector<uint8_t> source(bytes(extent(sizes, source_strides) + source_start));
  std::mt19937 generator(5);
  for (auto& byte : source) byte = static_cast<uint8_t>(generator());
  std::vector<uint8_t> expected(bytes(extent(sizes, destination_strides) + destination_start) + 64,
                                0xa5);
  std::vector<uint8_t> actual = expected;

  const int64_t count =
      std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<int64_t>());
  Shape index(sizes.size());
  for (int64_t flat = 0; flat < count; ++flat) {
    int64_t to = destination_start, from = source_start;
    for (size_t i = 0; i < sizes.size(); ++i) {
      to += index[i] * destination_strides[i];
      from += index[i] * source_strides[i];
    }
    std::memcpy(&expected[bytes(to)], &source[bytes(from)], static_cast<size_t>(element_size));
    for (size_t i = sizes.size(); i-- > 0;) {
      if (++index[i] < sizes[i]) break;
      index[i] = 0;
    }
  }
  Shape to_bytes = destination_strides, from_bytes = source_strides;
  for (auto& stride : to_bytes) stride *= element_size;
  for (auto& stride : from_bytes) stride *= element_size;
  for (const int width : {1, 2}) {
    set_team_width(width);
    std::vector<uint8_t> result = actual;
    strided_copy(static_cast<int>(sizes.size()), sizes.data(), element_size,
                 result.data() + bytes(destination_start), to_bytes.data(),
                 source.data() + bytes(source_start), from_bytes.data());
    set_team_width(1);
    ASSERT_TRUE(result == expected);
  }
}

constexpr int64_t kElementSizes[] = {1, 2, 4, 8, 16};

TEST(StridedCopy, Transposes) {
  for (const int64_t element : kElementSizes) {
    for (const int64_t m : {1, 3, 7, 16, 17, 33, 64, 65, 200}) {
      for (const int64_t n : {1, 2, 15, 16, 31, 64, 130}) {
        check({m, n}, strides_of({m, n}, {0, 1}), strides_of({m, n}, {1, 0}), element);
        check({m, n}, strides_of({m, n}, {0, 1}, 3), strides_of({m, n}, {1, 0}, 1), element);
      }
    }
  }
}

TEST(StridedCopy, EveryPermutationOfFourDimensions) {
  const Shape sizes = {3, 5, 17, 20};
  for (const int64_t element : kElementSizes) {
    std::vector<int> order = {0, 1, 2, 3};
    do {
      check(sizes, strides_of(sizes, {0, 1, 2, 3}), strides_of(sizes, order), element);
      check(sizes, strides_of(sizes, order), strides_of(sizes, {0, 1, 2, 3}, 1), element);
    } while (std::next_permutation(order.begin(), order.end()));
  }
}

TEST(StridedCopy, ContiguousRuns) {
  for (const int64_t element : kElementSizes) {
    for (const int64_t n : {1, 2, 3, 4, 8, 16, 63, 1000, 300000}) {
      check({n}, {1}, {1}, element);
      check({3, n}, {n + 5, 1}, {n, 1}, element);
    }
  }
  // Short rows are copied as one element of their size.
  for (const int64_t n : {2, 3, 4, 8, 16, 24, 32}) {
    check({50, 70, n}, {70 * n, n, 1}, {n, 50 * n, 1}, 4);
    check({700, n}, {n + 1, 1}, {2 * n, 1}, 2);
  }
}

TEST(StridedCopy, BroadcastsAndReversals) {
  for (const int64_t element : kElementSizes) {
    check({40, 33}, {33, 1}, {0, 1}, element);
    check({40, 33}, {33, 1}, {1, 0}, element);
    check({40, 33}, {33, 1}, {0, 0}, element);
    check({7, 40, 33}, {40 * 33, 33, 1}, {1, 0, 7}, element);
    check({40, 33}, {33, 1}, {33, -1}, element, 32);
    check({40, 33}, {33, 1}, {-1, -40}, element, 40 * 33 - 1);
    check({40, 33}, {33, -1}, {33, 1}, element, 0, 32);
    check({3, 5, 300}, {1500, 300, 1}, {1500, -300, -1}, element, 1499);
  }
}

TEST(StridedCopy, StridedOnBothSides) {
  for (const int64_t element : kElementSizes) {
    check({100, 50}, {200, 2}, {3, 400}, element);
    check({5000}, {2}, {3}, element);
    check({3, 5000, 4}, {40000, 8, 2}, {1, 16, 4}, element);
  }
}

TEST(StridedCopy, EmptyAndSingle) {
  check({0, 4}, {4, 1}, {1, 1}, 4);
  check({}, {}, {}, 8);
  check({1, 1, 1}, {9, 9, 9}, {7, 7, 7}, 2);
  check({1, 6, 1, 5}, {99, 5, 77, 1}, {11, 1, 22, 6}, 4);
}

TEST(StridedCopy, LargeEnoughForATeam) {
  check({1000, 700}, {700, 1}, {1, 1000}, 4);
  check({4, 300, 8, 64}, strides_of({4, 300, 8, 64}, {0, 2, 1, 3}),
        strides_of({4, 300, 8, 64}, {0, 1, 2, 3}), 2);
}

}  // namespace
}  // namespace accel::kernels
