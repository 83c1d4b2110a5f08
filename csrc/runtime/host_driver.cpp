// The shipped driver: the device is the host's CPU, its memory a part of the host's. Called through
// driver() by the floors above; may not call back into them.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include <c10/util/Exception.h>

#include "csrc/runtime/address.h"
#include "csrc/runtime/driver.h"
#include "csrc/runtime/launch.h"
#include "csrc/runtime/shared_pages.h"
#include "csrc/runtime/stream.h"
#include "csrc/runtime/team.h"
#include "kernels/common/isa.h"

namespace accel::runtime {

GuardedRange guarded_range;

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// What the programs around us (the interpreter, the data loader) need is theirs.
constexpr double kCapacityFraction = 0.8;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// The first number in a file, where there is one ("max" in a cgroup's file means no limit).
std::optional<size_t> read_size(const std::string& path) {
  std::ifstream file(path);
  size_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

// The tightest memory limit of the cgroups that hold this process, version 1 or 2. A limit may be
// set on any ancestor, and a container sees its own group as the root of the file system.
size_t cgroup_limit() {
  size_t limit = SIZE_MAX;
  const auto apply = [&](const std::string& path) {
    if (auto value = read_size(path)) limit = std::min(limit, *value);
  };
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = controllers.empty();
    if (!unified && controllers.find("memory") == std::string::npos) continue;
    const std::string root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    const std::string file = unified ? "/memory.max" : "/memory.limit_in_bytes";
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      if (path == "/") path.clear();
      apply(root + path + file);
      if (path.empty()) break;
    }
  }
  return limit;
}

size_t machine_memory() {
  const size_t physical =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return std::min(physical, cgroup_limit());
}

void report_ignored(const char* variable, const char* value, const char* expected) {
  std::fprintf(stderr, "[accel] %s=%s is ignored: expected %s\n", variable, value, expected);
}

// The number from `least` to kMaximumDevices in a variable; nothing if it is not set or another.
std::optional<int> devices_in(const char* variable, int least) {
  const char* value = std::getenv(variable);
  if (value == nullptr) return std::nullopt;
  char* end = nullptr;
  const long count = std::strtol(value, &end, 10);
  if (end == value || *end != '\0' || count < least || count > kMaximumDevices) {
    const std::string expected = "a number from " + std::to_string(least) + " to 64";
    report_ignored(variable, value, expected.c_str());
    return std::nullopt;
  }
  return static_cast<int>(count);
}

// Under torchrun there is a device for each rank of this host, as a program expects that selects
// device LOCAL_RANK.
int configured_device_count() {
  if (const auto count = devices_in("ACCEL_DEVICE_COUNT", 0)) return *count;
  return devices_in("LOCAL_WORLD_SIZE", 1).value_or(1);
}

// Bytes for each of `devices` devices: 80 % of the machine's memory between them, or what
// ACCEL_MEMORY_CAPACITY says for each: bytes, with a suffix K, M or G, or a fraction like 0.5.
size_t configured_capacity(int devices) {
  const size_t memory = machine_memory();
  const auto fallback =
      static_cast<size_t>(kCapacityFraction * static_cast<double>(memory) / std::max(1, devices));
  const char* value = std::getenv("ACCEL_MEMORY_CAPACITY");
  if (value == nullptr) return fallback;
  char* end = nullptr;
  const double number = std::strtod(value, &end);
  double unit = 1;
  const bool plain = *end == '\0';
  if (!plain) {
    constexpr const char* kSuffixes = "KMG";
    const char* suffix = std::strchr(kSuffixes, std::toupper(*end));
    unit = suffix != nullptr ? static_cast<double>(size_t{1024} << (10 * (suffix - kSuffixes))) : 0;
    if (end[1] != '\0') unit = 0;
  } else if (number < 1) {
    unit = static_cast<double>(memory);
  }
  if (end == value || !(number > 0) || unit == 0) {
    report_ignored("ACCEL_MEMORY_CAPACITY", value, "bytes, such as 4G, or a fraction, such as 0.5");
    return fallback;
  }
  return static_cast<size_t>(number * unit);
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (int isa = 0; isa <= static_cast<int>(kernels::highest_isa()); ++isa) {
    names.emplace_back(kernels::isa_name(static_cast<kernels::Isa>(isa)));
  }
  return names;
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) {
      const size_t colon = line.find(": ");
      if (colon != std::string::npos) return line.substr(colon + 2);
    }
  }
  return "host CPU";
}

// Fresh pages, aligned to 2 MiB so that the kernel can back them with huge ones: `x + 1` into
// 4 KiB pages touched for the first time runs at a third of the speed.
void* map_aligned(size_t bytes) {
  const size_t whole = bytes + kHugePage;
  void* mapped = mmap(nullptr, whole, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  const auto start = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t aligned = round_up(start, kHugePage);
  if (aligned > start) munmap(mapped, aligned - start);
  const uintptr_t tail = start + whole - (aligned + bytes);
  if (tail > 0) munmap(reinterpret_cast<void*>(aligned + bytes), tail);
  return reinterpret_cast<void*>(aligned);
}

void advise(void* address, size_t bytes) {
  madvise(address, bytes, MADV_HUGEPAGE);
  // A forked child (a data loader's worker) cannot use device memory, so it need not inherit it:
  // no page tables to copy, and no copy-on-write faults in the parent afterwards.
  madvise(address, bytes, MADV_DONTFORK);
}

// ACCEL_MEMORY=guarded: one inaccessible range of addresses for tensors, and as large a one above
// it, of which the reserved parts are accessible, for kernels.
class GuardedMemory {
 public:
  explicit GuardedMemory(size_t capacity) {
    // Four times what can be in use at once, so that holes between arenas do not matter.
    const size_t size = round_up(4 * capacity, kHugePage);
    void* mapped = mmap(nullptr, 2 * size + kHugePage, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TORCH_CHECK(mapped != MAP_FAILED, "ACCEL_MEMORY=guarded: cannot reserve ", 2 * size,
                " bytes of addresses: ", std::strerror(errno));
    guarded_range.start = round_up(reinterpret_cast<uintptr_t>(mapped), kHugePage);
    guarded_range.size = size;
    guarded_range.delta = size;
    free_[guarded_range.start] = size;
  }

  void* reserve(size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto hole = free_.begin(); hole != free_.end(); ++hole) {
      const auto [start, size] = *hole;
      if (size < bytes) continue;
      void* kernels_address = reinterpret_cast<void*>(start + guarded_range.delta);
      if (mprotect(kernels_address, bytes, PROT_READ | PROT_WRITE) != 0) return nullptr;
      advise(kernels_address, bytes);
      free_.erase(hole);
      if (size > bytes) free_[start + bytes] = size - bytes;
      return reinterpret_cast<void*>(start);
    }
    return nullptr;
  }

  void release(void* address, size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto start = reinterpret_cast<uintptr_t>(address);
    // A new mapping over the old one gives the pages back and makes the addresses inaccessible.
    mmap(reinterpret_cast<void*>(start + guarded_range.delta), bytes, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    auto next = free_.lower_bound(start);
    if (next != free_.end() && next->first == start + bytes) {
      bytes += next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin()) {
      auto previous = std::prev(next);
      if (previous->first + previous->second == start) {
        previous->second += bytes;
        return;
      }
    }
    free_[start] = bytes;
  }

 private:
  std::mutex mutex_;
  std::map<uintptr_t, size_t> free_;  // holes in the range, by device address
};

class HostDriver final : public Driver {
 public:
  HostDriver()
      : device_count_(configured_device_count()), capacity_(configured_capacity(device_count_)) {
    const char* memory = std::getenv("ACCEL_MEMORY");
    if (memory == nullptr || std::strcmp(memory, "plain") == 0) return;
    if (std::strcmp(memory, "guarded") == 0) {
      guarded_.emplace(capacity_ * static_cast<size_t>(std::max(1, device_count_)));
    } else {
      report_ignored("ACCEL_MEMORY", memory, "plain or guarded");
    }
  }

  int device_count() const override { return device_count_; }

  DeviceProperties properties(int device) const override {
    TORCH_CHECK(device >= 0 && device < device_count_, "Expected a device index from 0 to ",
                device_count_ - 1, ", got ", device);
    static const std::string name = cpu_name();
    static const std::vector<std::string> isas = supported_isas();
    return {name, kernels::isa_name(kernels::current_isa()), isas, capacity_, full_team()};
  }

  void* reserve(int /*device*/, size_t bytes) override {
    bytes = round_up(bytes, kHugePage);
    if (guarded_) return guarded_->reserve(bytes);
    void* address = map_aligned(bytes);
    if (address == nullptr) return nullptr;
    advise(address, bytes);
    const std::lock_guard lock(mutex_);
    reserved_[reinterpret_cast<uintptr_t>(address)] = bytes;
    return address;
  }

  void release(int /*device*/, void* address, size_t bytes) override {
    bytes = round_up(bytes, kHugePage);
    if (guarded_) return guarded_->release(address, bytes);
    shared_.forget(address, bytes);
    {
      const std::lock_guard lock(mutex_);
      reserved_.erase(reinterpret_cast<uintptr_t>(address));
    }
    munmap(address, bytes);
  }

  bool host_addressable() const override { return true; }
  void* host_pointer(const void* address) const override { return runtime::host_pointer(address); }
  void* device_pointer(const void* host_address) const override {
    return runtime::device_pointer(host_address);
  }

  // Under guarded memory each page has two addresses, of which a mapping would replace one.
  bool can_share(const void* address) const override {
    const auto start = reinterpret_cast<uintptr_t>(address);
    const std::lock_guard lock(mutex_);
    auto arena = reserved_.upper_bound(start);
    if (arena == reserved_.begin()) return false;
    --arena;
    return start < arena->first + arena->second;
  }
  std::optional<SharedMemory> share(void* address, size_t bytes) override {
    if (!can_share(address)) return std::nullopt;
    return shared_.share(address, bytes);
  }
  void unshare(void* address, size_t bytes) override { shared_.unshare(address, bytes); }

  void load(Launch& launch) override { load_launch(launch); }
  void launch(const Launch& launch, const Arguments& arguments) override {
    run_launch(launch, arguments);
  }

 private:
  int device_count_;
  size_t capacity_;  // of each device
  std::optional<GuardedMemory> guarded_;
  mutable std::mutex mutex_;
  std::map<uintptr_t, size_t> reserved_;  // by address; without guarded memory's. Under mutex_
  SharedPages shared_;
};

}  // namespace

Driver& driver() {
  static auto* host = new HostDriver;  // outlives static destruction
  return *host;
}

}  // namespace accel::runtime
