#include "csrc/distributed/peer_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

namespace accel::distributed {

PeerMemory::~PeerMemory() { unmap_all(); }

void PeerMemory::unmap_all() {
  for (const auto& [key, address] : mapped_) munmap(address, static_cast<size_t>(key.bytes));
  mapped_.clear();
}

// A tensor that begins inside a page shares it with others, which may be written meanwhile; so may
// what follows its last whole page.
bool PeerMemory::begin(const char* data, int64_t bytes) {
  if (mapped_.size() >= kMapped) unmap_all();
  if (given_up_ || reinterpret_cast<uintptr_t>(data) % kPage != 0) return false;
  const runtime::Driver& driver = runtime::driver();
  if (!driver.can_share(driver.device_pointer(data))) return false;
  if (uses_.size() >= kRemembered) uses_.clear();
  Uses& uses = uses_[data];
  if (uses.bytes != bytes) uses = Uses{bytes};
  return ++uses.count >= uses.needed;
}

std::optional<runtime::SharedMemory> PeerMemory::share(const char* data, int64_t bytes) {
  runtime::Driver& driver = runtime::driver();
  const auto shared = driver.share(driver.device_pointer(data), static_cast<size_t>(bytes));
  if (!shared) return shared;
  Uses& uses = uses_[data];
  if (uses.offset >= 0 && uses.offset != shared->offset) {
    uses.count = 0;
    uses.needed *= 2;
  }
  uses.offset = shared->offset;
  return shared;
}

void PeerMemory::unshare(const char* data, int64_t bytes) {
  runtime::Driver& driver = runtime::driver();
  driver.unshare(driver.device_pointer(data), static_cast<size_t>(bytes));
}

char* PeerMemory::map(int place, const runtime::SharedMemory& memory, int64_t bytes) {
  const Key key{place, memory.offset, bytes};
  if (const auto found = mapped_.find(key); found != mapped_.end()) return found->second;
  const std::string path = "/proc/" + std::to_string(region_.process_at(place)) + "/fd/" +
                           std::to_string(memory.descriptor);
  const int descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (descriptor < 0) return nullptr;
  // A process that still lives has had this id all the time.
  void* address = region_.has_died(place)
                      ? MAP_FAILED
                      : mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_POPULATE, descriptor, memory.offset);
  close(descriptor);
  if (address == MAP_FAILED) return nullptr;
  madvise(address, static_cast<size_t>(bytes), MADV_DONTFORK);
  return mapped_[key] = static_cast<char*>(address);
}

}  // namespace accel::distributed
