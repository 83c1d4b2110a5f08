// Places in sorted sequences against the standard library's.
#include "kernels/search/search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/common/parallel.h"

namespace accel::kernels {
namespace {

template <class Element>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType kValue = DType::Float32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType kValue = DType::Float64;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType kValue = DType::UInt8;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType kValue = DType::Int64;
};

template <class Element>
void check(int64_t rows, int64_t length, int64_t count, SearchSide side, bool sorted) {
  std::mt19937 generator(static_cast<unsigned>(length));
  std::vector<Element> sequence(static_cast<size_t>(rows * length));
  std::vector<Element> values(static_cast<size_t>(rows * count));
  // Few different ones, so that there are ties.
  for (auto& x : sequence) x = static_cast<Element>(generator() % 50);
  for (auto& x : values) x = static_cast<Element>(generator() % 52);
  std::vector<int64_t> sorter(sequence.size()), places(values.size() + 1, -7);
  std::vector<Element> in_order;
  for (int64_t row = 0; row < rows; ++row) {
    auto first = sequence.begin() + row * length;
    auto order = sorter.begin() + row * length;
    std::iota(order, order + length, 0);
    if (sorted) {
      std::sort(first, first + length);
    } else {
      std::sort(order, order + length, [&](int64_t a, int64_t b) { return first[a] < first[b]; });
    }
    for (int64_t i = 0; i < length; ++i) in_order.push_back(first[order[i]]);
  }
  Search args;
  args.side = side;
  args.dtype = DTypeOf<Element>::kValue;
  args.rows = rows;
  args.length = length;
  args.count = count;
  args.sequence = sequence.data();
  args.sorter = sorted ? nullptr : sorter.data();
  args.values = values.data();
  args.places = places.data();
  Fault fault;
  set_team_width(2);
  search(args, &fault);
  set_team_width(1);
  ASSERT_FALSE(fault.raised);
  for (int64_t i = 0; i < rows * count; ++i) {
    const auto first = in_order.begin() + i / count * length;
    const Element value = values[static_cast<size_t>(i)];
    const auto found = side == SearchSide::Left ? std::lower_bound(first, first + length, value)
                                                : std::upper_bound(first, first + length, value);
    ASSERT_EQ(places[static_cast<size_t>(i)], found - first) << rows << " " << length << " " << i;
  }
  EXPECT_EQ(places.back(), -7);
}

TEST(Search, AsTheStandardLibrary) {
  for (const SearchSide side : {SearchSide::Left, SearchSide::Right}) {
    for (const bool sorted : {true, false}) {
      for (const int64_t length : {1, 2, 3, 4, 5, 7, 8, 31, 100, 1000}) {
        check<float>(1, length, 13, side, sorted);
        check<double>(3, length, 7, side, sorted);
        check<uint8_t>(2, length, 1, side, sorted);
        check<int64_t>(1, length, 3000, side, sorted);
      }
    }
  }
}

TEST(Search, NanBelongsBehindEverything) {
  const float sequence[] = {1, 2, INFINITY}, values[] = {NAN, INFINITY, -INFINITY};
  for (const SearchSide side : {SearchSide::Left, SearchSide::Right}) {
    int32_t places[3];
    Search args;
    args.side = side;
    args.place_dtype = DType::Int32;
    args.length = args.count = 3;
    args.shares_sequence = true;
    args.sequence = sequence;
    args.values = values;
    args.places = places;
    Fault fault;
    search(args, &fault);
    EXPECT_EQ(places[0], 3);
    EXPECT_EQ(places[1], side == SearchSide::Left ? 2 : 3);
    EXPECT_EQ(places[2], 0);
  }
}

TEST(Search, SorterOutOfRangeIsAFault) {
  const float sequence[] = {1, 2}, value = 1;
  for (const int64_t bad : {-1, 2}) {
    const int64_t sorter[] = {0, bad};
    int64_t place = 0;
    Search args;
    args.length = 2;
    args.count = 1;
    args.sequence = sequence;
    args.sorter = sorter;
    args.values = &value;
    args.places = &place;
    Fault fault;
    search(args, &fault);
    EXPECT_TRUE(fault.raised);
    EXPECT_EQ(fault.index, bad);
  }
}

TEST(RepeatPlaces, Segments) {
  std::mt19937 generator(2);
  for (const int64_t longest : {1, 3, 100, 40000}) {
    std::vector<int32_t> lengths, expected;
    for (int32_t i = 0; i < 20; ++i) {
      lengths.push_back(static_cast<int32_t>(generator() % static_cast<unsigned>(longest + 1)));
      expected.insert(expected.end(), static_cast<size_t>(lengths.back()), i);
    }
    std::vector<int32_t> places(expected.size() + 1, -7);
    Segments args;
    args.dtype = DType::Int32;
    args.count = 20;
    args.total = static_cast<int64_t>(expected.size());
    args.lengths = lengths.data();
    args.places = places.data();
    Fault fault;
    set_team_width(2);
    repeat_places(args, &fault);
    set_team_width(1);
    ASSERT_FALSE(fault.raised);
    EXPECT_EQ(places.back(), -7);
    places.pop_back();
    EXPECT_EQ(places, expected);
  }
}

TEST(RepeatPlaces, LengthsThatDoNotFitAreFaults) {
  for (const auto& lengths : {std::vector<int64_t>{2, -1, 3}, {1, 1, 1}, {4, 1, 0}}) {
    std::vector<int64_t> places(4, -7);
    Segments args;
    args.count = 3;
    args.total = 4;
    args.lengths = lengths.data();
    args.places = places.data();
    Fault fault;
    repeat_places(args, &fault);
    EXPECT_TRUE(fault.raised);
  }
}

}  // namespace
}  // namespace accel::kernels
