// Segment: Nodes handed over together, in the form they are recorded.
//
// Recording writes a flat array of words that is at once the Nodes' description and the key under
// which the Segment's Plan is cached: opcodes, attributes, dtypes, sizes, strides and canonical
// Buffer numbers, but no address, offset or scalar value. Those stand beside it as arguments. A
// Segment whose words are known is never decoded again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "csrc/graph/opcode.h"
#include "csrc/runtime/block.h"
#include "csrc/runtime/generator.h"
#include "csrc/runtime/launch.h"
#include "kernels/common/dtype.h"

namespace accel::graph {

using kernels::DType;
using kernels::vector::Scalar;
using runtime::Block;
using runtime::HostCall;

// A View as csrc/aten hands it in: nothing here is owned, all of it is copied. Strides in elements,
// offset in bytes from the Block's address. An absent optional View has no block.
struct ViewSpec {
  Block* block = nullptr;
  DType dtype = DType::Float32;
  int dims = 0;
  const int64_t* sizes = nullptr;
  const int64_t* strides = nullptr;
  int64_t offset = 0;
};

// A (seed, offset) of a generator among scalars: where it begins, and what it was reserved from.
struct RandomScalars {
  uint32_t index;
  std::shared_ptr<runtime::RandomState> from;
};

// One op as csrc/aten hands it in. Attributes become part of the key, scalars do not.
struct NodeSpec {
  Opcode opcode;
  std::span<const ViewSpec> outputs;  // in-place operands are outputs and inputs
  std::span<const ViewSpec> inputs;
  std::span<const uint64_t> attributes = {};
  std::span<const Scalar> scalars = {};
  std::span<const RandomScalars> random = {};
  std::unique_ptr<HostCall> host_call = nullptr;  // Opcode::Host
};

class Segment {
 public:
  // stream: whose, as in Block::writer. capture: of what is kept back to be replayed, a number of
  // its own.
  explicit Segment(const void* stream = nullptr, uint64_t capture = 0);
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  // Appends a Node and returns a hash of its content that does not depend on where in the Segment
  // it stands.
  uint64_t append(NodeSpec& node);

  // Completes the key (for Buffers seen at several offsets, a word a View: see place_words()) and
  // takes the liveness mask. After this nothing is appended.
  void seal(bool assume_live);

  size_t nodes() const { return node_starts_.size(); }
  bool empty() const { return node_starts_.empty(); }
  size_t bytes() const { return bytes_; }  // of the Buffers that first appear here as outputs
  const std::vector<uint64_t>& words() const { return words_; }
  // Where the words that seal() appended begin.
  size_t place_words() const { return place_words_; }
  bool several_offsets(int buffer) const { return states_[buffer].several_views; }
  uint64_t hash() const { return hash_; }
  const std::vector<uint64_t>& liveness() const { return liveness_; }
  bool live(int buffer) const { return liveness_[buffer / 64] >> (buffer % 64) & 1; }

  // Whether the Block's content is made by this capture alone.
  bool is_made_here(size_t buffer) const {
    return capture_ != 0 && blocks_[buffer]->first_capture.load() == capture_;
  }
  size_t buffers() const { return blocks_.size(); }
  // Whether all of its content is written here before any of it is read.
  bool overwrites(size_t buffer) const { return states_[buffer].overwritten; }
  // The Buffers that had no content before it.
  const std::vector<int32_t>& fresh() const { return fresh_; }
  Block* block(size_t buffer) const { return blocks_[buffer]; }
  const std::vector<int64_t>& offsets() const { return offsets_; }
  const std::vector<int32_t>& view_buffers() const { return view_buffers_; }
  const std::vector<Scalar>& scalars() const { return scalars_; }
  // Those among them that each run of a capture draws anew.
  const std::vector<RandomScalars>& random_scalars() const { return random_scalars_; }
  const std::vector<std::unique_ptr<HostCall>>& host_calls() const { return host_calls_; }
  std::vector<std::unique_ptr<HostCall>>& host_calls() { return host_calls_; }
  // While somebody profiles: the op of the host that each Node comes from.
  const std::vector<int64_t>& operations() const { return operations_; }
  // Where each Node's words begin.
  const std::vector<uint32_t>& node_starts() const { return node_starts_; }

 private:
  int32_t number(const ViewSpec& view, bool written);
  // Notes what a Node overwrites, once its outputs are numbered and before its inputs are.
  void note_overwritten(const NodeSpec& node);

  void retain(Block& block) const;

  const void* const stream_;
  const uint64_t capture_;
  std::vector<uint64_t> words_;
  std::vector<uint32_t> node_starts_;
  std::vector<int64_t> offsets_;
  std::vector<int32_t> view_buffers_;
  std::vector<Scalar> scalars_;
  std::vector<RandomScalars> random_scalars_;
  std::vector<std::unique_ptr<HostCall>> host_calls_;
  std::vector<int64_t> operations_;
  std::vector<int32_t> fresh_;
  std::vector<Block*> blocks_;

  struct BufferState {
    int64_t first_offset;
    bool written = false;
    bool several_views = false;
    bool read = false;
    bool overwritten = false;
  };
  std::vector<BufferState> states_;

  // Block → number, open addressing; entries of older generations are empty.
  struct Entry {
    Block* block = nullptr;
    int32_t number = 0;
  };
  std::vector<Entry> table_;

  std::vector<uint64_t> liveness_;
  size_t bytes_ = 0;
  uint64_t hash_ = 0;
  size_t place_words_ = 0;
  bool sealed_ = false;
};

// Layout of the words. A Node: header (opcode, counts), its attributes, then its Views, outputs
// first. A View: header (buffer number + 1, dtype, dims, whether its sizes are those of the View
// before), sizes unless shared, strides.
struct NodeHeader {
  Opcode opcode;
  uint16_t outputs, inputs;
  uint8_t attributes, scalars;

  uint64_t pack() const {
    return static_cast<uint64_t>(opcode) | uint64_t{outputs} << 16 | uint64_t{inputs} << 32 |
           uint64_t{attributes} << 48 | uint64_t{scalars} << 56;
  }
  static NodeHeader unpack(uint64_t word) {
    return {static_cast<Opcode>(word & 0xffff), static_cast<uint16_t>(word >> 16),
            static_cast<uint16_t>(word >> 32), static_cast<uint8_t>(word >> 48),
            static_cast<uint8_t>(word >> 56)};
  }
};

struct ViewHeader {
  int32_t buffer;  // -1: absent
  DType dtype;
  uint8_t dims;
  bool same_sizes;

  uint64_t pack() const {
    return static_cast<uint32_t>(buffer + 1) | uint64_t{static_cast<uint8_t>(dtype)} << 32 |
           uint64_t{dims} << 40 | uint64_t{same_sizes} << 48;
  }
  static ViewHeader unpack(uint64_t word) {
    return {static_cast<int32_t>(word & 0xffffffff) - 1, static_cast<DType>((word >> 32) & 0xff),
            static_cast<uint8_t>(word >> 40), static_cast<bool>((word >> 48) & 1)};
  }
};

inline uint64_t mix(uint64_t hash, uint64_t word) {
  const auto product =
      static_cast<unsigned __int128>(hash ^ word ^ 0x9e3779b97f4a7c15ull) * 0xd6e8feb86659fd93ull;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace accel::graph
