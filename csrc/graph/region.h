// Region: Nodes that were captured once and run again by one call, over other memory.
//
// What a stream captures (Recorder::begin_capture) is one Segment, however long. A Region keeps its
// Plan and forgets the Blocks it was captured with, but for those that it stands on: memory that
// was there before, or that the user still holds. What nobody holds lives in one piece of memory
// that is taken anew for each run, where values that are never needed at once share their place.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "csrc/graph/plan.h"
#include "csrc/graph/segment.h"
#include "csrc/runtime/stream.h"

namespace accel::graph {

class Region : public std::enable_shared_from_this<Region> {
 public:
  // One Block of a run, in the place of one that was captured. shift: bytes from where the captured
  // Views began to where this run's do.
  struct Given {
    Block* block;
    int64_t shift = 0;
  };

  // The numbers of one state that a run draws: the first that the capture saw, and how many.
  struct Random {
    std::shared_ptr<runtime::RandomState> state;
    uint64_t first = 0, count = 0;
  };

  // given: the captured Blocks that each run replaces; one that no Node names may be among them.
  // Takes the Segment's host calls.
  Region(int device, Segment& segment, std::span<Block* const> given, std::vector<Random> random);

  // Queues one run on the stream, with random numbers of its own. given: as in the constructor.
  void run(runtime::Stream& stream, std::span<const Given> given) const;

  int device() const { return device_; }
  // Bytes of the memory that a run takes for itself.
  size_t workspace() const { return workspace_; }
  const Plan& plan() const { return plan_; }

 private:
  class Run;

  enum class Home : uint8_t { Nowhere, Given, Kept, Workspace };
  struct Buffer {
    Home home = Home::Nowhere;
    int64_t place = 0;  // among the given ones, the kept ones, or bytes into the workspace
    bool written = false;
  };

  void place_in_workspace(const std::vector<size_t>& sizes);

  const int device_;
  Plan plan_;
  std::vector<Buffer> buffers_;
  std::vector<runtime::BlockReference> kept_;
  std::vector<int64_t> offsets_;
  std::vector<Scalar> scalars_;
  std::vector<RandomScalars> random_scalars_;
  std::vector<std::unique_ptr<HostCall>> host_calls_;
  const std::vector<Random> random_;
  size_t workspace_ = 0;
};

// Collects what a stream is given until it ends. The numbers that are reserved meanwhile are the
// generator's again afterwards: each run reserves its own.
class RegionCapture {
 public:
  explicit RegionCapture(runtime::Stream& stream);
  // Without finish(), as if nothing had been recorded.
  ~RegionCapture();
  RegionCapture(const RegionCapture&) = delete;
  RegionCapture& operator=(const RegionCapture&) = delete;

  std::shared_ptr<const Region> finish(std::span<Block* const> given);

 private:
  std::unique_ptr<Segment> end();

  runtime::Stream& stream_;
  std::vector<Region::Random> random_;  // first the device's own
  bool active_ = true;
};

}  // namespace accel::graph
