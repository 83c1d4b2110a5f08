// Runs of bags, compiled per instruction set (bags.simd.cpp).
#pragma once

#include "kernels/embedding_bag/embedding_bag.h"

namespace accel::kernels {

// The first thing that was out of range.
struct BadIndex {
  bool found = false;
  int64_t index = 0, bound = 0;
  void note(int64_t bad, int64_t limit) {
    if (!found) *this = {true, bad, limit};
  }
};

// Bags [begin, end).
void reduce_bags(const EmbeddingBag& args, int64_t begin, int64_t end, BadIndex* bad);
// Indices [begin, end).
void weight_gradients(const BagWeightGradient& args, int64_t begin, int64_t end, BadIndex* bad);

}  // namespace accel::kernels
