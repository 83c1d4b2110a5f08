// Segments end where the content says so: loops of any length must soon be cut at the same places.
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "csrc/graph/recorder.h"

namespace accel::graph {
namespace {

// The cuts of one turn after another, as positions within the turn.
std::vector<std::vector<int>> cuts_of_turns(int length, int turns, uint64_t seed, bool kernels) {
  Boundary boundary;
  std::vector<std::vector<int>> result(turns);
  for (int turn = 0; turn < turns; ++turn) {
    for (int i = 0; i < length; ++i) {
      const uint64_t content = mix(seed, static_cast<uint64_t>(i) % 97 * 31 + i / 97);
      if (boundary.cut_before(content, 1 + i % 3, kernels && i % 7 == 0)) result[turn].push_back(i);
    }
  }
  return result;
}

class Loops : public ::testing::TestWithParam<int> {};

// Contract 3: after three turns (or three Segments' worth of Nodes) nothing new is cut.
TEST_P(Loops, RecurAtTheSamePlaces) {
  const int length = GetParam();
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    for (bool kernels : {false, true}) {
      const int settled = std::max(3, 3 * static_cast<int>(Boundary::kWindow) / length + 1);
      const auto cuts = cuts_of_turns(length, settled + 40, seed, kernels);
      // Segments as (where the last one ended, where this one ends), over turns: none that was
      // not seen before the loop settled.
      std::set<std::pair<int, int>> seen;
      int last = -1;
      for (size_t turn = 0; turn < cuts.size(); ++turn) {
        for (int cut : cuts[turn]) {
          const std::pair<int, int> segment{last, cut};
          if (static_cast<int>(turn) > settled) {
            EXPECT_TRUE(seen.contains(segment)) << "turn " << turn << " of a loop of " << length;
          }
          seen.insert(segment);
          last = cut;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Lengths, Loops,
                         ::testing::Values(3, 5, 8, 13, 21, 34, 55, 64, 89, 130, 144, 233, 256, 377,
                                           483, 610, 987, 1200, 1680, 2000));

}  // namespace
}  // namespace accel::graph
