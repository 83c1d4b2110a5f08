// Placement: where the values of a Region that pass through memory lie, so that those which are
// never needed at once share a place. Knows bytes and Launches; called by region.cpp.
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
struct Temporary {
  size_t bytes = 0;
  size_t first = 0, last = 0;
  // Where it was placed: in a room, or in the workspace.
  int32_t room = kWorkspace;
  size_t begin = 0;

  static constexpr int32_t kWorkspace = -1;
  size_t end() const { return begin + bytes; }
};

// Places all temporaries, at multiples of a cache line; returns the bytes of the workspace.
size_t place(std::span<Temporary> temporaries, std::span<const Room> rooms);

}  // namespace accel::graph
