// The c10d::Backend "accl": collectives and messages between ranks that each have an accel device.
// torch.distributed calls it; csrc/python/distributed.cpp makes it.
//
// An operation is a Command on the group's own stream. It waits there for what the calling stream
// had recorded, and whoever waits for its Work has a stream wait: the host never does, except in a
// barrier or where it gives a timeout. Messages have streams of their own, one for each rank and
// direction, so that those of different ranks do not wait for each other.
#pragma once

#include <map>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "csrc/distributed/rendezvous.h"
#include "csrc/distributed/transport.h"
#include "csrc/distributed/work.h"
#include "csrc/runtime/stream.h"

namespace accel::distributed {

class Call;

class ProcessGroup final : public c10d::Backend {
 public:
  // A class of its own, so that Python can have one and copy it.
  struct Options final : c10d::Backend::Options {
    using c10d::Backend::Options::Options;
  };
  template <class T>
  using Pointer = c10::intrusive_ptr<T>;
  using WorkPointer = Pointer<c10d::Work>;
  using Tensors = std::vector<at::Tensor>;
  using TensorLists = std::vector<std::vector<at::Tensor>>;

  // Returns once all ranks have met, or raises DistBackendError after the timeout.
  ProcessGroup(const Pointer<c10d::Store>& store, int rank, int size, Pointer<Options> options);
  ~ProcessGroup() override;

  const std::string getBackendName() const override { return "accl"; }
  Pointer<c10d::Backend::Options> getBackendOptions() override { return options_; }
  void setTimeout(std::chrono::milliseconds timeout) override { options_->timeout = timeout; }
  bool supportsCoalescing() const override { return true; }
  bool supportsSplitting() const override { return true; }
  // A new group of some ranks of this one, in that order; nothing on the others. Every rank calls
  // it.
  Pointer<c10d::Backend> split(const Pointer<c10d::Store>& store, const std::vector<int>& ranks,
                               const Pointer<c10d::Backend::Options>& options) override;
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override;
  c10d::ErrorType getError() override;

  WorkPointer broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override;
  WorkPointer allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override;
  WorkPointer allreduce_sparse(Tensors& tensors, const c10d::AllreduceOptions& options) override;
  WorkPointer allreduce_coalesced(Tensors& tensors,
                                  const c10d::AllreduceCoalescedOptions& options) override;
  WorkPointer reduce(Tensors& tensors, const c10d::ReduceOptions& options) override;
  WorkPointer allgather(TensorLists& outputs, Tensors& inputs,
                        const c10d::AllgatherOptions& options) override;
  WorkPointer _allgather_base(at::Tensor& output, at::Tensor& input,
                              const c10d::AllgatherOptions& options) override;
  WorkPointer allgather_coalesced(TensorLists& outputs, Tensors& inputs,
                                  const c10d::AllgatherOptions& options) override;
  WorkPointer allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                              const c10d::AllgatherOptions& options) override;
  WorkPointer gather(TensorLists& outputs, Tensors& inputs,
                     const c10d::GatherOptions& options) override;
  WorkPointer scatter(Tensors& outputs, TensorLists& inputs,
                      const c10d::ScatterOptions& options) override;
  WorkPointer reduce_scatter(Tensors& outputs, TensorLists& inputs,
                             const c10d::ReduceScatterOptions& options) override;
  WorkPointer _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                   const c10d::ReduceScatterOptions& options) override;
  WorkPointer reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                              const c10d::ReduceScatterOptions& options) override;
  WorkPointer alltoall_base(at::Tensor& output, at::Tensor& input,
                            std::vector<int64_t>& output_splits, std::vector<int64_t>& input_splits,
                            const c10d::AllToAllOptions& options) override;
  WorkPointer alltoall(Tensors& outputs, Tensors& inputs,
                       const c10d::AllToAllOptions& options) override;
  WorkPointer send(Tensors& tensors, int to, int tag) override;
  WorkPointer recv(Tensors& tensors, int from, int tag) override;
  WorkPointer recvAnysource(Tensors& tensors, int tag) override;
  WorkPointer barrier(const c10d::BarrierOptions& options) override;
  void monitoredBarrier(const c10d::BarrierOptions& options, bool wait_all_ranks) override;

  void startCoalescing() override;
  WorkPointer endCoalescing() override;

  // The group fails on every rank, now.
  void abort() override;
  // Waits for what is queued, and takes no more part.
  void shutdown() override;

 private:
  friend class Call;

  // Hands over what the calls say, in order, and returns one Work for them.
  WorkPointer run(std::vector<Call>& calls, c10d::OpType type, Tensors outputs,
                  std::chrono::milliseconds timeout);
  WorkPointer run(Call& call, c10d::OpType type, Tensors outputs,
                  std::chrono::milliseconds timeout);
  // The stream of an operation: of all collectives one, of messages one for each rank and
  // direction.
  runtime::Stream& stream_for(const Operation& operation);
  void use_device(int device);
  uint64_t next(uint64_t& count);
  void release_streams();

  const Pointer<Options> options_;
  const Membership membership_;
  const Pointer<c10d::Store> store_;  // with keys that no other group or start has
  const std::shared_ptr<Transport> transport_;
  std::mutex mutex_;  // guards all that follows, and the order in which Commands are handed over
  int device_ = -1;   // of the first tensor, and so of all
  std::map<std::pair<Kind, int>, runtime::Stream*> streams_;
  uint64_t collectives_ = 0, messages_ = 0, monitored_barriers_ = 0, splits_ = 0;
  bool coalescing_ = false, ended_ = false;
  std::vector<Work::Part> coalesced_;
  Tensors coalesced_outputs_;
};

// How a group over several hosts gets torch's Gloo, whose headers are not in the wheel.
using MakeGloo = c10::intrusive_ptr<c10d::Backend> (*)(const c10::intrusive_ptr<c10d::Store>& store,
                                                       int rank, int size,
                                                       std::chrono::milliseconds timeout);
void register_gloo(MakeGloo make);

}  // namespace accel::distributed
