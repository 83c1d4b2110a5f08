#include "csrc/distributed/shared_region.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include <c10/util/Exception.h>

#include "csrc/runtime/worker_stream.h"

namespace accel::distributed {

namespace {

constexpr size_t kPage = 4096;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

[[noreturn]] void raise_system(const char* what) {
  const int error = errno;
  TORCH_CHECK_WITH(DistBackendError, false,
                   "accl: no shared memory for the ranks of this host: ", what,
                   " failed: ", std::strerror(error));
}

}  // namespace

SharedRegion::SharedRegion(c10d::Store& store, const Membership& membership, std::vector<int> ranks,
                           int rank, std::chrono::milliseconds timeout)
    : ranks_(std::move(ranks)) {
  place_ = static_cast<int>(std::find(ranks_.begin(), ranks_.end(), rank) - ranks_.begin());
  const std::string key = "accl/memory/" + membership.token + "/" + std::to_string(ranks_[0]);
  try {
    place_ == 0 ? create(store, key) : open(store, key, timeout);
    for (int place = 0; place < size(); ++place) {
      const int process = membership.members[static_cast<size_t>(rank_at(place))].process;
      process_ids_.push_back(process);
      processes_.push_back(
          process == getpid() ? -1 : static_cast<int>(syscall(SYS_pidfd_open, process, 0)));
    }
    member(place_).presence.store(Presence::Present);
    const int64_t deadline = runtime::steady_now() + timeout.count() * 1'000'000;
    for (int place = 0; place < size(); ++place) await_presence(place, deadline);
  } catch (...) {
    if (place_ == 0) store.set(key, "failed");
    close_all();
    throw;
  }
  if (descriptor_ >= 0) close(descriptor_);  // all have mapped it
  descriptor_ = -1;
}

void SharedRegion::await_presence(int place, int64_t deadline) {
  while (member(place).presence.load() == Presence::Absent) {
    TORCH_CHECK_WITH(DistBackendError, !has_died(place) && runtime::steady_now() < deadline,
                     "accl: rank ", rank_at(place), " has not opened the shared memory");
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

SharedRegion::~SharedRegion() { close_all(); }

void SharedRegion::close_all() {
  for (int& process : processes_) {
    if (process >= 0) close(process);
    process = -1;
  }
  if (base_ != nullptr) munmap(base_, bytes());
  base_ = nullptr;
  if (descriptor_ >= 0) close(descriptor_);
  descriptor_ = -1;
}

size_t SharedRegion::slot_bytes() const {
  return round_up(kSlotHeaderBytes + static_cast<size_t>(size()) * sizeof(int64_t), 64) +
         kSlotBytes;
}

size_t SharedRegion::bytes() const {
  const auto n = static_cast<size_t>(size());
  return round_up(round_up(sizeof(SharedHeader) + n * sizeof(SharedMember), kPage) +
                      n * kSlots * slot_bytes() + n * n * sizeof(Channel),
                  kPage);
}

void SharedRegion::create(c10d::Store& store, const std::string& key) {
  descriptor_ = memfd_create("accl", MFD_CLOEXEC);
  if (descriptor_ < 0) raise_system("memfd_create");
  if (ftruncate(descriptor_, static_cast<off_t>(bytes())) != 0) raise_system("ftruncate");
  map(descriptor_);
  // All zero, which is how every counter begins.
  store.set(key, std::to_string(getpid()) + "/fd/" + std::to_string(descriptor_));
}

void SharedRegion::open(c10d::Store& store, const std::string& key,
                        std::chrono::milliseconds timeout) {
  store.wait({key}, timeout);
  const std::string value = store.get_to_str(key);
  TORCH_CHECK_WITH(DistBackendError, value != "failed", "accl: rank ", ranks_[0],
                   " could not make the shared memory of this host");
  const std::string path = "/proc/" + value;
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (descriptor < 0) raise_system(path.c_str());
  try {
    map(descriptor);
  } catch (...) {
    close(descriptor);
    throw;
  }
  close(descriptor);
}

void SharedRegion::map(int descriptor) {
  void* base = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (base == MAP_FAILED) raise_system("mmap");
  base_ = static_cast<char*>(base);
}

SharedMember& SharedRegion::member(int place) {
  return reinterpret_cast<SharedMember*>(base_ + sizeof(SharedHeader))[place];
}

char* SharedRegion::slots_of(int place) const {
  const auto n = static_cast<size_t>(size());
  return base_ + round_up(sizeof(SharedHeader) + n * sizeof(SharedMember), kPage) +
         static_cast<size_t>(place) * kSlots * slot_bytes();
}

char* SharedRegion::slot_header(int place, uint32_t round) {
  return slots_of(place) + round % kSlots * slot_bytes();
}

int64_t* SharedRegion::slot_lengths(int place, uint32_t round) {
  return reinterpret_cast<int64_t*>(slot_header(place, round) + kSlotHeaderBytes);
}

char* SharedRegion::slot(int place, uint32_t round) {
  return slot_header(place, round) + slot_bytes() - kSlotBytes;
}

Channel& SharedRegion::channel(int from, int to) {
  return reinterpret_cast<Channel*>(slots_of(size()))[from * size() + to];
}

bool SharedRegion::has_died(int place) const {
  const int process = processes_[static_cast<size_t>(place)];
  if (process < 0) return false;
  pollfd ended{process, POLLIN, 0};
  return poll(&ended, 1, 0) > 0;
}

bool SharedRegion::has_gone(int place) {
  return member(place).presence.load() == Presence::Left || has_died(place);
}

void SharedRegion::wait(SharedCounter& counter, uint32_t target, int other,
                        const Operation& operation, int64_t deadline) {
  if (counter.has_reached(target)) return;
  while (!counter.wait_for(target, kSlice)) check(counter, target, other, operation, deadline);
}

void SharedRegion::check(SharedCounter& counter, uint32_t target, int other,
                         const Operation& operation, int64_t deadline) {
  if (header().failed.load() != 0) raise(operation, failure());
  // What it wrote before it went still counts: the counter is looked at after the signs of its end.
  if (member(other).presence.load() == Presence::Left && !counter.has_reached(target)) {
    raise(operation, c10::str("rank ", rank_at(other), " has left the group"));
  }
  if (has_died(other) && !counter.has_reached(target)) {
    const std::string reason = c10::str("rank ", rank_at(other), " has died");
    fail(reason);
    raise(operation, reason);
  }
  if (runtime::steady_now() > deadline) {
    const std::string reason =
        c10::str("Timed out waiting ", operation.timeout_ms, "ms: ", missing(other, operation));
    fail(c10::str("rank ", rank_at(place_), ": ", reason, " (", describe(operation), ")"));
    raise(operation, reason);
  }
}

std::string SharedRegion::missing(int other, const Operation& operation) const {
  auto& self = const_cast<SharedRegion&>(*this);
  if (operation.is_message()) return c10::str("rank ", rank_at(other), " did not take part");
  std::string text;
  for (int place = 0; place < size(); ++place) {
    const uint64_t sequence = self.member(place).sequence.load();
    if (sequence >= operation.sequence) continue;
    text +=
        c10::str(text.empty() ? "" : ", ", "rank ", rank_at(place), " is missing (it has begun ",
                 sequence, " of ", operation.sequence, " collectives)");
  }
  return text.empty() ? c10::str("rank ", rank_at(other), " did not go on") : text;
}

void SharedRegion::raise(const Operation& operation, const std::string& reason) const {
  TORCH_CHECK_WITH(DistBackendError, false, "accl: ", describe(operation), ", on rank ",
                   rank_at(place_), ": ", reason);
}

void SharedRegion::fail(const std::string& reason) {
  if (header().failure_begun.exchange(1) == 0) {
    std::strncpy(header().failure, reason.c_str(), sizeof(header().failure) - 1);
    header().failed.store(1);
  }
}

std::string SharedRegion::failure() const {
  return header().failed.load() != 0 ? std::string(header().failure) : std::string();
}

void SharedRegion::leave() { member(place_).presence.store(Presence::Left); }

}  // namespace accel::distributed
