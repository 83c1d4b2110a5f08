// The memory that the ranks of one host share, and what they know of each other through it: who is
// there, how far each has come, whether the group has failed. Collectives (shared_transport.cpp)
// and messages (mailbox.h) move data through it.
//
// The memory is a file without a name, opened through its creator's entry in /proc: it goes with
// the last process that maps it, however that ends.
#pragma once

#include <string>
#include <vector>

#include <torch/csrc/distributed/c10d/Store.hpp>

#include "csrc/distributed/futex.h"
#include "csrc/distributed/operation.h"
#include "csrc/distributed/rendezvous.h"

namespace accel::distributed {

enum class Presence : uint32_t { Absent, Present, Left };

// What one rank tells the others.
struct SharedMember {
  SharedCounter written;  // rounds whose slot is filled
  SharedCounter read;     // rounds whose slots it has read
  std::atomic<Presence> presence{Presence::Absent};
  std::atomic<uint64_t> sequence{0};  // of the last collective that it has begun
};

// Members follow it.
struct alignas(SharedMember) SharedHeader {
  std::atomic<uint32_t> failure_begun{0}, failed{0};
  char failure[1024] = {};
};

// One direction between two ranks: a ring of bytes.
struct Channel {
  static constexpr uint32_t kBytes = 128 << 10;
  SharedCounter filled, drained;  // bytes since the start
  char data[kBytes];
};

class SharedRegion {
 public:
  // Of each rank. Enough that a rank fills one while others read the last; small enough that they
  // are still in the cache when they are read.
  static constexpr uint32_t kSlots = 4;
  static constexpr size_t kSlotBytes = size_t{256} << 10;
  static constexpr size_t kSlotHeaderBytes = 128;
  // How long a rank sleeps before it looks whether the one it waits for still lives, in ns.
  static constexpr int64_t kSlice = 20'000'000;

  // `ranks` are those of this host, this one among them; members are all of the group's. The first
  // creates the memory and tells the others through the Store.
  SharedRegion(c10d::Store& store, const Membership& membership, std::vector<int> ranks, int rank,
               std::chrono::milliseconds timeout);
  ~SharedRegion();
  SharedRegion(const SharedRegion&) = delete;
  SharedRegion& operator=(const SharedRegion&) = delete;

  int size() const { return static_cast<int>(ranks_.size()); }
  // This rank's place among those of the host. All that follows speaks of places.
  int place() const { return place_; }
  int rank_at(int place) const { return ranks_[static_cast<size_t>(place)]; }
  // The id of the process behind a place.
  int process_at(int place) const { return process_ids_[static_cast<size_t>(place)]; }

  SharedMember& member(int place);
  char* slot(int place, uint32_t round);
  // For each rank a number, in its slot: what all_to_all sends to it.
  int64_t* slot_lengths(int place, uint32_t round);
  // What was agreed on at the beginning of a collective, at the head of its first slot.
  char* slot_header(int place, uint32_t round);
  Channel& channel(int from, int to);

  // Waits until another rank's counter has come so far. Raises, in the name of the operation, when
  // the group has failed, that rank is gone, or the deadline (steady clock, ns) has passed.
  void wait(SharedCounter& counter, uint32_t target, int other, const Operation& operation,
            int64_t deadline);
  // What wait() looks at while a counter stays where it is.
  void check(SharedCounter& counter, uint32_t target, int other, const Operation& operation,
             int64_t deadline);
  [[noreturn]] void raise(const Operation& operation, const std::string& reason) const;

  void fail(const std::string& reason);
  std::string failure() const;
  void leave();

  // Whether the process behind a place has ended, and whether it takes no more part for that or
  // another reason.
  bool has_died(int place) const;
  bool has_gone(int place);

 private:
  size_t bytes() const;
  size_t slot_bytes() const;
  char* slots_of(int place) const;
  void create(c10d::Store& store, const std::string& key);
  void open(c10d::Store& store, const std::string& key, std::chrono::milliseconds timeout);
  void map(int descriptor);
  void await_presence(int place, int64_t deadline);
  void close_all();

  SharedHeader& header() const { return *reinterpret_cast<SharedHeader*>(base_); }
  // Ranks that have not begun the collective; where all have, the one that is waited for.
  std::string missing(int other, const Operation& operation) const;

  std::vector<int> ranks_;
  int place_ = 0;
  int descriptor_ = -1;
  char* base_ = nullptr;
  std::vector<int> process_ids_;
  std::vector<int> processes_;  // descriptors of the other ranks' processes, -1 for our own
};

}  // namespace accel::distributed
