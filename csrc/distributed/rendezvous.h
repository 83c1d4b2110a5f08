// How the ranks of a group find each other through its Store: who they are, and on which host each
// one runs. Nothing is guessed from the environment.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include <torch/csrc/distributed/c10d/Store.hpp>

namespace accel::distributed {

struct Member {
  uint64_t nonce = 0;    // of this start of this rank
  int size = 0;          // how many ranks it expects
  int process = 0;       // its id, meaningful on its own host
  uint64_t started = 0;  // when that process started, as its host counts
  std::string host;      // the same for processes that can share memory
};

struct Membership {
  std::vector<Member> members;  // by rank
  // The same on every rank, and no other group's: a prefix for keys in the Store.
  std::string token;
};

// Returns when every rank knows of every other's present start. A Store may hold what an earlier
// start has left (torchrun restarts workers on one Store): a rank is believed once it confirms that
// it has read the others' records as they are now. Raises DistBackendError after the timeout, with
// the ranks that are missing.
Membership meet(c10d::Store& store, int rank, int size, std::chrono::milliseconds timeout);

// The ranks of each host, hosts in the order of their first ranks.
std::vector<std::vector<int>> ranks_by_host(const Membership& membership);

// What identifies this host: of the running kernel, its boot, and the namespace in which process
// ids mean something. ACCEL_HOST_ID adds to it, so that one machine can play several.
std::string host_identity();

// When a process of this host started, in clock ticks since its boot; 0 where there is none.
uint64_t start_of_process(int process);

}  // namespace accel::distributed
