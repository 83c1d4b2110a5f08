// The elastic team: how many threads the next Launch of a worker uses. As wide as the cores that no
// host thread is using, full width as soon as the host waits or has stopped recording.
#pragma once

#include <cstdint>

namespace accel::runtime {

// torch.set_num_threads, OMP_NUM_THREADS: the full width.
void set_full_team(int threads);
int full_team();
// Called on a host thread for each submitted command: torch.set_num_threads() tells nobody, so a
// change of what PyTorch uses on the main thread is taken over here.
void follow_host_threads();

// Width for the next Launch on the calling worker; last_recorded as in Tail.
int elastic_team(int64_t last_recorded);

}  // namespace accel::runtime
