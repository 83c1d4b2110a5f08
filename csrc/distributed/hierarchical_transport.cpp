#include "csrc/distributed/hierarchical_transport.h"

#include <algorithm>
#include <cstring>

#include <c10/util/Exception.h>

#include "kernels/vector/program.h"

namespace accel::distributed {

namespace {

// A leader learns that another host is late when its own timeout ends. Those that wait for the
// leader wait a little longer, so that they hear it from there.
constexpr int64_t kLongestGrace = 2000;  // ms
constexpr int64_t kPieceBytes = 4 << 20;

// A step of a collective, without its pieces.
Operation step_of(const Operation& operation, Kind kind, int root = 0) {
  Operation step;
  step.kind = kind;
  step.part_of = operation.kind;
  step.dtype = operation.dtype;
  step.element_size = operation.element_size;
  step.reduction = operation.reduction;
  step.root = root;
  step.sequence = operation.sequence;
  step.timeout_ms = operation.timeout_ms;
  return step;
}

// One in which the leader passes on what came from other hosts.
Operation last_step_of(const Operation& operation, Kind kind) {
  Operation step = step_of(operation, kind);
  step.timeout_ms += std::min(step.timeout_ms / 4, kLongestGrace);
  return step;
}

void convert(const void* from, kernels::DType from_dtype, void* to, kernels::DType to_dtype,
             int64_t elements) {
  using namespace kernels::vector;
  Program program;
  program.operands = {from_dtype, to_dtype};
  Instruction load{Op::Load}, store{Op::Store};
  store.index = 1;
  program.code = {load, store};
  Space space;
  space.dims = 1;
  space.sizes[0] = elements;
  Operand operands[2];
  operands[0] = {static_cast<char*>(const_cast<void*>(from)), {size_of(from_dtype)}};
  operands[1] = {static_cast<char*>(to), {size_of(to_dtype)}};
  run(program, *prepare(program, space, operands), space, operands, nullptr);
}

// The sum, or whatever the reduction is, on its way through the hosts.
class Partial {
 public:
  Partial(const Operation& operation, int64_t elements, Buffer& buffer)
      : operation_(operation),
        dtype_(operation.reduction.dtype),
        is_wide_(dtype_ == kernels::DType::BFloat16 || dtype_ == kernels::DType::Float16),
        element_size_(is_wide_ ? 4 : operation.element_size),
        elements_(elements),
        data_(buffer.take(static_cast<size_t>(elements * element_size_))) {}

  Piece piece() { return piece(0, elements_); }
  Piece piece(int64_t begin, int64_t elements) {
    if (elements == 0) return {};
    return {data_ + begin * element_size_, elements};
  }

  void read(const Piece& from, int64_t begin = 0) {
    const Piece to = piece(begin, from.elements);
    if (is_wide_) {
      convert(from.data, dtype_, to.data, kernels::DType::Float32, from.elements);
    } else {
      std::memcpy(to.data, from.data, static_cast<size_t>(from.elements * element_size_));
    }
  }
  // What was added up, as the caller wants it.
  void write(const Piece& to, int64_t begin, int ranks) {
    const Piece from = piece(begin, to.elements);
    if (operation_.reduction.average) {
      kernels::Combination division;
      division.dtype = wide_dtype();
      division.divisor = ranks;
      const void* const source = from.data;
      kernels::combine(division, from.data, &source, 1, from.elements);
    }
    if (is_wide_) {
      convert(from.data, kernels::DType::Float32, to.data, dtype_, to.elements);
    } else {
      std::memcpy(to.data, from.data, static_cast<size_t>(to.elements * element_size_));
    }
  }

  // A step that adds up. Each rank's factor is applied in the first one.
  Operation step(Kind kind, bool is_first, int root = 0) const {
    Operation step = step_of(operation_, kind, root);
    step.element_size = element_size_;
    step.reduction.dtype = wide_dtype();
    step.reduction.average = false;
    step.reduction.weighted &= is_first;
    return step;
  }

 private:
  kernels::DType wide_dtype() const { return is_wide_ ? kernels::DType::Float32 : dtype_; }

  const Operation& operation_;
  const kernels::DType dtype_;
  const bool is_wide_;
  const int64_t element_size_, elements_;
  char* const data_;
};

// What the ranks of a host have, on its leader.
void add_up(Transport& within, Partial& partial) {
  Operation step = partial.step(Kind::Reduce, true);
  step.inputs = step.outputs = {partial.piece()};
  within.run(step);
}

int count(const std::vector<std::vector<int>>& hosts) {
  size_t ranks = 0;
  for (const auto& host : hosts) ranks += host.size();
  return static_cast<int>(ranks);
}

}  // namespace

HierarchicalTransport::HierarchicalTransport(std::vector<std::vector<int>> hosts, int rank,
                                             std::unique_ptr<Transport> within,
                                             std::unique_ptr<Transport> between,
                                             std::unique_ptr<Transport> direct)
    : hosts_(std::move(hosts)),
      self_(location_of(rank)),
      ranks_(count(hosts_)),
      within_(std::move(within)),
      between_(std::move(between)),
      direct_(std::move(direct)) {}

auto HierarchicalTransport::location_of(int rank) const -> Location {
  for (size_t host = 0; host < hosts_.size(); ++host) {
    for (size_t place = 0; place < hosts_[host].size(); ++place) {
      if (hosts_[host][place] == rank) return {static_cast<int>(host), static_cast<int>(place)};
    }
  }
  TORCH_INTERNAL_ASSERT(false, "accl: rank ", rank, " is on no host");
}

void HierarchicalTransport::run(const Operation& operation) {
  try {
    take_steps(operation);
    for (Buffer* buffer : {&partial_, &results_, &received_}) buffer->settle();
  } catch (const c10::Error& error) {
    // Those that wait for us learn why we do not come.
    const std::string reason = failure();
    fail(reason.empty() ? error.what_without_backtrace() : reason);
    throw;
  }
}

void HierarchicalTransport::take_steps(const Operation& operation) {
  switch (operation.kind) {
    case Kind::AllReduce:
      return all_reduce(operation);
    case Kind::Reduce:
      return reduce(operation);
    case Kind::ReduceScatter:
      return reduce_scatter(operation);
    case Kind::Broadcast:
      return broadcast(operation);
    case Kind::AllGather:
      return all_gather(operation);
    case Kind::Barrier:
      return barrier(operation);
    default:
      return direct_->run(operation);
  }
}

int HierarchicalTransport::run_message(const Operation& operation) {
  return direct_->run_message(operation);
}

void HierarchicalTransport::fail(const std::string& reason) {
  within_->fail(reason);
  if (leads()) between_->fail(reason);
  direct_->fail(reason);
}

void HierarchicalTransport::leave() {
  within_->leave();
  if (leads()) between_->leave();
  direct_->leave();
}

void HierarchicalTransport::interrupt() {
  within_->interrupt();
  if (leads()) between_->interrupt();
  direct_->interrupt();
}

std::string HierarchicalTransport::failure() const {
  for (const Transport* transport : {within_.get(), between_.get(), direct_.get()}) {
    if (transport == nullptr) continue;
    if (std::string reason = transport->failure(); !reason.empty()) return reason;
  }
  return {};
}

// ---- reductions: to the leader, between leaders, and from the leader ----

void HierarchicalTransport::all_reduce(const Operation& operation) {
  // In pieces that stay in the cache on their way; of nothing, one.
  const Piece& all = operation.outputs[0];
  const int64_t elements = kPieceBytes / operation.element_size;
  int64_t begin = 0;
  do {
    const int64_t left = std::min(elements, all.elements - begin);
    all_reduce(operation, {all.data + begin * operation.element_size, left});
    begin += elements;
  } while (begin < all.elements);
}

void HierarchicalTransport::all_reduce(const Operation& operation, const Piece& all) {
  Partial partial(operation, all.elements, partial_);
  partial.read(all);
  add_up(*within_, partial);
  if (leads()) {
    Operation step = partial.step(Kind::AllReduce, false);
    step.outputs = {partial.piece()};
    between_->run(step);
    partial.write(all, 0, ranks_);
  }
  Operation step = last_step_of(operation, Kind::Broadcast);
  step.outputs = {all};
  within_->run(step);
}

void HierarchicalTransport::reduce(const Operation& operation) {
  const Piece& own = operation.inputs[0];
  const Location root = location_of(operation.root);
  Partial partial(operation, own.elements, partial_);
  partial.read(own);
  add_up(*within_, partial);
  if (leads()) {
    Operation step = partial.step(Kind::Reduce, false, root.host);
    step.inputs = step.outputs = {partial.piece()};
    between_->run(step);
  }
  if (self_.host != root.host) return;
  if (leads() && root.place == 0) return partial.write(operation.outputs[0], 0, ranks_);
  if (leads()) {
    const Piece whole{results_.take(static_cast<size_t>(operation.bytes(own))), own.elements};
    partial.write(whole, 0, ranks_);
    Operation step = last_step_of(operation, Kind::Send);
    step.root = root.place;
    step.inputs = {whole};
    within_->run_message(step);
  } else if (self_.place == root.place) {
    Operation step = last_step_of(operation, Kind::Receive);
    step.outputs = {operation.outputs[0]};
    within_->run_message(step);
  }
}

void HierarchicalTransport::reduce_scatter(const Operation& operation) {
  // Host by host, so that what a host gets lies together.
  const auto elements_of = [&](int rank) {
    return operation.inputs[static_cast<size_t>(rank)].elements;
  };
  int64_t total = 0;
  for (const Piece& piece : operation.inputs) total += piece.elements;
  Partial partial(operation, total, partial_);
  std::vector<Piece> by_host;
  int64_t begin = 0, own_begin = 0;
  for (size_t host = 0; host < hosts_.size(); ++host) {
    const int64_t first = begin;
    for (const int rank : hosts_[host]) {
      partial.read(operation.inputs[static_cast<size_t>(rank)], begin);
      begin += elements_of(rank);
    }
    by_host.push_back(partial.piece(first, begin - first));
    if (static_cast<int>(host) == self_.host) own_begin = first;
  }
  add_up(*within_, partial);
  if (leads()) {
    Operation step = partial.step(Kind::ReduceScatter, false);
    step.inputs = by_host;
    step.outputs = {by_host[static_cast<size_t>(self_.host)]};
    between_->run(step);
  }
  // Pieces of one size, as a scatter has them.
  int64_t longest = 0;
  for (const int rank : own_host()) longest = std::max(longest, elements_of(rank));
  const auto bytes = static_cast<size_t>(longest * operation.element_size);
  char* const results = results_.take(leads() ? bytes * own_host().size() : 0);
  char* const received = received_.take(bytes);
  Operation step = last_step_of(operation, Kind::Scatter);
  step.outputs = {{received, longest}};
  for (size_t place = 0; leads() && place < own_host().size(); ++place) {
    const int64_t elements = elements_of(own_host()[place]);
    partial.write({results + place * bytes, elements}, own_begin, ranks_);
    own_begin += elements;
    step.inputs.push_back({results + place * bytes, longest});
  }
  within_->run(step);
  const Piece& out = operation.outputs[0];
  std::memcpy(out.data, received, static_cast<size_t>(operation.bytes(out)));
}

// ---- movement ----

void HierarchicalTransport::broadcast(const Operation& operation) {
  const Location root = location_of(operation.root);
  const bool begins_here = self_.host == root.host && root.place != 0;
  if (begins_here) {
    Operation step = step_of(operation, Kind::Broadcast, root.place);
    step.outputs = operation.outputs;
    within_->run(step);
  }
  if (leads()) {
    Operation step = step_of(operation, Kind::Broadcast, root.host);
    step.outputs = operation.outputs;
    between_->run(step);
  }
  if (!begins_here) {
    Operation step = last_step_of(operation, Kind::Broadcast);
    step.outputs = operation.outputs;
    within_->run(step);
  }
}

void HierarchicalTransport::all_gather(const Operation& operation) {
  const auto output_of = [&](int rank) { return operation.outputs[static_cast<size_t>(rank)]; };
  Operation step = step_of(operation, Kind::AllGather);
  step.inputs = operation.inputs;
  for (const int rank : own_host()) step.outputs.push_back(output_of(rank));
  within_->run(step);

  // What other hosts have, then what this one has.
  std::vector<Piece> by_host(hosts_.size());
  int64_t total = 0, own_begin = 0;
  for (const Piece& piece : operation.outputs) total += piece.elements;
  char* const everything = received_.take(static_cast<size_t>(total * operation.element_size));
  const auto place_host = [&](size_t host, int64_t begin) {
    int64_t elements = 0;
    for (const int rank : hosts_[host]) elements += output_of(rank).elements;
    if (elements > 0) {
      by_host[host] = {everything + begin * operation.element_size, elements};
    }
    return begin + elements;
  };
  for (size_t host = 0; host < hosts_.size(); ++host) {
    if (static_cast<int>(host) != self_.host) own_begin = place_host(host, own_begin);
  }
  place_host(static_cast<size_t>(self_.host), own_begin);
  // Calls visit(piece of a rank, its place in `everything`).
  const auto for_ranks_of = [&](size_t host, auto visit) {
    char* at = by_host[host].data;
    for (const int rank : hosts_[host]) {
      const Piece piece = output_of(rank);
      if (piece.elements == 0) continue;
      visit(piece.data, at, static_cast<size_t>(operation.bytes(piece)));
      at += operation.bytes(piece);
    }
  };
  if (leads()) {
    for_ranks_of(static_cast<size_t>(self_.host),
                 [](const char* piece, char* at, size_t bytes) { std::memcpy(at, piece, bytes); });
    step = step_of(operation, Kind::AllGather);
    step.inputs = {by_host[static_cast<size_t>(self_.host)]};
    step.outputs = by_host;
    between_->run(step);
  }
  step = last_step_of(operation, Kind::Broadcast);
  step.outputs = {own_begin > 0 ? Piece{everything, own_begin} : Piece{}};
  within_->run(step);
  for (size_t host = 0; host < hosts_.size(); ++host) {
    if (static_cast<int>(host) == self_.host) continue;
    for_ranks_of(host,
                 [](char* piece, const char* at, size_t bytes) { std::memcpy(piece, at, bytes); });
  }
}

void HierarchicalTransport::barrier(const Operation& operation) {
  within_->run(step_of(operation, Kind::Barrier));
  if (leads()) between_->run(step_of(operation, Kind::Barrier));
  within_->run(last_step_of(operation, Kind::Barrier));
}

}  // namespace accel::distributed
