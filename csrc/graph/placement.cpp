#include "csrc/graph/placement.h"

#include <algorithm>
#include <optional>
#include <vector>

namespace accel::graph {

namespace {

// Places begin at cache lines of their own.
constexpr size_t kAlignment = 64;

// The values that have been placed in one piece of memory, by where they begin.
class Occupants {
 public:
  struct Gap {
    size_t begin, bytes;
  };

  // The smallest gap below `limit` that has room for the value while it lives.
  std::optional<Gap> tightest_gap(const Temporary& value, size_t limit) const {
    std::optional<Gap> best;
    size_t free_from = 0;
    auto consider = [&](size_t end) {
      if (end < free_from + value.bytes) return;
      if (!best || end - free_from < best->bytes) best = {free_from, end - free_from};
    };
    for (const Temporary* other : placed_) {
      if (other->last < value.first || other->first > value.last) continue;
      consider(std::min(other->begin, limit));
      free_from = std::max(free_from, other->end());
    }
    consider(limit);
    return best;
  }

  // Behind all values that live when this one does.
  size_t top(const Temporary& value) const {
    size_t top = 0;
    for (const Temporary* other : placed_) {
      if (other->last < value.first || other->first > value.last) continue;
      top = std::max(top, other->end());
    }
    return top;
  }

  void add(const Temporary& value) {
    const auto where =
        std::upper_bound(placed_.begin(), placed_.end(), value.begin,
                         [](size_t begin, const Temporary* other) { return begin < other->begin; });
    placed_.insert(where, &value);
  }

 private:
  std::vector<const Temporary*> placed_;
};

}  // namespace

// The largest first, each into the tightest gap that there is; the workspace grows only where there
// is none.
size_t place(std::span<Temporary> temporaries, std::span<const Room> rooms) {
  std::vector<Temporary*> order;
  for (Temporary& value : temporaries) {
    value.bytes = (value.bytes + kAlignment - 1) / kAlignment * kAlignment;
    order.push_back(&value);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const Temporary* a, const Temporary* b) { return a->bytes > b->bytes; });
  std::vector<Occupants> in_rooms(rooms.size());
  Occupants in_workspace;
  size_t workspace = 0;
  for (Temporary* value : order) {
    std::optional<Occupants::Gap> best = in_workspace.tightest_gap(*value, workspace);
    value->room = Temporary::kWorkspace;
    for (size_t i = 0; i < rooms.size(); ++i) {
      const Room& room = rooms[i];
      if (value->first < room.from || value->last >= room.until) continue;
      const auto gap = in_rooms[i].tightest_gap(*value, room.bytes);
      if (!gap || (best && best->bytes <= gap->bytes)) continue;
      best = gap;
      value->room = static_cast<int32_t>(i);
    }
    value->begin = best ? best->begin : in_workspace.top(*value);
    if (value->room == Temporary::kWorkspace) {
      workspace = std::max(workspace, value->end());
      in_workspace.add(*value);
    } else {
      in_rooms[static_cast<size_t>(value->room)].add(*value);
    }
  }
  return workspace;
}

}  // namespace accel::graph
