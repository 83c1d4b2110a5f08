// Scans: splits the lanes into tiles whose lanes lie side by side, brings the tiles into that form
// where memory does not have it, and joins the blocks of long lanes.
#include "kernels/scan/scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/transpose.h"
#include "kernels/scan/tile.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, scan_tile, (const ScanTile& tile, ScanState* state), (tile, state))
ACCEL_DISPATCH(void, find_extremum,
               (ScanOp op, ScanElement element, const void* elements, int64_t count,
                int64_t position, ScanValue* value, int64_t* index),
               (op, element, elements, count, position, value, index))
ACCEL_DISPATCH(void, widen_elements, (DType dtype, const void* from, void* to, int64_t count),
               (dtype, from, to, count))
ACCEL_DISPATCH(void, narrow_elements, (DType dtype, const void* from, void* to, int64_t count),
               (dtype, from, to, count))

namespace {

// Elements that a thread takes at a time: about 20 µs.
constexpr int64_t kChunkElements = 16 * 1024;
// Elements of a tile: input and output stay in the first-level cache.
constexpr int64_t kTileElements = 1024;

// The sides of a dimension's strides. Strides in bytes, of kState in states.
enum Side { kIn, kValues, kIndices, kState, kSides };
static_assert(kSides == LineDimension::kSides);

struct Total {
  ScanValue value;
  double terms;
  int64_t index;
};

ScanElement element_of(DType dtype) {
  if (dtype == DType::Float64) return ScanElement::Real64;
  return is_floating(dtype) ? ScanElement::Real32 : ScanElement::Int64;
}
constexpr int64_t size_of(ScanElement element) { return element == ScanElement::Real32 ? 4 : 8; }
// Whether a tile's elements are these bytes.
bool is_stored(DType dtype) {
  return dtype == DType::Float32 || dtype == DType::Float64 || dtype == DType::Int64;
}

// Before the first element.
Total nothing(ScanOp op, ScanElement element) {
  Total total{{0.0}, -1, 0};  // no term, not even the maximum's own
  const bool real = element != ScanElement::Int64;
  switch (op) {
    case ScanOp::Sum:
      if (!real) total.value.integer = 0;
      break;
    case ScanOp::Product:
      real ? void(total.value.real = 1) : void(total.value.integer = 1);
      break;
    case ScanOp::LogSumExp:
      total.value.real = -INFINITY;
      break;
    case ScanOp::LastMaximum:
    case ScanOp::FirstMaximum:
      real ? void(total.value.real = -INFINITY)
           : void(total.value.integer = std::numeric_limits<int64_t>::min());
      break;
    case ScanOp::LastMinimum:
    case ScanOp::FirstMinimum:
      real ? void(total.value.real = INFINITY)
           : void(total.value.integer = std::numeric_limits<int64_t>::max());
      break;
  }
  return total;
}

template <class Number>
bool replaces(ScanOp op, Number x, Number best) {
  switch (op) {
    case ScanOp::LastMaximum:
      return x >= best || x != x;
    case ScanOp::LastMinimum:
      return x <= best || x != x;
    case ScanOp::FirstMaximum:
      return x > best || (x != x && best == best);
    default:
      return x < best || (x != x && best == best);
  }
}

// a, and then b. Sums of 16-bit dtypes are rounded to fp32 by the tile that goes on from them.
Total combine(ScanOp op, ScanElement element, const Total& a, const Total& b) {
  const bool real = element != ScanElement::Int64;
  const auto unsigned_of = [](const Total& x) { return static_cast<uint64_t>(x.value.integer); };
  Total result = a;
  switch (op) {
    case ScanOp::Sum:
      if (real) {
        result.value.real += b.value.real;
      } else {
        result.value.integer = static_cast<int64_t>(unsigned_of(a) + unsigned_of(b));
      }
      return result;
    case ScanOp::Product:
      if (real) {
        result.value.real *= b.value.real;
      } else {
        result.value.integer = static_cast<int64_t>(unsigned_of(a) * unsigned_of(b));
      }
      return result;
    case ScanOp::LogSumExp: {
      const bool greater = b.value.real > a.value.real;
      const Total &large = greater ? b : a, &small = greater ? a : b;
      const double distance = large.value.real - small.value.real;
      const double factor = large.value.real == small.value.real ? 1 : std::exp(-distance);
      result.value = large.value;
      result.terms = large.terms + (small.terms + 1) * factor;
      return result;
    }
    default: {
      const bool better = real ? replaces(op, b.value.real, a.value.real)
                               : replaces(op, b.value.integer, a.value.integer);
      return better ? b : a;
    }
  }
}

// One pass over lanes of one length, in tiles.
class Pass {
 public:
  struct Operand {
    char* data = nullptr;
    DType dtype = DType::Float32;
    int64_t stride = 0;
  };

  ScanOp op = ScanOp::Sum;
  ScanElement element = ScanElement::Real32;
  int64_t length = 0;
  Operand in, values, indices;  // values without data: only totals are wanted
  // States of a row's blocks are adjacent; these lanes are block `first_block` and those after it.
  int64_t blocks = 1, first_block = 0;
  const Total* begin = nullptr;  // what a lane continues from, by the strides of kState
  Total* end = nullptr;          // what it comes to

  void run(const LineDimensions& kept) {
    LineDimensions dimensions = joined(kept);
    take_lane_dimension(dimensions);
    // Where a row of lanes is a row of memory, tiles are wide; else they are squares to transpose.
    const int64_t width =
        lanes_.strides[kIn] == kernels::size_of(in.dtype) ? kMaxTileLanes : kScanLanes;
    const int64_t groups = (lanes_.size + width - 1) / width;
    const int64_t group_elements = std::max<int64_t>(1, std::min(width, lanes_.size) * length);
    const int64_t per_chunk = std::max<int64_t>(1, kChunkElements / group_elements);
    const int64_t units = count_of(dimensions) * groups;
    parallel_for((units + per_chunk - 1) / per_chunk, [&](int64_t chunk) {
      const int64_t last = std::min(units, (chunk + 1) * per_chunk);
      for (int64_t unit = chunk * per_chunk; unit < last; ++unit) {
        const int64_t first = unit % groups * width;
        int64_t offsets[kSides];
        for (int side = 0; side < kSides; ++side) offsets[side] = first * lanes_.strides[side];
        add_offsets(dimensions, unit / groups, offsets);
        // What does not fill a vector goes by itself: the rest need not be copied.
        const int64_t count = std::min(width, lanes_.size - first);
        const int64_t whole = count / kScanLanes * kScanLanes;
        if (whole > 0) run_lanes(offsets, whole);
        if (whole == count) continue;
        for (int side = 0; side < kSides; ++side) offsets[side] += whole * lanes_.strides[side];
        run_lanes(offsets, count - whole);
      }
    });
  }

 private:
  // Lanes that lie side by side in the input, else as many as there are in one dimension.
  void take_lane_dimension(LineDimensions& dimensions) {
    if (dimensions.empty()) return;
    auto worth = [&](const LineDimension& dimension) {
      const bool adjacent = dimension.strides[kIn] == kernels::size_of(in.dtype);
      return adjacent && dimension.size >= kScanLanes ? std::numeric_limits<int64_t>::max()
                                                      : dimension.size;
    };
    auto best = std::max_element(
        dimensions.begin(), dimensions.end(),
        [&](const LineDimension& x, const LineDimension& y) { return worth(x) < worth(y); });
    lanes_ = *best;
    dimensions.erase(best);
  }

  // Up to kMaxTileLanes lanes from these offsets on.
  void run_lanes(const int64_t* offsets, int64_t count) const {
    ScanState state;
    const int64_t padded = (count + kScanLanes - 1) / kScanLanes * kScanLanes;
    for (int64_t lane = 0; lane < padded; ++lane) {
      const int64_t at =
          offsets[kState] + std::min(lane, count - 1) * lanes_.strides[kState] + first_block;
      const Total total = begin ? begin[at] : nothing(op, element);
      state.value[lane] = total.value;
      state.terms[lane] = total.terms;
      state.index[lane] = total.index;
      state.position[lane] = at % blocks * kScanBlock;
    }
    // A reduction of lines that run along memory needs no lanes side by side.
    const bool along = !values.data && in.stride == kernels::size_of(in.dtype) &&
                       (op == ScanOp::FirstMaximum || op == ScanOp::FirstMinimum);
    if (along) {
      for (int64_t lane = 0; lane < count; ++lane) {
        reduce_line(in.data + offsets[kIn] + lane * lanes_.strides[kIn], lane, &state);
      }
    }
    const int64_t steps = std::max<int64_t>(8, kTileElements / padded);
    for (int64_t step = 0; step < length && !along; step += steps) {
      run_tile(offsets, step, std::min(steps, length - step), count, padded, &state);
    }
    if (!end) return;
    for (int64_t lane = 0; lane < count; ++lane) {
      end[offsets[kState] + lane * lanes_.strides[kState] + first_block] = {
          state.value[lane], state.terms[lane], state.index[lane]};
    }
  }

  void reduce_line(const char* line, int64_t lane, ScanState* state) const {
    const bool stored = is_stored(in.dtype);
    const int64_t piece = stored ? length : kTileElements;
    for (int64_t first = 0; first < length; first += piece) {
      const int64_t count = std::min(piece, length - first);
      const char* elements = line + first * in.stride;
      if (!stored) {
        void* const wide = scratch(ScratchSlot::B, static_cast<size_t>(kTileElements) * 8);
        widen_elements(in.dtype, elements, wide, count);
        elements = static_cast<const char*>(wide);
      }
      find_extremum(op, element, elements, count, state->position[lane] + first,
                    &state->value[lane], &state->index[lane]);
    }
  }

  void run_tile(const int64_t* offsets, int64_t first, int64_t steps, int64_t count, int64_t padded,
                ScanState* state) const {
    ScanTile tile;
    tile.op = op;
    tile.element = element;
    tile.wide = in.dtype == DType::Float32;
    tile.lanes = padded;
    tile.steps = steps;
    // Elements, two pieces for each operand: as the tile wants them, and as memory has them.
    const int64_t piece = padded * steps * 8;
    char* const scratch_memory =
        static_cast<char*>(scratch(ScratchSlot::B, static_cast<size_t>(6 * piece)));
    const int64_t width = size_of(element);

    const char* from = in.data + offsets[kIn] + first * in.stride;
    tile.in = from;
    tile.in_step = in.stride;
    if (!is_direct(in, kIn, count)) {
      tile.in = scratch_memory;
      tile.in_step = padded * width;
      load(from, count, padded, steps, scratch_memory, scratch_memory + piece);
    }
    char* to = nullptr;
    char* values_tile = scratch_memory + 2 * piece;
    const bool direct_values = is_direct(values, kValues, count);
    if (values.data) {
      to = values.data + offsets[kValues] + first * values.stride;
      tile.out = direct_values ? to : values_tile;
      tile.out_step = direct_values ? values.stride : padded * width;
    }
    char* places = nullptr;
    char* indices_tile = scratch_memory + 4 * piece;
    const bool direct_indices = is_direct(indices, kIndices, count);
    if (indices.data) {
      places = indices.data + offsets[kIndices] + first * indices.stride;
      tile.indices = reinterpret_cast<int64_t*>(direct_indices ? places : indices_tile);
      tile.index_step = direct_indices ? indices.stride : padded * 8;
    }
    scan_tile(tile, state);
    if (values.data && !direct_values) {
      store(values, kValues, to, count, padded, steps, values_tile, values_tile + piece);
    }
    if (indices.data && !direct_indices) {
      store(indices, kIndices, places, count, padded, steps, indices_tile, nullptr);
    }
  }

  // Whether the tile can be computed in the operand's own memory.
  bool is_direct(const Operand& operand, Side side, int64_t count) const {
    return is_stored(operand.dtype) && count % kScanLanes == 0 &&
           lanes_.strides[side] == kernels::size_of(operand.dtype);
  }

  void load(const char* from, int64_t count, int64_t padded, int64_t steps, char* tile,
            char* raw) const {
    const int64_t size = kernels::size_of(in.dtype), stride = lanes_.strides[kIn];
    if (stride == size && !is_stored(in.dtype)) {
      for (int64_t step = 0; step < steps; ++step) {
        widen_elements(in.dtype, from + step * in.stride, tile + step * padded * size_of(element),
                       count);
      }
      return;
    }
    char* const moved = is_stored(in.dtype) ? tile : raw;
    copy_tile({moved, from, count, steps, size, padded * size, stride, in.stride}, size);
    if (!is_stored(in.dtype)) widen_elements(in.dtype, raw, tile, padded * steps);
  }

  void store(const Operand& operand, Side side, char* to, int64_t count, int64_t padded,
             int64_t steps, const char* tile, char* raw) const {
    const int64_t size = kernels::size_of(operand.dtype), stride = lanes_.strides[side];
    if (stride == size && !is_stored(operand.dtype)) {
      for (int64_t step = 0; step < steps; ++step) {
        narrow_elements(operand.dtype, tile + step * padded * size_of(element),
                        to + step * operand.stride, count);
      }
      return;
    }
    if (!is_stored(operand.dtype)) {
      narrow_elements(operand.dtype, tile, raw, padded * steps);
      tile = raw;
    }
    if (operand.stride == size) {
      copy_tile({to, tile, steps, count, size, stride, padded * size, size}, size);
    } else {
      copy_tile({to, tile, count, steps, stride, operand.stride, size, padded * size}, size);
    }
  }

  LineDimension lanes_;
};

Pass::Operand bind(const LineOperand& operand) {
  return {static_cast<char*>(operand.data), operand.dtype, operand.stride};
}

// A scan in blocks: the lanes of its passes.
struct Blocks {
  explicit Blocks(const Scan& args)
      : count((args.length + kScanBlock - 1) / kScanBlock), rest(args.length % kScanBlock) {
    for (int64_t size : args.sizes) lanes *= size;
    pass.op = args.op;
    pass.element = element_of(args.in.dtype);
    pass.in = bind(args.in);
    pass.blocks = count;
    // Row-major, a row of states for each lane.
    dimensions.resize(args.sizes.size());
    int64_t states = count;
    for (size_t i = args.sizes.size(); i-- > 0;) {
      dimensions[i].size = args.sizes[i];
      dimensions[i].strides[kIn] = args.in.strides[i];
      dimensions[i].strides[kState] = states;
      states *= args.sizes[i];
    }
  }

  // Results of a scan; those of a reduction are no operand of the passes.
  void write(const Scan& args) {
    pass.values = bind(args.values);
    if (args.indices.data) pass.indices = bind(args.indices);
    for (size_t i = 0; i < dimensions.size(); ++i) {
      dimensions[i].strides[kValues] = args.values.strides[i];
      if (args.indices.data) dimensions[i].strides[kIndices] = args.indices.strides[i];
    }
  }

  // All blocks but the last `but`.
  void run(int64_t but = 0) const {
    const int64_t whole = std::min(count - but, count - (rest > 0));
    if (whole > 0) {
      Pass blocks = pass;
      LineDimensions extended = dimensions;
      extended.push_back({whole,
                          {kScanBlock * pass.in.stride, kScanBlock * pass.values.stride,
                           kScanBlock * pass.indices.stride, 1}});
      blocks.length = kScanBlock;
      blocks.run(extended);
    }
    if (whole == count - but) return;
    Pass last = pass;
    last.length = rest;
    last.first_block = whole;
    for (Pass::Operand* operand : {&last.in, &last.values, &last.indices}) {
      if (operand->data) operand->data += whole * kScanBlock * operand->stride;
    }
    last.run(dimensions);
  }

  // body(states of a lane) for every lane, on the team.
  template <class Body>
  void for_each_lane(Total* states, const Body& body) const {
    const int64_t per_chunk = std::max<int64_t>(1, 1024 / count);
    parallel_for((lanes + per_chunk - 1) / per_chunk, [&](int64_t chunk) {
      const int64_t last = std::min(lanes, (chunk + 1) * per_chunk);
      for (int64_t lane = chunk * per_chunk; lane < last; ++lane) body(lane, states + lane * count);
    });
  }

  Total* make_states() const {
    return static_cast<Total*>(
        scratch(ScratchSlot::A, static_cast<size_t>(lanes * count) * sizeof(Total)));
  }

  int64_t count, rest, lanes = 1;
  Pass pass;
  LineDimensions dimensions;
};

}  // namespace

void scan(const Scan& args) {
  Blocks blocks(args);
  if (blocks.count > 1) {
    // What each block comes to, then what it begins with.
    Total* const states = blocks.make_states();
    blocks.pass.end = states;
    blocks.run(/*but=*/1);
    blocks.for_each_lane(states, [&](int64_t, Total* lane) {
      Total sum = nothing(args.op, blocks.pass.element);
      for (int64_t block = 0; block + 1 < blocks.count; ++block) {
        const Total next = combine(args.op, blocks.pass.element, sum, lane[block]);
        lane[block] = sum;
        sum = next;
      }
      lane[blocks.count - 1] = sum;
    });
    blocks.pass.begin = states;
    blocks.pass.end = nullptr;
  }
  blocks.write(args);
  blocks.run();
}

void arg_reduce(const Scan& args) {
  Blocks blocks(args);
  Total* const states = blocks.make_states();
  blocks.pass.end = states;
  blocks.run();
  const ScanElement element = blocks.pass.element;
  const int64_t lanes = blocks.lanes;
  // As elements, as memory holds them, and places.
  char* const values = static_cast<char*>(scratch(ScratchSlot::C, static_cast<size_t>(lanes * 24)));
  char* const raw = values + lanes * 8;
  int64_t* const indices = reinterpret_cast<int64_t*>(raw + lanes * 8);
  blocks.for_each_lane(states, [&](int64_t lane, const Total* of_blocks) {
    Total best = of_blocks[0];
    for (int64_t block = 1; block < blocks.count; ++block) {
      best = combine(args.op, element, best, of_blocks[block]);
    }
    if (element == ScanElement::Real32) {
      reinterpret_cast<float*>(values)[lane] = static_cast<float>(best.value.real);
    } else {
      std::memcpy(values + lane * 8, &best.value, 8);
    }
    indices[lane] = best.index;
  });
  auto put = [&](const LineOperand& to, const void* from) {
    const int64_t size = kernels::size_of(to.dtype);
    std::vector<int64_t> strides(args.sizes.size());
    int64_t stride = size;
    for (size_t i = args.sizes.size(); i-- > 0; stride *= args.sizes[i]) strides[i] = stride;
    strided_copy(static_cast<int>(args.sizes.size()), args.sizes.data(), size, to.data,
                 to.strides.data(), from, strides.data());
  };
  if (args.values.data) {
    narrow_elements(args.values.dtype, values, raw, lanes);
    put(args.values, raw);
  }
  if (args.indices.data) put(args.indices, indices);
}

}  // namespace accel::kernels
