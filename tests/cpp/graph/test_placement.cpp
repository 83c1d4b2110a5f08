// Placement: values that are needed at once never share memory, and rooms are used only while they
// are free.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "csrc/graph/placement.h"

namespace accel::graph {
namespace {

TEST(Placement, ValuesThatMeetHavePlacesOfTheirOwn) {
  std::mt19937 random(0);
  auto pick = [&](size_t low, size_t high) { return low + random() % (high - low + 1); };
  size_t in_rooms = 0;
  for (int round = 0; round < 500; ++round) {
    const size_t launches = pick(1, 40);
    std::vector<Room> rooms(pick(0, 8));
    for (Room& room : rooms) {
      room = {pick(0, 4000), pick(0, launches), 0};
      room.until = pick(room.from, launches);
    }
    std::vector<Temporary> values(pick(0, 60));
    std::vector<size_t> sizes;
    size_t sum = 0;
    for (Temporary& value : values) {
      value.bytes = pick(1, 3000);
      value.first = pick(0, launches - 1);
      value.last = pick(value.first, launches - 1);
      sizes.push_back(value.bytes);
      sum += (value.bytes + 63) / 64 * 64;
    }
    const size_t workspace = place(values, rooms);
    EXPECT_LE(workspace, sum);
    for (size_t i = 0; i < values.size(); ++i) {
      const Temporary& a = values[i];
      ASSERT_EQ(a.begin % 64, 0u);
      ASSERT_GE(a.bytes, sizes[i]);
      if (a.room == Temporary::kWorkspace) {
        ASSERT_LE(a.end(), workspace);
      } else {
        const Room& room = rooms[static_cast<size_t>(a.room)];
        ASSERT_LE(a.end(), room.bytes);
        ASSERT_GE(a.first, room.from);
        ASSERT_LT(a.last, room.until);
        ++in_rooms;
      }
      for (size_t j = 0; j < i; ++j) {
        const Temporary& b = values[j];
        const bool same_time = a.first <= b.last && b.first <= a.last;
        const bool same_place = a.room == b.room && a.begin < b.end() && b.begin < a.end();
        ASSERT_FALSE(same_time && same_place) << round;
      }
    }
  }
  EXPECT_GT(in_rooms, 1000u);
}

TEST(Placement, AChainNeedsTwoPlaces) {
  std::vector<Temporary> chain;
  for (size_t i = 0; i < 10; ++i) chain.push_back({.bytes = 128, .first = i, .last = i + 1});
  EXPECT_EQ(place(chain, {}), 256u);
}

TEST(Placement, RoomsComeBeforeAWorkspace) {
  // An output that is written by the last Launch, and an input that the first has read.
  const std::vector<Room> rooms = {{128, 0, 9}, {128, 1, 10}};
  std::vector<Temporary> chain;
  for (size_t i = 1; i < 8; ++i) chain.push_back({.bytes = 128, .first = i, .last = i + 1});
  EXPECT_EQ(place(chain, rooms), 0u);
}

}  // namespace
}  // namespace accel::graph
