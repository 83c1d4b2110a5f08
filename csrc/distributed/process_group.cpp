#include "csrc/distributed/process_group.h"

#include <algorithm>
#include <list>
#include <numeric>

#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/record_function.h>
#include <c10/core/StreamGuard.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include "csrc/aten/recording.h"
#include "csrc/distributed/flight_recorder.h"
#include "csrc/distributed/hierarchical_transport.h"
#include "csrc/distributed/host_transport.h"
#include "csrc/distributed/monitored_barrier.h"
#include "csrc/distributed/shared_transport.h"
#include "csrc/graph/executor.h"
#include "csrc/graph/recorder.h"
#include "csrc/runtime/address.h"
#include "csrc/runtime/process.h"
#include "csrc/runtime/trace.h"
#include "csrc/runtime/worker_stream.h"

namespace accel::distributed {

namespace {

using at::Tensor;
using kernels::CombineOp;
using kernels::DType;

MakeGloo make_gloo = nullptr;

std::string text_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "unknown error";
  }
}

// ---- the Command ----

class OperationCommand final : public runtime::Command {
 public:
  OperationCommand(Operation operation, std::shared_ptr<Transport> transport,
                   std::shared_ptr<Outcome> outcome, std::vector<runtime::BlockReference> blocks,
                   std::vector<runtime::Block*> fresh, std::vector<runtime::Block*> overwritten,
                   const runtime::Stream& stream, int rank, uint64_t flight)
      : operation_(std::move(operation)),
        transport_(std::move(transport)),
        outcome_(std::move(outcome)),
        blocks_(std::move(blocks)),
        fresh_(std::move(fresh)),
        overwritten_(std::move(overwritten)),
        stream_(stream),
        rank_(rank),
        flight_(flight) {}

  void run() override {
    note_started(flight_);
    const bool is_traced = runtime::is_tracing();
    const int64_t begin = is_traced ? runtime::trace_clock() : 0;
    try {
      if (operation_.is_message()) {
        outcome_->source.store(transport_->run_message(operation_));
      } else {
        transport_->run(operation_);
      }
    } catch (...) {
      set_failure(std::current_exception());
      throw;
    }
    for (runtime::Block* block : overwritten_) graph::regain(*block);
    note_ended(flight_);
    if (is_traced) {
      runtime::trace(stream_, name_of(operation_.kind), begin, traced_);
    }
  }

  // What came before it on this rank has failed, so the other ranks will not hear of us.
  void skip() override {
    const std::exception_ptr cause = stream_.failure();
    const std::string reason =
        c10::str("rank ", rank_, " did not come to ", describe(operation_),
                 cause ? ", because of an earlier failure: " + text_of(cause) : ": it has ended");
    set_failure(std::make_exception_ptr(c10::DistBackendError(
        {__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, "accl: " + reason)));
    transport_->fail(reason);
  }

 private:
  void set_failure(const std::exception_ptr& failure) {
    for (runtime::Block* block : fresh_) graph::lose(*block);
    {
      std::lock_guard lock(outcome_->mutex);
      outcome_->failure = failure;
    }
    note_failed(flight_, text_of(failure));
  }

  const Operation operation_;
  const std::shared_ptr<Transport> transport_;
  const std::shared_ptr<Outcome> outcome_;
  const std::vector<runtime::BlockReference> blocks_;
  // Among those: what gets its first content here, and what gets all of its content here.
  const std::vector<runtime::Block*> fresh_, overwritten_;
  const runtime::Stream& stream_;
  const int rank_;
  const uint64_t flight_;
  const int64_t traced_ = runtime::traced_operation();
};

// ---- reductions ----

// The unsigned integers of 16 to 64 bits are computed as the signed ones of their size.
DType combined_dtype(at::ScalarType type) {
  switch (type) {
    case at::ScalarType::UInt16:
      return DType::Int16;
    case at::ScalarType::UInt32:
      return DType::Int32;
    case at::ScalarType::UInt64:
      return DType::Int64;
    default:
      return static_cast<DType>(type);
  }
}

CombineOp op_of(c10d::ReduceOp::RedOpType op, at::ScalarType type) {
  const bool is_unsigned = at::isBarebonesUnsignedType(type);
  switch (op) {
    case c10d::ReduceOp::PRODUCT:
      return CombineOp::Product;
    case c10d::ReduceOp::MIN:
      return is_unsigned ? CombineOp::UnsignedMinimum : CombineOp::Minimum;
    case c10d::ReduceOp::MAX:
      return is_unsigned ? CombineOp::UnsignedMaximum : CombineOp::Maximum;
    case c10d::ReduceOp::BAND:
      return CombineOp::And;
    case c10d::ReduceOp::BOR:
      return CombineOp::Or;
    case c10d::ReduceOp::BXOR:
      return CombineOp::Xor;
    default:
      return CombineOp::Sum;
  }
}

const char* name_of(c10d::ReduceOp::RedOpType op) {
  static constexpr const char* kNames[] = {"SUM",  "AVG", "PRODUCT", "MIN",       "MAX",
                                           "BAND", "BOR", "BXOR",    "PREMUL_SUM"};
  return op < c10d::ReduceOp::UNUSED ? kNames[op] : "UNUSED";
}

Reduction reduction_of(const c10d::ReduceOp& op, at::ScalarType type) {
  const c10d::ReduceOp::RedOpType kind = op.op_;
  const bool weighted = kind == c10d::ReduceOp::PREMUL_SUM;
  const bool average = kind == c10d::ReduceOp::AVG;
  const bool is_real_number = at::isFloatingType(type) || at::isComplexType(type);
  Reduction reduction;
  reduction.op = op_of(kind, type);
  reduction.dtype = combined_dtype(type);
  TORCH_CHECK_VALUE(
      kernels::size_of(reduction.dtype) != 0 &&
          kernels::can_combine(reduction.op, reduction.dtype) && (!weighted || is_real_number) &&
          (!average || !(at::isBarebonesUnsignedType(type) || type == at::ScalarType::Bool)),
      "accl: ReduceOp.", name_of(kind), " is not defined for ", type);
  reduction.average = average;
  reduction.weighted = weighted;
  if (weighted) {
    const auto* supplement = dynamic_cast<const c10d::PreMulSumSupplement*>(op.supplement_.get());
    TORCH_CHECK_VALUE(supplement != nullptr, "accl: ReduceOp.PREMUL_SUM comes without a factor");
    reduction.factor = supplement->tensor_factor.defined()
                           ? supplement->tensor_factor.item<double>()
                           : supplement->double_factor;
  }
  return reduction;
}

const Tensor& only(const std::vector<Tensor>& tensors, Kind kind) {
  TORCH_CHECK_VALUE(tensors.size() == 1, "accl: ", name_of(kind), " takes one tensor a rank, got ",
                    tensors.size());
  return tensors[0];
}

const std::vector<Tensor>& only(const std::vector<std::vector<Tensor>>& lists, Kind kind) {
  TORCH_CHECK_VALUE(lists.size() == 1, "accl: ", name_of(kind),
                    " takes one list of tensors a rank, got ", lists.size());
  return lists[0];
}

}  // namespace

void register_gloo(MakeGloo make) { make_gloo = make; }

// ---- from Tensors to an Operation ----

// One operation on its way to the group's stream. Keeps the Tensors until it has been handed over;
// a Tensor that is not dense goes through one that is.
class Call {
 public:
  Call(const ProcessGroup& group, Kind kind) : group_(group) { operation.kind = kind; }

  void input(const Tensor& tensor) {
    check(tensor);
    const Tensor dense = tensor.is_contiguous() ? tensor : copy_of(tensor);
    operation.inputs.push_back(piece(dense));
    inputs_ = kept_.size();
  }
  // The parts of a dense Tensor, by numbers of elements.
  void inputs(const Tensor& tensor, const std::vector<int64_t>& elements) {
    input(tensor);
    cut(operation.inputs, elements);
  }

  enum class Reads { No, Yes };
  void output(const Tensor& tensor, Reads reads = Reads::No) {
    check(tensor);
    Tensor dense = tensor;
    if (!tensor.is_contiguous()) {
      dense = reads == Reads::Yes ? copy_of(tensor)
                                  : aten::empty_on(tensor, tensor.sizes(), tensor.scalar_type());
      back_.emplace_back(tensor, dense);
    }
    operation.outputs.push_back(piece(dense));
    if (runtime::Block* block = aten::block_of(dense)) {
      written_.push_back(block);
      if (!block->has_content()) fresh_.push_back(block);
      if (reads == Reads::No && dense.nbytes() >= block->requested) overwritten_.push_back(block);
    }
  }
  void outputs(const Tensor& tensor, const std::vector<int64_t>& elements) {
    output(tensor);
    cut(operation.outputs, elements);
  }

  // The rank that has or gets the data: of this group.
  void root(int64_t rank) {
    TORCH_CHECK_VALUE(rank >= 0 && rank < group_.getSize(), "accl: ", name_of(operation.kind),
                      ": invalid root rank: ", rank, " in a group of ", group_.getSize());
    operation.root = static_cast<int>(rank);
  }
  // The other rank of a message.
  void peer(int rank, int tag) {
    TORCH_CHECK_VALUE((rank >= 0 && rank < group_.getSize()) ||
                          (rank == kAnySource && operation.kind == Kind::Receive),
                      "accl: ", name_of(operation.kind), ": invalid rank: ", rank,
                      " in a group of ", group_.getSize());
    operation.root = rank;
    operation.tag = tag;
  }

  void reduce_by(const c10d::ReduceOp& op) {
    operation.reduction = reduction_of(op, operation.dtype);
  }

  // What the profiler shows: the inputs, or of an operation in place its tensors.
  void show(std::vector<c10::IValue>& shown) const {
    const size_t count = inputs_ > 0 ? inputs_ : kept_.size();
    shown.insert(shown.end(), kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(count));
  }

  // Of an operation without tensors.
  void use_device(int device) { device_ = device; }
  int device() const { return device_; }

  // Behind all that the stream holds; what must be copied back follows.
  Work::Part hand_over(runtime::Stream& stream, std::shared_ptr<Transport> transport,
                       uint64_t flight) {
    Work::Part part{std::make_shared<runtime::Event>(), std::make_shared<Outcome>()};
    static_cast<graph::Recorder*>(stream.tail())
        ->submit(std::make_unique<OperationCommand>(
                     std::move(operation), std::move(transport), part.outcome, std::move(blocks_),
                     std::move(fresh_), std::move(overwritten_), stream, group_.getRank(), flight),
                 written_);
    if (!back_.empty()) {
      const c10::StreamGuard guard(runtime::to_c10(stream));
      for (const auto& [to, from] : back_) aten::record_copy(to, from);
    }
    part.end->record(stream);
    return part;
  }

  Operation operation;

 private:
  void check(const Tensor& tensor) {
    const char* name = name_of(operation.kind);
    TORCH_CHECK_VALUE(tensor.device().is_privateuseone(), "accl: ", name,
                      " takes tensors of accel, got one of ", tensor.device(),
                      "; init_process_group(\"cpu:gloo,accel:accl\") serves both");
    TORCH_CHECK_VALUE(aten::is_plain(tensor), "accl: ", name,
                      " takes dense tensors without conjugate or negative bit");
    const int device = tensor.device().index();
    if (device_ < 0) {
      device_ = device;
      operation.dtype = tensor.scalar_type();
      operation.element_size = static_cast<int64_t>(tensor.itemsize());
    }
    TORCH_CHECK_VALUE(device == device_, "accl: ", name, " got tensors of accel:", device_,
                      " and accel:", device);
    TORCH_CHECK_VALUE(tensor.scalar_type() == operation.dtype, "accl: ", name, " got tensors of ",
                      operation.dtype, " and ", tensor.scalar_type());
  }

  Tensor copy_of(const Tensor& tensor) {
    Tensor copy = aten::empty_on(tensor, tensor.sizes(), tensor.scalar_type());
    aten::record_copy(copy, tensor);
    return copy;
  }

  Piece piece(const Tensor& dense) {
    kept_.push_back(dense);
    if (dense.numel() == 0) return {};
    runtime::Block* block = aten::block_of(dense);
    blocks_.emplace_back(block);
    return {
        static_cast<char*>(runtime::host_pointer(block->address)) + aten::offset_in(*block, dense),
        dense.numel()};
  }

  void cut(std::vector<Piece>& pieces, const std::vector<int64_t>& elements) {
    const Piece whole = pieces.back();
    pieces.pop_back();
    char* data = whole.data;
    for (const int64_t count : elements) {
      pieces.push_back({data, count});
      data += count * operation.element_size;
    }
  }

  const ProcessGroup& group_;
  int device_ = -1;
  std::vector<Tensor> kept_;  // inputs come first
  size_t inputs_ = 0;
  std::vector<std::pair<Tensor, Tensor>> back_;
  std::vector<runtime::BlockReference> blocks_;
  std::vector<runtime::Block*> written_, fresh_, overwritten_;
};

// ---- the profiler ----

namespace {

// The host's part of an operation as an event of the profiler, named after the function of
// torch.distributed as those of Gloo and NCCL are.
class ProfiledHandOver {
 public:
  ProfiledHandOver(c10d::OpType type, const std::vector<Call>& calls)
      : record_(at::RecordScope::USER_SCOPE) {
    if (!record_.isActive()) return;
    title_ = c10::str("accl:", name_of(calls[0].operation.kind), suffix(type));
    for (const Call& call : calls) call.show(shown_);
    record_._setAsync();
    record_.before(title_, &shown_);
  }

 private:
  static const char* suffix(c10d::OpType type) {
    switch (type) {
      case c10d::OpType::ALLREDUCE_COALESCED:
      case c10d::OpType::ALLGATHER_COALESCED:
        return "_coalesced";
      case c10d::OpType::_ALLGATHER_BASE:
        return "_into_tensor";
      case c10d::OpType::_REDUCE_SCATTER_BASE:
        return "_tensor";
      case c10d::OpType::RECVANYSOURCE:
        return "AnySource";
      default:
        return "";
    }
  }

  std::string title_;
  std::vector<c10::IValue> shown_;
  at::RecordFunction record_;  // ends before what it refers to
};

}  // namespace

// ---- the group ----

namespace {

// Transports in use, so that the exit of the process can end what waits for other ranks.
struct Transports {
  std::mutex mutex;
  std::vector<std::weak_ptr<Transport>> all;
};

Transports& transports() {
  static auto* transports = new Transports;  // outlives static destruction
  return *transports;
}

void leave_all_groups() {
  std::lock_guard lock(transports().mutex);
  for (const auto& weak : transports().all) {
    if (const auto transport = weak.lock()) transport->interrupt();
  }
}

std::shared_ptr<Transport> remember(std::shared_ptr<Transport> transport) {
  Transports& known = transports();
  std::lock_guard lock(known.mutex);
  runtime::register_interrupt(leave_all_groups);
  std::erase_if(known.all, [](const auto& weak) { return weak.expired(); });
  known.all.push_back(transport);
  return transport;
}

std::shared_ptr<Transport> connect(const c10::intrusive_ptr<c10d::Store>& store,
                                   const Membership& membership, int rank, int size,
                                   std::chrono::milliseconds timeout) {
  const auto hosts = ranks_by_host(membership);
  size_t here = 0;
  while (std::find(hosts[here].begin(), hosts[here].end(), rank) == hosts[here].end()) ++here;
  const auto share = [&] {
    return std::make_unique<SharedTransport>(
        std::make_unique<SharedRegion>(*store, membership, hosts[here], rank, timeout));
  };
  const auto reach = [&](const char* whom, int number, size_t count) {
    TORCH_CHECK(make_gloo != nullptr, "accl: ranks on several hosts need Gloo");
    const auto prefix = c10::make_intrusive<c10d::PrefixStore>(
        c10::str("accl/gloo/", whom, "/", membership.token), store);
    return std::make_unique<HostTransport>(
        make_gloo(prefix, number, static_cast<int>(count), timeout), rank);
  };
  if (hosts.size() == 1) return remember(share());
  const auto ranks = static_cast<size_t>(size);
  if (hosts.size() == ranks) return remember(reach("all", rank, ranks));
  const bool leads = hosts[here][0] == rank;
  return remember(std::make_unique<HierarchicalTransport>(
      hosts, rank, share(),
      leads ? reach("leaders", static_cast<int>(here), hosts.size()) : nullptr,
      reach("all", rank, ranks)));
}

}  // namespace

ProcessGroup::ProcessGroup(const Pointer<c10d::Store>& store, int rank, int size,
                           Pointer<Options> options)
    : c10d::Backend(rank, size),
      options_(std::move(options)),
      membership_(meet(*store, rank, size, options_->timeout)),
      store_(c10::make_intrusive<c10d::PrefixStore>("accl/" + membership_.token, store)),
      transport_(connect(store, membership_, rank, size, options_->timeout)) {}

ProcessGroup::~ProcessGroup() {
  transport_->leave();
  release_streams();
}

// The Store that PyTorch gives is named after the number of groups that this process knows of,
// which need not be the same on every rank. The number of splits of this group is.
ProcessGroup::Pointer<c10d::Backend> ProcessGroup::split(
    const Pointer<c10d::Store>& /*store*/, const std::vector<int>& ranks,
    const Pointer<c10d::Backend::Options>& options) {
  const uint64_t number = next(splits_);
  const auto own = std::find(ranks.begin(), ranks.end(), getRank());
  if (own == ranks.end()) return nullptr;
  auto own_options = c10::make_intrusive<Options>("accl", options->timeout);
  own_options->group_name = options->group_name;
  for (const int rank : ranks) {
    const auto& global = options_->global_ranks_in_group;  // empty where they are this group's
    const auto index = static_cast<size_t>(rank);
    own_options->global_ranks_in_group.push_back(global.empty() ? index : global.at(index));
  }
  return c10::make_intrusive<ProcessGroup>(
      c10::make_intrusive<c10d::PrefixStore>(c10::str("split/", number, "/", ranks[0]), store_),
      static_cast<int>(own - ranks.begin()), static_cast<int>(ranks.size()),
      std::move(own_options));
}

uint64_t ProcessGroup::getSequenceNumberForGroup() {
  std::lock_guard lock(mutex_);
  return collectives_;
}

c10d::ErrorType ProcessGroup::getError() {
  return transport_->failure().empty() ? c10d::ErrorType::SUCCESS : c10d::ErrorType::COMM_ERROR;
}

uint64_t ProcessGroup::next(uint64_t& count) {
  std::lock_guard lock(mutex_);
  return ++count;
}

void ProcessGroup::use_device(int device) {
  if (device_ < 0) device_ = device;
  TORCH_CHECK_VALUE(device == device_, "accl: this group works on accel:", device_,
                    ", got a tensor of accel:", device, "; a rank has one device");
}

runtime::Stream& ProcessGroup::stream_for(const Operation& operation) {
  const auto key = operation.is_message() ? std::pair(operation.kind, operation.root)
                                          : std::pair(Kind::Barrier, 0);
  runtime::Stream*& stream = streams_[key];
  if (stream == nullptr) stream = &runtime::acquire_stream(device_);
  return *stream;
}

ProcessGroup::WorkPointer ProcessGroup::run(Call& call, c10d::OpType type, Tensors outputs,
                                            std::chrono::milliseconds timeout) {
  std::vector<Call> calls;
  calls.push_back(std::move(call));
  return run(calls, type, std::move(outputs), timeout);
}

ProcessGroup::WorkPointer ProcessGroup::run(std::vector<Call>& calls, c10d::OpType type,
                                            Tensors outputs, std::chrono::milliseconds timeout) {
  runtime::check_fork();
  TORCH_CHECK_VALUE(!calls.empty(), "accl: no tensors were given");
  if (timeout == c10d::kUnsetTimeout) timeout = options_->timeout;
  if (const std::string failure = transport_->failure(); !failure.empty()) {
    TORCH_CHECK_WITH(DistBackendError, false, "accl: the process group has failed: ", failure);
  }
  const ProfiledHandOver profiled(type, calls);
  const int device = calls[0].device();
  graph::refuse_capture(device, "a collective operation");
  runtime::Event start;
  start.record(runtime::current_stream(device));

  std::vector<Work::Part> parts;
  runtime::Stream* stream = nullptr;
  uint64_t sequence = 0;
  {
    std::lock_guard lock(mutex_);
    TORCH_CHECK_WITH(DistBackendError, !ended_, "accl: the process group has been shut down");
    use_device(device);
    stream = &stream_for(calls[0].operation);
    start.block(*stream);
    for (Call& call : calls) {
      sequence = call.operation.is_message() ? ++messages_ : ++collectives_;
      call.operation.sequence = sequence;
      call.operation.timeout_ms = timeout.count();
      const uint64_t flight = note_queued(getGroupUid(), getRank(), call.operation);
      parts.push_back(call.hand_over(*stream, transport_, flight));
    }
    if (coalescing_) {
      coalesced_.insert(coalesced_.end(), parts.begin(), parts.end());
      coalesced_outputs_.insert(coalesced_outputs_.end(), outputs.begin(), outputs.end());
    }
  }
  return c10::make_intrusive<Work>(
      getRank(), type, sequence, std::move(parts), std::move(outputs),
      c10::Device(c10::kPrivateUse1, static_cast<c10::DeviceIndex>(device)),
      runtime::to_c10(*stream),
      type == c10d::OpType::BARRIER ? Work::Waits::Host : Work::Waits::Stream, timeout);
}

void ProcessGroup::startCoalescing() {
  std::lock_guard lock(mutex_);
  TORCH_CHECK(!coalescing_, "accl: operations are being coalesced already");
  coalescing_ = true;
}

ProcessGroup::WorkPointer ProcessGroup::endCoalescing() {
  std::lock_guard lock(mutex_);
  TORCH_CHECK(coalescing_, "accl: endCoalescing() without startCoalescing()");
  coalescing_ = false;
  if (coalesced_.empty()) return nullptr;
  // One stream that comes behind all of them: the future is complete in its order.
  runtime::Stream& stream = stream_for(Operation());
  for (const Work::Part& part : coalesced_) part.end->block(stream);
  return c10::make_intrusive<Work>(
      getRank(), c10d::OpType::COALESCED, collectives_, std::exchange(coalesced_, {}),
      std::exchange(coalesced_outputs_, {}),
      c10::Device(c10::kPrivateUse1, static_cast<c10::DeviceIndex>(device_)),
      runtime::to_c10(stream), Work::Waits::Stream, options_->timeout);
}

void ProcessGroup::abort() {
  transport_->fail(c10::str("rank ", getRank(), " has aborted the group"));
  shutdown();
}

void ProcessGroup::shutdown() {
  std::list<runtime::Event> ends;
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(ended_, true)) return;
    for (const auto& [key, stream] : streams_) {
      ends.emplace_back().record(*stream);
    }
  }
  // Each operation ends when its time is over, at the latest.
  for (const runtime::Event& end : ends) end.wait_until(runtime::kNever);
  transport_->leave();
  release_streams();
}

void ProcessGroup::release_streams() {
  std::lock_guard lock(mutex_);
  for (const auto& [key, stream] : streams_) runtime::release_stream(*stream);
  streams_.clear();
}

// ---- the collectives ----

ProcessGroup::WorkPointer ProcessGroup::broadcast(Tensors& tensors,
                                                  const c10d::BroadcastOptions& options) {
  Call call(*this, Kind::Broadcast);
  call.output(only(tensors, Kind::Broadcast), Call::Reads::Yes);
  call.root(options.rootRank);
  return run(call, c10d::OpType::BROADCAST, tensors, options.timeout);
}

ProcessGroup::WorkPointer ProcessGroup::allreduce(Tensors& tensors,
                                                  const c10d::AllreduceOptions& options) {
  Call call(*this, Kind::AllReduce);
  call.output(only(tensors, Kind::AllReduce), Call::Reads::Yes);
  call.reduce_by(options.reduceOp);
  return run(call, c10d::OpType::ALLREDUCE, tensors, options.timeout);
}

ProcessGroup::WorkPointer ProcessGroup::allreduce_coalesced(
    Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) {
  std::vector<Call> calls;
  for (const Tensor& tensor : tensors) {
    Call& call = calls.emplace_back(*this, Kind::AllReduce);
    call.output(tensor, Call::Reads::Yes);
    call.reduce_by(options.reduceOp);
  }
  return run(calls, c10d::OpType::ALLREDUCE_COALESCED, tensors, options.timeout);
}

ProcessGroup::WorkPointer ProcessGroup::reduce(Tensors& tensors,
                                               const c10d::ReduceOptions& options) {
  Call call(*this, Kind::Reduce);
  const Tensor& tensor = only(tensors, Kind::Reduce);
  call.root(options.rootRank);
  call.input(tensor);
  if (call.operation.root == getRank()) call.output(tensor);
  call.reduce_by(options.reduceOp);
  return run(call, c10d::OpType::REDUCE, tensors, options.timeout);
}

namespace {

void check_list(const std::vector<Tensor>& list, int size, Kind kind) {
  TORCH_CHECK_VALUE(static_cast<int>(list.size()) == size, "accl: ", name_of(kind),
                    " got a list of ", list.size(), " tensors for ", size, " ranks");
}

// Of a tensor that holds something for each rank, the part of each.
std::vector<int64_t> equal_parts(const Tensor& whole, int64_t part, int size, Kind kind) {
  TORCH_CHECK_VALUE(whole.numel() == part * size, "accl: ", name_of(kind), " got tensors of ",
                    whole.numel(), " and ", part, " elements; the one must hold the other for ",
                    size, " ranks");
  return std::vector<int64_t>(static_cast<size_t>(size), part);
}

// Along the first dimension; no splits stand for equal ones.
std::vector<int64_t> split_parts(const Tensor& tensor, const std::vector<int64_t>& splits,
                                 int size) {
  const int64_t rows = tensor.dim() == 0 ? 1 : tensor.size(0);
  if (splits.empty()) {
    TORCH_CHECK_VALUE(rows % size == 0, "Tensor's dim 0 does not divide equally across group size");
    return std::vector<int64_t>(static_cast<size_t>(size), tensor.numel() / size);
  }
  TORCH_CHECK_VALUE(static_cast<int>(splits.size()) == size,
                    "Number of tensor splits not equal to group size");
  TORCH_CHECK_VALUE(std::accumulate(splits.begin(), splits.end(), int64_t{0}) == rows,
                    "Split sizes doesn't match total dim 0 size");
  std::vector<int64_t> parts;
  for (const int64_t split : splits)
    parts.push_back(rows == 0 ? 0 : split * (tensor.numel() / rows));
  return parts;
}

}  // namespace

ProcessGroup::WorkPointer ProcessGroup::allgather(TensorLists& outputs, Tensors& inputs,
                                                  const c10d::AllgatherOptions& options) {
  Call call(*this, Kind::AllGather);
  const Tensors& list = only(outputs, Kind::AllGather);
  check_list(list, getSize(), Kind::AllGather);
  call.input(only(inputs, Kind::AllGather));
  for (const Tensor& tensor : list) call.output(tensor);
  TORCH_CHECK_VALUE(list[static_cast<size_t>(getRank())].numel() == inputs[0].numel(),
                    "accl: all_gather got a tensor of ", inputs[0].numel(),
                    " elements and room for ", list[static_cast<size_t>(getRank())].numel());
  return run(call, c10d::OpType::ALLGATHER, list, options.timeout);
}

ProcessGroup::WorkPointer ProcessGroup::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                        const c10d::AllgatherOptions& options) {
  Tensors outputs{output}, inputs{input};
  return allgather_into_tensor_coalesced(outputs, inputs, options);
}

ProcessGroup::WorkPointer ProcessGroup::allgather_into_tensor_coalesced(
    Tensors& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) {
  TORCH_CHECK_VALUE(outputs.size() == inputs.size(), "accl: all_gather got ", outputs.size(),
                    " outputs for ", inputs.size(), " inputs");
  std::vector<Call> calls;
  for (size_t i = 0; i < inputs.size(); ++i) {
    Call& call = calls.emplace_back(*this, Kind::AllGather);
    call.input(inputs[i]);
    call.outputs(outputs[i],
                 equal_parts(outputs[i], inputs[i].numel(), getSize(), Kind::AllGather));
  }
  return run(calls, c10d::OpType::_ALLGATHER_BASE, outputs, options.timeout);
}

ProcessGroup::WorkPointer ProcessGroup::allgather_coalesced(TensorLists& outputs, Tensors& inputs,
                                                            const c10d::AllgatherOptions& options) {
  // One list of all tensors for each rank.
  check_list(outputs.empty() ? Tensors() : Tensors(outputs.size()), getSize(), Kind::AllGather);
  std::vector<Call> calls;
  Tensors all;
  for (size_t i = 0; i < inputs.size(); ++i) {
    Call& call = calls.emplace_back(*this, Kind::AllGather);
    call.input(inputs[i]);
    for (const Tensors& list : outputs) {
      call.output(list.at(i));
      all.push_back(list[i]);
    }
  }
  return run(calls, c10d::OpType::ALLGATHER_COALESCED, all, options.timeout);
}

ProcessGroup::WorkPointer ProcessGroup::gather(TensorLists& outputs, Tensors& inputs,
                                               const c10d::GatherOptions& options) {
  Call call(*this, Kind::Gather);
  call.root(options.rootRank);
  call.input(only(inputs, Kind::Gather));
  Tensors list;
  if (call.operation.root == getRank()) {
    list = only(outputs, Kind::Gather);
    check_list(list, getSize(), Kind::Gather);
    for (const Tensor& tensor : list) {
      call.output(tensor);
      TORCH_CHECK_VALUE(tensor.numel() == inputs[0].numel(),
                        "accl: gather takes tensors of one size, got ", inputs[0].numel(), " and ",
                        tensor.numel(), " elements");
    }
  } else {
    TORCH_CHECK_VALUE(outputs.empty() || outputs[0].empty(),
                      "accl: gather: outputs are for the destination rank alone");
  }
  return run(call, c10d::OpType::GATHER, list, options.timeout);
}

ProcessGroup::WorkPointer ProcessGroup::scatter(Tensors& outputs, TensorLists& inputs,
                                                const c10d::ScatterOptions& options) {
  Call call(*this, Kind::Scatter);
  call.root(options.rootRank);
  const Tensor& output = only(outputs, Kind::Scatter);
  if (call.operation.root == getRank()) {
    const Tensors& list = only(inputs, Kind::Scatter);
    check_list(list, getSize(), Kind::Scatter);
    for (const Tensor& tensor : list) {
      call.input(tensor);
      TORCH_CHECK_VALUE(tensor.numel() == output.numel(),
                        "accl: scatter takes tensors of one size, got ", output.numel(), " and ",
                        tensor.numel(), " elements");
    }
  } else {
    TORCH_CHECK_VALUE(inputs.empty() || inputs[0].empty(),
                      "accl: scatter: inputs are for the source rank alone");
  }
  call.output(output);
  return run(call, c10d::OpType::SCATTER, outputs, options.timeout);
}

ProcessGroup::WorkPointer ProcessGroup::reduce_scatter(Tensors& outputs, TensorLists& inputs,
                                                       const c10d::ReduceScatterOptions& options) {
  Call call(*this, Kind::ReduceScatter);
  const Tensors& list = only(inputs, Kind::ReduceScatter);
  check_list(list, getSize(), Kind::ReduceScatter);
  for (const Tensor& tensor : list) call.input(tensor);
  call.output(only(outputs, Kind::ReduceScatter));
  TORCH_CHECK_VALUE(list[static_cast<size_t>(getRank())].numel() == outputs[0].numel(),
                    "accl: reduce_scatter got a tensor of ",
                    list[static_cast<size_t>(getRank())].numel(), " elements and room for ",
                    outputs[0].numel());
  call.reduce_by(options.reduceOp);
  return run(call, c10d::OpType::REDUCE_SCATTER, outputs, options.timeout);
}

ProcessGroup::WorkPointer ProcessGroup::_reduce_scatter_base(
    at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& options) {
  Tensors outputs{output}, inputs{input};
  return reduce_scatter_tensor_coalesced(outputs, inputs, options);
}

ProcessGroup::WorkPointer ProcessGroup::reduce_scatter_tensor_coalesced(
    Tensors& outputs, Tensors& inputs, const c10d::ReduceScatterOptions& options) {
  TORCH_CHECK_VALUE(outputs.size() == inputs.size(), "accl: reduce_scatter got ", outputs.size(),
                    " outputs for ", inputs.size(), " inputs");
  std::vector<Call> calls;
  for (size_t i = 0; i < inputs.size(); ++i) {
    Call& call = calls.emplace_back(*this, Kind::ReduceScatter);
    call.inputs(inputs[i],
                equal_parts(inputs[i], outputs[i].numel(), getSize(), Kind::ReduceScatter));
    call.output(outputs[i]);
    call.reduce_by(options.reduceOp);
  }
  return run(calls, c10d::OpType::_REDUCE_SCATTER_BASE, outputs, options.timeout);
}

ProcessGroup::WorkPointer ProcessGroup::alltoall_base(at::Tensor& output, at::Tensor& input,
                                                      std::vector<int64_t>& output_splits,
                                                      std::vector<int64_t>& input_splits,
                                                      const c10d::AllToAllOptions& options) {
  Call call(*this, Kind::AllToAll);
  call.inputs(input, split_parts(input, input_splits, getSize()));
  call.outputs(output, split_parts(output, output_splits, getSize()));
  return run(call, c10d::OpType::ALLTOALL_BASE, {output}, options.timeout);
}

ProcessGroup::WorkPointer ProcessGroup::alltoall(Tensors& outputs, Tensors& inputs,
                                                 const c10d::AllToAllOptions& options) {
  Call call(*this, Kind::AllToAll);
  check_list(inputs, getSize(), Kind::AllToAll);
  check_list(outputs, getSize(), Kind::AllToAll);
  for (const Tensor& tensor : inputs) call.input(tensor);
  for (const Tensor& tensor : outputs) call.output(tensor);
  return run(call, c10d::OpType::ALLTOALL, outputs, options.timeout);
}

ProcessGroup::WorkPointer ProcessGroup::send(Tensors& tensors, int to, int tag) {
  Call call(*this, Kind::Send);
  call.input(only(tensors, Kind::Send));
  call.peer(to, tag);
  return run(call, c10d::OpType::SEND, tensors, c10d::kUnsetTimeout);
}

ProcessGroup::WorkPointer ProcessGroup::recv(Tensors& tensors, int from, int tag) {
  Call call(*this, Kind::Receive);
  call.output(only(tensors, Kind::Receive));
  call.peer(from, tag);
  return run(call, from == kAnySource ? c10d::OpType::RECVANYSOURCE : c10d::OpType::RECV, tensors,
             c10d::kUnsetTimeout);
}

ProcessGroup::WorkPointer ProcessGroup::recvAnysource(Tensors& tensors, int tag) {
  return recv(tensors, kAnySource, tag);
}

ProcessGroup::WorkPointer ProcessGroup::barrier(const c10d::BarrierOptions& options) {
  int device = device_;
  if (device < 0 && options.device) device = options.device->index();
  if (device < 0 && !options.device_ids.empty()) device = static_cast<int>(options.device_ids[0]);
  if (device < 0 && getBoundDeviceId()) device = getBoundDeviceId()->index();
  if (device < 0) device = runtime::current_device();
  Call call(*this, Kind::Barrier);
  call.use_device(device);
  return run(call, c10d::OpType::BARRIER, {}, options.timeout);
}

void ProcessGroup::monitoredBarrier(const c10d::BarrierOptions& options, bool wait_all_ranks) {
  monitored_barrier(*store_, next(monitored_barriers_), getRank(), getSize(),
                    options.timeout == c10d::kUnsetTimeout ? options_->timeout : options.timeout,
                    wait_all_ranks ? Missing::All : Missing::First);
}

}  // namespace accel::distributed
