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
  size_t in_rooms = 0, moved = 0;
  for (int round = 0; round < 500; ++round) {
    const size_t launches = pick(1, 40);
    std::vector<Room> rooms(pick(0, 8));
    for (Room& room : rooms) {
      room = {pick(0, 40000), pick(0, launches), 0};
      room.until = pick(0, 1) == 0 ? launches : pick(room.from, launches);
    }
    std::vector<Value> values(pick(0, 60));
    std::vector<size_t> sizes;
    size_t sum = 0;
    for (Value& value : values) {
      value.bytes = pick(1, 3000);
      value.first = pick(0, launches - 1);
      value.last = pick(value.first, launches - 1);
      sizes.push_back(value.bytes);
      sum += (value.bytes + 63) / 64 * 64;
    }
    for (size_t outputs = pick(0, 4); outputs > 0; --outputs) {
      const size_t bytes = pick(1, 20000), first = pick(0, launches - 1);
      values.push_back({.bytes = bytes,
                        .first = first,
                        .last = launches - 1,
                        .own_room = static_cast<int32_t>(rooms.size())});
      sizes.push_back(bytes);
      rooms.push_back({bytes, 0, first});
    }
    const size_t workspace = place(values, rooms);
    EXPECT_LE(workspace, sum);
    std::vector<bool> closed(rooms.size());
    for (const Value& value : values) {
      if (!value.is_output() || value.room == value.own_room) continue;
      closed[static_cast<size_t>(value.own_room)] = true;
      ASSERT_EQ(value.begin % 4096, 0u);
      ++moved;
    }
    for (size_t i = 0; i < values.size(); ++i) {
      const Value& a = values[i];
      ASSERT_EQ(a.begin % 64, 0u);
      ASSERT_GE(a.bytes, sizes[i]);
      if (a.is_output() && a.room == a.own_room) continue;
      if (a.room == Value::kWorkspace) {
        ASSERT_FALSE(a.is_output());
        ASSERT_LE(a.end(), workspace);
      } else {
        const Room& room = rooms[static_cast<size_t>(a.room)];
        ASSERT_LE(a.end(), room.bytes);
        ASSERT_GE(a.first, room.from);
        ASSERT_LT(a.last, room.until);
        ASSERT_FALSE(closed[static_cast<size_t>(a.room)]);
        ++in_rooms;
      }
      for (size_t j = 0; j < i; ++j) {
        const Value& b = values[j];
        if (b.is_output() && b.room == b.own_room) continue;
        const bool same_time = a.first <= b.last && b.first <= a.last;
        const bool same_place = a.room == b.room && a.begin < b.end() && b.begin < a.end();
        ASSERT_FALSE(same_time && same_place) << round;
      }
    }
  }
  EXPECT_GT(in_rooms, 1000u);
  EXPECT_GT(moved, 100u);
}

TEST(Placement, AChainNeedsTwoPlaces) {
  std::vector<Value> chain;
  for (size_t i = 0; i < 10; ++i) chain.push_back({.bytes = 128, .first = i, .last = i + 1});
  EXPECT_EQ(place(chain, {}), 256u);
}

TEST(Placement, RoomsComeBeforeAWorkspace) {
  // An output that is written by the last Launch, and an input that the first has read.
  const std::vector<Room> rooms = {{128, 0, 9}, {128, 1, 10}};
  std::vector<Value> chain;
  for (size_t i = 1; i < 8; ++i) chain.push_back({.bytes = 128, .first = i, .last = i + 1});
  EXPECT_EQ(place(chain, rooms), 0u);
}

TEST(Placement, AnOutputTakesThePlaceOfAnInputThatHasBeenRead) {
  // The second input is read too late for the first output.
  const std::vector<Room> rooms = {{9000, 2, 10}, {8192, 6, 10}, {5000, 0, 4}, {9000, 0, 7}};
  std::vector<Value> outputs = {{.bytes = 5000, .first = 4, .last = 9, .own_room = 2},
                                {.bytes = 8192, .first = 7, .last = 9, .own_room = 3}};
  EXPECT_EQ(place(outputs, rooms), 0u);
  EXPECT_EQ(outputs[0].room, 0);
  EXPECT_EQ(outputs[1].room, 1);
  // The larger one comes first, and may want the only room of the other.
  EXPECT_EQ(place(outputs, std::vector<Room>{rooms[0], {0, 6, 10}, rooms[2], rooms[3]}), 0u);
  EXPECT_EQ(outputs[0].room, 0);
  EXPECT_EQ(outputs[1].room, 3);
  outputs[1].bytes = 8193;
  EXPECT_EQ(place(outputs, std::vector<Room>{{12288, 2, 10}, {0, 6, 10}, rooms[2], rooms[3]}), 0u);
  EXPECT_EQ(outputs[0].room, 2);
  EXPECT_EQ(outputs[1].room, 0);
}

}  // namespace
}  // namespace accel::graph
