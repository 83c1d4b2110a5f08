// Executor: a Segment as a Command of a stream. Finds the Plan, binds the arguments, launches.
#pragma once

#include <memory>
#include <span>

#include "csrc/graph/plan.h"
#include "csrc/graph/segment.h"
#include "csrc/runtime/stream.h"

namespace accel::graph {

std::unique_ptr<runtime::Command> make_segment_command(runtime::Stream& stream,
                                                       std::unique_ptr<Segment> segment,
                                                       Planning planning);

// Runs the Launches of a Plan on the stream's worker. Raises what a kernel finds. `operations`: for
// a profiler, the op of the host behind each Node, or behind all from the last one on; or nothing.
// `done`: counts the Launches that have ended.
void run_plan(runtime::Stream& stream, const Plan& plan, runtime::Arguments arguments,
              std::span<const int64_t> operations, size_t& done);

// Of a Block whose first content is not computed: nothing of what was there before shows.
void lose(Block& block);
// Of a Block all of whose content has been computed.
inline void regain(Block& block) {
  if (block.lost.load(std::memory_order_relaxed)) [[unlikely]]
    block.lost.store(false, std::memory_order_release);
}

}  // namespace accel::graph
