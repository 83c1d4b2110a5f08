#include "csrc/graph/graph.h"

#include <algorithm>
#include <sstream>

namespace accel::graph {

const char* name_of(Opcode opcode) {
  switch (opcode) {
#define ACCEL_NAME(name) \
  case Opcode::name:     \
    return #name;
    ACCEL_UNARY_OPCODES(ACCEL_NAME)
    ACCEL_BINARY_OPCODES(ACCEL_NAME)
    ACCEL_COMPOSITE_OPCODES(ACCEL_NAME)
    ACCEL_REDUCE_OPCODES(ACCEL_NAME)
    ACCEL_ROW_OPCODES(ACCEL_NAME)
    ACCEL_SUMS_OPCODES(ACCEL_NAME)
    ACCEL_INDEXING_OPCODES(ACCEL_NAME)
    ACCEL_SCAN_OPCODES(ACCEL_NAME)
    ACCEL_SORT_OPCODES(ACCEL_NAME)
    ACCEL_SELECT_OPCODES(ACCEL_NAME)
    ACCEL_ENGINE_OPCODES(ACCEL_NAME)
#undef ACCEL_NAME
  }
  return "?";
}

int64_t View::elements() const {
  int64_t product = 1;
  for (int64_t size : sizes) product *= size;
  return product;
}

Graph Graph::from(const Segment& segment) {
  Graph graph;
  const std::vector<uint64_t>& words = segment.words();
  graph.nodes.reserve(segment.nodes());
  int32_t ordinal = 0, scalar = 0, host_call = 0;
  size_t at = 0;
  for (uint32_t start : segment.node_starts()) {
    at = start;
    const NodeHeader header = NodeHeader::unpack(words[at++]);
    Node node{header.opcode, {}, {}, {}, scalar, header.scalars, -1, false};
    scalar += header.scalars;
    if (header.opcode == Opcode::Host) node.host_call = host_call++;
    for (int i = 0; i < header.attributes; ++i) node.attributes.push_back(words[at++]);
    std::vector<int64_t> sizes;
    for (int i = 0; i < header.outputs + header.inputs; ++i) {
      const ViewHeader head = ViewHeader::unpack(words[at++]);
      View view{head.buffer, ordinal++, head.dtype, {}, {}, 0};
      if (!view.absent()) {
        if (!head.same_sizes) {
          sizes.clear();
          for (int d = 0; d < head.dims; ++d) sizes.push_back(static_cast<int64_t>(words[at++]));
        }
        view.sizes = sizes;
        for (int d = 0; d < head.dims; ++d) {
          view.strides.push_back(static_cast<int64_t>(words[at++]));
        }
      }
      (i < header.outputs ? node.outputs : node.inputs).push_back(std::move(view));
    }
    graph.nodes.push_back(std::move(node));
  }
  size_t place = segment.place_words();
  for (Node& node : graph.nodes) {
    for (auto* views : {&node.outputs, &node.inputs}) {
      for (View& view : *views) {
        if (view.absent() || !segment.several_offsets(view.buffer)) continue;
        view.place = static_cast<int64_t>(words[place++]);
      }
    }
  }
  graph.live.resize(segment.buffers());
  for (size_t buffer = 0; buffer < segment.buffers(); ++buffer) {
    graph.live[buffer] = segment.live(static_cast<int>(buffer));
  }
  return graph;
}

std::pair<int64_t, int64_t> byte_range(const View& view) {
  const int64_t size = kernels::size_of(view.dtype);
  int64_t low = view.place, high = view.place + size;
  for (size_t i = 0; i < view.sizes.size(); ++i) {
    if (view.sizes[i] == 0) return {low, low};
    const int64_t reach = (view.sizes[i] - 1) * view.strides[i] * size;
    (reach < 0 ? low : high) += reach;
  }
  return {low, high};
}

bool may_overlap(const View& a, const View& b) {
  if (a.absent() || a.buffer != b.buffer) return false;
  const auto [a_low, a_high] = byte_range(a);
  const auto [b_low, b_high] = byte_range(b);
  if (a_high <= b_low || b_high <= a_low) return false;
  // Two slices of the same rows, side by side: equal strides, and neither reaches the other's
  // columns. Common enough (split, chunk, qkv) to be worth telling apart.
  if (a.dtype == b.dtype && a.strides == b.strides && a.place != b.place) {
    const int64_t size = kernels::size_of(a.dtype);
    const int64_t distance = std::abs(a.place - b.place);
    const View& left = a.place < b.place ? a : b;
    const View& right = a.place < b.place ? b : a;
    for (size_t i = 0; i < a.strides.size(); ++i) {
      const int64_t row = std::abs(a.strides[i]) * size;
      if (row == 0 || distance >= row || left.sizes.empty()) continue;
      // Within one row of dimension i: what the inner dimensions of each side reach.
      auto reach = [&](const View& view) {
        int64_t bytes = size;
        for (size_t j = 0; j < view.strides.size(); ++j) {
          if (std::abs(view.strides[j]) * size < row) {
            bytes += (view.sizes[j] - 1) * std::abs(view.strides[j]) * size;
          }
        }
        return bytes;
      };
      const bool others_are_rows = std::all_of(a.strides.begin(), a.strides.end(), [&](int64_t s) {
        return std::abs(s) * size < row || (s * size) % row == 0;
      });
      if (others_are_rows && reach(left) <= distance && distance + reach(right) <= row)
        return false;
    }
  }
  return true;
}

bool same_elements(const View& a, const View& b) {
  return a.buffer == b.buffer && a.dtype == b.dtype && a.place == b.place &&
         a.layout() == b.layout();
}

Family family_of(const Node& node) {
  const auto opcode = static_cast<int>(node.opcode);
  // A copy of elements that no register holds (complex, say) only changes the layout.
  if (node.opcode == Opcode::Copy && !kernels::vector::computes(node.outputs[0].dtype)) {
    return Family::Opaque;
  }
  if (opcode < static_cast<int>(Opcode::ReduceSum)) return Family::Pointwise;
  if (opcode <= static_cast<int>(Opcode::ReduceVariance)) {
    return node.attributes[2] ? Family::ColumnReduce : Family::RowReduce;
  }
  if (opcode < static_cast<int>(Opcode::LayerNormBackwardParameters)) return Family::RowReduce;
  if (node.opcode == Opcode::LayerNormBackwardParameters) {
    return node.attributes[2] ? Family::ColumnReduce : Family::RowReduce;
  }
  return node.opcode == Opcode::Matmul ? Family::Matmul : Family::Opaque;
}

std::string to_string(const Graph& graph) {
  std::ostringstream out;
  auto print = [&](const View& view) {
    if (view.absent()) {
      out << " -";
      return;
    }
    out << " %" << view.buffer << (graph.live[view.buffer] ? "" : "†") << "[";
    for (size_t i = 0; i < view.sizes.size(); ++i) out << (i ? "," : "") << view.sizes[i];
    out << "]";
  };
  for (const Node& node : graph.nodes) {
    for (const View& view : node.outputs) print(view);
    out << " = " << name_of(node.opcode);
    for (const View& view : node.inputs) print(view);
    out << (node.dead ? "  (dead)\n" : "\n");
  }
  return out.str();
}

}  // namespace accel::graph
