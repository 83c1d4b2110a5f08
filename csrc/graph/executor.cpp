#include "csrc/graph/executor.h"

#include <algorithm>
#include <cctype>
#include <cstring>

#include <c10/util/Exception.h>

#include "csrc/graph/counters.h"
#include "csrc/graph/graph.h"
#include "csrc/graph/plan.h"
#include "csrc/graph/recorder.h"
#include "csrc/runtime/address.h"
#include "csrc/runtime/driver.h"
#include "csrc/runtime/team.h"
#include "csrc/runtime/trace.h"
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

// Whether the CPU raises a RuntimeError for an index of this op, not an IndexError.
bool is_runtime_error(std::string_view opcode) {
  for (const char* name : {"Gather", "Pooling", "Scatter", "CtcLoss", "GroupedMm", "EmbeddingBag",
                           "Searchsorted", "RepeatInterleave"}) {
    if (opcode.starts_with(name)) return true;
  }
  return false;
}

// As the type that the CPU raises.
[[noreturn]] void raise(const kernels::Fault& fault, const std::string& opcode) {
  const std::string message =
      c10::str("index ", fault.index, " is out of range for a dimension of size ", fault.bound,
               " (in ", operator_name(opcode), " on accel)");
  TORCH_CHECK(!is_runtime_error(opcode), message);
  C10_THROW_ERROR(IndexError, message);
}

class SegmentCommand final : public runtime::Command {
 public:
  SegmentCommand(runtime::Stream& stream, std::unique_ptr<Segment> segment, Planning planning)
      : stream_(stream), segment_(std::move(segment)), planning_(planning) {}

  void run() override {
    std::vector<char*> addresses;
    for (size_t i = 0; i < segment_->buffers(); ++i) {
      addresses.push_back(static_cast<char*>(runtime::host_pointer(segment_->block(i)->address)));
    }
    const std::shared_ptr<const Plan> plan = this->plan();
    size_t done = 0;
    try {
      run_plan(stream_, *plan,
               {addresses.data(), segment_->offsets().data(), segment_->scalars().data(),
                segment_->host_calls().data(), nullptr},
               segment_->operations(), done);
    } catch (...) {
      lose_outputs(*plan, done);
      throw;
    }
    for (size_t i = 0; i < segment_->buffers(); ++i) {
      if (segment_->overwrites(i)) regain(*segment_->block(i));
    }
  }

  void skip() override {
    for (const int32_t buffer : segment_->fresh()) lose(*segment_->block(buffer));
  }

  size_t bytes() const override { return segment_->bytes(); }

 private:
  // What the Launches from `first` on should have been the first to write.
  void lose_outputs(const Plan& plan, size_t first) const {
    std::vector<bool> has_no_content(segment_->buffers());
    for (const int32_t buffer : segment_->fresh()) has_no_content[buffer] = true;
    for (size_t i = 0; i < plan.launches.size(); ++i) {
      for (const runtime::Touched& touched : plan.launches[i].touched) {
        if (!touched.written || !has_no_content[touched.buffer]) continue;
        has_no_content[touched.buffer] = false;
        if (i >= first) lose(*segment_->block(touched.buffer));
      }
    }
  }

  std::shared_ptr<const Plan> plan() const {
    // With ACCEL_FUSION=0 every Segment is one Node, and its Plan is cached like any other.
    if (planning_ == Planning::Together || !fusion_enabled()) return plan_cache().get(*segment_);
    // The worker was idle, so planning takes nobody's time, and where a pause fell must leave no
    // trace in the cache.
    return std::make_shared<const Plan>(make_plan(Graph::from(*segment_), Planning::Separately));
  }

  runtime::Stream& stream_;
  const std::unique_ptr<Segment> segment_;
  const Planning planning_;
};

std::string traced_name(const runtime::Launch& launch, const runtime::Arguments& arguments) {
  const auto* host = std::get_if<runtime::HostLaunch>(&launch.kernel);
  return host ? arguments.host_calls[host->call]->name() : launch.name;
}

int64_t operation_of(const runtime::Launch& launch, std::span<const int64_t> operations) {
  if (operations.empty()) return 0;
  return operations[std::min(static_cast<size_t>(launch.node), operations.size() - 1)];
}

}  // namespace

void run_plan(runtime::Stream& stream, const Plan& plan, runtime::Arguments arguments,
              std::span<const int64_t> operations, size_t& done) {
  kernels::Fault fault;
  arguments.fault = &fault;
  runtime::Driver& driver = runtime::driver();
  for (const runtime::Launch& launch : plan.launches) {
    kernels::set_team_width(runtime::elastic_team(stream.tail()->last_recorded()));
    const bool is_traced = runtime::is_tracing();
    const int64_t begin = is_traced ? runtime::trace_clock() : 0;
    driver.launch(launch, arguments);
    if (is_traced) [[unlikely]] {
      runtime::trace(stream, traced_name(launch, arguments), begin,
                     operation_of(launch, operations));
    }
    if (fault.raised.load(std::memory_order_relaxed)) [[unlikely]] {
      raise(fault, launch.name);
    }
    ++done;
  }
  count(Counter::Launches, static_cast<int64_t>(plan.launches.size()));
}

void lose(Block& block) {
  std::memset(runtime::host_pointer(block.address), 0xff, block.size);
  block.lost.store(true, std::memory_order_release);
}

std::unique_ptr<runtime::Command> make_segment_command(runtime::Stream& stream,
                                                       std::unique_ptr<Segment> segment,
                                                       Planning planning) {
  return std::make_unique<SegmentCommand>(stream, std::move(segment), planning);
}

}  // namespace accel::graph
