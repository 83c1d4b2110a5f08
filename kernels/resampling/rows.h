// Rows of a Resampling, compiled for each instruction set.
#pragma once

#include "kernels/resampling/resampling.h"

namespace accel::kernels {

// One dimension: output element i is the sum over k < count[i] of weights[i * taps + k] times input
// element first[i] + k. Plain pointers: what is inlined in a variant must not leave a template of
// the standard library behind (see tools/check_isa.py).
struct ResamplingTaps {
  int64_t in = 0, out = 0;
  int64_t taps = 0;  // the largest count
  const int64_t *first = nullptr, *count = nullptr;
  const void* weights = nullptr;   // float, or double for Float64
  const void* divisors = nullptr;  // of every output element, or none
  bool is_identity = false;
  // Outputs of `taps` taps, all of them.
  int64_t uniform_begin = 0, uniform_end = 0;
};

struct ResamplingPlan {
  DType dtype = DType::Float32;
  int64_t channels = 1;
  ResamplingTaps axes[3];  // depth, rows, columns
  bool rows_first = false;
  const void* input = nullptr;
  void* output = nullptr;
};

// Room for the sums of one thread, in elements of the sums' type.
struct ResamplingScratch {
  void* plane;    // of the depths' sum: input rows * input columns * channels
  void* rows;     // columns first: that many rows of the output's columns as rows have taps; else
                  // one row of the input's columns
  void* row;      // of the input's columns, then one of the output's
  int64_t* tags;  // columns first: which input row is in each of `rows`
};

// Output rows [begin, end) of one plane and depth.
void resample_rows(const ResamplingPlan& plan, const ResamplingScratch& scratch, int64_t plane,
                   int64_t depth, int64_t begin, int64_t end);

}  // namespace accel::kernels
