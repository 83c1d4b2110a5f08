#include "kernels/convolution/box.h"

#include <algorithm>
#include <cstring>

namespace accel::kernels {

namespace {

constexpr int64_t kRowStep = 4;

}  // namespace

Image image_of(const ConvolutionTensor& tensor, DType dtype, const int64_t (&size)[3],
               int64_t batch, int64_t channel, int64_t channels) {
  Image image;
  image.data = static_cast<char*>(tensor.data) +
               (batch * tensor.batch_stride + channel * tensor.channel_stride) * size_of(dtype);
  image.dtype = dtype;
  image.channels = channels;
  image.channel_stride = tensor.channel_stride;
  for (int dim = 0; dim < 3; ++dim) {
    image.size[dim] = size[dim];
    image.strides[dim] = tensor.strides[dim];
  }
  return image;
}

namespace {

// The indices of a box's dimension that lie inside the tensor.
struct Inside {
  int64_t begin, end;
};
Inside inside_of(const Box& box, int dim, int64_t size) {
  const int64_t step = box.step[dim], start = box.start[dim];
  const int64_t begin = start < 0 ? divide_up(-start, step) : 0;
  const int64_t end = start < size ? divide_up(size - start, step) : 0;
  return {std::min(begin, box.count[dim]),
          std::clamp(end, std::min(begin, box.count[dim]), box.count[dim])};
}

}  // namespace

void load_box(const Image& image, const Box& box, int64_t padded, DType packed, void* target,
              int64_t pitch) {
  const int64_t pixel_bytes = pitch * size_of(packed), size = size_of(image.dtype);
  const Inside z = inside_of(box, 0, image.size[0]), y = inside_of(box, 1, image.size[1]);
  const Inside x = inside_of(box, 2, image.size[2]);
  auto* row = static_cast<char*>(target);
  const int64_t row_bytes = box.count[2] * pixel_bytes;
  // Rows that are whole and contiguous are one.
  const bool whole = x.begin == 0 && x.end == box.count[2] && y.begin == 0 &&
                     y.end == box.count[1] && box.step[1] == 1 &&
                     image.strides[1] == box.count[2] * box.step[2] * image.strides[2];
  for (int64_t i = 0; i < box.count[0]; ++i) {
    for (int64_t j = 0; j < box.count[1]; ++j, row += row_bytes) {
      if (i < z.begin || i >= z.end || j < y.begin || j >= y.end || x.begin == x.end) {
        std::memset(row, 0, row_bytes);
        continue;
      }
      const int64_t rows = whole ? box.count[1] : 1;
      std::memset(row, 0, x.begin * pixel_bytes);
      Pixels pixels;
      pixels.data = image.data + ((box.start[0] + i * box.step[0]) * image.strides[0] +
                                  (box.start[1] + j * box.step[1]) * image.strides[1] +
                                  (box.start[2] + x.begin * box.step[2]) * image.strides[2]) *
                                     size;
      pixels.dtype = image.dtype;
      pixels.channel_stride = image.channel_stride;
      pixels.pixel_stride = image.strides[2] * box.step[2];
      load_pixels(pixels, image.channels, padded, rows * (x.end - x.begin), packed,
                  row + x.begin * pixel_bytes, pitch);
      std::memset(row + x.end * pixel_bytes, 0, (box.count[2] - x.end) * pixel_bytes);
      if (whole) {
        row += rows * row_bytes;
        break;
      }
    }
  }
}

Box box_of(const Geometry& geometry, const int64_t (&first)[3], const int64_t (&count)[3]) {
  Box box;
  for (int dim = 0; dim < 3; ++dim) {
    const int64_t step = geometry.source_step[dim];
    const int64_t low = geometry.low[dim], high = geometry.high[dim];
    box.start[dim] = first[dim] * step + low;
    // Where all taps have one offset, only the pixels that they read are taken; along a row, only
    // where they are so far apart that it is faster than to take all.
    const bool only_read = low == high && (dim < 2 || step > kRowStep);
    box.step[dim] = only_read ? step : 1;
    box.count[dim] = only_read ? count[dim] : (count[dim] - 1) * step + high - low + 1;
  }
  return box;
}

Tiling choose_tiling(const Geometry& geometry, int64_t pixel_bytes, int64_t box_bytes,
                     int64_t pixels) {
  Tiling tiling;
  tiling.size[0] = 1;
  const auto fits = [&](int64_t rows, int64_t columns) {
    const int64_t zero[3] = {0, 0, 0}, count[3] = {1, rows, columns};
    return rows * columns <= pixels &&
           box_of(geometry, zero, count).pixels() * pixel_bytes <= box_bytes;
  };
  int64_t columns = geometry.count[2];
  while (columns > 14 && !fits(1, columns)) columns = divide_up(columns, 2);
  int64_t rows = geometry.count[1];
  for (int64_t parts = 2; rows > 1 && !fits(rows, columns); ++parts) {
    rows = divide_up(geometry.count[1], parts);
  }
  tiling.size[1] = rows;
  tiling.size[2] = columns;
  for (int dim = 0; dim < 3; ++dim) {
    tiling.tiles[dim] = divide_up(geometry.count[dim], tiling.size[dim]);
  }
  return tiling;
}

bool clip_tile(const Tiling& tiling, int64_t tile, const int64_t (&limit)[3], int64_t (&first)[3],
               int64_t (&count)[3]) {
  int64_t at[3];
  at[2] = tile % tiling.tiles[2];
  at[1] = tile / tiling.tiles[2] % tiling.tiles[1];
  at[0] = tile / tiling.tiles[2] / tiling.tiles[1];
  bool any = true;
  for (int dim = 0; dim < 3; ++dim) {
    first[dim] = at[dim] * tiling.size[dim];
    count[dim] = std::min(tiling.size[dim], limit[dim] - first[dim]);
    any &= count[dim] > 0;
  }
  return any;
}

void store_box(const float* sums, int64_t pitch, const float* bias, const Geometry& geometry,
               const Phase& phase, const int64_t (&first)[3], const int64_t (&count)[3],
               const Image& target) {
  int64_t at = 0;
  for (int dim = 0; dim < 3; ++dim) {
    at += (phase.origin[dim] + first[dim] * geometry.target_step[dim]) * target.strides[dim];
  }
  Pixels pixels;
  pixels.dtype = target.dtype;
  pixels.channel_stride = target.channel_stride;
  pixels.pixel_stride = target.strides[2] * geometry.target_step[2];
  const int64_t row_stride = target.strides[1] * geometry.target_step[1];
  // Rows that follow each other as their pixels do are one.
  const bool whole = row_stride == count[2] * pixels.pixel_stride;
  const int64_t rows = whole ? 1 : count[1], row = whole ? count[1] * count[2] : count[2];
  for (int64_t y = 0; y < rows; ++y) {
    pixels.data = target.data + (at + y * row_stride) * size_of(target.dtype);
    store_pixels(sums + y * row * pitch, pitch, row, target.channels, bias, pixels);
  }
}

}  // namespace accel::kernels
