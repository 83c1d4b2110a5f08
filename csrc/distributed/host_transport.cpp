#include "csrc/distributed/host_transport.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>

#include <ATen/ops/from_blob.h>
#include <c10/util/Exception.h>

namespace accel::distributed {

namespace {

// Up to so many bytes every rank gets everything and adds it up itself: one step instead of two.
constexpr int64_t kOneStep = 16 << 10;
// More goes in pieces of so many bytes, which stay in the cache on their way.
constexpr int64_t kPieceBytes = 2 << 20;

using Bytes = std::span<char>;
using Sizes = std::vector<int64_t>;

// Gloo sees bytes. Nothing stands for memory that does not exist, so that a Tensor always has some.
at::Tensor tensor_of(char* data, int64_t bytes) {
  static char nothing[1];
  return at::from_blob(bytes == 0 ? nothing : data, {bytes}, at::TensorOptions().dtype(at::kByte));
}

class Collective {
 public:
  Collective(c10d::Backend& gloo, const Operation& operation, HostBuffers& buffers)
      : gloo_(gloo),
        operation_(operation),
        buffers_(buffers),
        size_(gloo.getSize()),
        self_(gloo.getRank()),
        timeout_(operation.timeout_ms) {}

  void run() {
    read_factors();
    switch (operation_.kind) {
      case Kind::AllReduce:
        return all_reduce(operation_.outputs[0]);
      case Kind::Reduce:
        return reduce();
      case Kind::ReduceScatter:
        return reduce_scatter();
      case Kind::Broadcast:
        return broadcast(operation_.outputs[0], operation_.root);
      case Kind::AllGather:
        return all_gather();
      case Kind::Gather:
        return gather();
      case Kind::Scatter:
        return scatter();
      case Kind::AllToAll:
        return all_to_all();
      default:
        return barrier();
    }
  }

 private:
  int64_t element() const { return operation_.element_size; }
  int64_t bytes(const Piece& piece) const { return operation_.bytes(piece); }
  at::Tensor tensor_of(const Piece& piece) const {
    return distributed::tensor_of(piece.data, bytes(piece));
  }
  void wait(const c10::intrusive_ptr<c10d::Work>& work) const { work->wait(timeout_); }
  template <class Options>
  Options options() const {
    Options options;
    options.timeout = timeout_;
    return options;
  }

  // ---- bytes ----

  static Bytes take(Buffer& buffer, int64_t bytes) {
    const auto size = static_cast<size_t>(bytes);
    return {buffer.take(size), size};
  }

  // What is in the buffer at our rank goes to all; it has room for all.
  void all_gather_bytes(Bytes all) {
    if (!all.empty()) wait(start_all_gather(all));
  }
  c10::intrusive_ptr<c10d::Work> start_all_gather(Bytes all) {
    const auto part = static_cast<int64_t>(all.size()) / size_;
    std::vector<at::Tensor> inputs{distributed::tensor_of(all.data() + self_ * part, part)};
    std::vector<std::vector<at::Tensor>> outputs(1);
    for (int rank = 0; rank < size_; ++rank) {
      outputs[0].push_back(distributed::tensor_of(all.data() + rank * part, part));
    }
    return gloo_.allgather(outputs, inputs, options<c10d::AllgatherOptions>());
  }

  void exchange_bytes(Bytes received, Sizes& received_sizes, Bytes sent, Sizes& sent_sizes) {
    wait(start_exchange(received, received_sizes, sent, sent_sizes));
  }
  c10::intrusive_ptr<c10d::Work> start_exchange(Bytes received, Sizes& received_sizes, Bytes sent,
                                                Sizes& sent_sizes) {
    at::Tensor output =
        distributed::tensor_of(received.data(), static_cast<int64_t>(received.size()));
    at::Tensor input = distributed::tensor_of(sent.data(), static_cast<int64_t>(sent.size()));
    return gloo_.alltoall_base(output, input, received_sizes, sent_sizes,
                               options<c10d::AllToAllOptions>());
  }

  void broadcast(const Piece& piece, int root) {
    if (piece.elements == 0) return;
    std::vector<at::Tensor> tensors{tensor_of(piece)};
    auto settings = options<c10d::BroadcastOptions>();
    settings.rootRank = root;
    wait(gloo_.broadcast(tensors, settings));
  }

  // ---- reductions ----

  void read_factors() {
    if (!operation_.reduction.weighted) return;
    factors_.resize(static_cast<size_t>(size_));
    factors_[static_cast<size_t>(self_)] = operation_.reduction.factor;
    all_gather_bytes({reinterpret_cast<char*>(factors_.data()), factors_.size() * sizeof(double)});
  }

  // One array of each rank, `distance` bytes apart.
  void combine(char* out, const char* sources, int64_t distance, int64_t elements) {
    kernels::Combination combination;
    combination.op = operation_.reduction.op;
    combination.dtype = operation_.reduction.dtype;
    combination.factors = operation_.reduction.weighted ? factors_.data() : nullptr;
    combination.divisor = operation_.reduction.average ? size_ : 1;
    std::vector<const void*> arrays;
    for (int rank = 0; rank < size_; ++rank) arrays.push_back(sources + rank * distance);
    kernels::combine(combination, out, arrays.data(), size_, elements);
  }

  void all_reduce(const Piece& all) {
    if (bytes(all) <= kOneStep || all.elements < size_) {
      const Bytes gathered = take(buffers_.gathered, size_ * bytes(all));
      std::memcpy(gathered.data() + self_ * bytes(all), all.data, static_cast<size_t>(bytes(all)));
      all_gather_bytes(gathered);
      return combine(all.data, gathered.data(), bytes(all), all.elements);
    }
    // Of a piece every rank adds up a part of its own, and tells the others. While it does, the
    // next piece's parts are on their way.
    const int64_t part = std::min(kPieceBytes / element() / size_, all.elements / size_);
    const int64_t pieces = all.elements / (part * size_), part_bytes = part * element();
    const auto at = [&](int64_t piece) { return all.data + piece * size_ * part_bytes; };
    const Bytes received = take(buffers_.received, 2 * size_ * part_bytes);
    const auto received_of = [&](int64_t piece) {
      return received.subspan(static_cast<size_t>(piece % 2 * size_ * part_bytes),
                              static_cast<size_t>(size_ * part_bytes));
    };
    Sizes sizes(static_cast<size_t>(size_), part_bytes);
    const auto exchange = [&](int64_t piece) {
      return start_exchange(received_of(piece), sizes,
                            {at(piece), static_cast<size_t>(size_ * part_bytes)}, sizes);
    };
    c10::intrusive_ptr<c10d::Work> exchanged = exchange(0), told;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      wait(exchanged);
      if (piece + 1 < pieces) exchanged = exchange(piece + 1);
      combine(at(piece) + self_ * part_bytes, received_of(piece).data(), part_bytes, part);
      if (told) wait(told);
      told = start_all_gather({at(piece), static_cast<size_t>(size_ * part_bytes)});
    }
    wait(told);
    const int64_t done = pieces * part * size_;
    if (done < all.elements) all_reduce({at(pieces), all.elements - done});
  }

  void reduce() {
    const Piece& own = operation_.inputs[0];
    const bool is_root = self_ == operation_.root;
    const Bytes gathered = take(buffers_.gathered, is_root ? size_ * bytes(own) : 0);
    std::vector<Piece> pieces;
    for (int rank = 0; is_root && rank < size_; ++rank) {
      pieces.push_back({gathered.data() + rank * bytes(own), own.elements});
    }
    gather_to_root(own, pieces);
    if (is_root) combine(operation_.outputs[0].data, gathered.data(), bytes(own), own.elements);
  }

  void reduce_scatter() {
    const Piece& out = operation_.outputs[0];
    const Bytes received = take(buffers_.received, size_ * bytes(out));
    Sizes received_sizes(static_cast<size_t>(size_), bytes(out)), sent_sizes;
    const Bytes sent = packed(operation_.inputs, sent_sizes);
    exchange_bytes(received, received_sizes, sent, sent_sizes);
    combine(out.data, received.data(), bytes(out), out.elements);
  }

  // ---- movement ----

  Bytes packed(const std::vector<Piece>& pieces, Sizes& sizes) {
    for (const Piece& piece : pieces) sizes.push_back(bytes(piece));
    const Bytes all = take(buffers_.sent, std::accumulate(sizes.begin(), sizes.end(), int64_t{0}));
    char* to = all.data();
    for (const Piece& piece : pieces) {
      if (piece.elements > 0) std::memcpy(to, piece.data, static_cast<size_t>(bytes(piece)));
      to += bytes(piece);
    }
    return all;
  }

  void all_gather() {
    const Piece& own = operation_.inputs[0];
    const auto& outputs = operation_.outputs;
    const Piece& copy = outputs[static_cast<size_t>(self_)];
    if (copy.data != own.data && own.elements > 0) {
      std::memmove(copy.data, own.data, static_cast<size_t>(bytes(own)));
    }
    for (int rank = 0; rank < size_; ++rank) broadcast(outputs[static_cast<size_t>(rank)], rank);
  }

  void gather() { gather_to_root(operation_.inputs[0], operation_.outputs); }

  void gather_to_root(const Piece& own, const std::vector<Piece>& pieces) {
    if (own.elements == 0) return;
    std::vector<at::Tensor> inputs{tensor_of(own)};
    std::vector<std::vector<at::Tensor>> outputs;
    if (self_ == operation_.root) {
      outputs.resize(1);
      for (const Piece& piece : pieces) outputs[0].push_back(tensor_of(piece));
    }
    auto settings = options<c10d::GatherOptions>();
    settings.rootRank = operation_.root;
    wait(gloo_.gather(outputs, inputs, settings));
  }

  void scatter() {
    const Piece& own = operation_.outputs[0];
    if (own.elements == 0) return;
    std::vector<at::Tensor> outputs{tensor_of(own)};
    std::vector<std::vector<at::Tensor>> inputs;
    if (self_ == operation_.root) {
      inputs.resize(1);
      for (const Piece& piece : operation_.inputs) inputs[0].push_back(tensor_of(piece));
    }
    auto settings = options<c10d::ScatterOptions>();
    settings.rootRank = operation_.root;
    wait(gloo_.scatter(outputs, inputs, settings));
  }

  void all_to_all() {
    Sizes sent_sizes, received_sizes;
    const Bytes sent = packed(operation_.inputs, sent_sizes);
    for (const Piece& piece : operation_.outputs) received_sizes.push_back(bytes(piece));
    const Bytes received =
        take(buffers_.received,
             std::accumulate(received_sizes.begin(), received_sizes.end(), int64_t{0}));
    exchange_bytes(received, received_sizes, sent, sent_sizes);
    const char* from = received.data();
    for (const Piece& piece : operation_.outputs) {
      if (piece.elements > 0) std::memcpy(piece.data, from, static_cast<size_t>(bytes(piece)));
      from += bytes(piece);
    }
  }

  void barrier() { wait(gloo_.barrier(options<c10d::BarrierOptions>())); }

  c10d::Backend& gloo_;
  const Operation& operation_;
  HostBuffers& buffers_;
  const int size_, self_;
  const std::chrono::milliseconds timeout_;
  std::vector<double> factors_;
};

}  // namespace

void HostTransport::named(const Operation& operation, const std::function<void()>& body) {
  std::string reason = failure();
  if (reason.empty()) {
    try {
      return body();
    } catch (const c10::Error& error) {
      reason = error.what_without_backtrace();
    } catch (const std::exception& error) {
      reason = error.what();
    }
    fail(reason);
  }
  TORCH_CHECK_WITH(DistBackendError, false, "accl: ", describe(operation), ", on rank ", rank_,
                   ": ", reason);
}

void HostTransport::run(const Operation& operation) {
  named(operation, [&] { Collective(*gloo_, operation, buffers_).run(); });
  for (Buffer* buffer : {&buffers_.sent, &buffers_.received, &buffers_.gathered}) buffer->settle();
}

int HostTransport::run_message(const Operation& operation) {
  int other = operation.root;
  named(operation, [&] {
    const bool sends = operation.kind == Kind::Send;
    const Piece& piece = sends ? operation.inputs[0] : operation.outputs[0];
    // A message without elements is a byte all the same.
    char nothing = 0;
    std::vector<at::Tensor> tensors{tensor_of(piece.elements == 0 ? &nothing : piece.data,
                                              std::max<int64_t>(1, operation.bytes(piece)))};
    const auto work = sends                          ? gloo_->send(tensors, other, operation.tag)
                      : operation.root == kAnySource ? gloo_->recvAnysource(tensors, operation.tag)
                                                     : gloo_->recv(tensors, other, operation.tag);
    work->wait(std::chrono::milliseconds(operation.timeout_ms));
    if (other == kAnySource) other = work->sourceRank();
  });
  return other;
}

void HostTransport::fail(const std::string& reason) {
  std::lock_guard lock(mutex_);
  if (failure_.empty()) failure_ = reason;
}

void HostTransport::interrupt() {
  fail(c10::str("rank ", rank_, " has ended in the middle of it"));
}

std::string HostTransport::failure() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

}  // namespace accel::distributed
