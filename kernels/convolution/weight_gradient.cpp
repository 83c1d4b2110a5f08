// The gradient of a convolution's weight: for each element of the kernel the input's channels, as
// rows, times the output gradient's, as columns, summed over pixels. Both are laid out by tiles
// with channels innermost, so that a pixel is one step of the product; of bf16, two neighbouring
// pixels.
//
// Pixels are cut into tiles, and tiles into parts whose sums are added at the end; both cuts follow
// from sizes and dtype alone, so that the order of the sum does not depend on the team.
#include <algorithm>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/convolution/box.h"
#include "kernels/convolution/internal.h"

namespace accel::kernels {

namespace {

// What a tile of the input takes, and its pixels, of several images where they are small: the fewer
// tiles, the fewer times sums pass through memory.
constexpr int64_t kBoxBytes = 1 << 20, kTilePixels = 512;
// Parts of the sum: as many as fit in this memory, with at least this many pixels each, so that
// adding them up costs little. Where that makes too few chunks for the team, output channels are
// dealt out too, which changes no sum, though each share then lays out the input anew.
constexpr int64_t kSumsBytes = 32 << 20, kPartPixels = 2048, kParts = 16;
// The input's channels are laid out in blocks of one line of the cache, so that steps follow each
// other in memory (pixels of many channels would share its sets), and multiplied by halves of them.
// Fewer channels make one block, in which neighbouring columns of the kernel are multiplied
// together.
constexpr int64_t kBlockChannels = 16, kBlockRows = 8;

class WeightGradient {
 public:
  explicit WeightGradient(const Convolution& args)
      : args_(args),
        geometry_(geometry_of(args)),
        taps_(geometry_.phases[0].taps),
        shape_(panel_shape()),
        pairs_(args.dtype == DType::BFloat16 && shape_.pairs),
        packed_(pairs_ ? DType::BFloat16 : DType::Float32),
        size_(size_of(packed_)),
        inputs_(args.input_channels / args.groups),
        outputs_(args.output_channels / args.groups),
        width_(std::min(inputs_, kBlockChannels)),
        taps_at_once_(
            inputs_ <= kBlockChannels && (pairs_ || args.dilation[2] == 1) ? args.kernel[2] : 1),
        panels_(divide_up(outputs_, shape_.columns)),
        panel_size_(static_cast<int64_t>(taps_.size()) * inputs_ * shape_.columns),
        tiling_(choose_tiling(geometry_, inputs_ * size_ * (pairs_ ? 1 + args.kernel[2] : 1),
                              kBoxBytes, kTilePixels)) {
    // Several images side by side make one tile.
    const int64_t pixels = tiling_.size[1] * tiling_.size[2];
    images_ = 1;
    if (tiling_.tiles[1] * tiling_.tiles[2] == 1) {
      const int64_t zero[3] = {0, 0, 0};
      const int64_t bytes = box_of(geometry_, zero, tiling_.size).pixels() * inputs_ * size_;
      images_ =
          std::clamp<int64_t>(std::min(kTilePixels / pixels, kBoxBytes / bytes), 1, args.batch);
    }
    units_ = divide_up(args.batch, images_) * tiling_.all();
    const int64_t bytes = args.groups * panels_ * panel_size_ * static_cast<int64_t>(sizeof(float));
    const int64_t all_pixels =
        args.batch * args.output_size[0] * args.output_size[1] * args.output_size[2];
    parts_ = std::clamp<int64_t>(std::min(kSumsBytes / bytes, all_pixels / kPartPixels), 1,
                                 std::min(units_, kParts));
    const int64_t wanted = team_width() == 1 ? 1 : 2 * team_width();
    shares_ = std::clamp<int64_t>(divide_up(wanted, parts_ * args.groups), 1, panels_);
  }

  void run() {
    sums_ = static_cast<float*>(
        scratch(ScratchSlot::A, parts_ * args_.groups * panels_ * panel_size_ * sizeof(float)));
    parallel_for(parts_ * args_.groups * shares_, [&](int64_t chunk) {
      const int64_t part = chunk % parts_, share = chunk / parts_ % shares_;
      const int64_t group = chunk / parts_ / shares_;
      const int64_t begin = units_ * part / parts_, end = units_ * (part + 1) / parts_;
      for (int64_t unit = begin; unit < end; ++unit) {
        run_unit(part, unit, group, panels_ * share / shares_, panels_ * (share + 1) / shares_,
                 unit != begin);
      }
    });
    parallel_for(args_.groups * panels_, [&](int64_t chunk) { store(chunk); });
  }

 private:
  float* sums_of(int64_t part, int64_t group, int64_t panel) const {
    return sums_ + ((part * args_.groups + group) * panels_ + panel) * panel_size_;
  }

  // Where the rows of a tile lie; strides in bytes. A step is a pixel or a pair of them. Blocks of
  // channels and the kernel's columns are the input's alone.
  struct Rows {
    const char* data;
    int64_t image, plane, row, step, block = 0, column = 0;
  };

  void run_unit(int64_t part, int64_t unit, int64_t group, int64_t first_panel, int64_t end_panel,
                bool add) const {
    int64_t first[3], count[3];
    clip_tile(tiling_, unit % tiling_.all(), geometry_.count, first, count);
    const int64_t batch = unit / tiling_.all() * images_;
    const int64_t images = std::min(images_, args_.batch - batch);
    const Box box = box_of(geometry_, first, count);
    const Rows a = load_input(batch, images, group, box, count);

    const int64_t first_column = first_panel * shape_.columns;
    const int64_t columns = std::min(outputs_, end_panel * shape_.columns) - first_column;
    const Rows b =
        load_gradient(batch, images, group * outputs_ + first_column, columns, first, count);

    // One run a row of pixels; all where rows follow each other in both.
    std::vector<Run> runs;
    const int64_t steps = pairs_ ? divide_up(count[2], 2) : count[2];
    const int64_t y_step = geometry_.source_step[1] / box.step[1];
    for (int64_t image = 0; image < images; ++image) {
      for (int64_t y = 0; y < count[1]; ++y) {
        const Run run{image * a.image + y * y_step * a.row, image * b.image + y * b.row, steps};
        const bool follows = !runs.empty() && runs.back().a + runs.back().steps * a.step == run.a &&
                             runs.back().b + runs.back().steps * b.step == run.b;
        if (follows) {
          runs.back().steps += steps;
        } else {
          runs.push_back(run);
        }
      }
    }

    RunProduct product;
    product.pairs = pairs_;
    product.a_row = 4;
    product.a_step = a.step;
    product.b_step = b.step;
    product.runs = runs.data();
    product.run_count = static_cast<int64_t>(runs.size());
    product.c_stride = shape_.columns;
    product.add = add;
    for (int64_t panel = first_panel; panel < end_panel; ++panel) {
      product.b = b.data + (panel - first_panel) * shape_.columns * 4;
      product.columns =
          static_cast<int>(std::min<int64_t>(shape_.columns, outputs_ - panel * shape_.columns));
      float* sums = sums_of(part, group, panel);
      for (size_t t = 0; t < taps_.size(); t += taps_at_once_) {
        const Tap& tap = taps_[t];
        const char* from = a.data + (tap.offset[0] - geometry_.low[0]) * a.plane +
                           (tap.offset[1] - geometry_.low[1]) * a.row +
                           static_cast<int64_t>(t) % args_.kernel[2] * a.column;
        for (int64_t channel = 0; channel < inputs_; channel += width_) {
          const int64_t rows = std::min(width_, inputs_ - channel) * taps_at_once_;
          const int64_t most =
              inputs_ > width_ ? std::min<int64_t>(kBlockRows, shape_.rows) : shape_.rows;
          const int64_t row_panels = divide_up(rows, most);
          for (int64_t i = 0; i < row_panels; ++i) {
            const int64_t begin = rows * i / row_panels, end = rows * (i + 1) / row_panels;
            product.a = from + channel / width_ * a.block + begin * 4;
            product.rows = static_cast<int>(end - begin);
            product.c =
                sums + (static_cast<int64_t>(t) * inputs_ + channel + begin) * shape_.columns;
            multiply_runs(product);
          }
        }
      }
    }
  }

  Rows load_input(int64_t batch, int64_t images, int64_t group, const Box& box,
                  const int64_t (&count)[3]) const {
    const int64_t blocks = divide_up(inputs_, width_);
    const int64_t image_bytes = box.pixels() * width_ * size_, block = images * image_bytes;
    char* copy = static_cast<char*>(scratch(ScratchSlot::B, blocks * block));
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t channel = i * width_, channels = std::min(width_, inputs_ - channel);
      for (int64_t image = 0; image < images; ++image) {
        load_box(image_of(args_.input, args_.dtype, args_.input_size, batch + image,
                          group * inputs_ + channel, channels),
                 box, width_, packed_, copy + i * block + image * image_bytes, width_);
      }
    }
    const int64_t pixel = width_ * size_, row = box.count[2] * pixel;
    const int64_t step = pixel * (geometry_.source_step[2] / box.step[2]);
    if (!pairs_) {
      return {copy, image_bytes, box.count[1] * row, row, step, block, args_.dilation[2] * pixel};
    }
    // Pairs depend on where they begin: [block][row][pair of pixels][column of the kernel][channel]
    // where columns are multiplied together, [block][column][row][pair][channel] elsewhere.
    const int64_t pairs = divide_up(count[2], 2), columns = args_.kernel[2];
    const int64_t rows = images * box.count[0] * box.count[1];
    const bool together = taps_at_once_ > 1;
    const int64_t pitch = width_ * (together ? columns : 1), pair_row = pairs * pitch;
    const int64_t column_stride = together ? width_ : rows * pair_row;
    const int64_t pair_block = rows * pairs * width_ * columns;
    auto* paired = static_cast<uint32_t*>(scratch(ScratchSlot::C, blocks * pair_block * 4));
    for (int64_t i = 0; i < blocks; ++i) {
      for (int64_t column = 0; column < columns; ++column) {
        const int64_t x = taps_[column].offset[2] - geometry_.low[2];
        for (int64_t y = 0; y < rows; ++y) {
          pair_pixels(reinterpret_cast<const uint16_t*>(copy + i * block + y * row) + x * width_,
                      step / size_, count[2], width_,
                      paired + i * pair_block + column * column_stride + y * pair_row, pitch);
        }
      }
    }
    return {reinterpret_cast<const char*>(paired),
            box.count[0] * box.count[1] * pair_row * 4,
            box.count[1] * pair_row * 4,
            pair_row * 4,
            pitch * 4,
            pair_block * 4,
            column_stride * 4};
  }

  // Whole panels of columns, zeros beyond the last channel.
  Rows load_gradient(int64_t batch, int64_t images, int64_t channel, int64_t channels,
                     const int64_t (&first)[3], const int64_t (&count)[3]) const {
    const int64_t pitch = round_up(channels, shape_.columns);
    Box box;
    for (int dim = 0; dim < 3; ++dim) {
      box.start[dim] = first[dim];
      box.count[dim] = count[dim];
      box.step[dim] = 1;
    }
    const int64_t image_bytes = box.pixels() * pitch * size_;
    const int64_t pairs = divide_up(count[2], 2);
    const int64_t paired_bytes = pairs_ ? images * count[1] * pairs * pitch * 4 : 0;
    char* copy =
        static_cast<char*>(scratch(ScratchSlot::D, images * image_bytes + paired_bytes + 64));
    for (int64_t image = 0; image < images; ++image) {
      load_box(
          image_of(args_.output, args_.dtype, args_.output_size, batch + image, channel, channels),
          box, pitch, packed_, copy + image * image_bytes, pitch);
    }
    const int64_t row = count[2] * pitch;
    if (!pairs_) return {copy, image_bytes, 0, row * size_, pitch * size_};
    auto* paired = reinterpret_cast<uint32_t*>(copy + round_up(images * image_bytes, 64));
    for (int64_t y = 0; y < images * count[1]; ++y) {
      pair_pixels(reinterpret_cast<const uint16_t*>(copy) + y * row, pitch, count[2], pitch,
                  paired + y * pairs * pitch, pitch);
    }
    return {reinterpret_cast<const char*>(paired), count[1] * pairs * pitch * 4, 0,
            pairs * pitch * 4, pitch * 4};
  }

  // Adds the parts of one panel in order, and rounds.
  void store(int64_t chunk) const {
    const int64_t group = chunk / panels_, panel = chunk % panels_;
    float* sums = sums_of(0, group, panel);
    for (int64_t part = 1; part < parts_; ++part) {
      const float* more = sums_of(part, group, panel);
      for (int64_t i = 0; i < panel_size_; ++i) sums[i] += more[i];
    }
    const ConvolutionTensor& weight = args_.weight;
    const int64_t first = group * outputs_ + panel * shape_.columns;
    const int64_t lanes = std::min<int64_t>(shape_.columns, outputs_ - panel * shape_.columns);
    const int64_t size = size_of(args_.dtype);
    char* data = static_cast<char*>(weight.data) + first * weight.batch_stride * size;
    const auto count = static_cast<int64_t>(taps_.size());
    // Along the dimension that is contiguous in memory, if there is one: the kernel's, or channels.
    const bool along_taps = count > 1 && weight.channel_stride != 1 && weight.strides[2] == 1 &&
                            weight.strides[1] == args_.kernel[2] &&
                            weight.strides[0] == args_.kernel[2] * args_.kernel[1];
    Pixels pixels;
    pixels.dtype = args_.dtype;
    pixels.channel_stride = weight.batch_stride;
    pixels.pixel_stride = along_taps ? 1 : weight.channel_stride;
    if (along_taps) {
      for (int64_t channel = 0; channel < inputs_; ++channel) {
        pixels.data = data + channel * weight.channel_stride * size;
        store_pixels(sums + channel * shape_.columns, inputs_ * shape_.columns, count, lanes,
                     nullptr, pixels);
      }
      return;
    }
    for (int64_t t = 0; t < count; ++t) {
      const int64_t index = taps_[t].index;
      const int64_t x = index % args_.kernel[2], y = index / args_.kernel[2] % args_.kernel[1];
      const int64_t z = index / args_.kernel[2] / args_.kernel[1];
      pixels.data =
          data + (z * weight.strides[0] + y * weight.strides[1] + x * weight.strides[2]) * size;
      store_pixels(sums + t * inputs_ * shape_.columns, shape_.columns, inputs_, lanes, nullptr,
                   pixels);
    }
  }

  const Convolution& args_;
  const Geometry geometry_;
  const std::vector<Tap>& taps_;
  const PanelShape shape_;
  const bool pairs_;
  const DType packed_;
  const int64_t size_, inputs_, outputs_;
  const int64_t width_, taps_at_once_;  // channels of a block, and taps multiplied together
  const int64_t panels_, panel_size_;
  const Tiling tiling_;
  int64_t images_, units_, parts_, shares_;
  float* sums_ = nullptr;
};

}  // namespace

void convolution_weight_gradient(const Convolution& args) { WeightGradient(args).run(); }

}  // namespace accel::kernels
