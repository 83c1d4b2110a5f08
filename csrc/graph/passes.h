// Passes over a Graph. Each takes the Graph as the one before left it; one file each.
#pragma once

#include <cstdint>
#include <vector>

#include "csrc/graph/graph.h"
#include "csrc/graph/program_builder.h"

namespace accel::graph {

// Lets products of one row or column read fp32 where a cast to 16 bits was made for them alone.
void read_through_casts(Graph& graph);

// Marks Nodes dead whose results nobody reads. Range checks and host ops survive.
void remove_dead_stores(Graph& graph);

// Nodes that become one kernel, in program order. Groups run in the order of the list.
struct Group {
  Family family = Family::Pointwise;
  std::vector<int> nodes;     // into Graph::nodes
  int64_t elements = 0;       // of the iteration space
  int64_t kept = 0;           // of its kept dimensions (reductions)
  std::vector<int64_t> cuts;  // boundaries that the iteration space must have (common_space)
};

// The group of a Node on its own: its iteration space.
Group group_of(const Node& node, int index);

// Puts every live Node into a group: pointwise into pointwise, into a reduction's input, behind a
// reduction over the same rows, into a matmul's epilogue.
std::vector<Group> fuse(const Graph& graph);

// Whether a Node of a group is defined over all elements or over kept dimensions only.
Domain domain_of(const Node& node, const Group& group);

}  // namespace accel::graph
