// Iteration spaces as the traversals walk them: dimensions reordered and merged as far as operands
// and program allow, and the tiles of a stretch of one. Internal to kernels/vector.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/vector/interpreter.h"
#include "kernels/vector/prepare.h"

namespace accel::kernels::vector {

// Some consecutive dimensions of a space with all operands' strides on them. Elements are numbered
// in row-major order.
struct Dims {
  int count = 0;
  int operands = 0;
  int64_t sizes[kMaxDims];
  int64_t strides[kMaxDims][kMaxOperands];  // bytes

  int64_t elements() const {
    int64_t product = 1;
    for (int d = 0; d < count; ++d) product *= sizes[d];
    return product;
  }
  int64_t last_size() const { return count > 0 ? sizes[count - 1] : 1; }
  int64_t last_stride(int operand) const { return count > 0 ? strides[count - 1][operand] : 0; }
};

enum class LastDim { Merges, Stays };

// Dimensions [begin, end) of the space without those of size 1, neighbours merged where every
// operand steps through both as through one. LastDim::Stays keeps the last one as it is, size 1
// included, for programs that ask for the index along it.
inline Dims make_dims(const Space& space, const Operand* operands, int count, int begin, int end,
                      LastDim last) {
  Dims dims;
  dims.operands = count;
  for (int d = begin; d < end; ++d) {
    const bool stays = last == LastDim::Stays && d == end - 1;
    if (space.sizes[d] == 1 && !stays) continue;
    bool merges = dims.count > 0 && !stays;
    for (int o = 0; o < count && merges; ++o) {
      merges = dims.strides[dims.count - 1][o] == operands[o].strides[d] * space.sizes[d];
    }
    const int to = merges ? dims.count - 1 : dims.count++;
    dims.sizes[to] = merges ? dims.sizes[to] * space.sizes[d] : space.sizes[d];
    for (int o = 0; o < count; ++o) dims.strides[to][o] = operands[o].strides[d];
  }
  return dims;
}

// A tile of Dims: `rows` runs of `columns` elements along the last dimension, one step of the
// second last dimension apart.
struct Piece {
  int rows = 0, columns = 0;
  int64_t first = 0;   // number of its first element
  int64_t column = 0;  // index of that along the last dimension
  int64_t index[kMaxDims];
};

// The multi-index of an element.
inline void unravel(const Dims& dims, int64_t element, int64_t* index) {
  for (int d = dims.count - 1; d >= 0; --d) {
    index[d] = element % dims.sizes[d];
    element /= dims.sizes[d];
  }
}

// Cuts elements [begin, end) of dims into pieces, in order. Calls visit(piece).
template <class Visit>
void for_each_piece(const Dims& dims, int64_t begin, int64_t end, Visit&& visit) {
  if (begin >= end) return;
  Piece piece;
  const int last = dims.count - 1;
  if (last < 0) {
    piece.rows = piece.columns = 1;
    visit(piece);
    return;
  }
  unravel(dims, begin, piece.index);
  const int64_t inner = dims.sizes[last];
  while (begin < end) {
    int64_t* index = piece.index;
    const int64_t left = end - begin;
    piece.first = begin;
    piece.column = index[last];
    if (last > 0 && index[last] == 0 && inner <= kTileElements / 2 && left >= 2 * inner) {
      const int64_t rows =
          std::min({kTileElements / inner, left / inner, dims.sizes[last - 1] - index[last - 1]});
      piece.rows = static_cast<int>(rows);
      piece.columns = static_cast<int>(inner);
    } else {
      int64_t columns = std::min(inner - index[last], left);
      // A run a little longer than a tile is halved: two tiles of 129 rather than 256 and 1.
      if (columns > kTileElements) {
        columns = columns < 2 * kTileElements
                      ? (columns / 2 + kTilePadding - 1) / kTilePadding * kTilePadding
                      : kTileElements;
      }
      piece.rows = 1;
      piece.columns = static_cast<int>(columns);
    }
    visit(static_cast<const Piece&>(piece));
    begin += static_cast<int64_t>(piece.rows) * piece.columns;
    // The next multi-index: whole rows carry from the second last dimension on.
    int d = last;
    index[last] += piece.columns;
    if (index[last] == inner) {
      index[last] = 0;
      d = last - 1;
      if (d >= 0) index[d] += piece.rows;
    }
    for (; d > 0 && index[d] == dims.sizes[d]; --d) {
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

// The address of the element at a multi-index, for each operand.
inline void locate(const Dims& dims, const int64_t* index, char* const* base, char** address) {
  for (int o = 0; o < dims.operands; ++o) address[o] = base[o];
  for (int d = 0; d < dims.count; ++d) {
    if (index[d] == 0) continue;
    for (int o = 0; o < dims.operands; ++o) address[o] += index[d] * dims.strides[d][o];
  }
}

// The reduction behind each slot: the one that the code makes into it.
inline void find_reductions(const Program& program, Op* reductions) {
  for (size_t s = 0; s < program.slots.size(); ++s) {
    reductions[s] = program.slots[s] == Lane::Bool ? Op::ReduceAny : Op::ReduceSum;
  }
  for (const Instruction& instruction : program.code) {
    if (is_reduction(instruction.op)) reductions[instruction.index] = instruction.op;
  }
}

inline bool uses_column_index(const Program& program, int begin, int end) {
  for (int i = begin; i < end; ++i) {
    if (program.code[i].op == Op::ColumnIndex) return true;
  }
  return false;
}

// Whether the last dimension of the phases over `over` may be merged into others.
inline LastDim last_dim(const Program& program, Over over) {
  for (const Phase& phase : program.phases) {
    if (phase.over == over && uses_column_index(program, phase.begin, phase.end)) {
      return LastDim::Stays;
    }
  }
  return LastDim::Merges;
}

// The memory a thread interprets in: 67 kB of registers, of which a program touches what it uses.
struct Workspace {
  alignas(64) char registers[kMaxRegisters * kRegisterBytes];
  TileOperand operands[kMaxOperands];
  Frame frame;

  Workspace(const Program& program, const Prepared& prepared, const Scalar* scalars) {
    frame.engine = prepared.engine;
    frame.dtypes = program.operands.data();
    frame.operands = operands;
    frame.scalars = scalars;
    frame.set_registers(registers);
    frame.set_shape(1, kTileElements);
    run_steps(prepared.prologue.data(), prepared.prologue.data() + prepared.prologue.size());
  }

  void run_steps(const Step* begin, const Step* end) { frame.engine->execute(begin, end, frame); }

  // Runs steps on the elements [first, last) of dims, piece by piece; all belong to one kept index.
  // The frame's linear_index counts from linear_base.
  void run_elements(const Step* begin, const Step* end, const Dims& dims, char* const* base,
                    int64_t first, int64_t last, int64_t linear_base) {
    for (int o = 0; o < dims.operands; ++o) {
      operands[o].column_stride = dims.last_stride(o);
      operands[o].row_stride = dims.count > 1 ? dims.strides[dims.count - 2][o] : 0;
    }
    if (dims.count == 1) return run_line(begin, end, dims, base, first, last, linear_base);
    for_each_piece(dims, first, last, [&](const Piece& piece) {
      char* address[kMaxOperands];
      locate(dims, piece.index, base, address);
      for (int o = 0; o < dims.operands; ++o) operands[o].data = address[o];
      frame.set_shape(piece.rows, piece.columns);
      frame.linear_index = linear_base + piece.first;
      frame.linear_stride = piece.columns;
      frame.column_index = piece.column;
      frame.row_length = frame.count;
      run_steps(begin, end);
    });
  }

 private:
  static constexpr int64_t kLongTile = 32768;

  // Whether the steps reduce what lies in memory as it is, and that alone. No register is written
  // or read then, so a tile may have any number of elements that leaves no padding.
  bool only_reduces(const Step* begin, const Step* end, const int64_t* strides) const {
    uint32_t in_memory = 0;  // a bit for each register that a Load of these steps leaves there
    for (const Step* step = begin; step != end; ++step) {
      const Instruction& instruction = step->instruction;
      if (is_reduction(instruction.op)) {
        if ((in_memory >> instruction.a & 1) == 0) return false;
      } else if (instruction.op == Op::Load && instruction.lane == Lane::F32 &&
                 frame.dtypes[instruction.index] == DType::Float32 &&
                 strides[instruction.index] == sizeof(float)) {
        in_memory |= 1u << instruction.dst;
      } else {
        return false;
      }
    }
    return true;
  }

  // The same for a single dimension, where the next tile is one step away.
  void run_line(const Step* begin, const Step* end, const Dims& dims, char* const* base,
                int64_t first, int64_t last, int64_t linear_base) {
    const int64_t* strides = dims.strides[0];
    for (int o = 0; o < dims.operands; ++o) operands[o].data = base[o] + first * strides[o];
    const bool is_long = last - first > kTileElements && only_reduces(begin, end, strides);
    frame.linear_stride = kTileElements;
    while (first < last) {
      const int64_t left = last - first;
      int64_t tile = std::min<int64_t>(kTileElements, left);
      if (is_long && left > kTileElements) {
        tile = std::min(kLongTile, left / kTilePadding * kTilePadding);
      }
      frame.set_shape(1, static_cast<int>(tile));
      frame.row_length = frame.count;
      frame.linear_index = linear_base + first;
      frame.column_index = first;
      run_steps(begin, end);
      for (int o = 0; o < dims.operands; ++o) operands[o].data += strides[o] * tile;
      first += tile;
    }
  }
};

}  // namespace accel::kernels::vector
