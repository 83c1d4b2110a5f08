// Pinned host memory: Blocks whose memory both the host and the device's queued work may use.
// csrc/aten holds them as it holds device Blocks, so a tensor that dies before its copy has run
// keeps its memory until then.
#pragma once

#include "csrc/runtime/caching_allocator.h"

namespace accel::runtime {

// The memory behind pin_memory(). Its Blocks have device kHost.
CachingAllocator& pinned_memory();
bool is_pinned(const void* address);

}  // namespace accel::runtime
