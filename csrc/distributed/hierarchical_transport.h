// Collectives of several hosts with several ranks each: within a host through shared memory, and
// between hosts only one rank of each, its leader. What is moved is what torch's Gloo alone would
// move between hosts divided by the ranks of a host.
//
// Ranks are added in the order of hosts, a host's in theirs, and each element in one place, so that
// all ranks have the same bits; sums of 16-bit floats stay in fp32 until they are whole. What every
// rank has for every other (gather, scatter, all_to_all and messages) goes directly.
#pragma once

#include <memory>
#include <vector>

#include "csrc/distributed/buffer.h"
#include "csrc/distributed/transport.h"

namespace accel::distributed {

class HierarchicalTransport final : public Transport {
 public:
  // hosts: all ranks, those of one host together. The first of each is its leader. within: the
  // ranks of this host, by their places there. between: the leaders, by host; null on other ranks.
  // direct: all ranks.
  HierarchicalTransport(std::vector<std::vector<int>> hosts, int rank,
                        std::unique_ptr<Transport> within, std::unique_ptr<Transport> between,
                        std::unique_ptr<Transport> direct);

  void run(const Operation& operation) override;
  int run_message(const Operation& operation) override;
  void fail(const std::string& reason) override;
  void leave() override;
  void interrupt() override;
  std::string failure() const override;

 private:
  struct Location {
    int host, place;
  };

  bool leads() const { return between_ != nullptr; }
  Location location_of(int rank) const;
  const std::vector<int>& own_host() const { return hosts_[static_cast<size_t>(self_.host)]; }

  void take_steps(const Operation& operation);
  void all_reduce(const Operation& operation);
  void all_reduce(const Operation& operation, const Piece& piece);
  void reduce(const Operation& operation);
  void reduce_scatter(const Operation& operation);
  void broadcast(const Operation& operation);
  void all_gather(const Operation& operation);
  void barrier(const Operation& operation);

  const std::vector<std::vector<int>> hosts_;
  const Location self_;
  const int ranks_;
  const std::unique_ptr<Transport> within_, between_, direct_;
  Buffer partial_, results_, received_;
};

}  // namespace accel::distributed
