// Depthwise convolutions and their gradients: vectors of channels, multiplied element by element,
// in fp32. Tiles are laid out with a block of channels innermost, as for the other algorithms.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/convolution/box.h"
#include "kernels/convolution/internal.h"

namespace accel::kernels {

namespace {

// Channels that are laid out together: one line of the cache, so that the rows that a kernel reads
// stay in its first level. A chunk takes several such blocks, because memory with channels
// innermost is better read in stretches.
constexpr int64_t kChannels = kDepthwiseStep, kBlocksAtOnce = 4;
constexpr int64_t kBoxBytes = 192 << 10, kTilePixels = 1024;
// Parts of the sum of a weight's gradient.
constexpr int64_t kParts = 16;
constexpr int64_t kChunksPerThread = 6;

class Depthwise {
 public:
  explicit Depthwise(const Convolution& args)
      : args_(args),
        backward_(args.kind == ConvolutionKind::InputGradient),
        geometry_(geometry_of(args)),
        taps_(taps_of(args)),
        channels_(args.groups),
        padded_(round_up(channels_, kDepthwiseStep)),
        blocks_(divide_up(channels_, kChannels)),
        stretches_(divide_up(blocks_, kBlocksAtOnce)),
        pitch_(kChannels),
        tiling_(choose_tiling(geometry_, pitch_ * static_cast<int64_t>(sizeof(float)), kBoxBytes,
                              kTilePixels)) {}

  void run() {
    if (args_.kind == ConvolutionKind::WeightGradient) {
      run_weight_gradient();
    } else {
      run_pixels();
    }
  }

 private:
  int64_t channels_of(int64_t block) const {
    return std::min(kChannels, channels_ - block * kChannels);
  }

  template <class Body>
  void for_blocks(int64_t stretch, const Body& body) const {
    const int64_t end = std::min(blocks_, (stretch + 1) * kBlocksAtOnce);
    for (int64_t block = stretch * kBlocksAtOnce; block < end; ++block) body(block);
  }

  // [tap][channel], taps in the order of the sum.
  void pack() {
    weight_ = static_cast<float*>(scratch(ScratchSlot::A, taps_ * padded_ * sizeof(float)));
    const ConvolutionTensor& weight = args_.weight;
    for (const Phase& phase : geometry_.phases) {
      for (const Tap& tap : phase.taps) {
        Pixels pixels;
        pixels.data = weight_address(tap.index);
        pixels.dtype = args_.dtype;
        pixels.channel_stride = weight.batch_stride;
        load_pixels(pixels, channels_, padded_, 1, DType::Float32, weight_ + tap.position * padded_,
                    padded_);
      }
    }
    if (args_.bias) {
      bias_.resize(channels_);
      widen_values(args_.bias, args_.dtype, channels_, bias_.data());
    }
  }

  char* weight_address(int64_t index) const {
    const int64_t x = index % args_.kernel[2], y = index / args_.kernel[2] % args_.kernel[1];
    const int64_t z = index / args_.kernel[2] / args_.kernel[1];
    const int64_t(&strides)[3] = args_.weight.strides;
    return static_cast<char*>(args_.weight.data) +
           (z * strides[0] + y * strides[1] + x * strides[2]) * size_of(args_.dtype);
  }

  // From the first pixel of the box, in elements.
  std::vector<int64_t> offsets_of(const Phase& phase, const Box& box) const {
    std::vector<int64_t> offsets;
    for (const Tap& tap : phase.taps) {
      int64_t at = 0;
      for (int dim = 0; dim < 3; ++dim) {
        at = at * box.count[dim] + tap.offset[dim] - geometry_.low[dim];
      }
      offsets.push_back(at * pitch_);
    }
    return offsets;
  }

  float* load(const ConvolutionTensor& tensor, const int64_t (&size)[3], int64_t batch,
              int64_t block, const Box& box, ScratchSlot slot) const {
    auto* copy = static_cast<float*>(scratch(slot, box.pixels() * pitch_ * sizeof(float)));
    const int64_t channels = channels_of(block);
    load_box(image_of(tensor, args_.dtype, size, batch, block * kChannels, channels), box,
             round_up(channels, kDepthwiseStep), DType::Float32, copy, pitch_);
    return copy;
  }

  void run_pixels() {
    pack();
    const int64_t images = args_.batch * stretches_;
    const int64_t wanted = team_width() == 1 ? 1 : kChunksPerThread * team_width();
    while (images * tiling_.all() < wanted && tiling_.size[1] > 1) {
      tiling_.size[1] = divide_up(tiling_.size[1], 2);
      tiling_.tiles[1] = divide_up(geometry_.count[1], tiling_.size[1]);
    }
    const int64_t tiles = tiling_.all();
    parallel_for(images * tiles, [&](int64_t chunk) {
      const int64_t tile = chunk % tiles, stretch = chunk / tiles % stretches_;
      const int64_t batch = chunk / tiles / stretches_;
      int64_t first[3], count[3];
      clip_tile(tiling_, tile, geometry_.count, first, count);
      const Box box = box_of(geometry_, first, count);
      for_blocks(stretch, [&](int64_t block) {
        const float* copy = load(backward_ ? args_.output : args_.input, geometry_.source, batch,
                                 block, box, ScratchSlot::B);
        for (const Phase& phase : geometry_.phases) {
          if (clip_tile(tiling_, tile, phase.count, first, count)) {
            run_phase(phase, copy, box, first, count, batch, block);
          }
        }
      });
    });
  }

  void run_phase(const Phase& phase, const float* copy, const Box& box, const int64_t (&first)[3],
                 const int64_t (&count)[3], int64_t batch, int64_t block) const {
    const std::vector<int64_t> offsets = offsets_of(phase, box);
    auto* sums =
        static_cast<float*>(scratch(ScratchSlot::C, count[1] * count[2] * pitch_ * sizeof(float)));
    const int64_t row_step = geometry_.source_step[1] / box.step[1];
    DepthwiseRow row;
    row.weight = phase.taps.empty()
                     ? weight_
                     : weight_ + phase.taps[0].position * padded_ + block * kChannels;
    row.a_pixel = pitch_ * (geometry_.source_step[2] / box.step[2]);
    row.weight_pitch = padded_;
    row.offsets = offsets.data();
    row.taps = static_cast<int64_t>(phase.taps.size());
    row.pixels = count[2];
    row.channels = round_up(channels_of(block), kDepthwiseStep);
    row.c_stride = pitch_;
    for (int64_t y = 0; y < count[1]; ++y) {
      row.a = copy + y * row_step * box.count[2] * pitch_;
      row.c = sums + y * count[2] * pitch_;
      depthwise_row(row);
    }
    store_box(sums, pitch_, args_.bias ? bias_.data() + block * kChannels : nullptr, geometry_,
              phase, first, count,
              image_of(backward_ ? args_.input : args_.output, args_.dtype, geometry_.target, batch,
                       block * kChannels, channels_of(block)));
  }

  // Tiles and parts follow from the sizes alone.
  void run_weight_gradient() {
    const Phase& phase = geometry_.phases[0];
    const int64_t tiles = tiling_.all(), units = args_.batch * tiles;
    const int64_t parts = std::min(units, kParts), part_size = taps_ * padded_;
    auto* sums = static_cast<float*>(scratch(ScratchSlot::A, parts * part_size * sizeof(float)));
    std::memset(sums, 0, parts * part_size * sizeof(float));
    parallel_for(parts * stretches_, [&](int64_t chunk) {
      const int64_t part = chunk % parts, stretch = chunk / parts;
      for (int64_t unit = units * part / parts; unit < units * (part + 1) / parts; ++unit) {
        int64_t first[3], count[3];
        clip_tile(tiling_, unit % tiles, geometry_.count, first, count);
        const Box box = box_of(geometry_, first, count);
        Box grad_box;
        for (int dim = 0; dim < 3; ++dim) {
          grad_box.start[dim] = first[dim];
          grad_box.count[dim] = count[dim];
          grad_box.step[dim] = 1;
        }
        const std::vector<int64_t> offsets = offsets_of(phase, box);
        for_blocks(stretch, [&](int64_t block) {
          DepthwiseSums s;
          s.a = load(args_.input, args_.input_size, unit / tiles, block, box, ScratchSlot::B);
          s.grad =
              load(args_.output, args_.output_size, unit / tiles, block, grad_box, ScratchSlot::C);
          s.a_pixel = pitch_ * (geometry_.source_step[2] / box.step[2]);
          s.a_row = box.count[2] * pitch_ * (geometry_.source_step[1] / box.step[1]);
          s.grad_pixel = pitch_;
          s.grad_row = count[2] * pitch_;
          s.offsets = offsets.data();
          s.taps = taps_;
          s.rows = count[1];
          s.pixels = count[2];
          s.channels = kDepthwiseStep;
          s.sums = sums + part * part_size + block * kChannels;
          s.sums_pitch = padded_;
          depthwise_sums(s);
        });
      }
    });
    for (int64_t part = 1; part < parts; ++part) {
      for (int64_t i = 0; i < part_size; ++i) sums[i] += sums[part * part_size + i];
    }
    for (const Tap& tap : phase.taps) {
      Pixels pixels;
      pixels.data = weight_address(tap.index);
      pixels.dtype = args_.dtype;
      pixels.channel_stride = args_.weight.batch_stride;
      store_pixels(sums + tap.position * padded_, padded_, 1, channels_, nullptr, pixels);
    }
  }

  const Convolution& args_;
  const bool backward_;
  const Geometry geometry_;
  const int64_t taps_, channels_, padded_, blocks_, stretches_, pitch_;
  Tiling tiling_;
  float* weight_ = nullptr;
  std::vector<float> bias_;
};

}  // namespace

void convolution_depthwise(const Convolution& args) { Depthwise(args).run(); }

}  // namespace accel::kernels
