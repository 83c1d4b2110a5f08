#include "csrc/distributed/work.h"

#include <algorithm>

#include <ATen/core/ivalue_inl.h>
#include <c10/core/StreamGuard.h>
#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include "csrc/runtime/worker_stream.h"

namespace accel::distributed {

Work::Work(int rank, c10d::OpType type, uint64_t sequence, std::vector<Part> parts,
           std::vector<at::Tensor> outputs, c10::Device device, c10::Stream stream, Waits waits,
           std::chrono::milliseconds timeout)
    : c10d::Work(rank, type),
      sequence_(sequence),
      parts_(std::move(parts)),
      outputs_(std::move(outputs)),
      device_(device),
      waits_(waits),
      timeout_(timeout) {
  // Complete at once, as on other devices: who takes the value has its stream wait for the group's.
  future_ = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()),
                                                     std::vector<c10::Device>{device});
  const c10::StreamGuard guard(stream);
  future_->markCompleted(c10::IValue(outputs_));
}

// As PyTorch defines it for devices: whether what is recorded now finds the results.
bool Work::isCompleted() {
  return waiting_stream_.load() == &runtime::current_stream(device_.index()) || has_ended();
}

bool Work::has_ended() const {
  return std::all_of(parts_.begin(), parts_.end(),
                     [](const Part& part) { return part.end->query(); });
}

std::exception_ptr Work::exception() const {
  for (const Part& part : parts_) {
    std::lock_guard lock(part.outcome->mutex);
    if (part.outcome->failure) return part.outcome->failure;
  }
  return nullptr;
}

bool Work::isSuccess() const { return has_ended() && !exception(); }

int Work::sourceRank() const {
  wait_on_host(timeout_);
  return parts_.empty() ? -1 : parts_[0].outcome->source.load();
}

void Work::synchronize() {
  runtime::Stream& current = runtime::current_stream(device_.index());
  for (const Part& part : parts_) part.end->block(current);
  waiting_stream_.store(&current);
}

bool Work::wait(std::chrono::milliseconds timeout) {
  const bool has_timeout = timeout != kNoTimeout && timeout != c10d::kUnsetTimeout;
  if (has_timeout || waits_ == Waits::Host) wait_on_host(has_timeout ? timeout : timeout_);
  synchronize();
  return true;
}

void Work::wait_on_host(std::chrono::milliseconds timeout) const {
  // The operation itself ends, and says why, when its own time is over.
  constexpr int64_t kGrace = 1'000'000'000;  // ns
  const int64_t deadline =
      runtime::steady_now() + timeout.count() * 1'000'000 + (timeout == timeout_ ? kGrace : 0);
  runtime::count_wait("distributed");
  for (const Part& part : parts_) {
    TORCH_CHECK_WITH(DistBackendError, part.end->wait_until(deadline), "accl: rank ", rank_,
                     " caught collective operation timeout: ", c10d::opTypeToString(opType_),
                     ", sequence number ", sequence_, ", is not complete after ", timeout.count(),
                     " ms");
  }
  if (const std::exception_ptr failure = exception()) std::rethrow_exception(failure);
}

void Work::abort() {
  TORCH_CHECK(false,
              "accl: one operation cannot be aborted, only its process group: "
              "torch.distributed.distributed_c10d._abort_process_group()");
}

c10::intrusive_ptr<c10::ivalue::Future> Work::getFutureResult() {
  wait_on_host(timeout_);
  auto result = c10::make_intrusive<c10::ivalue::Future>(c10::IntType::get());
  result->markCompleted(c10::IValue(static_cast<int64_t>(c10d::WorkResult::SUCCESS)));
  return result;
}

}  // namespace accel::distributed
