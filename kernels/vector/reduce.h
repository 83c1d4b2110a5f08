// The order of sums, products, minima and maxima in vector programs, and the accumulators that
// implement it. Included by the interpreter and by run()'s traversals only.
//
// The order is a function of the space's sizes. It depends neither on strides, tiles, threads or
// the instruction set, nor on whether a value was loaded or computed:
//
// RowReduce. The R reduced elements of a row, flattened in row-major order, are cut into chunks of
// kChunkElements = 4096 (the last one shorter). Within a chunk, element j is added to lane
// j % kReduceLanes (64 lanes, each starting from the identity); then lane i takes lane i + 32,
// lane i + 16, ..., lane i + 1 by halves. So no float sees more than 64 + 6 additions. The chunks'
// results are added in order: in double where the lane is F32, so that the error does not grow with
// the number of chunks.
//
// ColumnReduce. The reduced rows, flattened in row-major order, are cut into blocks of
// kBlockRows = 64. Within a block a column's values are added in order, from the identity; the
// blocks' results are added in order within each group of block_group(columns) blocks, in
// double where the lane is F32; then the groups' results are added in order, in the same type.
//
// A reduction over nothing is the identity: 0, 1, +infinity (Min), -infinity (Max), false (Any),
// true (All); for integers the largest and the smallest int64 serve as infinities.
#pragma once

#include <cstdint>

#include "kernels/vector/program.h"

namespace accel::kernels::vector {

inline constexpr int kReduceLanes = 64;
inline constexpr int64_t kChunkElements = 4096;
inline constexpr int kBlockRows = 64;

// How many blocks of rows one task of a ColumnReduce takes: about 32 Ki elements.
constexpr int64_t block_group(int64_t columns) {
  const int64_t blocks = 32768 / kBlockRows / (columns > 0 ? columns : 1);
  return blocks > 1 ? blocks : 1;
}

constexpr bool is_reduction(Op op) { return op >= Op::ReduceSum && op <= Op::ReduceAll; }

// What an accumulator holds per element beyond the lane: double for F32 and F64, int64 otherwise.
union Total {
  double d;
  int64_t i;
};

// A row on its way through a RowReduce phase. Lanes have the slot's type: at most 8 bytes.
struct RowState {
  alignas(64) char lanes[kReduceLanes * 8];
  int64_t position;  // elements taken so far, counted from a multiple of kChunkElements
  Total total;
  Total* partials;  // where finished chunks go one by one; null: into total
};

// kTileElements columns on their way through a ColumnReduce phase.
struct ColumnState {
  alignas(64) char lanes[kTileElements * 8 + 64];  // of the block at work
  Total totals[kTileElements];
  int rows;  // rows in `lanes`
};

}  // namespace accel::kernels::vector
