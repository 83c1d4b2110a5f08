// Plan: the ordered Launches for a Graph; and the cache of Plans, keyed by Segments.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "csrc/graph/graph.h"
#include "csrc/runtime/launch.h"

namespace accel::graph {

struct Plan {
  std::vector<runtime::Launch> launches;
};

// How the Nodes of a Graph are planned: together, or each by itself, with all it writes in memory.
enum class Planning { Together, Separately };

// Plans a Graph: runs the passes, then turns groups into Launches.
Plan make_plan(Graph graph, Planning planning = Planning::Together);

class PlanCache {
 public:
  // The Plan for a sealed Segment. A Plan for the same words that keeps more Buffers alive serves
  // too after a few turns: Python's garbage collector moves them.
  std::shared_ptr<const Plan> get(const Segment& segment);
  size_t size() const;
  void clear();

 private:
  struct Variant {
    std::vector<uint64_t> liveness;
    std::shared_ptr<const Plan> plan;
  };
  struct Entry {
    std::vector<uint64_t> words;
    std::vector<Variant> variants;
    size_t turns = 0;  // how often it was asked for
  };
  mutable std::mutex mutex_;
  std::unordered_multimap<uint64_t, Entry> entries_;
};

PlanCache& plan_cache();

}  // namespace accel::graph
