// Graph: a Segment decoded, ready to be planned. Passes take one and change it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "csrc/graph/layout.h"
#include "csrc/graph/opcode.h"
#include "csrc/graph/segment.h"

namespace accel::graph {

struct View {
  int32_t buffer = -1;   // -1: absent
  int32_t ordinal = -1;  // among the Segment's Views: by which its offset is found at run time
  DType dtype = DType::Float32;
  std::vector<int64_t> sizes, strides;  // strides in elements
  // Where the View stands among those of its Buffer: for a Buffer that the Graph writes, bytes from
  // its first View; for one that it only reads, a number that is equal for equal offsets.
  int64_t place = 0;

  bool absent() const { return buffer < 0; }
  int64_t elements() const;
  Layout layout() const {
    return coalesce(sizes.data(), strides.data(), static_cast<int>(sizes.size()));
  }
  runtime::Reference reference() const { return {buffer, ordinal}; }
};

struct Node {
  Opcode opcode;
  std::vector<View> outputs, inputs;
  std::vector<uint64_t> attributes;
  int32_t first_scalar = 0, scalars = 0;  // among the Segment's
  int32_t host_call = -1;
  bool dead = false;  // set by passes; a dead Node makes no Launch
};

struct Graph {
  std::vector<Node> nodes;
  std::vector<bool> live;  // per Buffer: whether its content is needed after the Graph

  // Decodes a sealed Segment.
  static Graph from(const Segment& segment);
};

// First and one past the last byte that a View touches, from its Buffer's first View.
std::pair<int64_t, int64_t> byte_range(const View& view);
// Whether two Views of one Graph may touch the same memory; never says no where they do.
bool may_overlap(const View& a, const View& b);
// Whether row-major element i of one is row-major element i of the other, for all i.
bool same_elements(const View& a, const View& b);

Family family_of(const Node& node);

// One line a Node, for ACCEL_LOG=graph.
std::string to_string(const Graph& graph);

}  // namespace accel::graph
