// Products of packed panels: how a product is cut into blocks and tiles, and the run over them.
// Called by matmul.cpp for products with more than one row and column.
#pragma once

#include <cstdint>

#include "kernels/matmul/operands.h"

namespace accel::kernels {

// How a product is cut. What is summed in which order follows from k_block, and that from k and the
// engine alone; all other sizes only move work about.
struct Blocking {
  const Engine* engine;
  int parts = 1;
  int64_t k_block;   // k of one multiply(), the same for each but the last
  int64_t k_shared;  // k packed at a time, a multiple of k_block
  int64_t row_panels, column_panels;
  int64_t tile_row_panels, tile_column_panels;  // of a tile
  int64_t row_tiles, column_tiles;
  bool share_a, share_b;  // packed once for the team, because several tiles need it
  int64_t shared_row_tiles, shared_column_tiles;  // packed at a time
};

// `parts` of each value are packed (see Part); `width` threads will work on the product.
Blocking choose_blocking(const Matmul& args, const Engine& engine, int parts, int width);

// Computes one matrix product of the batch.
void blocked_product(const Matmul& args, const Blocking& blocking, int64_t batch, Team team);

}  // namespace accel::kernels
