// The team of threads that runs a kernel. Every kernel splits its work into chunks whose number and
// bounds follow from logical shape and dtype alone, so that its bits do not depend on the team.
#pragma once

#include <cstdint>
#include <type_traits>

namespace accel::kernels {

// The width of the calling thread's team: how many threads parallel_for() uses. One at the start.
// The stream's worker sets it before each Launch (see csrc/runtime/team.h).
int team_width();
void set_team_width(int width);

namespace detail {
void parallel_chunks(int64_t chunks, void (*body)(void*, int64_t), void* context);
}

// Calls body(chunk) once for every chunk in [0, chunks). Chunks are grabbed by whichever thread of
// the team is free, so a thread that the scheduler took away delays one chunk, not the region.
// body must not throw. Nested calls run on the calling thread.
template <typename Body>
void parallel_for(int64_t chunks, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  detail::parallel_chunks(
      chunks, [](void* context, int64_t chunk) { (*static_cast<Plain*>(context))(chunk); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace accel::kernels
