// Segments end where the content says so: loops of any shape must soon be cut at the same places.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "csrc/graph/recorder.h"

namespace accel::graph {
namespace {

struct Recorded {
  uint64_t content;
  uint64_t weight = 1;
  bool opens_kernel = false;
  bool waits = false;  // the host waits before this Node
};
using Body = std::vector<Recorded>;

// What ended a Segment, and its Nodes' contents: as good as the key of its Plan.
struct Ended {
  std::vector<uint64_t> contents;
  uint64_t weight;
};

class Recording {
 public:
  // Records a turn and returns the Segments that ended in it.
  std::vector<Ended> record(const Body& body) {
    std::vector<Ended> result;
    auto end = [&] {
      if (!open_.contents.empty()) result.push_back(std::exchange(open_, {}));
    };
    for (const Recorded& node : body) {
      if (node.waits) {
        boundary_.restart();
        end();
      }
      if (boundary_.cut_before(node.content, node.weight, node.opens_kernel)) end();
      open_.contents.push_back(node.content);
      open_.weight += node.weight;
    }
    return result;
  }

  // The same, and how many of them no turn had before.
  int new_segments(const Body& body) {
    int result = 0;
    for (Ended& segment : record(body)) result += seen_.insert(std::move(segment.contents)).second;
    return result;
  }

 private:
  Boundary boundary_;
  Ended open_{};
  std::set<std::vector<uint64_t>> seen_;
};

// Bodies of a loop, made of a few kinds of ops or of all different ones.
class Bodies {
 public:
  Bodies(uint64_t seed, uint64_t kinds, uint64_t most_weight)
      : random_(seed), kinds_(kinds), most_weight_(most_weight) {}

  int number(int least, int most) {
    return least + static_cast<int>(random_() % static_cast<uint64_t>(most - least + 1));
  }
  Body ops(int count) {
    Body result;
    for (int i = 0; i < count; ++i) {
      const uint64_t content = mix(kinds_, kinds_ ? random_() % kinds_ : random_());
      result.push_back({content, 1 + content % most_weight_, most_weight_ > 1 && content % 7 == 0});
    }
    return result;
  }

 private:
  std::mt19937_64 random_;
  uint64_t kinds_, most_weight_;
};

Body operator+(Body first, const Body& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

Body repeat(const Body& part, size_t nodes) {
  Body result;
  for (size_t i = 0; i < nodes; ++i) result.push_back(part[i % part.size()]);
  return result;
}

// Contract 3: after three turns, or three Segments' worth of Nodes, there is nothing new to plan.
void expect_settles(const Body& body) {
  const int length = static_cast<int>(body.size());
  const int settled = std::max(3, (3 * 512 + length - 1) / length);
  Recording recording;
  for (int turn = 1; turn <= settled + 20; ++turn) {
    const int planned = recording.new_segments(body);
    if (turn > settled) {
      ASSERT_EQ(planned, 0) << "in turn " << turn << " of a loop of " << length;
    }
  }
}

// Kinds of ops (0: all different), and the heaviest of them.
class Loops : public ::testing::TestWithParam<std::pair<int, int>> {
 protected:
  Bodies bodies(uint64_t seed) {
    return Bodies(seed, static_cast<uint64_t>(GetParam().first),
                  static_cast<uint64_t>(GetParam().second));
  }
};

TEST_P(Loops, OfAnyLengthSettle) {
  for (int length = 3; length <= 2000; length += 1 + length / 50) {
    expect_settles(bodies(static_cast<uint64_t>(length)).ops(length));
  }
}

TEST_P(Loops, OfLayersAndAnUnlikePartSettle) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    Bodies random = bodies(seed);
    const int layers = random.number(2, 60), length = random.number(5, 120);
    const Body all = repeat(random.ops(length), static_cast<size_t>(layers * length));
    const Body unlike = random.ops(random.number(0, 400));
    expect_settles(all + unlike);
    expect_settles(unlike + all);
  }
}

TEST_P(Loops, WhoseLastRepeatBreaksOffSettle) {
  for (int period : {5, 13, 42, 97}) {
    for (int length = 3; length <= 2000; length += 1 + length / 50) {
      expect_settles(
          repeat(bodies(static_cast<uint64_t>(length)).ops(period), static_cast<size_t>(length)));
    }
  }
}

TEST_P(Loops, ThatWaitSettle) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    Bodies random = bodies(seed);
    const int layers = random.number(2, 60), length = random.number(5, 120);
    Body body = repeat(random.ops(length), static_cast<size_t>(layers * length)) +
                random.ops(random.number(0, 40));
    for (uint64_t waits = 0; waits <= seed % 3; ++waits) {
      body[static_cast<size_t>(random.number(0, static_cast<int>(body.size()) - 1))].waits = true;
    }
    expect_settles(body);
  }
}

TEST_P(Loops, ThatTakeTurnsSettle) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Bodies random = bodies(seed);
    const size_t layers = static_cast<size_t>(random.number(2, 20));
    const Body forward = random.ops(30), backward = random.ops(60);
    const Body train = repeat(forward, layers * forward.size()) +
                       repeat(backward, layers * backward.size()) + random.ops(50);
    const Body evaluate = repeat(forward, layers * forward.size()) + random.ops(5);
    Recording recording;
    for (int round = 0; round < 6; ++round) {
      int planned = 0;
      for (int turn = 0; turn < 10; ++turn) planned += recording.new_segments(train);
      for (int turn = 0; turn < 3; ++turn) planned += recording.new_segments(evaluate);
      if (round >= 2) {
        EXPECT_EQ(planned, 0) << "in round " << round;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Contents, Loops,
                         ::testing::Values(std::pair(0, 1), std::pair(0, 4), std::pair(0, 17),
                                           std::pair(6, 1), std::pair(6, 4), std::pair(6, 17)));

TEST(Boundary, KeepsSegmentsWithinTheirLimits) {
  Bodies random(1, 0, 4);
  for (const Body& body :
       {random.ops(20'000), repeat(random.ops(1), 5000), repeat(random.ops(7), 5000),
        repeat(random.ops(150), 5000), repeat(random.ops(1000), 5000)}) {
    Recording recording;
    for (const Ended& segment : recording.record(body)) {
      EXPECT_GE(segment.weight, Boundary::kLeast);
      EXPECT_LE(segment.weight, Boundary::kMost + 4);
    }
  }
}

TEST(Boundary, LeavesLargeNodesTogether) {
  EXPECT_EQ(Boundary::weight(0), 1);
  EXPECT_EQ(Boundary::weight(3 * Boundary::kUnitBytes), 4);
  const uint64_t most = Boundary::weight(size_t{1} << 40);
  Body body = Bodies(1, 0, 1).ops(5000);
  for (Recorded& node : body) node.weight = most;
  Recording recording;
  for (const Ended& segment : recording.record(body)) EXPECT_GE(segment.contents.size(), 4);
}

TEST(Boundary, FollowsNoTurnThatWasNeverCut) {
  // A first turn of hardly more than a window is often not cut at all.
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Bodies random(seed, 0, 1);
    const Body body = random.ops(random.number(256, 400));
    Recording recording;
    for (int turn = 0; turn < 20; ++turn) {
      for (const Ended& segment : recording.record(body)) EXPECT_LE(segment.weight, 3 * 400u);
    }
  }
}

TEST(Boundary, WaitingTwiceIsWaitingOnce) {
  const Body body = Bodies(1, 0, 1).ops(300);
  Boundary once, twice;
  for (int turn = 0; turn < 10; ++turn) {
    once.restart();
    for (int i = 0; i <= turn; ++i) twice.restart();
    for (const Recorded& node : body) {
      EXPECT_EQ(once.cut_before(node.content, 1, false), twice.cut_before(node.content, 1, false));
    }
  }
}

}  // namespace
}  // namespace accel::graph
