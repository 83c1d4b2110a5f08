// What a thread does between two looks at a value that another thread will change.
#pragma once

#include <sched.h>

namespace accel::kernels {

// Leaves the core's units to its other hardware thread for a moment.
inline void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  for (int i = 0; i < 8; ++i) __builtin_ia32_pause();
#endif
}

// A pause, then the core goes to whoever else wants it. Without the yield, a thread that spins
// keeps the one it waits for from running at all where both are on one core: on two busy cores a
// round trip between host and worker took 25-115 µs, with it 1.7-4.4 µs.
inline void relax() {
  pause_briefly();
  pause_briefly();
  sched_yield();
}

}  // namespace accel::kernels
