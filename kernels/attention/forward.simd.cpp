// Attention, forward: online softmax over blocks of keys, one block of queries at a time.
// Called through attention.cpp. Scores exist only as one tile of kBlock × kBlock.
#include "kernels/attention/single_query.h"
#include "kernels/attention/tiles.h"

namespace accel::kernels::ACCEL_ISA {
namespace attention {
namespace {

template <class Kind>
struct ForwardBuffers {
  using Real = typename Kind::Real;
  using Unit = typename Kind::Unit;

  Unit* query_copy;
  Unit* query_transposed;
  Unit* key_copy;
  Unit* value_copy;
  Unit* value_right;
  Unit* probabilities;  // pairs only: numbers overwrite the scores
  Real* scores;
  Real *mask, *mask_rows;
  Real* accumulated;
  Real *maximum, *sum, *rescale;  // of each query: in base 2, relative to that, of the last block

  ForwardBuffers(Arena& arena, const Attention& args, const Rows& q, const Rows& k, const Rows& v) {
    query_copy = arena.take<Unit>(natural_copy_units<Kind>(q, args.width, kBlock));
    query_transposed = arena.take<Unit>(units_of<Kind>(args.width) * kBlock);
    key_copy = arena.take<Unit>(natural_copy_units<Kind>(k, args.width, args.key_length));
    value_copy = arena.take<Unit>(natural_copy_units<Kind>(v, args.value_width, args.key_length));
    value_right = arena.take<Unit>(right_copy_units<Kind>(args.value_width, args.key_length));
    probabilities = arena.take<Unit>(kIsBFloat16<Kind> ? kBlock / 2 * kBlock : 0);
    scores = arena.take<Real>(kBlock * kBlock);
    mask = arena.take<Real>(args.mask.data ? kBlock * kBlock : 0);
    mask_rows = arena.take<Real>(args.mask.data ? kBlock * kBlock : 0);
    accumulated = arena.take<Real>(kBlock * padded<Kind>(args.value_width));
    maximum = arena.take<Real>(kBlock);
    sum = arena.take<Real>(kBlock);
    rescale = arena.take<Real>(kBlock);
  }
};

// Keys and values of one (batch, kv head), brought into units block by block as queries reach them.
template <class Kind>
struct Prepared {
  int64_t batch = -1, head = -1, until = 0;
  Natural<Kind> keys{};
  Right<Kind> values{};

  void prepare(const Attention& args, ForwardBuffers<Kind>& buffers, int64_t b, int64_t kv_head,
               int64_t end) {
    if (b != batch || kv_head != head) {
      batch = b;
      head = kv_head;
      until = 0;
    }
    while (until < end) {
      const int64_t count = least<int64_t>(kBlock, args.key_length - until);
      const Rows k = rows_of(args.k, args.dtype, b, kv_head);
      const Rows v = rows_of(args.v, args.dtype, b, kv_head);
      const int64_t key_stride = natural_row_units<Kind>(args.width);
      const int64_t value_stride = natural_row_units<Kind>(args.value_width);
      const Natural<Kind> key_rows =
          natural<Kind>(k.at(until), args.width, count, buffers.key_copy + until * key_stride);
      const Natural<Kind> value_rows = natural<Kind>(v.at(until), args.value_width, count,
                                                     buffers.value_copy + until * value_stride);
      const Right<Kind> value_right = right_operand<Kind>(
          value_rows, args.value_width, count,
          buffers.value_right + until / Kind::kPerUnit * padded<Kind>(args.value_width));
      if (until == 0) {
        keys = key_rows;
        values = value_right;
      }
      until += count;
    }
  }
};

// What the softmax of one tile needs beside its columns.
template <class Real>
struct SoftmaxTile {
  TileRange range;
  Real factor;              // |scale| * log2(e)
  const Real* mask;         // or null
  const Dropout* dropout;   // or null
  int64_t first_index = 0;  // linear index of the tile's first element
  int64_t row_length = 0;
};

// Scores of kLanes queries (column `lane` of the tile on) and `rows` keys to probabilities relative
// to the running maximum. Rows up to the next multiple of four are written as zeros.
template <class Kind, bool kMasked, bool kDropped>
void softmax_column(const SoftmaxTile<typename Kind::Real>& tile, ForwardBuffers<Kind>& buffers,
                    int lane, int rows) {
  using Real = typename Kind::Real;
  using V = Vector<Real>;
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  Real* scores = buffers.scores + lane;
  const V factor = broadcast(tile.factor);
  const V old_maximum = load(buffers.maximum + lane);

  V largest[4];
  for (auto& each : largest) each = broadcast(-kInfinity);
  if constexpr (kMasked) {
    const int64_t offset = tile.range.first_query + lane - tile.range.first_key;
    V query{};  // relative to the first key
    for (int i = 0; i < kLanes<Real>; ++i) query[i] = static_cast<Real>(offset + i);
    for (int j = 0; j < rows; j += 4) {
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        if (j + r >= rows) break;
        Real* at = scores + (j + r) * kBlock;
        V score = load(at);
        score = tile.mask ? fma(score, factor, load(tile.mask + (j + r) * kBlock + lane))
                          : score * factor;
        if (tile.range.causal) {
          score = query >= broadcast(static_cast<Real>(j + r)) ? score : broadcast(-kInfinity);
        }
        store(at, score);
        largest[r] = larger(largest[r], score);
      }
    }
  } else {
    for (int j = 0; j + 4 <= rows; j += 4) {
      for (int r = 0; r < 4; ++r) {
        largest[r] = larger(largest[r], load(scores + (j + r) * kBlock));
      }
    }
    for (int j = rows & ~3; j < rows; ++j) {
      largest[0] = larger(largest[0], load(scores + j * kBlock));
    }
  }
  V new_maximum = larger(larger(largest[0], largest[1]), larger(largest[2], largest[3]));
  if constexpr (!kMasked) new_maximum *= factor;
  new_maximum = larger(old_maximum, new_maximum);
  // A row that has seen no visible key yet: subtracting zero leaves its scores at -inf.
  const V subtracted = new_maximum == broadcast(-kInfinity) ? V{} : new_maximum;
  const V rescale = power_of_two(old_maximum - subtracted);

  V sums[4] = {};
  using Column = DropoutColumn<Real>;
  typename Column::Mask keep[4];
  [[maybe_unused]] std::conditional_t<kDropped, Column, int> dropout = [&] {
    if constexpr (kDropped) {
      return Column(*tile.dropout, tile.first_index + lane * tile.row_length, tile.row_length);
    } else {
      return 0;
    }
  }();
  for (int j = 0; j < rows; j += 4) {
    if constexpr (kDropped) dropout.next(keep);
    V probability[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const V score = load(scores + (j + r) * kBlock);
      probability[r] = power_of_two(kMasked ? score - subtracted : fma(score, factor, -subtracted));
      if (j + r >= rows) probability[r] = V{};
      sums[r] += probability[r];
      if constexpr (kDropped) probability[r] = keep[r] ? probability[r] : V{};
    }
    if constexpr (kIsBFloat16<Kind>) {
      for (int r = 0; r < 4; r += 2) {
        store(buffers.probabilities + (j + r) / 2 * kBlock + lane,
              round_to_upper_halves(probability[r]) >> 16 |
                  round_to_upper_halves(probability[r + 1]));
      }
    } else {
      for (int r = 0; r < 4; ++r) store(scores + (j + r) * kBlock, probability[r]);
    }
  }
  const V sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  store(buffers.sum + lane, load(buffers.sum + lane) * rescale + sum);
  store(buffers.maximum + lane, new_maximum);
  store(buffers.rescale + lane, rescale);
}

template <class Kind>
void softmax_tile(const SoftmaxTile<typename Kind::Real>& tile, ForwardBuffers<Kind>& buffers) {
  const bool masked = tile.mask || tile.range.crossed();
  const int lanes = static_cast<int>(round_up(tile.range.queries, kStep));
  for (int lane = 0; lane < lanes; lane += kLanes<typename Kind::Real>) {
    const int rows =
        Kind::kSkipWithinTile ? tile.range.keys_seen(lane / kStep * kStep) : tile.range.keys;
    if (masked) {
      if (tile.dropout) {
        softmax_column<Kind, true, true>(tile, buffers, lane, rows);
      } else {
        softmax_column<Kind, true, false>(tile, buffers, lane, rows);
      }
    } else if (tile.dropout) {
      softmax_column<Kind, false, true>(tile, buffers, lane, rows);
    } else {
      softmax_column<Kind, false, false>(tile, buffers, lane, rows);
    }
  }
}

// accumulated = accumulated * rescale + probabilities * values.
template <class Kind>
void accumulate_tile(const TileRange& range, ForwardBuffers<Kind>& buffers, Right<Kind> values,
                     int64_t width) {
  using Real = typename Kind::Real;
  using Unit = typename Kind::Unit;
  for (int i = 0; i < range.queries; ++i) {
    const Real factor = buffers.rescale[i];
    if (factor == Real{1}) continue;
    Real* row = buffers.accumulated + i * width;
    for (int64_t j = 0; j < width; ++j) row[j] *= factor;
  }
  const Unit* probabilities;
  if constexpr (kIsBFloat16<Kind>) {
    probabilities = buffers.probabilities;
  } else {
    probabilities = buffers.scores;
  }
  const bool in_steps = Kind::kSkipWithinTile && range.crossed();
  const int step = in_steps ? kStep : range.queries;
  for (int i = 0; i < range.queries; i += step) {
    const int keys = in_steps ? range.keys_seen(i) : range.keys;
    if (keys == 0) continue;
    product<Kind>(least(step, range.queries - i), width, units_of<Kind>(keys),
                  {probabilities + i, 1, kBlock}, values, buffers.accumulated + i * width, width,
                  true);
  }
}

template <class Kind>
void forward_block(const Attention& args, const AttentionTensor& out,
                   typename Kind::Real* logsumexp, ForwardBuffers<Kind>& buffers,
                   Prepared<Kind>& prepared, int64_t batch, int64_t head, int64_t first_query) {
  using Real = typename Kind::Real;
  using Unit = typename Kind::Unit;
  const int queries = static_cast<int>(least<int64_t>(kBlock, args.query_length - first_query));
  const int lanes = static_cast<int>(round_up(queries, kStep));
  const int64_t key_end =
      args.causal ? least(args.key_length, first_query + queries) : args.key_length;
  const int64_t width = padded<Kind>(args.value_width);
  prepared.prepare(args, buffers, batch, head / (args.heads / args.kv_heads), key_end);

  const Rows q = rows_of(args.q, args.dtype, batch, head).at(first_query);
  pack_transposed<Kind>(buffers.query_transposed,
                        natural<Kind>(q, args.width, queries, buffers.query_copy), args.width,
                        queries, lanes);
  if (args.scale < 0) flip_signs<Kind>(buffers.query_transposed, units_of<Kind>(args.width));
  for (int i = 0; i < lanes; ++i) {
    buffers.maximum[i] = -std::numeric_limits<Real>::infinity();
    buffers.sum[i] = 0;
  }
  std::memset(buffers.accumulated, 0, static_cast<size_t>(queries * width) * sizeof(Real));

  const Dropout dropout(args);
  SoftmaxTile<Real> tile;
  tile.factor = static_cast<Real>(__builtin_fabs(args.scale) * kLog2E);
  tile.dropout = args.dropout > 0 ? &dropout : nullptr;
  tile.row_length = args.key_length;
  const int64_t first_row = (batch * args.heads + head) * args.query_length + first_query;
  for (int64_t first_key = 0; first_key < key_end; first_key += kBlock) {
    const int keys = static_cast<int>(least<int64_t>(kBlock, key_end - first_key));
    tile.range = {first_query, first_key, queries, keys, args.causal};
    tile.first_index = first_row * args.key_length + first_key;
    tile.mask = nullptr;
    if (args.mask.data) {
      const Rows mask = rows_of(args.mask, args.mask_dtype, batch, head);
      const MaskEffect effect = load_mask(buffers.mask, buffers.mask_rows, mask, tile.range);
      if (effect == MaskEffect::All) continue;
      if (effect == MaskEffect::Some) tile.mask = buffers.mask;
    }
    const Left<Kind> key_rows{prepared.keys.data + first_key * prepared.keys.row_stride,
                              prepared.keys.row_stride, 1};
    const bool in_steps = Kind::kSkipWithinTile && tile.range.crossed();
    const int step = in_steps ? kStep : keys;
    for (int j = 0; j < keys; j += step) {
      const int from = in_steps ? tile.range.first_query_seeing(j) : 0;
      if (from >= lanes) break;
      product<Kind>(least(step, keys - j), lanes - from, units_of<Kind>(args.width),
                    {key_rows.data + j * key_rows.row_stride, key_rows.row_stride, 1},
                    {buffers.query_transposed + from, kBlock}, buffers.scores + j * kBlock + from,
                    kBlock, false);
    }
    softmax_tile<Kind>(tile, buffers);
    const Unit* values =
        prepared.values.data + first_key / Kind::kPerUnit * prepared.values.row_stride;
    accumulate_tile<Kind>(tile.range, buffers, {values, prepared.values.row_stride}, width);
  }

  const Rows o = rows_of(out, args.dtype, batch, head).at(first_query);
  for (int i = 0; i < queries; ++i) {
    const Real sum = buffers.sum[i];
    const Real factor = sum == 0 ? Real{0} : static_cast<Real>(dropout.keep_scale) / sum;
    store_row<Real>(o, i, buffers.accumulated + i * width, args.value_width, factor);
    logsumexp[first_row + i] =
        sum == 0 ? -std::numeric_limits<Real>::infinity()
                 : buffers.maximum[i] * static_cast<Real>(kLn2) + natural_logarithm(sum);
  }
}

template <class Kind>
void forward(const Attention& args, const AttentionTensor& out, typename Kind::Real* logsumexp) {
  const int64_t blocks = (args.query_length + kBlock - 1) / kBlock;
  const int64_t pieces = args.batch * args.heads * blocks;
  if (pieces == 0) return;
  const double work = static_cast<double>(least<int64_t>(kBlock, args.query_length)) *
                      static_cast<double>(args.key_length) *
                      static_cast<double>(args.width + args.value_width);
  // Neighbouring blocks share packed keys and values: no more chunks than keep a team balanced.
  const int64_t per_chunk = greatest(pieces_per_chunk(work, pieces), pieces / 64);
  parallel_for((pieces + per_chunk - 1) / per_chunk, [&](int64_t chunk) {
    const Rows q = rows_of(args.q, args.dtype, 0, 0), k = rows_of(args.k, args.dtype, 0, 0),
               v = rows_of(args.v, args.dtype, 0, 0);
    Arena measure;
    ForwardBuffers<Kind>(measure, args, q, k, v);
    Arena arena(scratch(ScratchSlot::A, measure.used()));
    ForwardBuffers<Kind> buffers(arena, args, q, k, v);
    Prepared<Kind> prepared;
    const int64_t end = least(pieces, (chunk + 1) * per_chunk);
    for (int64_t piece = chunk * per_chunk; piece < end; ++piece) {
      const int64_t batch_and_head = piece / blocks;
      forward_block<Kind>(args, out, logsumexp, buffers, prepared, batch_and_head / args.heads,
                          batch_and_head % args.heads, piece % blocks * kBlock);
    }
    release_tiles<Kind>();
  });
}

}  // namespace
}  // namespace attention

void attention_forward(const Attention& args, const AttentionTensor& out, void* logsumexp) {
  if (args.query_length == 1 && args.dropout == 0) {
    if (args.dtype == DType::Float64) {
      return attention::forward_single_query<attention::Float64Kind>(
          args, out, static_cast<double*>(logsumexp));
    }
    return attention::forward_single_query<attention::Float32Kind>(args, out,
                                                                   static_cast<float*>(logsumexp));
  }
  attention::with_kind(args, [&](auto kind) {
    using Kind = decltype(kind);
    attention::forward<Kind>(args, out, static_cast<typename Kind::Real*>(logsumexp));
  });
}

}  // namespace accel::kernels::ACCEL_ISA
