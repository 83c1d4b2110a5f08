// The process around the runtime: forks, the GIL, Ctrl-C. csrc/runtime knows nothing of Python;
// csrc/python registers the hooks through which waits release the GIL and hear of signals.
#pragma once

#include <atomic>
#include <string>

namespace accel::runtime {

// Called before the first memory is reserved or the first worker starts: from then on a forked
// child cannot use the device, because it inherits neither the workers nor the memory.
void note_use();
bool in_use();

// One for the whole process: an inline variable would be a second one in the Python binding.
extern std::atomic<bool> bad_fork;
inline bool in_bad_fork() { return bad_fork.load(std::memory_order_relaxed); }

[[noreturn]] void raise_bad_fork();
// Raises, in a child forked after the parent used the device.
inline void check_fork() {
  if (in_bad_fork()) [[unlikely]]
    raise_bad_fork();
}

bool is_main_thread();

struct GilHooks {
  // Lets go of the GIL and returns what acquire() needs, or null where the caller does not hold it.
  void* (*release)();
  void (*acquire)(void* state);
  // Runs Python's signal handlers; raises what they raise. Called with the GIL released.
  void (*check_signals)();
  // "file.py:12" for the innermost Python frame of the calling thread, or an empty string.
  std::string (*location)();
};

// hooks must outlive the process' last wait; null removes them (at the interpreter's exit).
void register_gil_hooks(const GilHooks* hooks);
std::string python_location();

// Whether ACCEL_LOG, a comma-separated list, names the topic.
enum class LogTopic { Graph, Sync };
bool logs(LogTopic topic);

// While one lives, the calling host thread waits for a stream: the GIL is released, and the
// workers' teams are full width. Under a lock that a holder of the GIL may want, the GIL has to be
// kept: taking it back under that lock would deadlock, whereas workers never need it.
enum class Gil { Release, Keep };

class WaitGuard {
 public:
  explicit WaitGuard(Gil gil = Gil::Release);
  ~WaitGuard();
  WaitGuard(const WaitGuard&) = delete;
  WaitGuard& operator=(const WaitGuard&) = delete;

  // Whether Ctrl-C can end this wait, and the call that does.
  bool interruptible() const;
  void check_signals() const;

 private:
  Gil gil_;
  const GilHooks* hooks_;
  void* state_;
};

}  // namespace accel::runtime
