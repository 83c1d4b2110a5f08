// All that a new piece of silicon implements. Floors above ask the driver, never the CPU.
// The shipped driver is `host` (host_driver.cpp); driver() returns the one in use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace accel::runtime {

struct Launch;     // one kernel call of a Plan, see launch.h
struct Arguments;  // its addresses and scalars, see launch.h

struct DeviceProperties {
  std::string name;
  std::string isa;  // what the kernels use: portable, avx2, avx512, avx512_bf16, amx
  std::vector<std::string> supported_isas;  // what they could use
  size_t total_memory = 0;                  // bytes, the capacity of the allocator
  int cores = 0;                            // width of a full team
};

// Where other processes of this host find device memory: an open file of this process, which they
// map from an offset on.
struct SharedMemory {
  static constexpr size_t kPage = 4096;  // what is shared consists of
  int descriptor = -1;
  int64_t offset = 0;
};

class Driver {
 public:
  virtual ~Driver() = default;

  virtual int device_count() const = 0;
  virtual DeviceProperties properties(int device) const = 0;

  // Memory. reserve() returns `bytes` of device address space, aligned to 2 MiB, that becomes real
  // memory when touched, or null where the system has no more. release() gives it back.
  virtual void* reserve(int device, size_t bytes) = 0;
  virtual void release(int device, void* address, size_t bytes) = 0;

  // Whether kernels' memory can be read by host code once the stream is synchronised, and where:
  // host_pointer() maps a device address to the address that host code may use (under
  // ACCEL_MEMORY=guarded the two differ, and the device address is inaccessible).
  virtual bool host_addressable() const = 0;
  virtual void* host_pointer(const void* address) const = 0;
  // The inverse, for memory that host code names.
  virtual void* device_pointer(const void* host_address) const = 0;

  // Whether an address lies in reserved memory whose pages other processes can map; makes whole
  // pages such, without a change to contents or addresses, while nobody else writes to them; and
  // takes that back: what others write afterwards is lost. The collectives of one host ask for it
  // and do without where there is none.
  virtual bool can_share(const void* address) const = 0;
  virtual std::optional<SharedMemory> share(void* address, size_t bytes) = 0;
  virtual void unshare(void* address, size_t bytes) = 0;

  // Called once for each Launch of a new Plan, on any thread: what can be found before addresses
  // and scalars are known is found here, and what a device needs of the code is brought to it.
  virtual void load(Launch& launch) = 0;
  // Runs one Launch on the calling thread, which is the worker of a stream; returns when done.
  virtual void launch(const Launch& launch, const Arguments& arguments) = 0;
};

Driver& driver();

}  // namespace accel::runtime
