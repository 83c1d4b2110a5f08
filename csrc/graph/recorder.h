// Recorder: per stream, collects Nodes in program order, from any thread, under a lock, and cuts
// them into Segments where the content says so. csrc/aten records through record() below.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>

#include "csrc/graph/segment.h"
#include "csrc/runtime/stream.h"

namespace accel::graph {

// Where a Segment ends. A boundary at "every N Nodes" drifts against a loop whose length is not a
// multiple of N, and each drift is a new key. So the cut is made before the Node whose rolling hash
// is the least of the last kWindow units: a property of the program, which recurs with the loop. A
// Node weighs one unit, and one more for each kUnitBytes that it writes, so that Segments of large
// tensors are shorter and what waits stays within the memory budget. Nodes that open a new kernel
// anyway (matmuls, engines) come before all others.
class Boundary {
 public:
  // Whether to cut before a Node with this content hash. weight: of that Node.
  bool cut_before(uint64_t content, uint64_t weight, bool opens_kernel);
  // The Segment ended for another reason of the program: a wait, an event.
  void restart() { since_cut_ = 0; }

  static constexpr uint64_t kWindow = 256, kLeast = 64, kMost = 2048;
  static constexpr size_t kUnitBytes = size_t{256} << 10;

 private:
  static constexpr int kRolling = 4;  // Nodes in the rolling hash

  struct Candidate {
    uint64_t position, hash;
  };
  std::deque<Candidate> minima_;  // ascending hashes, the window's minimum first
  uint64_t recent_[kRolling] = {};
  uint64_t position_ = 0, since_cut_ = 0, count_ = 0;
};

class Recorder final : public runtime::Tail {
 public:
  explicit Recorder(runtime::Stream& stream) : stream_(stream) {}

  void record(NodeSpec& node);
  // Waits until what has been recorded as writing the Block has run.
  void wait_for(runtime::Block& block, const char* reason);

  void hand_over() override;
  void hand_over_idle() override;
  bool pending() const override { return pending_.load(std::memory_order_acquire); }
  int64_t last_recorded() const override { return last_recorded_.load(std::memory_order_relaxed); }

 private:
  // How the Nodes of a Segment are planned: together, or one by one by Plans of single Nodes.
  enum class Planning { Together, Separately };
  void submit(Planning planning);
  // Ends the Segment: the rest of it goes as its beginning went.
  void cut();

  runtime::Stream& stream_;
  std::mutex mutex_;
  std::unique_ptr<Segment> segment_;
  Boundary boundary_;
  // After an idle hand-over the rest of that Segment is planned Node by Node too: where the pause
  // fell must not make a new key.
  bool separately_ = false;
  uint64_t idle_serial_ = 0;        // of the first part that an idle worker took
  uint64_t serial_ = 1;             // of the open Segment
  std::deque<uint64_t> sequences_;  // stream sequence numbers of the last Segments
  std::atomic<bool> pending_{false};
  std::atomic<int64_t> last_recorded_{0};
};

// Records on the calling thread's current stream of the device.
void record(int device, NodeSpec& node);
// Waits for whatever has been recorded as writing the Block, on any stream. Counted by reason.
void wait_for(runtime::Block& block, const char* reason);

// ACCEL_FUSION: whether Nodes are planned together.
bool fusion_enabled();
void set_fusion_enabled(bool enabled);

}  // namespace accel::graph
