// Fusion: which Nodes become one kernel.
//
// Nodes are taken in program order. Each joins the group of the last Node it depends on if that
// group can compute it. Else, where it is so small that a Launch costs more than its work, it joins
// one of the groups behind that, which have nothing to do with it (the gates of a recurrent cell,
// the tensors of a _foreach_ op); or it opens a group behind all others. Joining moves a Node
// forward, to where its group runs; nothing it depends on (by reading or by memory reuse) runs
// later than that, so the order of groups keeps every dependence.
#include <algorithm>

#include "csrc/graph/passes.h"

namespace accel::graph {

namespace {

// Beyond these a program spills out of registers and operands; long chains gain nothing more.
constexpr size_t kMaxGroupNodes = 48;
constexpr size_t kMaxGroupViews = vec::kMaxOperands - 4;
constexpr size_t kMaxGroupSlots = vec::kMaxSlots;
constexpr size_t kMaxGroupScalars = vec::kMaxScalars / 2;

// Up to so many elements a Node joins a group that it has nothing to do with, among the last few.
constexpr int64_t kSmallElements = 8192;
constexpr int kGroupsBeside = 8;

bool is_reduction(Family family) {
  return family == Family::RowReduce || family == Family::ColumnReduce;
}

int64_t kept_elements(const Node& node) {
  const View& input = node.inputs[0];
  const auto kept = static_cast<size_t>(node.attributes.at(1));
  const size_t dims = input.sizes.size();
  const size_t begin = family_of(node) == Family::ColumnReduce ? dims - kept : 0;
  int64_t product = 1;
  for (size_t i = begin; i < begin + kept; ++i) product *= input.sizes[i];
  return product;
}

bool accumulates_in_fp32(const Node& matmul) {
  const auto compute = static_cast<DType>(matmul.attributes.at(0));
  return compute == DType::Float32 || compute == DType::BFloat16 || compute == DType::Float16;
}

// A program with a position-dependent op must walk the space in the Node's own row-major order,
// which the Layouts guarantee; ColumnIndex in addition needs the innermost dimension in one piece.
bool uses_column_index(const Node& node) { return node.opcode == Opcode::NllLossBackward; }

struct Access {
  int node;
  int group;
  const View* view;
  bool write;
};

class Fuser {
 public:
  explicit Fuser(const Graph& graph) : graph_(graph), accesses_(graph.live.size()) {}

  std::vector<Group> run() {
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (!graph_.nodes[i].dead) place(static_cast<int>(i));
    }
    std::vector<Group> groups;
    for (Open& open : groups_) groups.push_back(std::move(open.group));
    return groups;
  }

 private:
  struct Open {
    Group group;
    std::vector<Layout> layouts;  // of all views over the full space
    size_t views = 0, slots = 0, scalars = 0;
    bool column_index = false;
    bool in_place = false;  // a Node of the group writes what it or another one reads
  };

  void place(int index) {
    const Node& node = graph_.nodes[index];
    const int last = last_dependence(node);
    int target = last >= 0 && join(node, groups_[last], last) ? last : join_beside(node, last);
    if (target >= 0) {
      groups_[target].group.nodes.push_back(index);
    } else {
      target = static_cast<int>(groups_.size());
      groups_.push_back({group_of(node, index), {}, 0, 0, 0, false, false});
      account(node, groups_.back());
    }
    for (const View& view : node.inputs) note(index, target, view, false);
    for (const View& view : node.outputs) groups_[target].in_place |= touched(view, target);
    for (const View& view : node.outputs) note(index, target, view, true);
  }

  void note(int node, int group, const View& view, bool write) {
    if (!view.absent()) accesses_[view.buffer].push_back({node, group, &view, write});
  }

  bool touched(const View& view, int group) const {
    if (view.absent()) return false;
    const auto& accesses = accesses_[view.buffer];
    return std::any_of(accesses.begin(), accesses.end(),
                       [&](const Access& access) { return access.group == group; });
  }

  // The last group that must run before this Node, or be its own.
  int last_dependence(const Node& node) const {
    int last = -1;
    auto look = [&](const View& view, bool write) {
      if (view.absent()) return;
      for (const Access& access : accesses_[view.buffer]) {
        if ((write || access.write) && access.group > last && may_overlap(*access.view, view)) {
          last = access.group;
        }
      }
    };
    for (const View& view : node.inputs) look(view, false);
    for (const View& view : node.outputs) look(view, true);
    return last;
  }

  // What the Node's views need of the group: their Layouts over the full space.
  static std::vector<Layout> full_layouts(const Node& node, const Group& group) {
    std::vector<Layout> layouts;
    const Domain domain = domain_of(node, group);
    auto take = [&](const View& view) {
      if (view.absent()) return;
      Layout layout = view.layout();
      // Views over kept dimensions repeat over the reduced ones.
      if (is_reduction(group.family) &&
          (domain == Domain::Kept || view.elements() != group.elements)) {
        const int64_t reduced = group.kept == 0 ? 0 : group.elements / group.kept;
        if (group.family == Family::RowReduce) {
          layout.sizes.push_back(reduced);
          layout.strides.push_back(0);
        } else {
          layout.sizes.insert(layout.sizes.begin(), reduced);
          layout.strides.insert(layout.strides.begin(), 0);
        }
      }
      layouts.push_back(std::move(layout));
    };
    for (const View& view : node.outputs) take(view);
    for (const View& view : node.inputs) take(view);
    return layouts;
  }

  static void account(const Node& node, Open& open) {
    if (open.group.family != Family::Matmul && open.group.family != Family::Opaque) {
      for (Layout& layout : full_layouts(node, open.group)) {
        open.layouts.push_back(std::move(layout));
      }
    }
    open.views += node.inputs.size() + node.outputs.size();
    open.slots += slots_of(node);
    open.scalars += scalars_of(node);
    open.column_index |= uses_column_index(node);
  }

  // Its own, and constants, many of which Nodes share.
  static size_t scalars_of(const Node& node) { return static_cast<size_t>(node.scalars) + 1; }
  static size_t slots_of(const Node& node) { return is_reduction(family_of(node)) ? 2 : 0; }

  bool join(const Node& node, Open& open, int number) {
    const Family family = family_of(node);
    if (family == Family::Opaque || family == Family::Matmul) return false;
    if (open.group.family == Family::Opaque) return false;
    if (open.group.nodes.size() >= kMaxGroupNodes) return false;
    const size_t views = node.inputs.size() + node.outputs.size();
    if (open.views + views > kMaxGroupViews || open.slots + slots_of(node) > kMaxGroupSlots ||
        open.scalars + scalars_of(node) > kMaxGroupScalars) {
      return false;
    }
    Group merged = open.group;
    const Group alone = group_of(node, -1);
    if (family == Family::Pointwise) {
      const bool full = alone.elements == merged.elements;
      const bool kept = is_reduction(merged.family) && alone.elements == merged.kept;
      if (!full && !kept) return false;
      if (merged.family == Family::Matmul && !accumulates_in_fp32(graph_.nodes[merged.nodes[0]])) {
        return false;
      }
    } else {
      if (alone.elements != merged.elements) return false;
      if (merged.family == Family::Pointwise) {
        // Later phases compute values again from memory: it must still hold what it held.
        if (open.in_place) return false;
        merged.family = family;
        merged.kept = alone.kept;
        merged.cuts = alone.cuts;
      } else if (merged.family != family || merged.kept != alone.kept) {
        return false;
      }
    }
    if (!views_fit(node, merged, number)) return false;

    // One iteration space for all.
    std::vector<Layout> layouts = full_layouts(node, merged);
    if (merged.family == Family::Matmul) {
      for (const Layout& layout : layouts) {
        const auto space = common_space({&layout}, merged.elements, merged.cuts);
        if (!space || space->size() > pieces(merged)) return false;
      }
    } else {
      std::vector<const Layout*> all;
      for (const Layout& layout : open.layouts) all.push_back(&layout);
      for (const Layout& layout : layouts) all.push_back(&layout);
      const auto space = common_space(all, merged.elements, merged.cuts);
      if (!space || space->size() > vec::kMaxDims) return false;
      if (open.column_index || uses_column_index(node)) {
        int64_t inner = 1;
        if (!space->empty()) inner = space->back();
        if (inner != merged.elements / merged.kept) return false;
      }
    }
    open.group = std::move(merged);
    account(node, open);
    return true;
  }

  // The number of the group behind `last` that the Node has joined, or -1.
  int join_beside(const Node& node, int last) {
    if (family_of(node) != Family::Pointwise) return -1;
    const int64_t elements = node.outputs[0].elements();
    if (elements > kSmallElements) return -1;
    const int count = static_cast<int>(groups_.size());
    for (int i = count - 1; i > last && i >= count - kGroupsBeside; --i) {
      const Group& group = groups_[i].group;
      if (group.family == Family::Pointwise && group.elements == elements &&
          join(node, groups_[i], i)) {
        return i;
      }
    }
    return -1;
  }

  // How many dimensions the cuts of a matmul's output leave.
  static size_t pieces(const Group& group) {
    std::vector<int64_t> boundaries{1, group.elements};
    boundaries.insert(boundaries.end(), group.cuts.begin(), group.cuts.end());
    std::sort(boundaries.begin(), boundaries.end());
    boundaries.erase(std::unique(boundaries.begin(), boundaries.end()), boundaries.end());
    return boundaries.size() - 1;
  }

  // Whether every memory that both the Node and the group touch, one of them writing, is paired
  // element by element. Then running all of the group's instructions tile by tile is the same as
  // running one Node after the other.
  bool views_fit(const Node& node, const Group& group, int number) const {
    const bool in_place = group.family == Family::Pointwise;
    bool fits = true;
    auto look = [&](const View& view, bool write) {
      if (view.absent()) return;
      for (const Access& access : accesses_[view.buffer]) {
        if (access.group != number || !(write || access.write)) continue;
        if (!may_overlap(*access.view, view)) continue;
        const bool paired = same_elements(*access.view, view);
        // Writing what the group touches needs a program of one phase.
        fits &= paired && (in_place || !write);
        // A value over kept dimensions is not one over all elements, nor the reverse.
        if (paired && is_reduction(group.family)) {
          const Domain there = domain_of_view(view, group);
          fits &= there == Domain::Kept || domain_of(node, group) == Domain::Elements;
        }
      }
    };
    for (const View& view : node.inputs) look(view, false);
    for (const View& view : node.outputs) look(view, true);
    // A column's result is complete only after the one phase over elements.
    if (group.family == Family::ColumnReduce && domain_of(node, group) == Domain::Elements) {
      for (const View& view : node.inputs) {
        if (view.absent()) continue;
        for (const Access& access : accesses_[view.buffer]) {
          if (access.group == number && access.write &&
              domain_of_view(*access.view, group) == Domain::Kept) {
            fits = false;
          }
        }
      }
    }
    return fits;
  }

  static Domain domain_of_view(const View& view, const Group& group) {
    return view.elements() == group.elements ? Domain::Elements : Domain::Kept;
  }

  const Graph& graph_;
  std::vector<Open> groups_;
  std::vector<std::vector<Access>> accesses_;  // per Buffer
};

}  // namespace

Group group_of(const Node& node, int index) {
  Group group;
  group.nodes = {index};
  group.family = family_of(node);
  switch (group.family) {
    case Family::Pointwise:
      group.elements = node.outputs[0].elements();
      break;
    case Family::RowReduce:
    case Family::ColumnReduce: {
      // NllLossBackward's full view is its output; every other reduction reads one.
      const bool by_output = node.opcode == Opcode::NllLossBackward;
      const View& full = by_output ? node.outputs[0] : node.inputs[0];
      group.elements = full.elements();
      group.kept = by_output ? full.sizes[0] : kept_elements(node);
      const bool row = group.family == Family::RowReduce;
      group.cuts = {group.kept == 0 ? 1 : row ? group.elements / group.kept : group.kept};
      break;
    }
    case Family::Matmul: {
      const View& out = node.outputs[0];
      group.elements = out.elements();
      group.cuts = {out.sizes[2], out.sizes[1] * out.sizes[2]};
      break;
    }
    case Family::Opaque:
      break;
  }
  return group;
}

Domain domain_of(const Node& node, const Group& group) {
  if (!is_reduction(group.family) || is_reduction(family_of(node))) return Domain::Elements;
  return node.outputs[0].elements() == group.elements ? Domain::Elements : Domain::Kept;
}

std::vector<Group> fuse(const Graph& graph) { return Fuser(graph).run(); }

}  // namespace accel::graph
