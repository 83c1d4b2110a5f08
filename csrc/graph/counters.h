// Counters: nothing is silent. Written from any thread, read by torch.accel.report().
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace accel::graph {

enum class Counter {
  Nodes,
  Segments,
  IdleSegments,  // of them: taken by an idle worker
  Regions,       // runs of captured Nodes
  Launches,
  PlanHits,
  PlanMisses,
  PlanNanoseconds,
  HostOps,
  HostOpCopies,
  Fallbacks,
  Count,
};

void count(Counter counter, int64_t amount = 1);
int64_t value_of(Counter counter);
const char* name_of(Counter counter);

// Per-op tallies for the report: kind is "host_op", "fallback", "read" (of memory by the host),
// "not_captured" (why a compiled graph ran op by op), or "compiled_kernel" (of inductor).
void count_op(const std::string& kind, const std::string& name);
std::map<std::string, std::map<std::string, int64_t>> op_tallies();

void reset_counters();

}  // namespace accel::graph
