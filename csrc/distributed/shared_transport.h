// Collectives of ranks that all run on one host, through the slots of a SharedRegion; of large
// tensors that are reduced again and again, in place (PeerMemory).
//
// Every collective is a number of rounds, the same on each rank. In a round a rank fills its own
// slot, if it has something to say, and reads the others'. Its slot of four rounds ago is free for
// that once all others have read it. Reductions add up the ranks in their order, and each element
// in one place, so that all ranks have the same bits.
#pragma once

#include "csrc/distributed/mailbox.h"
#include "csrc/distributed/peer_memory.h"
#include "csrc/distributed/shared_region.h"
#include "csrc/distributed/transport.h"

namespace accel::distributed {

class SharedTransport final : public Transport {
 public:
  explicit SharedTransport(std::unique_ptr<SharedRegion> region);

  void run(const Operation& operation) override;
  int run_message(const Operation& operation) override;
  void fail(const std::string& reason) override { region_->fail(reason); }
  void leave() override { region_->leave(); }
  void interrupt() override;
  std::string failure() const override { return region_->failure(); }

 private:
  std::unique_ptr<SharedRegion> region_;
  Mailbox mailbox_;
  PeerMemory peers_;
  uint32_t round_ = 0;    // of the next collective's first
  uint64_t history_ = 0;  // a hash of all collectives so far
  std::atomic<int> running_{0};
};

}  // namespace accel::distributed
