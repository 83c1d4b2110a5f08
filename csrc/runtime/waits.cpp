// Counts the host's waits by reason and, under ACCEL_LOG=sync, prints the Python line that waited.
// Called by whatever makes the host wait for a value; never by the throttling of a full queue.
#include <cstdio>

#include "csrc/runtime/process.h"
#include "csrc/runtime/stream.h"

namespace accel::runtime {

namespace {

struct WaitLog {
  std::mutex mutex;
  std::map<std::string, uint64_t, std::less<>> counts;
};

WaitLog& wait_log() {
  static auto* log = new WaitLog;  // outlives static destruction
  return *log;
}

}  // namespace

void count_wait(const char* reason) {
  {
    WaitLog& log = wait_log();
    std::lock_guard<std::mutex> lock(log.mutex);
    auto found = log.counts.find(std::string_view(reason));
    if (found == log.counts.end()) found = log.counts.emplace(reason, 0).first;
    ++found->second;
  }
  if (logs(LogTopic::Sync)) {
    const std::string location = python_location();
    std::fprintf(stderr, "[accel sync] %s%s%s\n", reason, location.empty() ? "" : " at ",
                 location.c_str());
  }
}

std::map<std::string, uint64_t> wait_counts() {
  WaitLog& log = wait_log();
  std::lock_guard<std::mutex> lock(log.mutex);
  return {log.counts.begin(), log.counts.end()};
}

void reset_wait_counts() {
  WaitLog& log = wait_log();
  std::lock_guard<std::mutex> lock(log.mutex);
  log.counts.clear();
}

}  // namespace accel::runtime
