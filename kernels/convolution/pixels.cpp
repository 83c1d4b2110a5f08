// A convolution's output and the gradient of its input: each tile of the source is laid out once
// with channels innermost, then every row of target pixels is a product of rows where they lie (a
// pixel's neighbours follow it in memory, so that a row of the kernel is one run) with the weight,
// packed in panels of columns.
#include <algorithm>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/convolution/box.h"
#include "kernels/convolution/internal.h"

namespace accel::kernels {

namespace {

// Channels times taps that are summed in registers before the sums are added to what came before:
// 64 KiB of a panel of the weight, which the second level cache keeps for all of a tile's pixels.
constexpr int64_t kSumLength = 512;
// A tile's box and its sums stay in the second level cache beside the weight.
constexpr int64_t kBoxBytes = 320 << 10, kTilePixels = 512;
// Chunks that each thread should find, so that none waits long for the last.
constexpr int64_t kChunksPerThread = 6;

class PixelProducts {
 public:
  explicit PixelProducts(const Convolution& args)
      : args_(args),
        backward_(args.kind == ConvolutionKind::InputGradient),
        geometry_(geometry_of(args)),
        shape_(panel_shape()),
        pairs_(args.dtype == DType::BFloat16 && shape_.pairs),
        packed_(pairs_ ? DType::BFloat16 : DType::Float32),
        size_(size_of(packed_)),
        taps_(taps_of(args)) {
    const int64_t input = args.input_channels / args.groups;
    const int64_t output = args.output_channels / args.groups;
    channels_ = backward_ ? output : input;
    columns_ = backward_ ? input : output;
    padded_ = round_up(channels_, pairs_ ? 2 : 1);
    pitch_ = pitch_of(padded_, size_);
    panels_ = divide_up(columns_, shape_.columns);
    panel_bytes_ = taps_ * padded_ * shape_.columns * size_;
    direct_ = reads_source();
  }

  void run() {
    pack();
    Tiling tiling = choose_tiling(geometry_, direct_ ? 0 : pitch_ * size_, kBoxBytes, kTilePixels);
    const int64_t images = args_.batch * args_.groups;
    const int64_t wanted = team_width() == 1 ? 1 : kChunksPerThread * team_width();
    while (images * tiling.all() < wanted && tiling.size[1] > 1) {
      tiling.size[1] = divide_up(tiling.size[1], 2);
      tiling.tiles[1] = divide_up(geometry_.count[1], tiling.size[1]);
    }
    const int64_t parts = std::clamp<int64_t>(wanted / (images * tiling.all()), 1, panels_);
    // Tiles of one group follow each other, while its weight is in the caches.
    const int64_t tiles = tiling.all();
    parallel_for(images * tiles * parts, [&](int64_t chunk) {
      const int64_t tile = chunk % tiles, batch = chunk / tiles % args_.batch;
      const int64_t part = chunk / tiles / args_.batch % parts;
      const int64_t group = chunk / tiles / args_.batch / parts;
      run_tile(tiling, tile, batch, group, panels_ * part / parts, panels_ * (part + 1) / parts);
    });
  }

 private:
  const ConvolutionTensor& source() const { return backward_ ? args_.output : args_.input; }
  const ConvolutionTensor& target() const { return backward_ ? args_.input : args_.output; }

  // Whether products can read the source as it is.
  bool reads_source() const {
    const ConvolutionTensor& from = source();
    bool inside = from.channel_stride == 1 && args_.dtype == packed_ && channels_ == padded_ &&
                  (from.strides[2] * size_ % 4096 != 0);
    for (int dim = 0; dim < 3; ++dim) {
      inside &= geometry_.low[dim] >= 0 &&
                (geometry_.count[dim] - 1) * geometry_.source_step[dim] + geometry_.high[dim] <
                    geometry_.source[dim];
    }
    return inside;
  }

  void pack() {
    offsets_.resize(taps_);
    positions_.resize(taps_);
    for (const Phase& phase : geometry_.phases) {
      for (const Tap& tap : phase.taps) {
        const int64_t x = tap.index % args_.kernel[2];
        const int64_t y = tap.index / args_.kernel[2] % args_.kernel[1];
        const int64_t z = tap.index / args_.kernel[2] / args_.kernel[1];
        offsets_[tap.index] =
            z * args_.weight.strides[0] + y * args_.weight.strides[1] + x * args_.weight.strides[2];
        positions_[tap.index] = tap.position;
      }
    }
    bool contiguous = true;
    for (int64_t t = 0; t < taps_; ++t) contiguous &= offsets_[t] == t;
    packed_weight_ =
        static_cast<char*>(scratch(ScratchSlot::A, args_.groups * panels_ * panel_bytes_));
    if (args_.bias) {
      const int64_t count = args_.groups * columns_;
      bias_.resize(count);
      widen_values(args_.bias, args_.dtype, count, bias_.data());
    }
    const int64_t at_once = std::max<int64_t>(1, (64 << 10) / panel_bytes_);
    const int64_t all = args_.groups * panels_;
    parallel_for(divide_up(all, at_once), [&](int64_t chunk) {
      for (int64_t i = chunk * at_once; i < std::min(all, (chunk + 1) * at_once); ++i) {
        pack_panel(i / panels_, i % panels_, contiguous);
      }
    });
  }

  void pack_panel(int64_t group, int64_t panel, bool contiguous) const {
    const ConvolutionTensor& weight = args_.weight;
    const int64_t first = panel * shape_.columns;
    const int64_t outputs = args_.output_channels / args_.groups;
    WeightPanel request;
    request.data = static_cast<const char*>(weight.data) +
                   (group * outputs * weight.batch_stride +
                    first * (backward_ ? weight.channel_stride : weight.batch_stride)) *
                       size_of(args_.dtype);
    request.dtype = args_.dtype;
    request.lane_stride = backward_ ? weight.channel_stride : weight.batch_stride;
    request.channel_stride = backward_ ? weight.batch_stride : weight.channel_stride;
    request.offsets = offsets_.data();
    request.positions = positions_.data();
    request.taps = taps_;
    request.lanes = std::min<int64_t>(shape_.columns, columns_ - first);
    request.channels = channels_;
    request.channels_padded = padded_;
    request.taps_contiguous = contiguous;
    float* workspace = nullptr;
    if (pairs_) {
      workspace = static_cast<float*>(
          scratch(ScratchSlot::C, taps_ * padded_ * shape_.columns * sizeof(float)));
    }
    pack_weight(request, pairs_, workspace,
                packed_weight_ + (group * panels_ + panel) * panel_bytes_);
  }

  // A piece of the sum that stays in registers: runs of A, and where in the panel it begins.
  struct Piece {
    size_t first_run, end_run;
    int64_t weight;  // bytes
  };

  // Where pixels lie that products read, in bytes.
  struct Layout {
    const char* origin;  // of the tile's first pixel with offset `low`
    int64_t strides[3];  // from one pixel of the source to the next
    int64_t steps[3];    // from one pixel of the phase to the next
  };

  // The pieces follow from the number of channels and taps alone, the runs also from the layout.
  void cut(const Phase& phase, const Layout& layout, std::vector<Run>& runs,
           std::vector<Piece>& pieces) const {
    runs.clear();
    pieces.clear();
    const int64_t group = pairs_ ? 2 : 1, column_bytes = shape_.columns * size_;
    const int64_t taps_at_once = std::max<int64_t>(1, kSumLength / padded_);
    const int64_t channels_at_once = std::min(padded_, kSumLength);
    for (size_t first = 0; first < phase.taps.size(); first += taps_at_once) {
      const size_t end = std::min(phase.taps.size(), first + static_cast<size_t>(taps_at_once));
      for (int64_t channel = 0; channel < padded_; channel += channels_at_once) {
        const int64_t channels = std::min(channels_at_once, padded_ - channel);
        Piece piece{runs.size(), 0,
                    (phase.taps[first].position * padded_ + channel) * column_bytes};
        int64_t weight = 0;
        for (size_t t = first; t < end; ++t) {
          int64_t at = channel * size_;
          for (int dim = 0; dim < 3; ++dim) {
            at += (phase.taps[t].offset[dim] - geometry_.low[dim]) * layout.strides[dim];
          }
          const bool follows = runs.size() > piece.first_run &&
                               runs.back().a + runs.back().steps * group * size_ == at;
          if (follows) {
            runs.back().steps += channels / group;
          } else {
            runs.push_back({at, weight, channels / group});
          }
          weight += channels * column_bytes;
        }
        piece.end_run = runs.size();
        pieces.push_back(piece);
      }
    }
    if (pieces.empty()) pieces.push_back({0, 0, 0});  // a phase without taps is zero
  }

  void run_tile(const Tiling& tiling, int64_t tile, int64_t batch, int64_t group,
                int64_t first_panel, int64_t end_panel) const {
    int64_t first[3], count[3];
    clip_tile(tiling, tile, geometry_.count, first, count);
    const Image image =
        image_of(source(), args_.dtype, geometry_.source, batch, group * channels_, channels_);
    const Box box = box_of(geometry_, first, count);
    Layout layout;
    if (direct_) {
      layout.origin = image.data;
      for (int dim = 0; dim < 3; ++dim) {
        layout.origin += box.start[dim] * image.strides[dim] * size_;
        layout.strides[dim] = image.strides[dim] * size_;
        layout.steps[dim] = layout.strides[dim] * geometry_.source_step[dim];
      }
    } else {
      char* copy = static_cast<char*>(scratch(ScratchSlot::B, box.pixels() * pitch_ * size_));
      load_box(image, box, padded_, packed_, copy, pitch_);
      layout.origin = copy;
      int64_t stride = pitch_ * size_;
      for (int dim = 2; dim >= 0; --dim) {
        layout.strides[dim] = stride;
        layout.steps[dim] = stride * (geometry_.source_step[dim] / box.step[dim]);
        stride *= box.count[dim];
      }
    }
    std::vector<Run> runs;
    std::vector<Piece> pieces;
    for (const Phase& phase : geometry_.phases) {
      if (!clip_tile(tiling, tile, phase.count, first, count)) continue;
      cut(phase, layout, runs, pieces);
      run_phase(phase, layout, runs, pieces, first, count, batch, group, first_panel, end_panel);
    }
  }

  void run_phase(const Phase& phase, const Layout& layout, const std::vector<Run>& runs,
                 const std::vector<Piece>& pieces, const int64_t (&first)[3],
                 const int64_t (&count)[3], int64_t batch, int64_t group, int64_t first_panel,
                 int64_t end_panel) const {
    // Rows that follow each other as their pixels do are one.
    const bool whole = layout.steps[1] == count[2] * layout.steps[2];
    const int64_t rows = whole ? 1 : count[1], row = whole ? count[1] * count[2] : count[2];
    const int64_t row_panels = divide_up(row, shape_.rows);
    auto* sums =
        static_cast<float*>(scratch(ScratchSlot::C, rows * row * shape_.columns * sizeof(float)));
    RunProduct product;
    product.pairs = pairs_;
    product.a_row = layout.steps[2];
    product.a_step = pairs_ ? 4 : size_;
    product.b_step = product.a_step * shape_.columns;
    product.c_stride = shape_.columns;
    for (int64_t panel = first_panel; panel < end_panel; ++panel) {
      const char* weight = packed_weight_ + (group * panels_ + panel) * panel_bytes_;
      product.columns =
          static_cast<int>(std::min<int64_t>(shape_.columns, columns_ - panel * shape_.columns));
      for (const Piece& piece : pieces) {
        product.b = weight + piece.weight;
        product.runs = runs.data() + piece.first_run;
        product.run_count = static_cast<int64_t>(piece.end_run - piece.first_run);
        product.add = &piece != &pieces.front();
        for (int64_t y = 0; y < rows; ++y) {
          // Dealt evenly: a short last panel would not keep the multipliers busy.
          for (int64_t i = 0; i < row_panels; ++i) {
            const int64_t begin = row * i / row_panels, end = row * (i + 1) / row_panels;
            product.a = layout.origin + y * layout.steps[1] + begin * layout.steps[2];
            product.rows = static_cast<int>(end - begin);
            product.c = sums + (y * row + begin) * shape_.columns;
            multiply_runs(product);
          }
        }
      }
      const int64_t channel = group * columns_ + panel * shape_.columns;
      store_box(sums, shape_.columns, args_.bias ? bias_.data() + channel : nullptr, geometry_,
                phase, first, count,
                image_of(target(), args_.dtype, geometry_.target, batch, channel, product.columns));
    }
  }

  const Convolution& args_;
  const bool backward_;
  const Geometry geometry_;
  const PanelShape shape_;
  const bool pairs_;
  const DType packed_;
  const int64_t size_, taps_;
  int64_t channels_, columns_;  // of the source and of the target, in a group
  int64_t padded_, pitch_, panels_, panel_bytes_;
  bool direct_;
  std::vector<int64_t> offsets_, positions_;
  std::vector<float> bias_;
  char* packed_weight_ = nullptr;
};

}  // namespace

void convolution_pixels(const Convolution& args) { PixelProducts(args).run(); }

}  // namespace accel::kernels
