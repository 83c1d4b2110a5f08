// torch.accelerator.Graph on this device: what a stream captures is a Region that stands on the
// very memory it was captured with.
#include <ATen/core/GraphImplInterface.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <optional>

#include "csrc/graph/region.h"

namespace accel::graph {

namespace {

class AcceleratorGraph final : public at::GraphImplInterface {
 public:
  // A raw graph to keep would be the captured Segment: it is planned at the end of the capture
  // either way, within a millisecond.
  explicit AcceleratorGraph(const at::GraphImplArgs& /*args*/) {}

  // The pool says which graphs may share memory. Here each run takes what it needs from the
  // allocator and gives it back, so that all graphs do.
  void capture_begin(at::MempoolId_t pool, at::GraphCaptureMode /*mode*/) override {
    TORCH_CHECK(!capture_ && !region_,
                "This accelerator graph already holds a capture: reset() it before another");
    if (pool.first != 0 || pool.second != 0) pool_ = pool;
    capture_.emplace(runtime::current_stream(runtime::current_device()));
  }

  void capture_end() override {
    TORCH_CHECK(capture_, "capture_end() called without capture_begin()");
    region_ = capture_->finish({});
    capture_.reset();
  }

  void instantiate() override { check_captured(); }

  void replay() override {
    check_captured();
    region_->run(runtime::current_stream(region_->device()), {});
  }

  void reset() override {
    capture_.reset();
    region_.reset();
  }

  at::MempoolId_t pool() const override { return pool_; }

  void enable_debug_mode() override {}

  // One line a Launch.
  void debug_dump(const std::string& path) override {
    check_captured();
    std::ofstream file(path);
    for (const runtime::Launch& launch : region_->plan().launches) file << launch.name << '\n';
    TORCH_CHECK(file.flush(), "cannot write ", path);
  }

 private:
  void check_captured() const {
    TORCH_CHECK(region_, "Called replay() or instantiate() without a preceding successful capture");
  }

  static at::MempoolId_t next_pool() {
    static std::atomic<uint64_t> next{1};
    return {0, next++};
  }

  std::optional<RegionCapture> capture_;
  std::shared_ptr<const Region> region_;
  at::MempoolId_t pool_ = next_pool();
};

}  // namespace

}  // namespace accel::graph

namespace at {

// By the device's name in capitals, under which PyTorch looks for it.
REGISTER_GRAPH_IMPL(ACCEL, accel::graph::AcceleratorGraph)

}  // namespace at
