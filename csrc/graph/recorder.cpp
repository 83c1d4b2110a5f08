#include "csrc/graph/recorder.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string_view>

#include <c10/util/Exception.h>

#include "csrc/graph/counters.h"
#include "csrc/graph/executor.h"
#include "csrc/runtime/process.h"

namespace accel::graph {

namespace {

// How many Segments' sequence numbers are remembered: far more than can be in flight.
constexpr size_t kRemembered = 4096;

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::atomic<bool>& fusion_flag() {
  static std::atomic<bool> flag = [] {
    const char* value = std::getenv("ACCEL_FUSION");
    return !(value && std::string_view(value) == "0");
  }();
  return flag;
}

bool opens_kernel(Opcode opcode) { return opcode >= Opcode::Embedding; }

[[maybe_unused]] const bool g_registered = [] {
  runtime::register_tail_factory([](runtime::Stream& stream) -> std::unique_ptr<runtime::Tail> {
    return std::make_unique<Recorder>(stream);
  });
  return true;
}();

}  // namespace

bool fusion_enabled() { return fusion_flag().load(std::memory_order_relaxed); }
void set_fusion_enabled(bool enabled) { fusion_flag().store(enabled); }

bool Boundary::cut_before(uint64_t content, uint64_t weight, bool opens_kernel) {
  // What is shifted out is forgotten: a hash of the last 16 Nodes.
  rolling_ = (rolling_ << 4) + content;
  const uint64_t hash = rolling_ >> 1;
  // The highest bit is the class: Nodes that open a kernel are the better places.
  const bool least = least_of_window(opens_kernel ? hash : hash | uint64_t{1} << 63);
  const bool chosen = follows_period(hash) ? past(node_ - period_).cut : least;
  const bool cut = (chosen && since_cut_ >= kLeast) || since_cut_ >= kMost;
  past(node_) = {hash, cut};
  if (cut) last_cut_ = node_;
  ++node_;
  position_ += weight;
  since_cut_ = cut ? weight : since_cut_ + weight;
  return cut;
}

void Boundary::restart() {
  if (since_cut_ == 0) return;  // no Node since: waiting twice is waiting once
  since_cut_ = 0;
  // Part of the content: a period that ignored it would drift against it.
  rolling_ = mix(rolling_, 1);
}

bool Boundary::follows_period(uint64_t hash) {
  uint64_t& latest = latest_[hash / ((uint64_t{1} << 63) / kRemembered)];
  if (past(node_ - period_).hash == hash) {
    ++matched_;
  } else {
    matched_ = 0;
    // A multiple: no Segment becomes shorter than the content rule would make it.
    uint64_t period = node_ - latest;
    period *= (kWindow + period - 1) / period;
    if (period <= kRemembered && past(node_ - period).hash == hash) period_ = period;
  }
  latest = node_;
  // A turn without a cut (there was none when it was first recorded) is no example to follow.
  return matched_ >= kWindow && node_ - last_cut_ <= period_;
}

bool Boundary::least_of_window(uint64_t hash) {
  while (!minima_.empty() && minima_.back().hash > hash) minima_.pop_back();
  minima_.push_back({position_, hash});
  while (minima_.front().position + kWindow < position_) minima_.pop_front();
  return minima_.front().hash == hash;
}

void Recorder::record(NodeSpec& node) {
  bool handed_over = false;
  {
    std::lock_guard lock(mutex_);
    if (captured_) {
      captured_->append(node);
      return;
    }
    size_t bytes = 0;  // that the Node makes, beyond what was there before it
    uint64_t content = static_cast<uint64_t>(node.opcode);
    for (const ViewSpec& view : node.outputs) {
      if (!view.block) continue;
      if (!view.block->writer.load(std::memory_order_relaxed)) {
        bytes += view.block->size;
      }
      for (int i = 0; i < view.dims; ++i) {
        content = mix(content, static_cast<uint64_t>(view.sizes[i]));
      }
    }
    content = mix(content, node.inputs.size() << 8 |
                               static_cast<uint8_t>(node.outputs.empty() ? DType::UInt8
                                                                         : node.outputs[0].dtype));
    if (boundary_.cut_before(content, Boundary::weight(bytes), opens_kernel(node.opcode))) {
      handed_over = segment_ != nullptr;
      cut();
    }
    if (!segment_) segment_ = std::make_unique<Segment>(this);
    segment_->append(node);
    for (const ViewSpec& view : node.outputs) {
      if (!view.block) continue;
      view.block->write_sequence.store(serial_, std::memory_order_relaxed);
      view.block->writer.store(this, std::memory_order_release);
    }
    last_recorded_.store(now(), std::memory_order_relaxed);
    if (!fusion_enabled()) {
      submit(Planning::Separately);
      handed_over = true;
    } else if (!pending_.load(std::memory_order_relaxed)) {
      pending_.store(true, std::memory_order_release);
      stream_.notice_pending();
    }
  }
  count(Counter::Nodes);
  if (handed_over) stream_.wait_for_room();
}

void Recorder::submit(Planning planning) {
  if (!segment_) return;
  segment_->seal(planning == Planning::Separately);
  pending_.store(false, std::memory_order_release);
  count(Counter::Segments);
  if (planning == Planning::Separately && fusion_enabled()) count(Counter::IdleSegments);
  enqueue(make_segment_command(stream_, std::move(segment_), planning));
}

void Recorder::enqueue(std::unique_ptr<runtime::Command> command) {
  sequences_.push_back(stream_.submit(std::move(command)));
  if (sequences_.size() > kRemembered) sequences_.pop_front();
  ++serial_;
}

void Recorder::submit(std::unique_ptr<runtime::Command> command, std::span<Block* const> written) {
  {
    std::lock_guard lock(mutex_);
    TORCH_CHECK(!captured_, "a graph cannot be replayed while its stream is captured");
    cut();
    boundary_.restart();
    for (Block* block : written) {
      block->write_sequence.store(serial_, std::memory_order_relaxed);
      block->writer.store(this, std::memory_order_release);
    }
    enqueue(std::move(command));
  }
  stream_.wait_for_room();
}

void Recorder::begin_capture() {
  std::lock_guard lock(mutex_);
  TORCH_CHECK(!captured_, "the current stream is already being captured");
  cut();
  boundary_.restart();
  static std::atomic<uint64_t> captures{0};
  captured_ = std::make_unique<Segment>(this, ++captures);
  capturing_.store(true, std::memory_order_release);
}

std::unique_ptr<Segment> Recorder::end_capture() {
  std::lock_guard lock(mutex_);
  TORCH_CHECK(captured_, "the current stream is not being captured");
  capturing_.store(false, std::memory_order_release);
  captured_->seal(/*assume_live=*/false);
  return std::move(captured_);
}

void Recorder::cut() {
  submit(separately_ ? Planning::Separately : Planning::Together);
  separately_ = false;
}

void Recorder::hand_over() {
  std::lock_guard lock(mutex_);
  cut();
  boundary_.restart();
}

void Recorder::hand_over_idle() {
  std::lock_guard lock(mutex_);
  if (!segment_) return;
  if (!separately_) idle_serial_ = serial_;
  submit(Planning::Separately);
  separately_ = true;
}

void Recorder::wait_for(runtime::Block& block, const char* reason) {
  uint64_t sequence;
  {
    std::lock_guard lock(mutex_);
    const uint64_t serial = block.write_sequence.load(std::memory_order_relaxed);
    // What an idle worker has taken already would have been in the open Segment: it ends here too,
    // so that Segments do not depend on timing.
    if (serial >= (separately_ ? idle_serial_ : serial_)) {
      cut();
      boundary_.restart();
    }
    const uint64_t first = serial_ - sequences_.size();
    // What is not remembered ran long ago; the wait still raises a failure of the stream.
    sequence = serial < first ? 0 : sequences_[serial - first];
  }
  if (stream_.completed() < sequence) runtime::count_wait(reason);
  stream_.wait(sequence);
}

namespace {

Recorder& current_recorder(int device) {
  return *static_cast<Recorder*>(runtime::current_stream(device).tail());
}

}  // namespace

void record(int device, NodeSpec& node) { current_recorder(device).record(node); }

void refuse_capture(int device, const char* reason) {
  if (device < 0) device = runtime::current_device();
  TORCH_CHECK(!current_recorder(device).is_capturing(),
              "operation not permitted when stream is capturing: ", reason);
}

void wait_for(runtime::Block& block, const char* reason) {
  if (block.device >= 0) refuse_capture(block.device, reason);
  // Whether it has to wait is a matter of timing; that the program asks is not.
  count_op("read", reason);
  if (auto* recorder = static_cast<Recorder*>(block.writer.load(std::memory_order_acquire))) {
    recorder->wait_for(block, reason);
    TORCH_CHECK(
        !block.lost.load(std::memory_order_acquire), reason,
        ": the tensor has no value: an operation before it had failed, and what followed on "
        "its stream was skipped");
  }
}

}  // namespace accel::graph
