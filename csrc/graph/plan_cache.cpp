#include "csrc/graph/plan.h"

#include <algorithm>
#include <chrono>

#include "csrc/graph/counters.h"

namespace accel::graph {

namespace {

// A Segment's first turns plan exactly for their liveness mask; after that, a Plan that keeps more
// alive serves: what Python's garbage collector moves makes no new Plan.
constexpr size_t kExactTurns = 3;

bool covers(const std::vector<uint64_t>& larger, const std::vector<uint64_t>& smaller) {
  for (size_t i = 0; i < larger.size(); ++i) {
    if (smaller[i] & ~larger[i]) return false;
  }
  return true;
}

}  // namespace

std::shared_ptr<const Plan> PlanCache::get(const Segment& segment) {
  std::lock_guard lock(mutex_);
  auto [begin, end] = entries_.equal_range(segment.hash());
  auto found = std::find_if(begin, end,
                            [&](const auto& item) { return item.second.words == segment.words(); });
  if (found == end) {
    found = entries_.emplace(segment.hash(), Entry{segment.words(), {}});
  }
  Entry& entry = found->second;
  for (const Variant& variant : entry.variants) {
    if (variant.liveness == segment.liveness()) {
      ++entry.turns;
      count(Counter::PlanHits);
      return variant.plan;
    }
  }
  const bool exact = entry.turns++ < kExactTurns;
  if (!exact) {
    for (const Variant& variant : entry.variants) {
      if (covers(variant.liveness, segment.liveness())) {
        count(Counter::PlanHits);
        return variant.plan;
      }
    }
  }
  count(Counter::PlanMisses);
  Graph graph = Graph::from(segment);
  std::vector<uint64_t> liveness = segment.liveness();
  if (!exact) {
    // From here on, one Plan that serves all masks seen so far.
    for (const Variant& variant : entry.variants) {
      for (size_t i = 0; i < liveness.size(); ++i) liveness[i] |= variant.liveness[i];
    }
    for (size_t buffer = 0; buffer < graph.live.size(); ++buffer) {
      graph.live[buffer] = liveness[buffer / 64] >> (buffer % 64) & 1;
    }
  }
  const auto start = std::chrono::steady_clock::now();
  auto plan = std::make_shared<const Plan>(make_plan(std::move(graph)));
  const auto spent = std::chrono::steady_clock::now() - start;
  count(Counter::PlanNanoseconds, std::chrono::nanoseconds(spent).count());
  entry.variants.push_back({std::move(liveness), plan});
  return plan;
}

size_t PlanCache::size() const {
  std::lock_guard lock(mutex_);
  size_t plans = 0;
  for (const auto& [hash, entry] : entries_) plans += entry.variants.size();
  return plans;
}

void PlanCache::clear() {
  std::lock_guard lock(mutex_);
  entries_.clear();
}

PlanCache& plan_cache() {
  // Never destroyed: workers may use it until the process ends.
  static PlanCache* cache = new PlanCache;
  return *cache;
}

}  // namespace accel::graph
