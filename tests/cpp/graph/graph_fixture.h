// Segments built by hand: Blocks, Views and Nodes without ATen.
#pragma once

#include <array>
#include <deque>
#include <initializer_list>
#include <vector>

#include "csrc/graph/graph.h"
#include "csrc/graph/passes.h"
#include "csrc/graph/plan.h"
#include "csrc/graph/segment.h"

namespace accel::graph::testing {

using Sizes = std::vector<int64_t>;

// A dense fp32 tensor, or a view of one; its Block is a plain object, never allocated memory.
struct Tensor {
  Block* block;
  Sizes sizes, strides;
  int64_t offset = 0;
  DType dtype = DType::Float32;

  Tensor view(Sizes new_sizes, Sizes new_strides, int64_t elements = 0) const {
    return {block, std::move(new_sizes), std::move(new_strides),
            offset + elements * kernels::size_of(dtype), dtype};
  }
  Tensor expand(const Sizes& to) const {
    Sizes wide(to.size(), 0);
    const size_t missing = to.size() - sizes.size();
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (sizes[i] == to[missing + i]) wide[missing + i] = strides[i];
    }
    return {block, to, wide, offset, dtype};
  }
  ViewSpec spec() const {
    return {block, dtype, static_cast<int>(sizes.size()), sizes.data(), strides.data(), offset};
  }
};

class Program {
 public:
  Tensor tensor(Sizes sizes, DType dtype = DType::Float32) {
    // Two references: one is the user's, one keeps the fake Block from being given back.
    Block& block = blocks_.emplace_back();
    block.retain();
    int64_t stride = kernels::size_of(dtype);
    for (int64_t size : sizes) stride *= size;
    block.size = static_cast<size_t>(stride);
    Sizes strides(sizes.size(), 1);
    for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * sizes[i];
    return {&block, std::move(sizes), std::move(strides), 0, dtype};
  }

  // The user drops the tensor.
  static void drop(const Tensor& tensor) { tensor.block->user_alive = false; }

  uint64_t add(Opcode opcode, const std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs,
               std::vector<uint64_t> attributes = {6}, std::vector<Scalar> scalars = {}) {
    std::vector<ViewSpec> out, in;
    for (const Tensor& tensor : outputs) out.push_back(tensor.spec());
    for (const Tensor& tensor : inputs) in.push_back(tensor.spec());
    NodeSpec node{opcode, out, in, attributes, scalars};
    return segment_.append(node);
  }

  Tensor unary(Opcode opcode, const Tensor& x) {
    Tensor y = tensor(x.sizes, x.dtype);
    add(opcode, {y}, {x});
    return y;
  }
  Tensor binary(Opcode opcode, const Tensor& a, const Tensor& b) {
    Tensor y = tensor(a.sizes, a.dtype);
    add(opcode, {y}, {a, b.expand(a.sizes)},
        opcode == Opcode::Add ? std::vector<uint64_t>{6, 1} : std::vector<uint64_t>{6});
    return y;
  }

  Segment& seal(bool assume_live = false) {
    segment_.seal(assume_live);
    return segment_;
  }
  Graph graph() { return Graph::from(seal()); }
  Plan plan() { return make_plan(graph()); }

 private:
  std::deque<Block> blocks_;
  Segment segment_;
};

}  // namespace accel::graph::testing
