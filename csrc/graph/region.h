// Region: Nodes that were captured once and run again by one call, over other memory.
//
// What a stream captures (Recorder::begin_capture) is one Segment, however long. A Region keeps its
// Plan and forgets the Blocks it was captured with, but for those that it stands on: memory that
// was there before, or that the user still holds. What nobody holds is placed for each run: in the
// memory of outputs that are not written yet and of inputs that nobody will see again, and for the
// rest in a workspace. Values that are never needed at once share a place. Large outputs are cut
// out of such inputs as well: a backward's gradients take the place of its activations.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "csrc/graph/placement.h"
#include "csrc/graph/plan.h"
#include "csrc/graph/segment.h"
#include "csrc/runtime/stream.h"

namespace accel::graph {

class Region : public std::enable_shared_from_this<Region> {
 public:
  // One Block of a run, in the place of one that was captured.
  struct Given {
    Block* block;
    int64_t shift = 0;  // bytes from where the captured Views began to where this run's do
    size_t bytes = 0;   // where there is no Block: of the one that the run makes
  };

  // The numbers of one state that a run draws: the first that the capture saw, and how many.
  struct Random {
    std::shared_ptr<runtime::RandomState> state;
    uint64_t first = 0, count = 0;
  };

  // given: the captured Blocks that each run replaces; one that no Node names may be among them.
  // Takes the Segment's host calls.
  Region(int device, Segment& segment, std::span<Block* const> given, std::vector<Random> random);

  // Queues one run on the stream, with random numbers of its own. given: as in the constructor; the
  // caller holds them by BlockReferences for the stream's Recorder, and receives those that the run
  // makes, each with the user's reference. A Block among them that is dead to the user, and that
  // nothing but work of this stream has ever held, is donated: once its own content has been read,
  // other values take its place.
  void run(runtime::Stream& stream, std::span<Given> given) const;

  int device() const { return device_; }
  // Bytes of the memory that a run takes for itself where nothing is donated.
  size_t workspace() const { return placements_.front()->workspace; }
  const Plan& plan() const { return plan_; }

 private:
  class Run;
  struct Outputs;

  enum class Home : uint8_t { Nowhere, Given, Kept, Temporary };
  struct Buffer {
    Home home = Home::Nowhere;
    int64_t place = 0;  // among the given ones, the kept ones, or the temporaries
    bool written = false;
    bool overwritten = false;  // as Segment::overwrites()
  };
  // What a run gives, as it was at the capture.
  struct GivenBlock {
    size_t bytes;
    bool fresh = false;         // its content is made here
    size_t first = 0, end = 0;  // Launches that touch it, the second exclusive
  };
  // Where values lie when some of the given Blocks are donated.
  struct Placement {
    std::vector<bool> donated;
    struct Place {
      int32_t given;  // -1: the workspace
      size_t offset;
    };
    std::vector<Place> temporaries;
    // Outputs that are cut out of donated Blocks, those behind others first.
    struct Piece {
      size_t output, from;  // among the given ones
      size_t begin, end;    // bytes into the latter
    };
    std::vector<Piece> pieces;
    size_t workspace = 0;
  };

  // Notes which Launches touch what, and which Buffers are temporaries. sizes: of all Buffers.
  void find_temporaries(const std::vector<size_t>& sizes);
  std::shared_ptr<const Placement> make_placement(std::vector<bool> donated) const;
  // One that donates no other Blocks than these.
  std::shared_ptr<const Placement> placement_for(const std::vector<bool>& donated) const;
  // Makes the Blocks that are to be made, and notes them among the given ones.
  Outputs make_outputs(const Placement& placement, std::span<Given> given) const;

  const int device_;
  Plan plan_;
  std::vector<Buffer> buffers_;
  std::vector<runtime::BlockReference> kept_;
  std::vector<int64_t> offsets_;
  std::vector<Scalar> scalars_;
  std::vector<RandomScalars> random_scalars_;
  std::vector<std::unique_ptr<HostCall>> host_calls_;
  const std::vector<Random> random_;
  std::vector<GivenBlock> given_;
  std::vector<Value> temporaries_;  // not placed

  mutable std::mutex mutex_;  // guards what follows
  // The first donates nothing. Which inputs die is a property of the program: there are few.
  mutable std::vector<std::shared_ptr<const Placement>> placements_;
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
