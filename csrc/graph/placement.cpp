#include "csrc/graph/placement.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "csrc/runtime/caching_allocator.h"

namespace accel::graph {

namespace {

// Temporaries begin at cache lines of their own. Outputs are Blocks, and those of this size are cut
// as the allocator cuts them.
constexpr size_t kAlignment = 64;

// The values that have been placed in one piece of memory, by where they begin.
class Occupants {
 public:
  struct Gap {
    size_t begin, bytes;
  };

  // The smallest gap below `limit` that has room for the value while it lives.
  std::optional<Gap> tightest_gap(const Value& value, size_t limit) const {
    std::optional<Gap> best;
    size_t free_from = 0;
    auto consider = [&](size_t end) {
      if (end < free_from + value.bytes) return;
      if (!best || end - free_from < best->bytes) best = {free_from, end - free_from};
    };
    for (const Value* other : placed_) {
      if (other->last < value.first || other->first > value.last) continue;
      consider(std::min(other->begin, limit));
      free_from = std::max(free_from, other->end());
    }
    consider(limit);
    return best;
  }

  // Behind all values that live when this one does.
  size_t top(const Value& value) const {
    size_t top = 0;
    for (const Value* other : placed_) {
      if (other->last < value.first || other->first > value.last) continue;
      top = std::max(top, other->end());
    }
    return top;
  }

  void add(const Value& value) {
    const auto where =
        std::upper_bound(placed_.begin(), placed_.end(), value.begin,
                         [](size_t begin, const Value* other) { return begin < other->begin; });
    placed_.insert(where, &value);
  }

 private:
  std::vector<const Value*> placed_;
};

}  // namespace

// Outputs first, and the largest of each kind, each into the tightest gap that there is; the
// workspace grows only where there is none.
size_t place(std::span<Value> values, std::span<const Room> rooms) {
  std::vector<Value*> order;
  for (Value& value : values) {
    const size_t unit = value.is_output() ? runtime::kLargeGranule : kAlignment;
    value.bytes = (value.bytes + unit - 1) / unit * unit;
    order.push_back(&value);
  }
  std::stable_sort(order.begin(), order.end(), [](const Value* a, const Value* b) {
    return std::pair(a->is_output(), a->bytes) > std::pair(b->is_output(), b->bytes);
  });
  std::vector<Occupants> in_rooms(rooms.size());
  std::vector<bool> closed(rooms.size());
  Occupants in_workspace;
  size_t workspace = 0;
  for (Value* value : order) {
    std::optional<Occupants::Gap> best;
    if (!value->is_output()) best = in_workspace.tightest_gap(*value, workspace);
    value->room = value->own_room;
    for (size_t i = 0; i < rooms.size(); ++i) {
      const Room& room = rooms[i];
      if (closed[i] || value->first < room.from || value->last >= room.until) continue;
      const auto gap = in_rooms[i].tightest_gap(*value, room.bytes);
      if (!gap || (best && best->bytes <= gap->bytes)) continue;
      best = gap;
      value->room = static_cast<int32_t>(i);
    }
    if (value->is_output()) {
      if (value->room == value->own_room) continue;
      closed[static_cast<size_t>(value->own_room)] = true;
    }
    value->begin = best ? best->begin : in_workspace.top(*value);
    if (value->room == Value::kWorkspace) {
      workspace = std::max(workspace, value->end());
      in_workspace.add(*value);
    } else {
      in_rooms[static_cast<size_t>(value->room)].add(*value);
    }
  }
  return workspace;
}

}  // namespace accel::graph
