// Streams: a queue of Commands and the worker thread that runs them in order.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include <c10/core/Stream.h>

namespace accel::runtime {

// One piece of queued work: a Segment, an event's mark. Destroyed on the worker after it ran; it
// may own Blocks, never Tensors, Storages or IValues.
class Command {
 public:
  virtual ~Command() = default;
  // Runs on the stream's worker. Reports a failure by throwing; the stream then skips all that
  // follows until the failure has been raised at a wait.
  virtual void run() = 0;
  // Called instead of run() while a failure is pending. Events still complete.
  virtual void skip() {}
  // Bytes of memory that stay reserved until the command has run (for the in-flight budget).
  virtual size_t bytes() const { return 0; }
};

// The open end of a stream: what has been recorded and not yet handed over. csrc/graph implements
// it (Recorder); the stream calls it so that nothing recorded waits for a further call of the host.
class Tail {
 public:
  virtual ~Tail() = default;
  // Hands all recorded Nodes to the stream. Any thread.
  virtual void hand_over() = 0;
  // Called by the idle worker when nothing has been recorded for about a millisecond.
  virtual void hand_over_idle() = 0;
  // Whether something is recorded; lock-free. And when (steady clock, ns) the last Node came.
  virtual bool pending() const = 0;
  virtual int64_t last_recorded() const = 0;
  // Whether what is recorded is kept back, to be replayed later.
  virtual bool is_capturing() const { return false; }
};

class Stream {
 public:
  virtual ~Stream() = default;

  virtual int device() const = 0;
  virtual c10::StreamId id() const = 0;
  virtual int priority() const = 0;
  // Set once, by csrc/graph, before the stream is used.
  virtual Tail* tail() const = 0;

  // Queues a command and returns its sequence number (1, 2, ...). Never waits, so that it may be
  // called under the recorder's lock.
  virtual uint64_t submit(std::unique_ptr<Command> command) = 0;
  // Waits (releasing the GIL) while the in-flight budget of bytes or commands is used up. To be
  // called after submit(), once the recorder's lock is released: a thread that takes the GIL back
  // under that lock deadlocks with one that holds the GIL and wants the lock.
  virtual void wait_for_room() {}
  // To be called by the recorder when it goes from empty to non-empty: an idle worker sleeps
  // without a timer until then. Costs a few nanoseconds unless the worker has been idle for long.
  virtual void notice_pending() {}
  virtual uint64_t submitted() const = 0;
  virtual uint64_t completed() const = 0;

  // Blocks until the command with this number has completed; releases the GIL, can be interrupted
  // by Ctrl-C, and raises the pending failure of the stream if there is one.
  virtual void wait(uint64_t sequence) = 0;
  // Hands the tail over and waits for all of it.
  virtual void synchronize() = 0;
  // Hands the tail over; true when nothing is left to run. Raises a pending failure.
  virtual bool query() = 0;

  // The failure that is to be raised at the next wait, or null. Any thread.
  virtual std::exception_ptr failure() const = 0;
};

// What c10::DeviceIndex and the streams' tables have room for.
constexpr int kMaximumDevices = 64;

// What may be in flight on a stream before wait_for_room() waits. Two Segments keep a worker busy;
// the bytes bound how much memory that the user has freed is held by queued work
// (ACCEL_IN_FLIGHT_BYTES overrides).
constexpr uint64_t kInFlightCommands = 64;
constexpr size_t kInFlightBytes = size_t{64} << 20;

// Creates the Tail of a new stream; registered by csrc/graph at load. Returns the one before.
using TailFactory = std::unique_ptr<Tail> (*)(Stream&);
TailFactory register_tail_factory(TailFactory factory);

Stream& default_stream(int device);
Stream& current_stream(int device);  // of the calling thread
Stream& stream_of(c10::Stream stream);
c10::Stream to_c10(const Stream& stream);
void set_current_stream(Stream& stream);
Stream& stream_from_pool(int device, int priority);
// A stream that no program is given: what is recorded on it is captured, never run.
Stream& capture_stream(int device);
// A stream for one owner, whose Commands may wait for other processes: no other work waits behind
// them, and submitting never waits for room. Raises where all are taken.
Stream& acquire_stream(int device);
// Once all that was submitted has run, the stream can be acquired again.
void release_stream(Stream& stream);

int current_device();
void set_current_device(int device);  // raises for an index out of range
int device_count();
void synchronize_device(int device);

// How many host threads wait for a stream right now: the worker's team is full width when one does.
int waiting_hosts();

// Counts one wait of the host, with what asked for it ("item", "copy to host", "synchronize");
// under ACCEL_LOG=sync prints the Python line.
void count_wait(const char* reason);
// The counts since the start or the last reset, by reason.
std::map<std::string, uint64_t> wait_counts();
void reset_wait_counts();

// Hands over and waits for what is queued on every stream, for at most two seconds; what is left is
// then skipped, and the workers end. A later submit() starts its worker again. Called at the exit
// of the interpreter and of the process.
void shutdown();
// Called by shutdown() after those two seconds: ends the Commands that wait for other processes.
using Interrupt = void (*)();
void register_interrupt(Interrupt interrupt);

}  // namespace accel::runtime
