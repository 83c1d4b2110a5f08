#include "csrc/distributed/rendezvous.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <thread>

#include <c10/util/Exception.h>

#include "csrc/runtime/process.h"
#include "csrc/runtime/worker_stream.h"

namespace accel::distributed {

namespace {

std::string line_of(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string target_of_link(const char* path) {
  char target[256];
  const ssize_t length = readlink(path, target, sizeof(target));
  return length > 0 ? std::string(target, static_cast<size_t>(length)) : std::string();
}

std::string encode(const Member& member) {
  return c10::str(member.nonce, ' ', member.size, ' ', member.process, ' ', member.started, ' ',
                  member.host);
}

Member decode(const std::string& text) {
  Member member;
  std::istringstream stream(text);
  stream >> member.nonce >> member.size >> member.process >> member.started >> member.host;
  return member;
}

uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
  return hash ^ hash >> 29;
}

bool runs_here(const Member& member, const std::string& host) {
  return member.host == host && member.started != 0 &&
         start_of_process(member.process) == member.started;
}

// What one rank knows of the others while it waits for them.
class Meeting {
 public:
  Meeting(c10d::Store& store, int rank, int size) : store_(store), rank_(rank), size_(size) {
    std::random_device random;
    self_.nonce = static_cast<uint64_t>(random()) << 32 | random();
    self_.size = size;
    self_.process = getpid();
    self_.started = start_of_process(getpid());
    self_.host = host_identity();
    store_.set(key("rank", rank), encode(self_));
  }

  // Reads what is there. Whether everybody agrees on who is there.
  bool is_complete() {
    members_.clear();
    uint64_t view = 0;
    for (int rank = 0; rank < size_; ++rank) {
      const auto record = rank == rank_ ? encode(self_) : read(key("rank", rank));
      if (record.empty()) continue;
      const Member member = decode(record);
      if (member.size != size_ && runs_here(member, self_.host)) raise_sizes(rank, member.size);
      members_[rank] = member;
      view = mix(mix(view, member.nonce), static_cast<uint64_t>(member.size));
    }
    if (members_.size() < static_cast<size_t>(size_)) return false;
    token_ = std::to_string(view);
    if (token_ != told_) store_.set(key("confirmed", rank_), told_ = token_);
    unconfirmed_.clear();
    for (int rank = 0; rank < size_; ++rank) {
      if (rank != rank_ && read(key("confirmed", rank)) != token_) unconfirmed_.push_back(rank);
    }
    return unconfirmed_.empty();
  }

  Membership result() const {
    Membership membership;
    for (const auto& [rank, member] : members_) membership.members.push_back(member);
    membership.token = token_;
    return membership;
  }

  [[noreturn]] void raise_missing(int64_t milliseconds) const {
    std::vector<int> missing, stale;
    for (int rank = 0; rank < size_; ++rank) {
      if (members_.count(rank) == 0) missing.push_back(rank);
    }
    for (const int rank : missing.empty() ? unconfirmed_ : std::vector<int>()) {
      if (members_.at(rank).size != size_) raise_sizes(rank, members_.at(rank).size);
      stale.push_back(rank);
    }
    std::string text = c10::str("accl: rank ", rank_, " of ", size_, " waited ", milliseconds,
                                " ms for the others to join the group");
    if (!missing.empty()) text += c10::str("; nothing was heard of rank(s) ", missing);
    if (!stale.empty()) {
      text += c10::str("; rank(s) ", stale,
                       " did not answer: what the store holds of them may be of an earlier run");
    }
    TORCH_CHECK_WITH(DistBackendError, false, text,
                     ". Does every rank run, with torch_accel installed and the same backend?");
  }

 private:
  static std::string key(const char* what, int rank) {
    return std::string("accl/") + what + "/" + std::to_string(rank);
  }

  std::string read(const std::string& key) {
    return store_.check({key}) ? store_.get_to_str(key) : std::string();
  }

  [[noreturn]] void raise_sizes(int rank, int size) const {
    TORCH_CHECK_WITH(DistBackendError, false, "accl: the sizes of the world do not match: rank ",
                     rank_, " expects ", size_, " ranks, rank ", rank, " expects ", size);
  }

  c10d::Store& store_;
  const int rank_, size_;
  Member self_;
  std::map<int, Member> members_;
  std::vector<int> unconfirmed_;
  std::string token_, told_;
};

}  // namespace

std::vector<std::vector<int>> ranks_by_host(const Membership& membership) {
  std::vector<std::vector<int>> hosts;
  std::map<std::string, size_t> known;
  for (size_t rank = 0; rank < membership.members.size(); ++rank) {
    const auto [host, is_new] = known.try_emplace(membership.members[rank].host, hosts.size());
    if (is_new) hosts.emplace_back();
    hosts[host->second].push_back(static_cast<int>(rank));
  }
  return hosts;
}

std::string host_identity() {
  std::string identity =
      line_of("/proc/sys/kernel/random/boot_id") + "/" + target_of_link("/proc/self/ns/pid");
  if (const char* chosen = std::getenv("ACCEL_HOST_ID")) identity += std::string("/") + chosen;
  for (char& c : identity) {
    if (c == ' ') c = '_';
  }
  return identity;
}

uint64_t start_of_process(int process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string text;
  std::getline(file, text);
  // The name, in parentheses, may hold anything; then come a letter and numbers, the 22nd field.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  for (int i = 3; i < 22; ++i) fields >> field;
  uint64_t started = 0;
  fields >> started;
  return started;
}

Membership meet(c10d::Store& store, int rank, int size, std::chrono::milliseconds timeout) {
  runtime::check_fork();
  constexpr std::chrono::milliseconds kLongestPause{50};
  const int64_t deadline = runtime::steady_now() + timeout.count() * 1'000'000;
  Meeting meeting(store, rank, size);
  std::chrono::microseconds pause{200};
  while (!meeting.is_complete()) {
    if (runtime::steady_now() > deadline) meeting.raise_missing(timeout.count());
    std::this_thread::sleep_for(pause);
    pause = std::min<std::chrono::microseconds>(pause * 2, kLongestPause);
  }
  return meeting.result();
}

}  // namespace accel::distributed
