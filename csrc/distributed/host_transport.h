// Collectives of ranks on several hosts: torch's Gloo moves the bytes, our kernels add up. As
// within a host, ranks are added in their order and each element in one place.
#pragma once

#include <functional>
#include <mutex>

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "csrc/distributed/buffer.h"
#include "csrc/distributed/transport.h"

namespace accel::distributed {

struct HostBuffers {
  Buffer sent, received, gathered;
};

class HostTransport final : public Transport {
 public:
  // rank: ours in the group, which errors name; Gloo may know some of the group's ranks only.
  HostTransport(c10::intrusive_ptr<c10d::Backend> gloo, int rank)
      : gloo_(std::move(gloo)), rank_(rank) {}

  void run(const Operation& operation) override;
  int run_message(const Operation& operation) override;
  void fail(const std::string& reason) override;
  void leave() override {}
  void interrupt() override;
  std::string failure() const override;

 private:
  // Raises in the name of the operation what Gloo raises.
  void named(const Operation& operation, const std::function<void()>& body);

  const c10::intrusive_ptr<c10d::Backend> gloo_;
  const int rank_;
  HostBuffers buffers_;
  mutable std::mutex mutex_;
  std::string failure_;
};

}  // namespace accel::distributed
