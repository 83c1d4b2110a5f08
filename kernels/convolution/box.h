// The part of a tensor that a tile of a convolution reads, and its copy with channels innermost and
// zeros outside the tensor, so that no product sees an edge. Only this folder's drivers use it.
#pragma once

#include <cstdint>

#include "kernels/convolution/geometry.h"
#include "kernels/convolution/tiles.h"

namespace accel::kernels {

// Coordinates start + i * step for i < count, of which those outside the tensor are zero.
struct Box {
  int64_t start[3], count[3], step[3];
  int64_t pixels() const { return count[0] * count[1] * count[2]; }
};

// A tensor's image: some channels of one element of the batch.
struct Image {
  char* data = nullptr;
  DType dtype = DType::Float32;
  int64_t channels = 0, channel_stride = 0;
  int64_t size[3], strides[3];
};
Image image_of(const ConvolutionTensor& tensor, DType dtype, const int64_t (&size)[3],
               int64_t batch, int64_t channel, int64_t channels);

// target[pixel * pitch + channel], pixels in row-major order; channels up to `padded` are zeroed.
void load_box(const Image& image, const Box& box, int64_t padded, DType packed, void* target,
              int64_t pitch);

// What a tile of a Geometry's pixels reads: `first` and `count` in pixels of a phase.
Box box_of(const Geometry& geometry, const int64_t (&first)[3], const int64_t (&count)[3]);

// Rounds sums[pixel * pitch + channel] + bias[channel], pixels in row-major order, to the pixels of
// a phase that are `first` and `count`: rows of one plane of the target. bias may be null.
void store_box(const float* sums, int64_t pitch, const float* bias, const Geometry& geometry,
               const Phase& phase, const int64_t (&first)[3], const int64_t (&count)[3],
               const Image& target);

// How far apart pixels of a box lie: pixels 4096 bytes apart would share a set of the first level
// cache.
inline int64_t pitch_of(int64_t channels, int64_t size) {
  return channels * size % 4096 == 0 ? channels + 64 / size : channels;
}

// Pixels of each phase in a chunk's work, and how many such tiles cover them.
struct Tiling {
  int64_t size[3], tiles[3];
  int64_t all() const { return tiles[0] * tiles[1] * tiles[2]; }
};
// Tiles of rows (of parts of one row where that is too long) of one plane, whose boxes take at most
// this many bytes with this many a pixel, and which have at most so many pixels.
Tiling choose_tiling(const Geometry& geometry, int64_t pixel_bytes, int64_t box_bytes,
                     int64_t pixels);
// The tile with that number: its first pixel, and its sizes cut at `limit`; false if it is empty.
bool clip_tile(const Tiling& tiling, int64_t tile, const int64_t (&limit)[3], int64_t (&first)[3],
               int64_t (&count)[3]);

}  // namespace accel::kernels
