// Device memory of the other ranks of a host, mapped into this process, so that an all_reduce can
// read and write their tensors where they lie. Called by SharedTransport, by one thread at a time.
//
// Sharing memory moves it once (Driver::share), which costs about as much as reducing it. So a
// tensor is shared when it has been reduced several times at the same address, as the buckets of
// DistributedDataParallel are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>

#include "csrc/distributed/shared_region.h"
#include "csrc/runtime/driver.h"

namespace accel::distributed {

class PeerMemory {
 public:
  static constexpr int64_t kPage = runtime::SharedMemory::kPage;

  explicit PeerMemory(const SharedRegion& region) : region_(region) {}
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  // A collective begins. Whether its tensor is worth sharing, and can be.
  bool begin(const char* data, int64_t bytes);
  // The driver's share() and unshare(), of memory as host code finds it. What has to move again,
  // because tensors that overlap it were shared meanwhile, is worth it after twice as many uses.
  std::optional<runtime::SharedMemory> share(const char* data, int64_t bytes);
  static void unshare(const char* data, int64_t bytes);
  // Where that memory of another rank is in this process, until the next begin(); null where it
  // cannot be mapped.
  char* map(int place, const runtime::SharedMemory& memory, int64_t bytes);
  // It cannot be done in this group: nothing is worth it from now on.
  void give_up() { given_up_ = true; }

 private:
  // Of more than so many, all are forgotten: what is used again comes back.
  static constexpr size_t kRemembered = 1024, kMapped = 256;

  struct Uses {
    int64_t bytes = 0;
    int64_t count = 0, needed = 3;  // the tensor is shared with the third use
    int64_t offset = -1;            // where it was shared last
  };
  struct Key {
    int place;
    int64_t offset, bytes;
    auto operator<=>(const Key&) const = default;
  };

  void unmap_all();

  const SharedRegion& region_;
  bool given_up_ = false;
  std::unordered_map<const char*, Uses> uses_;
  std::map<Key, char*> mapped_;
};

}  // namespace accel::distributed
