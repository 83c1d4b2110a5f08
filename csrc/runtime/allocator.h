// Device memory as csrc/graph, csrc/aten and torch.accel see it: Blocks, statistics, snapshots.
// The c10::DeviceAllocator that PyTorch calls is registered in allocator.cpp.
#pragma once

#include <utility>
#include <vector>

#include <c10/core/CachingDeviceAllocator.h>

#include "csrc/runtime/block.h"

namespace accel::runtime {

// What allocate_block() may do when the memory is full: Blocks in flight come back when the streams
// are waited for. A caller that holds a recorder's lock cannot hand over.
enum class WhenFull { HandOverAndWait, WaitForSubmitted };

// A Block with one reference, which the caller owns (drop() gives it back), or null for zero bytes.
// Raises c10::OutOfMemoryError where nothing helps.
Block* allocate_block(size_t bytes, int device, WhenFull when_full = WhenFull::HandOverAndWait);

// Cuts a Block that is dead to the user, while someone holds it: it keeps the bytes below `at`
// (which may be 0), the rest becomes a Block with one reference, dead to the user as well. at: in
// pages below the Block's size.
Block* split_block(Block* block, size_t at);
// Makes what split_block() returned a Block of `bytes` as allocate_block() would.
void give_to_user(Block* block, size_t bytes);

// The DataPtr of a Block: takes over the caller's reference as the user's. Null stands for zero
// bytes.
c10::DataPtr to_data_ptr(Block* block, int device);

// The Block in use behind an address of any device or of pinned memory: for tensors that came
// through DLPack. Walks the arena, so it is not for every op.
BlockReference find_block(const void* address);
// The device whose memory holds the address, or kHost where none does.
int device_of(const void* address);

// The figures of torch.cuda.memory_stats. "allocated" is what the user holds and falls the moment a
// tensor dies; "active" adds what queued work still holds; "reserved" is the arenas.
c10::CachingDeviceAllocator::DeviceStats memory_stats(int device);
void reset_accumulated_memory_stats(int device);
void reset_peak_memory_stats(int device);
std::vector<c10::CachingDeviceAllocator::SegmentInfo> memory_snapshot();
// Free and total bytes, as torch.cuda.mem_get_info.
std::pair<size_t, size_t> memory_info(int device);
// Bounds the arenas to a fraction in (0, 1] of the device's memory.
void set_memory_fraction(int device, double fraction);
// Gives the arenas that hold no Block in use back to the system, on every device.
void empty_cache();

}  // namespace accel::runtime
