// What a process group asks of its transport: one collective, or one message.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <c10/core/ScalarType.h>

#include "kernels/combine/combine.h"

namespace accel::distributed {

enum class Kind : uint8_t {
  AllReduce,
  Broadcast,
  Reduce,
  AllGather,
  Gather,
  Scatter,
  ReduceScatter,
  AllToAll,
  Barrier,
  Send,
  Receive,
};

// As the functions of torch.distributed are called.
const char* name_of(Kind kind);

// Elements that lie one after the other, where host code finds them. The address of none is an
// address too: arithmetic and memcpy want one.
struct Piece {
  static inline char nothing[1] = {};
  char* data = nothing;
  int64_t elements = 0;
};

struct Reduction {
  kernels::CombineOp op = kernels::CombineOp::Sum;
  kernels::DType dtype = kernels::DType::Float32;
  bool average = false;   // the sum is divided by the number of ranks
  bool weighted = false;  // each rank's elements are multiplied by its own factor first
  double factor = 1;
};

// Which pieces there are, `size` being the number of ranks:
//   AllReduce, Broadcast       outputs[0], which is the input as well
//   Reduce                     inputs[0]; on the root outputs[0], which may be the same
//   AllGather                  inputs[0]; outputs[size]
//   Gather                     inputs[0]; on the root outputs[size]
//   Scatter                    on the root inputs[size]; outputs[0]
//   ReduceScatter, AllToAll    inputs[size]; for ReduceScatter outputs[0], for AllToAll [size]
//   Send, Receive              inputs[0], outputs[0]
struct Operation {
  Kind kind = Kind::Barrier;
  std::optional<Kind> part_of;  // what was called, where this is a step of it
  c10::ScalarType dtype = c10::ScalarType::Byte;
  int64_t element_size = 1;
  Reduction reduction;
  int root = 0;     // of Send and Receive the other rank
  int32_t tag = 0;  // of Send and Receive
  std::vector<Piece> inputs, outputs;
  uint64_t sequence = 0;  // 1, 2, ... among the group's collectives; of messages, for this rank
  int64_t timeout_ms = 0;

  int64_t bytes(const Piece& piece) const { return piece.elements * element_size; }
  int64_t largest_piece() const;  // in bytes, of inputs and outputs
  bool is_message() const { return kind >= Kind::Send; }
  Kind called() const { return part_of.value_or(kind); }
};

// "all_reduce, sequence number 7"
std::string describe(const Operation& operation);

constexpr int kAnySource = -1;

}  // namespace accel::distributed
