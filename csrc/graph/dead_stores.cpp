// Dead stores: a Node is dead when nothing it writes is read later or lives on after the Graph.
#include "csrc/graph/passes.h"

namespace accel::graph {

namespace {

// What must run though nobody reads it: it may find an index out of range, or has effects that the
// Graph does not see.
bool has_effects(const Node& node) {
  switch (node.opcode) {
    case Opcode::Host:
    case Opcode::NllLoss:
    case Opcode::CtcLoss:
    case Opcode::GroupedMm:
    case Opcode::EmbeddingBag:
    case Opcode::RepeatInterleave:
      return true;
    case Opcode::Pooling:       // by indices
    case Opcode::Searchsorted:  // by a sorter
      return node.inputs.size() > (node.opcode == Opcode::Pooling ? 1 : 2);
    default:
      return is_indexing(node.opcode);
  }
}

}  // namespace

void remove_dead_stores(Graph& graph) {
  std::vector<bool> needed = graph.live;
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    Node& node = graph.nodes[i];
    bool used = has_effects(node);
    for (const View& view : node.outputs) used |= !view.absent() && needed[view.buffer];
    node.dead = !used;
    if (!used) continue;
    for (const View& view : node.inputs) {
      if (!view.absent()) needed[view.buffer] = true;
    }
    // What a Node writes only in part keeps what was written before.
    for (const View& view : node.outputs) {
      if (!view.absent()) needed[view.buffer] = true;
    }
  }
}

}  // namespace accel::graph
