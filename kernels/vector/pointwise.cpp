// Traversal of Pointwise programs: every element once, in an order that suits the strides. Called
// by run() only; the order never shows in the results.
#include <algorithm>
#include <cstdlib>

#include "kernels/common/parallel.h"
#include "kernels/vector/space.h"

namespace accel::kernels::vector {

namespace {

// Elements a task takes: at 5-100 ns a tile about 0.6-13 µs of the work of one thread.
constexpr int64_t kTaskElements = 32768;
// Tiles of transposed operands are 16 × 16 where sizes allow: whole cache lines on both sides.
constexpr int kBlockSide = 16;

bool depends_on_position(const Program& program) {
  return std::any_of(program.code.begin(), program.code.end(), [](const Instruction& i) {
    return (i.op >= Op::LinearIndex && i.op <= Op::DiagonalIndex) || i.op == Op::Uniform ||
           i.op == Op::RandomBits;
  });
}

// The operand whose layout the traversal follows: the first one stored.
int leading_operand(const Program& program) {
  for (const Instruction& instruction : program.code) {
    if (instruction.op == Op::Store) return instruction.index;
  }
  return -1;
}

// Reorders dimensions so that the leading operand's strides fall from the first to the last.
void follow_layout(Space& space, Operand* operands, int count, int leader) {
  const auto longer = [&](int d, int e) {
    return std::abs(operands[leader].strides[d]) > std::abs(operands[leader].strides[e]);
  };
  for (int d = 1; d < space.dims; ++d) {
    for (int e = d; e > 0 && longer(e, e - 1); --e) {
      std::swap(space.sizes[e], space.sizes[e - 1]);
      for (int o = 0; o < count; ++o) {
        std::swap(operands[o].strides[e], operands[o].strides[e - 1]);
      }
    }
  }
}

// The dimension that an operand which is neither contiguous nor broadcast along the last one steps
// through most closely; -1 where there is none.
int crossing_dim(const Program& program, const Dims& dims) {
  const int last = dims.count - 1;
  for (int o = 0; o < dims.operands; ++o) {
    const int64_t column = std::abs(dims.last_stride(o));
    if (column <= size_of(program.operands[o])) continue;
    int closest = last;
    for (int d = 0; d < last; ++d) {
      const int64_t stride = std::abs(dims.strides[d][o]);
      if (stride != 0 && stride < std::abs(dims.strides[closest][o])) closest = d;
    }
    if (closest != last && dims.sizes[closest] > 1) return closest;
  }
  return -1;
}

// Square tiles over the last dimension and `cross`, all other dimensions outside.
void run_blocks(const Program& program, const Prepared& prepared, const Dims& dims,
                char* const* base, const Scalar* scalars, int cross) {
  const int last = dims.count - 1;
  int64_t sides[kMaxDims];
  std::fill_n(sides, dims.count, 1);
  sides[last] = std::min<int64_t>(kBlockSide, dims.sizes[last]);
  sides[cross] = std::min(kTileElements / sides[last], dims.sizes[cross]);
  sides[last] = std::min(kTileElements / sides[cross], dims.sizes[last]);
  int64_t blocks[kMaxDims];       // along each dimension
  int64_t linear_step[kMaxDims];  // of the row-major index
  int64_t all_blocks = 1, step = 1;
  for (int d = last; d >= 0; --d) {
    blocks[d] = (dims.sizes[d] + sides[d] - 1) / sides[d];
    all_blocks *= blocks[d];
    linear_step[d] = step;
    step *= dims.sizes[d];
  }
  constexpr int64_t kTaskBlocks = kTaskElements / (kBlockSide * kBlockSide);
  parallel_for((all_blocks + kTaskBlocks - 1) / kTaskBlocks, [&](int64_t task) {
    Workspace work(program, prepared, scalars);
    for (int o = 0; o < dims.operands; ++o) {
      work.operands[o].row_stride = dims.strides[cross][o];
      work.operands[o].column_stride = dims.last_stride(o);
    }
    const int64_t end = std::min(all_blocks, (task + 1) * kTaskBlocks);
    for (int64_t block = task * kTaskBlocks; block < end; ++block) {
      int64_t index[kMaxDims], rest = block, linear = 0;
      for (int d = last; d >= 0; --d) {
        index[d] = rest % blocks[d] * sides[d];
        rest /= blocks[d];
        linear += index[d] * linear_step[d];
      }
      char* address[kMaxOperands];
      locate(dims, index, base, address);
      for (int o = 0; o < dims.operands; ++o) work.operands[o].data = address[o];
      const auto side = [&](int d) {
        return static_cast<int>(std::min(sides[d], dims.sizes[d] - index[d]));
      };
      work.frame.set_shape(side(cross), side(last));
      work.frame.linear_index = linear;
      work.frame.linear_stride = linear_step[cross];
      work.frame.column_index = index[last];
      work.run_steps(prepared.begin(0), prepared.end(0));
    }
  });
}

}  // namespace

void run_pointwise(const Program& program, const Prepared& prepared, const Space& space,
                   const Operand* operands, const Scalar* scalars) {
  const int count = static_cast<int>(program.operands.size());
  Space ordered = space;
  Operand moved[kMaxOperands];
  std::copy_n(operands, count, moved);
  const int leader = leading_operand(program);
  if (leader >= 0 && !depends_on_position(program)) {
    follow_layout(ordered, moved, count, leader);
  }
  const Dims dims = make_dims(ordered, moved, count, 0, ordered.dims,
                              uses_column_index(program, 0, static_cast<int>(program.code.size()))
                                  ? LastDim::Stays
                                  : LastDim::Merges);
  char* base[kMaxOperands];
  for (int o = 0; o < count; ++o) base[o] = operands[o].data;

  const int64_t elements = dims.elements();
  const int cross = crossing_dim(program, dims);
  if (cross >= 0 && elements > 0) {
    return run_blocks(program, prepared, dims, base, scalars, cross);
  }
  parallel_for((elements + kTaskElements - 1) / kTaskElements, [&](int64_t task) {
    Workspace work(program, prepared, scalars);
    work.run_elements(prepared.begin(0), prepared.end(0), dims, base, task * kTaskElements,
                      std::min(elements, (task + 1) * kTaskElements), 0);
  });
}

}  // namespace accel::kernels::vector
