// What torch.distributed returns for an operation that has been handed over.
#pragma once

#include <atomic>

#include <torch/csrc/distributed/c10d/Work.hpp>

#include "csrc/distributed/operation.h"
#include "csrc/runtime/event.h"

namespace accel::distributed {

// How an operation ended: written by its Command, read by whoever has the Work.
struct Outcome {
  std::atomic<int> source{-1};  // of a receive, once it is done
  std::mutex mutex;
  std::exception_ptr failure;
};

// One operation, or several that were coalesced.
class Work final : public c10d::Work {
 public:
  struct Part {
    std::shared_ptr<runtime::Event> end;  // on the group's stream
    std::shared_ptr<Outcome> outcome;
  };
  // Who waits in wait(): the current stream, or the host as well.
  enum class Waits { Stream, Host };

  Work(int rank, c10d::OpType type, uint64_t sequence, std::vector<Part> parts,
       std::vector<at::Tensor> outputs, c10::Device device, c10::Stream stream, Waits waits,
       std::chrono::milliseconds timeout);

  const std::vector<Part>& parts() const { return parts_; }

  // Once the operation has ended, or the current stream waits for it.
  bool isCompleted() override;
  // Once it has ended without a failure.
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  int sourceRank() const override;
  std::vector<at::Tensor> result() override { return outputs_; }
  void synchronize() override;
  // With a timeout the host waits too, for no longer than that; without one only the current stream
  // does, except for a barrier.
  bool wait(std::chrono::milliseconds timeout = kNoTimeout) override;
  void blockCurrentStream() override { synchronize(); }
  void abort() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override;
  uint64_t getSequencenumber() const override { return sequence_; }

 private:
  bool has_ended() const;
  void wait_on_host(std::chrono::milliseconds timeout) const;

  const uint64_t sequence_;
  const std::vector<Part> parts_;
  const std::vector<at::Tensor> outputs_;
  const c10::Device device_;
  const Waits waits_;
  const std::chrono::milliseconds timeout_;
  std::atomic<const runtime::Stream*> waiting_stream_{nullptr};  // the last one that does
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

}  // namespace accel::distributed
