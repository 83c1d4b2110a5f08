// Recorder: per stream, collects Nodes in program order, from any thread, under a lock, and cuts
// them into Segments where the content says so. csrc/aten records through record() below.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "csrc/graph/plan.h"
#include "csrc/graph/segment.h"
#include "csrc/runtime/stream.h"

namespace accel::graph {

// Where a Segment ends. A boundary at "every N Nodes" drifts against a loop whose length is not a
// multiple of N, and each drift is a new key. Two rules, both of them properties of the program:
//
// By content: before the Node whose rolling hash is the least of the last kWindow units. A Node
// weighs one unit, and one more for each kUnitBytes that it makes, so that Segments of large
// tensors are shorter and less memory waits; but never more than kMostUnits, so that tensors of any
// size find a window with room for what fuses. Nodes that open a kernel anyway (matmuls, engines)
// come before all others.
//
// By period: identical layers tie in that hash, and which of them is cut would depend on where the
// chain of cuts came from; it can take ten turns to settle. So a stream that has followed a period
// for a while is cut where it was cut one period ago. The period is given up only when it fails:
// that of the outermost loop, found where its body is unlike itself, holds through the layers.
class Boundary {
 public:
  // In units, of a Node that makes this many bytes.
  static uint64_t weight(size_t bytes) { return 1 + std::min(bytes / kUnitBytes, kMostUnits); }
  // Whether to cut before a Node with this content hash. weight: of that Node.
  bool cut_before(uint64_t content, uint64_t weight, bool opens_kernel);
  // The Segment ended for another reason of the program: a wait, an event.
  void restart();

  static constexpr uint64_t kWindow = 256, kLeast = 64, kMost = 2048;
  static constexpr uint64_t kRemembered = 16384;  // Nodes: the longest loop whose period is found
  static constexpr size_t kUnitBytes = size_t{128} << 10, kMostUnits = 16;

 private:
  struct Candidate {
    uint64_t position, hash;
  };
  struct Past {
    uint64_t hash : 63, cut : 1;
  };

  Past& past(uint64_t node) { return past_[node % kRemembered]; }
  // Whether this Node and those before it have followed a period for long enough to cut by it.
  bool follows_period(uint64_t hash);
  bool least_of_window(uint64_t hash);

  std::vector<Past> past_ = std::vector<Past>(kRemembered);  // the last Nodes, a ring
  // By the highest bits of a hash: the number of the last Node that had it, perhaps.
  std::vector<uint64_t> latest_ = std::vector<uint64_t>(kRemembered);
  uint64_t node_ = kRemembered, last_cut_ = 0;  // numbers of Nodes; 0 is out of the ring
  uint64_t period_ = kRemembered, matched_ = 0;

  std::deque<Candidate> minima_;  // ascending hashes, the window's minimum first
  uint64_t rolling_ = 0;
  uint64_t position_ = 0, since_cut_ = 0;  // in units
};

class Recorder final : public runtime::Tail {
 public:
  explicit Recorder(runtime::Stream& stream) : stream_(stream) {}

  void record(NodeSpec& node);
  // Waits until what has been recorded as writing the Block has run.
  void wait_for(runtime::Block& block, const char* reason);

  // Queues a Command behind all that is recorded; it writes these Blocks.
  void submit(std::unique_ptr<runtime::Command> command, std::span<Block* const> written);

  // From now on Nodes are collected, not run, until end_capture() gives them, sealed. Meanwhile
  // the host cannot have a value of this stream, and what asks for one raises.
  void begin_capture();
  std::unique_ptr<Segment> end_capture();
  bool is_capturing() const override { return capturing_.load(std::memory_order_acquire); }

  void hand_over() override;
  void hand_over_idle() override;
  bool pending() const override { return pending_.load(std::memory_order_acquire); }
  int64_t last_recorded() const override { return last_recorded_.load(std::memory_order_relaxed); }

 private:
  void submit(Planning planning);
  void enqueue(std::unique_ptr<runtime::Command> command);
  // Ends the Segment: the rest of it goes as its beginning went.
  void cut();

  runtime::Stream& stream_;
  std::mutex mutex_;
  std::unique_ptr<Segment> segment_;
  std::unique_ptr<Segment> captured_;
  std::atomic<bool> capturing_{false};
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
// Raises where the calling thread's current stream of the device is captured: `reason` is what a
// graph that runs again cannot hold.
void refuse_capture(int device, const char* reason);
// Waits for whatever has been recorded as writing the Block, on any stream. Counted by reason.
void wait_for(runtime::Block& block, const char* reason);

// ACCEL_FUSION: whether Nodes are planned together.
bool fusion_enabled();
void set_fusion_enabled(bool enabled);

}  // namespace accel::graph
