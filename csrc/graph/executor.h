// Executor: a Segment as a Command of a stream. Finds the Plan, binds the arguments, launches.
#pragma once

#include <memory>

#include "csrc/graph/segment.h"
#include "csrc/runtime/stream.h"

namespace accel::graph {

// separately: the Nodes are planned one by one.
std::unique_ptr<runtime::Command> make_segment_command(runtime::Stream& stream,
                                                       std::unique_ptr<Segment> segment,
                                                       bool separately);

}  // namespace accel::graph
