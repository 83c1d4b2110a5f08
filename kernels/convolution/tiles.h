// What convolutions are made of, per instruction set: products of pixels with packed weights, and
// the ways into and out of the layout in which they run, channels innermost. Called by this
// folder's drivers; knows nothing of threads.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace accel::kernels {

// The registers' share of a product: at most `rows` rows by `columns` columns are summed at a time.
struct PanelShape {
  int rows, columns;
  bool pairs;  // whether pairs of bf16 are multiplied as they are; else bf16 is widened
};
PanelShape panel_shape();

// A stretch of the sum: `steps` consecutive steps that begin this many bytes behind a and b.
struct Run {
  int64_t a, b, steps;
};

// c[i][j] = (or +=) sum over the runs' steps s of A[i, s] * B[s, j], in that order. A's value is at
// a + run.a + i * a_row + s * a_step, B's vectors at b + run.b + s * b_step, in bytes. One step
// is an fp32 number, or a pair of bf16 ones. Always computes whole vectors of columns.
struct RunProduct {
  bool pairs = false;
  const char *a = nullptr, *b = nullptr;
  int64_t a_row = 0, a_step = 0, b_step = 0;
  const Run* runs = nullptr;
  int64_t run_count = 0;
  int rows = 0, columns = 0;
  float* c = nullptr;
  int64_t c_stride = 0;  // elements
  bool add = false;
};
void multiply_runs(const RunProduct& product);

// Pixels of a tensor along one dimension; strides in elements.
struct Pixels {
  char* data = nullptr;
  DType dtype = DType::Float32;
  int64_t channel_stride = 0, pixel_stride = 0;
};

// target[i * pitch + c] for i < count, c < channels, and zeros up to `padded` channels: as Float32,
// or as BFloat16 where the source is that.
void load_pixels(const Pixels& source, int64_t channels, int64_t padded, int64_t count,
                 DType packed, void* target, int64_t pitch);
// Rounds values[i * stride + c] + bias[c] to the pixels. bias may be null.
void store_pixels(const float* values, int64_t stride, int64_t count, int64_t channels,
                  const float* bias, const Pixels& target);
// n contiguous values as fp32.
void widen_values(const void* source, DType dtype, int64_t n, float* target);

// One panel of a weight for `lanes` columns: packed[(positions[t] * channels_padded + k) * columns
// + lane], zeros beyond lanes and channels; two neighbouring k as a pair where `pairs`. Strides in
// elements. `workspace`: taps * channels_padded * columns floats, only with pairs.
struct WeightPanel {
  const char* data = nullptr;
  DType dtype = DType::Float32;
  int64_t lane_stride = 0, channel_stride = 0;
  const int64_t *offsets = nullptr, *positions = nullptr;  // per tap: elements; place in the sum
  int64_t taps = 0, lanes = 0, channels = 0, channels_padded = 0;
  bool taps_contiguous = false;
};
void pack_weight(const WeightPanel& panel, bool pairs, float* workspace, void* packed);

// target[i][c] = pixel 2i and pixel 2i + 1 of source, for channels of bf16; the last one of an odd
// count is paired with zero. Strides in elements.
void pair_pixels(const uint16_t* source, int64_t pixel_stride, int64_t count, int64_t channels,
                 uint32_t* target, int64_t pitch);

// Depthwise: c[i][v] = sum over taps of a[i * a_pixel + offsets[t] + v] * weight[t * pitch + v],
// for `channels` v, a multiple of kDepthwiseStep.
inline constexpr int64_t kDepthwiseStep = 16;
struct DepthwiseRow {
  const float *a = nullptr, *weight = nullptr;
  int64_t a_pixel = 0, weight_pitch = 0;
  const int64_t* offsets = nullptr;
  int64_t taps = 0, pixels = 0, channels = 0;
  float* c = nullptr;
  int64_t c_stride = 0;
};
void depthwise_row(const DepthwiseRow& row);
// sums[t * sums_pitch + v] += sum over rows y, pixels i of
// grad[y * grad_row + i * grad_pixel + v] * a[y * a_row + i * a_pixel + offsets[t] + v].
struct DepthwiseSums {
  const float *a = nullptr, *grad = nullptr;
  int64_t a_row = 0, a_pixel = 0, grad_row = 0, grad_pixel = 0;
  const int64_t* offsets = nullptr;
  int64_t taps = 0, rows = 0, pixels = 0, channels = 0;
  float* sums = nullptr;
  int64_t sums_pitch = 0;
};
void depthwise_sums(const DepthwiseSums& sums);

}  // namespace accel::kernels
