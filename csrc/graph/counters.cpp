#include "csrc/graph/counters.h"

#include <atomic>
#include <mutex>

namespace accel::graph {

namespace {

constexpr int kCounters = static_cast<int>(Counter::Count);
std::atomic<int64_t> g_counters[kCounters];
constexpr const char* kNames[kCounters] = {
    "nodes",       "segments",         "idle_segments", "regions",        "launches",  "plan_hits",
    "plan_misses", "plan_nanoseconds", "host_ops",      "host_op_copies", "fallbacks",
};

std::mutex& tally_mutex() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

std::map<std::string, std::map<std::string, int64_t>>& tallies() {
  static auto* map = new std::map<std::string, std::map<std::string, int64_t>>;
  return *map;
}

}  // namespace

void count(Counter counter, int64_t amount) {
  g_counters[static_cast<int>(counter)].fetch_add(amount, std::memory_order_relaxed);
}

int64_t value_of(Counter counter) {
  return g_counters[static_cast<int>(counter)].load(std::memory_order_relaxed);
}

const char* name_of(Counter counter) { return kNames[static_cast<int>(counter)]; }

void count_op(const std::string& kind, const std::string& name) {
  std::lock_guard lock(tally_mutex());
  ++tallies()[kind][name];
}

std::map<std::string, std::map<std::string, int64_t>> op_tallies() {
  std::lock_guard lock(tally_mutex());
  return tallies();
}

void reset_counters() {
  for (auto& counter : g_counters) counter.store(0, std::memory_order_relaxed);
  std::lock_guard lock(tally_mutex());
  tallies().clear();
}

}  // namespace accel::graph
