#include "csrc/graph/executor.h"

#include <cctype>

#include <c10/util/Exception.h>

#include "csrc/graph/counters.h"
#include "csrc/graph/graph.h"
#include "csrc/graph/plan.h"
#include "csrc/graph/recorder.h"
#include "csrc/runtime/address.h"
#include "csrc/runtime/driver.h"
#include "csrc/runtime/team.h"
#include "kernels/common/parallel.h"

namespace accel::graph {

namespace {

// "NllLoss" as the user knows it: nll_loss.
std::string operator_name(const std::string& opcode) {
  std::string name;
  for (char c : opcode) {
    if (std::isupper(static_cast<unsigned char>(c)) && !name.empty()) name += '_';
    name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return name;
}

// As the type that the CPU raises.
[[noreturn]] void raise(const kernels::Fault& fault, const std::string& opcode) {
  const std::string message =
      c10::str("index ", fault.index, " is out of range for a dimension of size ", fault.bound,
               " (in ", operator_name(opcode), " on accel)");
  if (opcode == "Gather" || opcode.starts_with("Scatter")) TORCH_CHECK(false, message);
  C10_THROW_ERROR(IndexError, message);
}

class SegmentCommand final : public runtime::Command {
 public:
  SegmentCommand(runtime::Stream& stream, std::unique_ptr<Segment> segment, bool separately)
      : stream_(stream), segment_(std::move(segment)), separately_(separately) {}

  void run() override {
    // With ACCEL_FUSION=0 every Segment is one Node, and its Plan is cached like any other.
    if (!separately_ || !fusion_enabled()) return run(*segment_, *plan_cache().get(*segment_));
    const Graph graph = Graph::from(*segment_);
    for (const Node& node : graph.nodes) run_alone(node);
  }

  size_t bytes() const override { return segment_->bytes(); }

 private:
  // One Node of the Segment as a Segment of its own. The worker was idle, so planning it takes
  // nobody's time, and where a pause fell must leave no trace in the cache.
  void run_alone(const Node& node) {
    auto specs = [&](const std::vector<View>& views) {
      std::vector<ViewSpec> result;
      for (const View& view : views) {
        ViewSpec spec;
        spec.dtype = view.dtype;
        if (!view.absent()) {
          spec.block = segment_->block(view.buffer);
          spec.dims = static_cast<int>(view.sizes.size());
          spec.sizes = view.sizes.data();
          spec.strides = view.strides.data();
          spec.offset = segment_->offsets()[view.ordinal];
        }
        result.push_back(spec);
      }
      return result;
    };
    const auto outputs = specs(node.outputs), inputs = specs(node.inputs);
    NodeSpec spec{node.opcode,
                  outputs,
                  inputs,
                  node.attributes,
                  std::span(segment_->scalars()).subspan(node.first_scalar, node.scalars),
                  nullptr};
    if (node.host_call >= 0) spec.host_call = std::move(segment_->host_calls()[node.host_call]);
    Segment alone;
    alone.append(spec);
    alone.seal(true);
    run(alone, make_plan(Graph::from(alone)));
  }

  void run(const Segment& segment, const Plan& plan) {
    addresses_.clear();
    for (size_t i = 0; i < segment.buffers(); ++i) {
      addresses_.push_back(static_cast<char*>(runtime::host_pointer(segment.block(i)->address)));
    }
    host_calls_.clear();
    for (const auto& call : segment.host_calls()) host_calls_.push_back(call.get());
    kernels::Fault fault;
    const runtime::Arguments arguments{addresses_.data(), segment.offsets().data(),
                                       segment.scalars().data(), host_calls_.data(), &fault};
    runtime::Driver& driver = runtime::driver();
    for (const runtime::Launch& launch : plan.launches) {
      kernels::set_team_width(runtime::elastic_team(stream_.tail()->last_recorded()));
      driver.launch(launch, arguments);
      if (fault.raised.load(std::memory_order_relaxed)) [[unlikely]] {
        raise(fault, launch.name);
      }
    }
    count(Counter::Launches, static_cast<int64_t>(plan.launches.size()));
  }

  runtime::Stream& stream_;
  std::unique_ptr<Segment> segment_;
  const bool separately_;
  std::vector<char*> addresses_;
  std::vector<HostCall*> host_calls_;
};

}  // namespace

std::unique_ptr<runtime::Command> make_segment_command(runtime::Stream& stream,
                                                       std::unique_ptr<Segment> segment,
                                                       bool separately) {
  return std::make_unique<SegmentCommand>(stream, std::move(segment), separately);
}

}  // namespace accel::graph
