// From Nodes that are kernels of their own to Launches.
#pragma once

#include "csrc/graph/graph.h"
#include "csrc/runtime/launch.h"

namespace accel::graph {

// The Launch of a Node of Family::Opaque; a host op's where no engine runs it.
runtime::Launch engine_launch(const Node& node);

// That of a Copy without conversion: a change of layout.
runtime::Launch copy_launch(const Node& node);

// A Matmul's product without its output, which follows from what is fused with it.
runtime::MatmulLaunch matmul_launch(const Node& node);

// Two for each multiplication with its addition, where a Node is made of them; else 0.
double flops_of(const Node& node);

}  // namespace accel::graph
