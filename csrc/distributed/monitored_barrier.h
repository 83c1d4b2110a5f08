// torch.distributed.monitored_barrier: the hosts of a group wait for each other, and hear who has
// not come. Through the Store, so that it works beside a collective that hangs, and a group whose
// rank did not come is no worse for it.
#pragma once

#include <chrono>
#include <cstdint>

#include <torch/csrc/distributed/c10d/Store.hpp>

namespace accel::distributed {

// Whom rank 0 names: the first rank that is missing as soon as it knows, or all of them.
enum class Missing { First, All };

// `number` counts the group's monitored barriers on this rank, 1, 2, ... Raises DistBackendError.
void monitored_barrier(c10d::Store& store, uint64_t number, int rank, int size,
                       std::chrono::milliseconds timeout, Missing missing);

}  // namespace accel::distributed
