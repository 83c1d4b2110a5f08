#include "csrc/graph/segment.h"

#include <algorithm>
#include <cstring>

#include "csrc/runtime/trace.h"

namespace accel::graph {

namespace {

constexpr size_t kInitialTable = 256;

size_t slot_of(const Block* block, size_t mask) {
  // Blocks are separate heap objects; the low bits of their addresses carry nothing.
  return (reinterpret_cast<uintptr_t>(block) >> 6) * 0x9e3779b97f4a7c15ull >> 32 & mask;
}

}  // namespace

Segment::Segment(const void* stream, uint64_t capture)
    : stream_(stream), capture_(capture), table_(kInitialTable) {
  words_.reserve(2048);
  offsets_.reserve(256);
  view_buffers_.reserve(256);
  node_starts_.reserve(128);
  blocks_.reserve(128);
  states_.reserve(128);
}

Segment::~Segment() {
  for (Block* block : blocks_) block->drop();
}

void Segment::retain(Block& block) const {
  // What is captured never runs with the Blocks that it was captured with.
  block.retain_for(capture_ == 0 ? stream_ : block.writer.load(std::memory_order_relaxed));
}

int32_t Segment::number(const ViewSpec& view, bool written) {
  Block* block = view.block;
  const size_t mask = table_.size() - 1;
  size_t slot = slot_of(block, mask);
  while (table_[slot].block && table_[slot].block != block) slot = (slot + 1) & mask;
  if (!table_[slot].block) {
    const auto number = static_cast<int32_t>(blocks_.size());
    table_[slot] = {block, number};
    retain(*block);
    blocks_.push_back(block);
    states_.push_back({view.offset, written});
    states_.back().read = !written;
    if (written && !block->writer.load(std::memory_order_relaxed)) {
      // What has a writer already was charged to an earlier Segment.
      bytes_ += block->size;
      if (!block->has_content()) fresh_.push_back(number);
      if (capture_ != 0 && !block->filled_by_host && block->first_capture == 0) {
        block->first_capture = capture_;
      }
    }
    if (blocks_.size() * 2 > table_.size()) {
      std::vector<Entry> larger(table_.size() * 2);
      for (const Entry& entry : table_) {
        if (!entry.block) continue;
        size_t at = slot_of(entry.block, larger.size() - 1);
        while (larger[at].block) at = (at + 1) & (larger.size() - 1);
        larger[at] = entry;
      }
      table_.swap(larger);
    }
    return number;
  }
  const int32_t number = table_[slot].number;
  BufferState& state = states_[number];
  state.written |= written;
  state.read |= !written;
  state.several_views |= view.offset != state.first_offset;
  return number;
}

uint64_t Segment::append(NodeSpec& node) {
  if (runtime::is_tracing()) [[unlikely]] {
    operations_.resize(node_starts_.size());  // those of before the profiler are unknown
    operations_.push_back(runtime::traced_operation());
  }
  node_starts_.push_back(static_cast<uint32_t>(words_.size()));
  const NodeHeader header{node.opcode, static_cast<uint16_t>(node.outputs.size()),
                          static_cast<uint16_t>(node.inputs.size()),
                          static_cast<uint8_t>(node.attributes.size()),
                          static_cast<uint8_t>(node.scalars.size())};
  uint64_t content = header.pack();
  uint64_t key = content;
  words_.push_back(content);
  for (uint64_t attribute : node.attributes) {
    words_.push_back(attribute);
    content = mix(content, attribute);
  }
  const int64_t* previous_sizes = nullptr;
  int previous_dims = -1;
  auto append_view = [&](const ViewSpec& view, bool written) {
    ViewHeader head{-1, view.dtype, static_cast<uint8_t>(view.dims), false};
    if (!view.block) {
      head.dims = 0;
      words_.push_back(head.pack());
      content = mix(content, head.pack());
      offsets_.push_back(0);
      view_buffers_.push_back(-1);
      return;
    }
    head.same_sizes = view.dims == previous_dims &&
                      std::equal(view.sizes, view.sizes + view.dims, previous_sizes);
    content = mix(content, head.pack());
    head.buffer = number(view, written);
    words_.push_back(head.pack());
    key = mix(key, static_cast<uint64_t>(head.buffer));
    offsets_.push_back(view.offset);
    view_buffers_.push_back(head.buffer);
    if (!head.same_sizes) {
      for (int i = 0; i < view.dims; ++i) {
        words_.push_back(static_cast<uint64_t>(view.sizes[i]));
        content = mix(content, static_cast<uint64_t>(view.sizes[i]));
      }
    }
    for (int i = 0; i < view.dims; ++i) {
      words_.push_back(static_cast<uint64_t>(view.strides[i]));
      content = mix(content, static_cast<uint64_t>(view.strides[i]));
    }
    previous_sizes = view.sizes;
    previous_dims = view.dims;
  };
  for (const ViewSpec& view : node.outputs) append_view(view, true);
  note_overwritten(node);
  for (const ViewSpec& view : node.inputs) append_view(view, false);
  if (capture_ != 0) {
    for (const RandomScalars& random : node.random) {
      if (!random.from) continue;  // nothing is drawn: dropout of zero
      random_scalars_.push_back(
          {static_cast<uint32_t>(scalars_.size()) + random.index, random.from});
    }
  }
  scalars_.insert(scalars_.end(), node.scalars.begin(), node.scalars.end());
  if (node.host_call) host_calls_.push_back(std::move(node.host_call));
  hash_ = mix(mix(hash_, content), key);
  return content;
}

void Segment::note_overwritten(const NodeSpec& node) {
  const size_t first = view_buffers_.size() - node.outputs.size();
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    const ViewSpec& view = node.outputs[i];
    if (!view.block || states_[view_buffers_[first + i]].read) continue;
    auto bytes = static_cast<int64_t>(kernels::size_of(view.dtype));
    for (int d = 0; d < view.dims; ++d) bytes *= view.sizes[d];
    const bool is_read = std::any_of(node.inputs.begin(), node.inputs.end(),
                                     [&](const ViewSpec& in) { return in.block == view.block; });
    if (!is_read && bytes >= static_cast<int64_t>(view.block->requested)) {
      states_[view_buffers_[first + i]].overwritten = true;
    }
  }
}

void Segment::seal(bool assume_live) {
  if (sealed_) return;
  sealed_ = true;
  place_words_ = words_.size();
  // Where a Buffer is seen at several offsets, it matters which Views are at the same one; where it
  // is written too, which of them overlap: then the distances become part of the key.
  std::vector<std::vector<int64_t>> offsets_seen(blocks_.size());
  for (size_t view = 0; view < offsets_.size(); ++view) {
    const int32_t buffer = view_buffers_[view];
    if (buffer < 0 || !states_[buffer].several_views) continue;
    uint64_t word;
    if (states_[buffer].written) {
      word = static_cast<uint64_t>(offsets_[view] - states_[buffer].first_offset);
    } else {
      auto& seen = offsets_seen[buffer];
      auto found = std::find(seen.begin(), seen.end(), offsets_[view]);
      word = static_cast<uint64_t>(found - seen.begin());
      if (found == seen.end()) seen.push_back(offsets_[view]);
    }
    words_.push_back(word);
    hash_ = mix(hash_, word);
  }
  liveness_.assign((blocks_.size() + 63) / 64, 0);
  for (size_t buffer = 0; buffer < blocks_.size(); ++buffer) {
    if (assume_live || blocks_[buffer]->user_alive.load(std::memory_order_acquire)) {
      liveness_[buffer / 64] |= uint64_t{1} << (buffer % 64);
    }
  }
}

}  // namespace accel::graph
