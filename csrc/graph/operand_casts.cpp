// Casts of operands: a product of one row or one column takes as long as reading its matrix does,
// and converts what it reads. A weight that it alone needs in 16 bits is read as it is, instead of
// being written in 16 bits first.
#include "csrc/graph/passes.h"

namespace accel::graph {

namespace {

// Who uses a Buffer.
struct Uses {
  int writers = 0, readers = 0;
  int last_writer = -1;
};

std::vector<Uses> uses_of(const Graph& graph) {
  std::vector<Uses> uses(graph.live.size());
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    for (const View& view : graph.nodes[i].inputs) {
      if (!view.absent()) ++uses[view.buffer].readers;
    }
    for (const View& view : graph.nodes[i].outputs) {
      if (view.absent()) continue;
      ++uses[view.buffer].writers;
      uses[view.buffer].last_writer = static_cast<int>(i);
    }
  }
  return uses;
}

// Whether the Node makes 16 bits of fp32, each element at the place that it has in the source.
bool narrows_in_place(const Node& node) {
  if (node.opcode != Opcode::Copy) return false;
  const View &from = node.inputs[0], &to = node.outputs[0];
  const auto [begin, end] = byte_range(to);
  return from.dtype == DType::Float32 &&
         (to.dtype == DType::BFloat16 || to.dtype == DType::Float16) && from.sizes == to.sizes &&
         from.strides == to.strides && end - begin == to.elements() * kernels::size_of(to.dtype);
}

}  // namespace

void read_through_casts(Graph& graph) {
  const std::vector<Uses> uses = uses_of(graph);
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    Node& node = graph.nodes[i];
    if (node.opcode != Opcode::Matmul) continue;
    const int64_t rows = node.outputs[0].sizes[1], columns = node.outputs[0].sizes[2];
    if ((rows == 1) == (columns == 1)) continue;
    View& matrix = node.inputs[rows == 1 ? 1 : 0];
    const Uses& cast_uses = uses[matrix.buffer];
    if (graph.live[matrix.buffer] || cast_uses.writers != 1 || cast_uses.readers != 1) continue;
    if (cast_uses.last_writer > static_cast<int>(i)) continue;
    const Node& cast = graph.nodes[static_cast<size_t>(cast_uses.last_writer)];
    if (!narrows_in_place(cast)) continue;
    const View &from = cast.inputs[0], &to = cast.outputs[0];
    const auto [read_begin, read_end] = byte_range(matrix);
    const auto [begin, end] = byte_range(to);
    // Nobody writes the source, so it holds the same when the product reads it.
    if (uses[from.buffer].writers != 0 || matrix.place != to.place || matrix.dtype != to.dtype ||
        static_cast<DType>(node.attributes.at(0)) != to.dtype || read_begin < begin ||
        read_end > end) {
      continue;
    }
    matrix.buffer = from.buffer;
    matrix.ordinal = from.ordinal;
    matrix.dtype = from.dtype;
    matrix.place = from.place;
  }
}

}  // namespace accel::graph
