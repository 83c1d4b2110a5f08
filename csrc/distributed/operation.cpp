#include "csrc/distributed/operation.h"

#include <algorithm>

#include <c10/util/StringUtil.h>

namespace accel::distributed {

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::AllReduce:
      return "all_reduce";
    case Kind::Broadcast:
      return "broadcast";
    case Kind::Reduce:
      return "reduce";
    case Kind::AllGather:
      return "all_gather";
    case Kind::Gather:
      return "gather";
    case Kind::Scatter:
      return "scatter";
    case Kind::ReduceScatter:
      return "reduce_scatter";
    case Kind::AllToAll:
      return "all_to_all";
    case Kind::Barrier:
      return "barrier";
    case Kind::Send:
      return "send";
    case Kind::Receive:
      return "recv";
  }
  return "operation";
}

int64_t Operation::largest_piece() const {
  int64_t largest = 0;
  for (const std::vector<Piece>* pieces : {&inputs, &outputs}) {
    for (const Piece& piece : *pieces) largest = std::max(largest, bytes(piece));
  }
  return largest;
}

std::string describe(const Operation& operation) {
  std::string text =
      c10::str(name_of(operation.called()), ", sequence number ", operation.sequence);
  if (operation.is_message() && !operation.part_of) {
    text += operation.kind == Kind::Send   ? c10::str(", to rank ", operation.root)
            : operation.root == kAnySource ? std::string(", from any rank")
                                           : c10::str(", from rank ", operation.root);
    text += c10::str(", tag ", operation.tag);
  }
  return text;
}

}  // namespace accel::distributed
