// How the ranks of a group reach each other: on one host through shared memory
// (shared_transport.h), between hosts by Gloo (host_transport.h), and where there are several hosts
// with several ranks each, both ways (hierarchical_transport.h).
#pragma once

#include <string>

#include "csrc/distributed/operation.h"

namespace accel::distributed {

// A group that has failed stays so: its ranks no longer agree on what comes next.
class Transport {
 public:
  virtual ~Transport() = default;

  // Takes part in a collective; returns when this rank's part is done. Raises DistBackendError that
  // names the operation and the ranks that are missing. One thread at a time, in the same order on
  // every rank.
  virtual void run(const Operation& operation) = 0;
  // Sends or receives one message and returns the other rank. Any thread; those of one pair of
  // ranks and one tag in order.
  virtual int run_message(const Operation& operation) = 0;

  // Any thread. The group has failed, for all ranks; those that wait raise this. The first counts.
  virtual void fail(const std::string& reason) = 0;
  // This rank takes no more part. Ranks that wait for it raise.
  virtual void leave() = 0;
  // Called at the exit of the process: whatever waits in this rank raises, and the others that wait
  // for it.
  virtual void interrupt() = 0;
  // Empty while all is well.
  virtual std::string failure() const = 0;
};

}  // namespace accel::distributed
