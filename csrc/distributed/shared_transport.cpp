#include "csrc/distributed/shared_transport.h"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include <c10/util/Exception.h>

#include "csrc/runtime/worker_stream.h"

namespace accel::distributed {

namespace {

// Up to so many bytes an all_reduce is one round: every rank adds up everything.
constexpr int64_t kOneRound = 16 << 10;
// From so many on it is in place, where the tensors can be shared.
constexpr int64_t kInPlace = 1 << 20;

// What ranks have to agree on, at the head of a collective's first slot.
struct Agreement {
  uint64_t sequence = 0;
  uint64_t history = 0;
  int64_t elements = 0;  // that this rank contributes
  double factor = 1;
  int32_t root = 0;
  Kind kind = Kind::Barrier;
  Kind called = Kind::Barrier;  // kind is a step of it
  int8_t dtype = 0;
  kernels::CombineOp op = kernels::CombineOp::Sum;
  uint8_t scaling = 0;  // average, weighted
};
static_assert(sizeof(Agreement) <= SharedRegion::kSlotHeaderBytes);

const char* name_of(kernels::CombineOp op) {
  static constexpr const char* kNames[] = {"SUM", "PRODUCT", "MIN", "MAX", "MIN",
                                           "MAX", "BAND",    "BOR", "BXOR"};
  return kNames[static_cast<size_t>(op)];
}

bool reduces(Kind kind) {
  return kind == Kind::AllReduce || kind == Kind::Reduce || kind == Kind::ReduceScatter;
}
bool has_root(Kind kind) {
  return kind == Kind::Broadcast || kind == Kind::Reduce || kind == Kind::Gather ||
         kind == Kind::Scatter;
}

std::string describe(const Agreement& agreement) {
  std::string text = c10::str(name_of(agreement.called));
  if (agreement.called == Kind::Barrier) return text;
  text += "(";
  if (agreement.elements >= 0) text += c10::str(agreement.elements, " elements of ");
  text += c10::str(static_cast<c10::ScalarType>(agreement.dtype));
  if (reduces(agreement.called)) {
    text += c10::str(", ", agreement.scaling & 1   ? "AVG"
                           : agreement.scaling & 2 ? "PREMUL_SUM"
                                                   : name_of(agreement.op));
  }
  if (has_root(agreement.called)) text += c10::str(", root ", agreement.root);
  return text + ")";
}

// What a rank's slot must say it contributes: for the lists of all_gather each its own number; what
// a root alone knows, or what is different for each pair, is not compared here (-1).
int64_t contribution(const Operation& operation, int place) {
  const auto total = [](const std::vector<Piece>& pieces) {
    int64_t elements = 0;
    for (const Piece& piece : pieces) elements += piece.elements;
    return elements;
  };
  switch (operation.kind) {
    case Kind::AllReduce:
    case Kind::Broadcast:
    case Kind::Scatter:
      return operation.outputs[0].elements;
    case Kind::AllGather:
      return operation.outputs[static_cast<size_t>(place)].elements;
    case Kind::Reduce:
    case Kind::Gather:
      return operation.inputs[0].elements;
    case Kind::ReduceScatter:
      return total(operation.inputs);
    default:
      return -1;
  }
}

Agreement agreement_of(const Operation& operation, int place, uint64_t history) {
  Agreement agreement;
  agreement.sequence = operation.sequence;
  agreement.history = history;
  agreement.elements = contribution(operation, place);
  agreement.factor = operation.reduction.factor;
  agreement.root = has_root(operation.kind) ? operation.root : 0;
  agreement.kind = operation.kind;
  agreement.called = operation.called();
  agreement.dtype = static_cast<int8_t>(operation.dtype);
  if (reduces(operation.kind)) {
    agreement.op = operation.reduction.op;
    agreement.scaling = static_cast<uint8_t>((operation.reduction.average ? 1 : 0) |
                                             (operation.reduction.weighted ? 2 : 0));
  }
  return agreement;
}

bool agree(const Agreement& a, const Agreement& b) {
  return a.sequence == b.sequence && a.kind == b.kind && a.called == b.called &&
         a.dtype == b.dtype && a.op == b.op && a.scaling == b.scaling && a.root == b.root &&
         a.elements == b.elements;
}

uint64_t after(uint64_t history, const Agreement& a) {
  for (const uint64_t value :
       {static_cast<uint64_t>(a.kind), static_cast<uint64_t>(a.dtype), static_cast<uint64_t>(a.op),
        static_cast<uint64_t>(a.scaling), static_cast<uint64_t>(a.root)}) {
    history = (history ^ value) * 0x9e3779b97f4a7c15u;
    history ^= history >> 31;
  }
  return history;
}

int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One collective on its way through the rounds.
class Collective {
 public:
  Collective(SharedRegion& region, PeerMemory& peers, const Operation& operation,
             uint32_t first_round, uint64_t& history)
      : region_(region),
        peers_(peers),
        operation_(operation),
        size_(region.size()),
        self_(region.place()),
        start_(first_round),
        first_(first_round),
        history_(history),
        deadline_(runtime::steady_now() + operation.timeout_ms * 1'000'000) {
    region_.member(self_).sequence.store(operation.sequence);
  }

  // How many rounds it took.
  uint32_t run() {
    const uint32_t rounds = run_rounds();
    return first_ - start_ + rounds;
  }

 private:
  uint32_t run_rounds() {
    switch (operation_.kind) {
      case Kind::AllReduce: {
        const int64_t bytes = operation_.bytes(operation_.outputs[0]);
        if (bytes <= kOneRound) return reduce_in_one_round();
        if (bytes >= kInPlace && size_ > 1) {
          if (const auto rounds = reduce_in_place()) return *rounds;
        }
        return all_reduce();
      }
      case Kind::Reduce:
        return reduce();
      case Kind::Broadcast:
        return broadcast();
      case Kind::AllGather:
      case Kind::Gather:
        return gather();
      case Kind::Scatter:
      case Kind::ReduceScatter:
      case Kind::AllToAll:
        return exchange();
      default:
        return barrier();
    }
  }

  // ---- rounds ----

  // Our slot of a round, once the others have read what was in it.
  char* open(int64_t round) {
    const uint32_t at = number(round);
    for (int other = 0; other < size_; ++other) {
      if (other == self_) continue;
      region_.wait(region_.member(other).read, at - SharedRegion::kSlots + 1, other, operation_,
                   deadline_);
    }
    if (at == start_) {
      const Agreement agreement = agreement_of(operation_, self_, history_);
      std::memcpy(region_.slot_header(self_, at), &agreement, sizeof(agreement));
      history_ = after(history_, agreement);
    }
    return region_.slot(self_, at);
  }
  // The others may read our slot. A rank that has nothing to say publishes too.
  void publish(int64_t round) { region_.member(self_).written.raise_to(number(round) + 1); }
  // Another rank's slot, once it is filled.
  const char* slot_of(int other, int64_t round) {
    const uint32_t at = number(round);
    region_.wait(region_.member(other).written, at + 1, other, operation_, deadline_);
    if (at == start_ && other != self_) compare(other, at);
    return region_.slot(other, at);
  }
  // We have read all slots of this round that concern us.
  void close(int64_t round) { region_.member(self_).read.raise_to(number(round) + 1); }

  // A collective may have rounds before those of the way that it takes in the end.
  void begin_again_after(int64_t rounds) {
    close(rounds - 1);
    first_ = number(rounds);
  }

  uint32_t number(int64_t round) const { return first_ + static_cast<uint32_t>(round); }

  void compare(int other, uint32_t at) {
    Agreement theirs, ours;
    std::memcpy(&theirs, region_.slot_header(other, at), sizeof(theirs));
    std::memcpy(&ours, region_.slot_header(self_, at), sizeof(ours));
    Agreement expected = ours;
    expected.elements = contribution(operation_, other);
    if (agree(expected, theirs) && ours.history == theirs.history) return;
    const std::string reason =
        agree(expected, theirs)
            ? c10::str("an earlier collective was not the same on rank ", region_.rank_at(other))
            : c10::str("the ranks do not agree: rank ", region_.rank_at(self_), " runs ",
                       describe(expected), " as collective ", expected.sequence, ", rank ",
                       region_.rank_at(other), " runs ", describe(theirs), " as collective ",
                       theirs.sequence);
    region_.fail(reason);
    region_.raise(operation_, reason);
  }

  // What every rank tells all in a round.
  template <class Value>
  std::vector<Value> tell(int64_t round, const Value& own) {
    std::vector<Value> values(static_cast<size_t>(size_), own);
    std::memcpy(open(round), &own, sizeof(own));
    publish(round);
    for_others([&](int other) {
      std::memcpy(&values[static_cast<size_t>(other)], slot_of(other, round), sizeof(own));
    });
    return values;
  }

  // The others in turn, beginning behind us, so that not all read the same slot at once.
  template <class Body>
  void for_others(Body body) {
    for (int step = 1; step < size_; ++step) body((self_ + step) % size_);
  }

  // ---- reductions ----

  kernels::Combination combination() const {
    const Reduction& reduction = operation_.reduction;
    kernels::Combination combination;
    combination.op = reduction.op;
    combination.dtype = reduction.dtype;
    combination.factors = reduction.weighted ? factors_.data() : nullptr;
    combination.divisor = reduction.average ? size_ : 1;
    return combination;
  }
  void combine(char* out, const char* const* sources, int64_t elements) {
    kernels::combine(combination(), out, reinterpret_cast<const void* const*>(sources), size_,
                     elements);
  }
  // After the first round's slots have been seen: what each rank's elements are multiplied by.
  void read_factors() {
    if (!operation_.reduction.weighted || !factors_.empty()) return;
    factors_.resize(static_cast<size_t>(size_));
    for (int other = 0; other < size_; ++other) {
      if (other != self_) slot_of(other, 0);
      Agreement agreement;
      std::memcpy(&agreement, region_.slot_header(other, start_), sizeof(agreement));
      factors_[static_cast<size_t>(other)] = agreement.factor;
    }
  }

  uint32_t reduce_in_one_round() {
    const Piece& piece = operation_.outputs[0];
    const int64_t bytes = operation_.bytes(piece);
    std::memcpy(open(0), piece.data, static_cast<size_t>(bytes));
    publish(0);
    read_factors();
    std::vector<const char*> sources(static_cast<size_t>(size_));
    sources[static_cast<size_t>(self_)] = piece.data;
    for_others([&](int other) { sources[static_cast<size_t>(other)] = slot_of(other, 0); });
    combine(piece.data, sources.data(), piece.elements);
    close(0);
    return 1;
  }

  // Every rank adds up a piece of its own where the tensors are and writes it to all of them. First
  // the ranks find out whether all can, where, and whether all see it; nothing where not. What is
  // less than a page goes through the first round's slots.
  std::optional<uint32_t> reduce_in_place() {
    const Piece& all = operation_.outputs[0];
    const int64_t tail = operation_.bytes(all) % PeerMemory::kPage;
    const int64_t bytes = operation_.bytes(all) - tail;
    struct Offer {
      bool willing;
      char tail[PeerMemory::kPage];
    };
    Offer offer;
    offer.willing = peers_.begin(all.data, operation_.bytes(all));
    std::memcpy(offer.tail, all.data + bytes, static_cast<size_t>(tail));
    const std::vector<Offer> offers = tell(0, offer);
    if (!std::all_of(offers.begin(), offers.end(), [](const Offer& o) { return o.willing; })) {
      begin_again_after(1);
      return std::nullopt;
    }
    read_factors();

    const auto shared = peers_.share(all.data, bytes);
    try {
      const auto places = tell(1, shared.value_or(runtime::SharedMemory()));
      std::vector<char*> tensors(static_cast<size_t>(size_), all.data);
      bool sees_all = shared.has_value();
      for_others([&](int other) {
        const auto at = static_cast<size_t>(other);
        tensors[at] = places[at].descriptor >= 0 ? peers_.map(other, places[at], bytes) : nullptr;
        sees_all = sees_all && tensors[at] != nullptr;
      });
      const std::vector<char> seen = tell(2, static_cast<char>(sees_all));
      if (std::count(seen.begin(), seen.end(), 0) != 0) {
        peers_.give_up();
        begin_again_after(3);
        return std::nullopt;
      }
      combine_own_piece(tensors, bytes / operation_.element_size);
      tell(3, char{});
    } catch (...) {
      // A rank that comes late would write to what the program may use for other things by then.
      peers_.unshare(all.data, bytes);
      throw;
    }
    std::vector<const char*> tails;
    for (const Offer& o : offers) tails.push_back(o.tail);
    combine(all.data + bytes, tails.data(), tail / operation_.element_size);
    close(3);
    return 4;
  }

  void combine_own_piece(const std::vector<char*>& tensors, int64_t elements) {
    const int64_t size = operation_.element_size, page = PeerMemory::kPage / size;
    // Pieces begin with a page.
    const int64_t begin = elements / page * self_ / size_ * page;
    const int64_t end =
        self_ == size_ - 1 ? elements : elements / page * (self_ + 1) / size_ * page;
    std::vector<void*> pieces;
    for (char* tensor : tensors) pieces.push_back(tensor + begin * size);
    kernels::combine_in_place(combination(), pieces.data(), size_, end - begin);
  }

  // In chunks of a piece for each rank. In a round, three chunks are under way: the newest is
  // filled in, of the one before each rank adds up its own piece, and of the one before that the
  // results are read. A slot holds the pieces of others, and behind them the sum of ours.
  uint32_t all_reduce() {
    const Piece& all = operation_.outputs[0];
    const int64_t capacity = static_cast<int64_t>(SharedRegion::kSlotBytes) / (size_ + 1) / 64 *
                             64 / operation_.element_size;
    // Elements of a piece: no more than the tensor needs.
    const int64_t piece = std::min(capacity, ceiling(ceiling(all.elements, size_), 16) * 16);
    const int64_t chunks = ceiling(all.elements, piece * size_);
    const auto place_of = [&](int64_t chunk, int rank) {
      const int64_t begin = std::min(all.elements, (chunk * size_ + rank) * piece);
      return Piece{all.data + begin * operation_.element_size,
                   std::min(piece, all.elements - begin)};
    };
    const int64_t slot_piece = piece * operation_.element_size;
    std::vector<const char*> sources(static_cast<size_t>(size_));
    for (int64_t round = 0; round <= chunks + 1; ++round) {
      char* slot = round <= chunks ? open(round) : nullptr;
      if (round < chunks) {
        for_others([&](int other) {
          const Piece part = place_of(round, other);
          std::memcpy(slot + other * slot_piece, part.data,
                      static_cast<size_t>(operation_.bytes(part)));
        });
      }
      if (round >= 1 && round <= chunks) {
        if (round == 1) read_factors();
        const Piece part = place_of(round - 1, self_);
        sources[static_cast<size_t>(self_)] = part.data;
        for_others([&](int other) {
          sources[static_cast<size_t>(other)] = slot_of(other, round - 1) + self_ * slot_piece;
        });
        combine(part.data, sources.data(), part.elements);
        std::memcpy(slot + size_ * slot_piece, part.data,
                    static_cast<size_t>(operation_.bytes(part)));
      }
      if (round <= chunks) publish(round);
      if (round >= 2) {
        for_others([&](int other) {
          const Piece part = place_of(round - 2, other);
          std::memcpy(part.data, slot_of(other, round - 1) + size_ * slot_piece,
                      static_cast<size_t>(operation_.bytes(part)));
        });
      }
      if (round >= 1) close(round - 1);
    }
    return static_cast<uint32_t>(chunks + 1);
  }

  uint32_t reduce() {
    const Piece& all = operation_.inputs[0];
    const int64_t chunk = static_cast<int64_t>(SharedRegion::kSlotBytes) / operation_.element_size;
    const int64_t rounds = std::max<int64_t>(1, ceiling(all.elements, chunk));
    std::vector<const char*> sources(static_cast<size_t>(size_));
    for (int64_t round = 0; round < rounds; ++round) {
      const int64_t begin = round * chunk * operation_.element_size;
      const int64_t elements = std::min(chunk, all.elements - round * chunk);
      if (self_ != operation_.root) {
        std::memcpy(open(round), all.data + begin,
                    static_cast<size_t>(elements * operation_.element_size));
        publish(round);
      } else {
        if (round == 0) open(0);
        publish(round);
        if (round == 0) read_factors();
        sources[static_cast<size_t>(self_)] = all.data + begin;
        for_others([&](int other) { sources[static_cast<size_t>(other)] = slot_of(other, round); });
        combine(operation_.outputs[0].data + begin, sources.data(), elements);
      }
      close(round);
    }
    return static_cast<uint32_t>(rounds);
  }

  // ---- movement ----

  uint32_t broadcast() {
    const Piece& all = operation_.outputs[0];
    const int64_t total = operation_.bytes(all);
    constexpr int64_t kChunk = SharedRegion::kSlotBytes;
    const int64_t rounds = std::max<int64_t>(1, ceiling(total, kChunk));
    for (int64_t round = 0; round < rounds; ++round) {
      const int64_t begin = round * kChunk;
      const auto bytes = static_cast<size_t>(std::min(kChunk, total - begin));
      if (self_ == operation_.root) {
        std::memcpy(open(round), all.data + begin, bytes);
        publish(round);
      } else {
        if (round == 0) open(0);
        publish(round);
        std::memcpy(all.data + begin, slot_of(operation_.root, round), bytes);
      }
      close(round);
    }
    return static_cast<uint32_t>(rounds);
  }

  // Every rank's input, to all ranks or to the root.
  uint32_t gather() {
    constexpr int64_t kChunk = SharedRegion::kSlotBytes;
    const bool reads = operation_.kind == Kind::AllGather || self_ == operation_.root;
    const Piece& own = operation_.inputs[0];
    const int64_t rounds = std::max<int64_t>(1, ceiling(operation_.largest_piece(), kChunk));
    const auto bytes_in = [&](const Piece& piece, int64_t round) {
      return static_cast<size_t>(
          std::clamp<int64_t>(operation_.bytes(piece) - round * kChunk, 0, kChunk));
    };
    for (int64_t round = 0; round < rounds; ++round) {
      char* slot = open(round);
      std::memcpy(slot, own.data + round * kChunk, bytes_in(own, round));
      publish(round);
      if (reads) {
        const Piece& copy = operation_.outputs[static_cast<size_t>(self_)];
        if (copy.data != own.data) {
          std::memmove(copy.data + round * kChunk, own.data + round * kChunk, bytes_in(own, round));
        }
        for_others([&](int other) {
          const Piece& piece = operation_.outputs[static_cast<size_t>(other)];
          const char* theirs = slot_of(other, round);
          std::memcpy(piece.data + round * kChunk, theirs, bytes_in(piece, round));
        });
      }
      close(round);
    }
    return static_cast<uint32_t>(rounds);
  }

  // To every rank a piece of its own; what a rank gets it keeps, or adds up.
  uint32_t exchange() {
    const bool writes = operation_.kind != Kind::Scatter || self_ == operation_.root;
    const bool adds = operation_.kind == Kind::ReduceScatter;
    const int64_t chunk = static_cast<int64_t>(SharedRegion::kSlotBytes) / size_ / 64 * 64;
    const auto bytes_in = [&](int64_t total, int64_t round) {
      return static_cast<size_t>(std::clamp<int64_t>(total - round * chunk, 0, chunk));
    };
    std::vector<const char*> sources(static_cast<size_t>(size_));
    int64_t rounds = std::max<int64_t>(1, ceiling(operation_.largest_piece(), chunk));
    for (int64_t round = 0; round < rounds; ++round) {
      char* slot = writes || round == 0 ? open(round) : nullptr;
      if (writes) {
        for_others([&](int other) {
          const Piece& piece = operation_.inputs[static_cast<size_t>(other)];
          std::memcpy(slot + other * chunk, piece.data + round * chunk,
                      bytes_in(operation_.bytes(piece), round));
        });
      }
      if (round == 0 && operation_.kind == Kind::AllToAll) {
        int64_t* lengths = region_.slot_lengths(self_, number(0));
        for (int other = 0; other < size_; ++other) {
          lengths[other] = operation_.bytes(operation_.inputs[static_cast<size_t>(other)]);
        }
      }
      publish(round);
      if (round == 0 && operation_.kind == Kind::AllToAll) {
        rounds = std::max<int64_t>(1, ceiling(longest_of_all(), chunk));
      }
      if (adds) {
        if (round == 0) read_factors();
        const Piece& out = operation_.outputs[0];
        const auto bytes = static_cast<int64_t>(bytes_in(operation_.bytes(out), round));
        sources[static_cast<size_t>(self_)] =
            operation_.inputs[static_cast<size_t>(self_)].data + round * chunk;
        for_others([&](int other) {
          sources[static_cast<size_t>(other)] = slot_of(other, round) + self_ * chunk;
        });
        combine(out.data + round * chunk, sources.data(), bytes / operation_.element_size);
      } else if (operation_.kind == Kind::Scatter) {
        take(operation_.root, operation_.outputs[0], round, chunk);
      } else {
        for (int step = 0; step < size_; ++step) {
          const int other = (self_ + step) % size_;
          take(other, operation_.outputs[static_cast<size_t>(other)], round, chunk);
        }
      }
      close(round);
    }
    return static_cast<uint32_t>(rounds);
  }

  // A round's part of what a rank sends to us.
  void take(int other, const Piece& to, int64_t round, int64_t chunk) {
    const int64_t begin = round * chunk;
    const auto bytes =
        static_cast<size_t>(std::clamp<int64_t>(operation_.bytes(to) - begin, 0, chunk));
    const char* from = other == self_ ? operation_.inputs[static_cast<size_t>(self_)].data + begin
                                      : slot_of(other, round) + self_ * chunk;
    if (from != to.data + begin) std::memmove(to.data + begin, from, bytes);
  }

  // Of all_to_all, where no rank knows what two others tell each other. Also whether what each rank
  // sends to us is what we expect.
  int64_t longest_of_all() {
    int64_t longest = 0;
    for (int other = 0; other < size_; ++other) {
      if (other != self_) slot_of(other, 0);
      const int64_t* lengths = region_.slot_lengths(other, number(0));
      for (int to = 0; to < size_; ++to) longest = std::max(longest, lengths[to]);
      const int64_t expected = operation_.bytes(operation_.outputs[static_cast<size_t>(other)]);
      if (lengths[self_] == expected) continue;
      const std::string reason =
          c10::str("the ranks do not agree: rank ", region_.rank_at(other), " sends ",
                   lengths[self_] / operation_.element_size, " elements to rank ",
                   region_.rank_at(self_), ", which expects ", expected / operation_.element_size);
      region_.fail(reason);
      region_.raise(operation_, reason);
    }
    return longest;
  }

  uint32_t barrier() {
    open(0);
    publish(0);
    for_others([&](int other) { slot_of(other, 0); });
    close(0);
    return 1;
  }

  SharedRegion& region_;
  PeerMemory& peers_;
  const Operation& operation_;
  const int size_, self_;
  const uint32_t start_;  // the collective's first round
  uint32_t first_;        // that the way which it takes counts from
  uint64_t& history_;
  const int64_t deadline_;
  std::vector<double> factors_;
};

// While it lives, the calling thread keeps to its rank's share of the cores. Woken where they
// happened to be, the threads of two ranks often meet on one core, and each round waits for the
// scheduler to switch between them: 4 MiB between two ranks on two cores then take 1.1 ms, and on
// one core each 0.3 ms.
class OwnCores {
 public:
  OwnCores(int place, int size) {
    if (sched_getaffinity(0, sizeof(before_), &before_) != 0) return;
    const int count = CPU_COUNT(&before_);
    if (count < size) return;
    cpu_set_t own;
    CPU_ZERO(&own);
    for (int core = 0, number = 0; number < count; ++core) {
      if (!CPU_ISSET(core, &before_)) continue;
      if (number * size / count == place) CPU_SET(core, &own);
      ++number;
    }
    changed_ = sched_setaffinity(0, sizeof(own), &own) == 0;
  }
  ~OwnCores() {
    if (changed_) sched_setaffinity(0, sizeof(before_), &before_);
  }
  OwnCores(const OwnCores&) = delete;
  OwnCores& operator=(const OwnCores&) = delete;

 private:
  cpu_set_t before_;
  bool changed_ = false;
};

// From so many bytes a rank on, a collective has rounds enough for that.
constexpr int64_t kManyRounds = 128 << 10;

// Counts the operations that are under way.
class Running {
 public:
  explicit Running(std::atomic<int>& count) : count_(count) { count_.fetch_add(1); }
  ~Running() { count_.fetch_sub(1); }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  std::atomic<int>& count_;
};

}  // namespace

SharedTransport::SharedTransport(std::unique_ptr<SharedRegion> region)
    : region_(std::move(region)), mailbox_(*region_), peers_(*region_) {}

void SharedTransport::run(const Operation& operation) {
  const Running running(running_);
  if (const std::string reason = failure(); !reason.empty()) region_->raise(operation, reason);
  std::optional<OwnCores> cores;
  if (operation.largest_piece() >= kManyRounds) cores.emplace(region_->place(), region_->size());
  round_ += Collective(*region_, peers_, operation, round_, history_).run();
}

int SharedTransport::run_message(const Operation& operation) {
  const Running running(running_);
  if (const std::string reason = failure(); !reason.empty()) region_->raise(operation, reason);
  const int64_t deadline = runtime::steady_now() + operation.timeout_ms * 1'000'000;
  if (operation.kind == Kind::Receive) return mailbox_.receive(operation, deadline);
  mailbox_.send(operation, deadline);
  return operation.root;
}

void SharedTransport::interrupt() {
  if (running_.load() != 0) {
    fail(c10::str("rank ", region_->rank_at(region_->place()), " has ended in the middle of it"));
  }
  leave();
}

}  // namespace accel::distributed
