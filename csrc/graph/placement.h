// Placement: where the values of a Region lie that pass through memory or are its outputs, so that
// those which are never needed at once share a place. Knows bytes and Launches; called by
// region.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace accel::graph {

// Memory that a run has anyway and that other values may use for some of its Launches: an output
// until it is written, an input that nobody will see again once it has been read.
struct Room {
  size_t bytes = 0;
  size_t from = 0, until = 0;  // Launches, the second exclusive
};

// A value from the first Launch that touches it to the last.
struct Value {
  static constexpr int32_t kWorkspace = -1;

  size_t bytes = 0;
  size_t first = 0, last = 0;
  // The room of an output before it is written; kWorkspace for a temporary.
  int32_t own_room = kWorkspace;
  // Where it was placed: in a room (an output in its own where it stays itself), or in the
  // workspace.
  int32_t room = kWorkspace;
  size_t begin = 0;

  bool is_output() const { return own_room != kWorkspace; }
  size_t end() const { return begin + bytes; }
};

// Places all values, at multiples of a cache line; returns the bytes of the workspace. Outputs go
// into rooms that stay open to the end, at multiples of a page; the own room of one that does is
// closed.
size_t place(std::span<Value> values, std::span<const Room> rooms);

}  // namespace accel::graph
