// Attention, backward: probabilities recomputed from logsumexp, tile by tile. Called through
// attention.cpp.
//
// One chunk owns a (batch, kv head) and walks over its query heads and blocks of queries: a block's
// gradient is complete when its keys have passed, and the gradients of keys and values grow in
// fp32 scratch memory. So every product is computed once, and in an order that no team changes.
// Where there are few (batch, kv head) pairs, the blocks of queries are split into a number of runs
// that follows from the shape; their partial gradients are then added in order.
#include "kernels/attention/tiles.h"

namespace accel::kernels::ACCEL_ISA {
namespace attention {
namespace {

struct Gradients {
  const AttentionTensor& grad_out;
  const AttentionTensor& out;
  const AttentionTensor& dq;
  const AttentionTensor& dk;
  const AttentionTensor& dv;
  const AttentionTensor& dmask;
};

template <class Kind>
struct BackwardBuffers {
  using Real = typename Kind::Real;
  using Unit = typename Kind::Unit;

  // Operands of one block of queries.
  Unit *query_copy, *query_transposed, *query_right;
  Unit *grad_copy, *grad_transposed, *grad_right;
  // Operands of all keys.
  Unit *key_copy, *key_right, *value_copy;
  // One tile, [key][query]. Pairs: probabilities and score gradients by rows, as bf16 along the
  // queries; score gradients also as pairs along the keys. Numbers overwrite the scores.
  Real *scores, *score_grads, *mask, *mask_rows;
  uint16_t *probability_rows, *score_grad_rows;
  uint32_t* score_grad_pairs;
  // Per query of the block: logsumexp in base 2, and the sum of grad_out * out.
  Real *logsumexp, *delta;
  Real *dq, *out_row, *grad_row;

  BackwardBuffers(Arena& arena, const Attention& args, const Rows& q, const Rows& k, const Rows& v,
                  const Rows& grad_out) {
    constexpr int64_t kTile = kBlock * kBlock;
    constexpr int64_t kPairs = kIsBFloat16<Kind> ? kTile : 0;
    query_copy = arena.take<Unit>(natural_copy_units<Kind>(q, args.width, kBlock));
    query_transposed = arena.take<Unit>(units_of<Kind>(args.width) * kBlock);
    query_right = arena.take<Unit>(right_copy_units<Kind>(args.width, kBlock));
    grad_copy = arena.take<Unit>(natural_copy_units<Kind>(grad_out, args.value_width, kBlock));
    grad_transposed = arena.take<Unit>(units_of<Kind>(args.value_width) * kBlock);
    grad_right = arena.take<Unit>(right_copy_units<Kind>(args.value_width, kBlock));
    key_copy = arena.take<Unit>(natural_copy_units<Kind>(k, args.width, args.key_length));
    key_right = arena.take<Unit>(right_copy_units<Kind>(args.width, args.key_length));
    value_copy = arena.take<Unit>(natural_copy_units<Kind>(v, args.value_width, args.key_length));
    scores = arena.take<Real>(kTile);
    score_grads = arena.take<Real>(kTile);
    mask = arena.take<Real>(args.mask.data ? kTile : 0);
    mask_rows = arena.take<Real>(args.mask.data ? kTile : 0);
    probability_rows = arena.take<uint16_t>(kPairs);
    score_grad_rows = arena.take<uint16_t>(kPairs);
    score_grad_pairs = arena.take<uint32_t>(kPairs / 2);
    logsumexp = arena.take<Real>(kBlock);
    delta = arena.take<Real>(kBlock);
    dq = arena.take<Real>(kBlock * padded<Kind>(args.width));
    out_row = arena.take<Real>(padded<Kind>(args.value_width));
    grad_row = arena.take<Real>(padded<Kind>(args.value_width));
  }
};

// Everything that holds for one (batch, kv head) and run.
template <class Kind>
struct Keys {
  Natural<Kind> keys, values;
  Right<Kind> key_right;
  typename Kind::Real *dk, *dv;  // [key_length, padded width], accumulated
};

template <class Real>
struct GradientTile {
  TileRange range;
  Real factor;      // |scale| * log2(e)
  Real keep_scale;  // 1 / (1 - dropout)
  const Real* mask;
  const Dropout* dropout;
  int64_t first_index = 0;
  int64_t row_length = 0;
  bool keep_score_grads;  // in numbers, for dmask
};

// Scores and gradients of the probabilities, of kLanes queries and `rows` keys, to probabilities
// (with dropped ones zero; their scale is applied to dv as a whole) and gradients of the scores.
template <class Kind, bool kMasked, bool kDropped>
void gradient_column(const GradientTile<typename Kind::Real>& tile, BackwardBuffers<Kind>& buffers,
                     int lane, int rows) {
  using Real = typename Kind::Real;
  using V = Vector<Real>;
  Real* scores = buffers.scores + lane;
  Real* score_grads = buffers.score_grads + lane;
  const V factor = broadcast(tile.factor), keep_scale = broadcast(tile.keep_scale);
  const V logsumexp = load(buffers.logsumexp + lane), delta = load(buffers.delta + lane);
  [[maybe_unused]] V query{};  // relative to the first key
  if constexpr (kMasked) {
    const int64_t offset = tile.range.first_query + lane - tile.range.first_key;
    for (int i = 0; i < kLanes<Real>; ++i) query[i] = static_cast<Real>(offset + i);
  }
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
    V probability[4], score_grad[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const int64_t at = (j + r) * kBlock;
      V exponent;
      if constexpr (kMasked) {
        const V score = load(scores + at);
        exponent = tile.mask ? fma(score, factor, load(tile.mask + at + lane)) : score * factor;
        // At most 0 but for rounding: matters where a mask of huge numbers makes that rounding
        // huge.
        exponent -= logsumexp;
        V power = power_of_two(exponent > V{} ? V{} : exponent);
        if (tile.range.causal) {
          power = query >= broadcast(static_cast<Real>(j + r)) ? power : V{};
        }
        probability[r] = power;
      } else {
        exponent = fma(load(scores + at), factor, -logsumexp);
        probability[r] = power_of_two(exponent);
      }
      V grad = load(score_grads + at);
      if (j + r >= rows) {
        probability[r] = V{};
        grad = V{};
      }
      if constexpr (kDropped) grad = keep[r] ? grad * keep_scale : V{};
      score_grad[r] = probability[r] * (grad - delta);
      if constexpr (kDropped) probability[r] = keep[r] ? probability[r] : V{};
    }
    if constexpr (kIsBFloat16<Kind>) {
      VectorU32 rounded[4];
      for (int r = 0; r < 4; ++r) {
        store_upper_halves(buffers.probability_rows + (j + r) * kBlock + lane,
                           round_to_upper_halves(probability[r]));
        rounded[r] = round_to_upper_halves(score_grad[r]);
        store_upper_halves(buffers.score_grad_rows + (j + r) * kBlock + lane, rounded[r]);
      }
      for (int r = 0; r < 4; r += 2) {
        store(buffers.score_grad_pairs + (j + r) / 2 * kBlock + lane,
              rounded[r] >> 16 | rounded[r + 1]);
      }
      if (tile.keep_score_grads) {
        for (int r = 0; r < 4; ++r) store(score_grads + (j + r) * kBlock, score_grad[r]);
      }
    } else {
      for (int r = 0; r < 4; ++r) {
        store(scores + (j + r) * kBlock, probability[r]);
        store(score_grads + (j + r) * kBlock, score_grad[r]);
      }
    }
  }
}

template <class Kind>
void gradient_tile(const GradientTile<typename Kind::Real>& tile, BackwardBuffers<Kind>& buffers) {
  const bool masked = tile.mask || tile.range.crossed();
  const int lanes = static_cast<int>(round_up(tile.range.queries, kStep));
  for (int lane = 0; lane < lanes; lane += kLanes<typename Kind::Real>) {
    const int rows =
        Kind::kSkipWithinTile ? tile.range.keys_seen(lane / kStep * kStep) : tile.range.keys;
    if (masked) {
      if (tile.dropout) {
        gradient_column<Kind, true, true>(tile, buffers, lane, rows);
      } else {
        gradient_column<Kind, true, false>(tile, buffers, lane, rows);
      }
    } else if (tile.dropout) {
      gradient_column<Kind, false, true>(tile, buffers, lane, rows);
    } else {
      gradient_column<Kind, false, false>(tile, buffers, lane, rows);
    }
  }
}

// The tile's left operands: by rows (keys × queries, summed over queries) and turned (queries ×
// keys, summed over keys), from an element on.
template <class Kind>
Left<Kind> probabilities_by_key(const BackwardBuffers<Kind>& buffers, int key, int query) {
  using Unit = typename Kind::Unit;
  if constexpr (kIsBFloat16<Kind>) {
    return {reinterpret_cast<const Unit*>(buffers.probability_rows + key * kBlock + query),
            kBlock / 2, 1};
  } else {
    return {buffers.scores + key * kBlock + query, kBlock, 1};
  }
}
template <class Kind>
Left<Kind> score_grads_by_key(const BackwardBuffers<Kind>& buffers, int key, int query) {
  using Unit = typename Kind::Unit;
  if constexpr (kIsBFloat16<Kind>) {
    return {reinterpret_cast<const Unit*>(buffers.score_grad_rows + key * kBlock + query),
            kBlock / 2, 1};
  } else {
    return {buffers.score_grads + key * kBlock + query, kBlock, 1};
  }
}
template <class Kind>
Left<Kind> score_grads_by_query(const BackwardBuffers<Kind>& buffers, int query) {
  if constexpr (kIsBFloat16<Kind>) {
    return {buffers.score_grad_pairs + query, 1, kBlock};
  } else {
    return {buffers.score_grads + query, 1, kBlock};
  }
}

// The five products of one tile, and its elements in between.
template <class Kind>
void backward_tile(const Attention& args, const Gradients& gradients,
                   GradientTile<typename Kind::Real>& tile, BackwardBuffers<Kind>& buffers,
                   const Keys<Kind>& keys, Right<Kind> queries, Right<Kind> grads, int64_t batch,
                   int64_t head) {
  const TileRange& range = tile.range;
  const int lanes = static_cast<int>(round_up(range.queries, kStep));
  const bool in_steps = Kind::kSkipWithinTile && range.crossed();
  const int key_step = in_steps ? kStep : range.keys;
  const int query_step = in_steps ? kStep : range.queries;
  const int64_t width = padded<Kind>(args.width), value_width = padded<Kind>(args.value_width);
  for (int j = 0; j < range.keys; j += key_step) {
    const int from = in_steps ? range.first_query_seeing(j) : 0;
    if (from >= lanes) break;
    const int count = least(key_step, range.keys - j);
    const int64_t key = range.first_key + j;
    product<Kind>(count, lanes - from, units_of<Kind>(args.width),
                  {keys.keys.data + key * keys.keys.row_stride, keys.keys.row_stride, 1},
                  {buffers.query_transposed + from, kBlock}, buffers.scores + j * kBlock + from,
                  kBlock, false);
    product<Kind>(count, lanes - from, units_of<Kind>(args.value_width),
                  {keys.values.data + key * keys.values.row_stride, keys.values.row_stride, 1},
                  {buffers.grad_transposed + from, kBlock}, buffers.score_grads + j * kBlock + from,
                  kBlock, false);
  }
  gradient_tile<Kind>(tile, buffers);
  for (int j = 0; j < range.keys; j += key_step) {
    const int from = in_steps ? range.first_query_seeing(j) : 0;
    if (from >= range.queries) break;
    const int count = least(key_step, range.keys - j);
    const int64_t key = range.first_key + j;
    const int64_t depth = units_of<Kind>(range.queries - from);
    const int64_t unit = from / Kind::kPerUnit;
    if (keys.dv) {
      product<Kind>(count, value_width, depth, probabilities_by_key<Kind>(buffers, j, from),
                    {grads.data + unit * grads.row_stride, grads.row_stride},
                    keys.dv + key * value_width, value_width, true);
    }
    if (keys.dk) {
      product<Kind>(count, width, depth, score_grads_by_key<Kind>(buffers, j, from),
                    {queries.data + unit * queries.row_stride, queries.row_stride},
                    keys.dk + key * width, width, true);
    }
  }
  if (gradients.dq.data) {
    const typename Kind::Unit* key_rows =
        keys.key_right.data + range.first_key / Kind::kPerUnit * keys.key_right.row_stride;
    for (int i = 0; i < range.queries; i += query_step) {
      const int seen = in_steps ? range.keys_seen(i) : range.keys;
      if (seen == 0) continue;
      product<Kind>(least(query_step, range.queries - i), width, units_of<Kind>(seen),
                    score_grads_by_query<Kind>(buffers, i), {key_rows, keys.key_right.row_stride},
                    buffers.dq + i * width, width, true);
    }
  }
  if (gradients.dmask.data) {
    const Rows to = rows_of(gradients.dmask, args.dtype, batch, head);
    using Real = typename Kind::Real;
    for (int i = 0; i < range.queries; ++i) {
      const int seen = in_steps ? range.keys_seen(i / kStep * kStep) : range.keys;
      Real row[kBlock];
      for (int j = 0; j < seen; ++j) row[j] = buffers.score_grads[j * kBlock + i];
      Rows part = to.at(range.first_query + i);
      part.data += range.first_key * part.column_stride * size_of(part.dtype);
      store_row<Real>(part, 0, row, seen, Real{1});
    }
  }
}

// One block of queries of one head: loads it, walks over the keys, stores dq.
template <class Kind>
void backward_block(const Attention& args, const Gradients& gradients,
                    const typename Kind::Real* logsumexp, BackwardBuffers<Kind>& buffers,
                    const Keys<Kind>& keys, int64_t batch, int64_t head, int64_t first_query) {
  using Real = typename Kind::Real;
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  const int queries = static_cast<int>(least<int64_t>(kBlock, args.query_length - first_query));
  const int lanes = static_cast<int>(round_up(queries, kStep));
  const int64_t key_end =
      args.causal ? least(args.key_length, first_query + queries) : args.key_length;
  const int64_t width = padded<Kind>(args.width);
  const int64_t first_row = (batch * args.heads + head) * args.query_length + first_query;

  const Rows q = rows_of(args.q, args.dtype, batch, head).at(first_query);
  const Rows grad = rows_of(gradients.grad_out, args.dtype, batch, head).at(first_query);
  const Rows out = rows_of(gradients.out, args.dtype, batch, head).at(first_query);
  const Natural<Kind> query_rows = natural<Kind>(q, args.width, queries, buffers.query_copy);
  const Natural<Kind> grad_rows = natural<Kind>(grad, args.value_width, queries, buffers.grad_copy);
  pack_transposed<Kind>(buffers.query_transposed, query_rows, args.width, queries, lanes);
  if (args.scale < 0) flip_signs<Kind>(buffers.query_transposed, units_of<Kind>(args.width));
  pack_transposed<Kind>(buffers.grad_transposed, grad_rows, args.value_width, queries, lanes);
  const Right<Kind> query_right =
      right_operand<Kind>(query_rows, args.width, queries, buffers.query_right);
  const Right<Kind> grad_right =
      right_operand<Kind>(grad_rows, args.value_width, queries, buffers.grad_right);

  const int64_t value_width = padded<Kind>(args.value_width);
  for (int64_t j = args.value_width; j < value_width; ++j) {
    buffers.out_row[j] = buffers.grad_row[j] = 0;
  }
  for (int i = 0; i < lanes; ++i) {
    // Lanes past the last query, and rows without a visible key: every probability becomes zero.
    buffers.logsumexp[i] = kInfinity;
    buffers.delta[i] = 0;
    if (i >= queries) continue;
    const Real value = logsumexp[first_row + i];
    if (value != -kInfinity) buffers.logsumexp[i] = value * static_cast<Real>(kLog2E);
    load_row<Real>(buffers.out_row, out, i, args.value_width);
    load_row<Real>(buffers.grad_row, grad, i, args.value_width);
    Vector<Real> sum{};
    for (int64_t j = 0; j < value_width; j += kLanes<Real>) {
      sum = fma(load(buffers.out_row + j), load(buffers.grad_row + j), sum);
    }
    buffers.delta[i] = sum_of_lanes(sum);
  }
  std::memset(buffers.dq, 0, static_cast<size_t>(queries * width) * sizeof(Real));
  if (gradients.dmask.data) {
    // Tiles that are skipped, and what lies beyond the causal edge.
    const Rows to = rows_of(gradients.dmask, args.dtype, batch, head);
    const Real zero[kBlock] = {};
    for (int i = 0; i < queries; ++i) {
      for (int64_t j = 0; j < args.key_length; j += kBlock) {
        Rows part = to.at(first_query + i);
        part.data += j * part.column_stride * size_of(part.dtype);
        store_row<Real>(part, 0, zero, least<int64_t>(kBlock, args.key_length - j), Real{1});
      }
    }
  }

  const Dropout dropout(args);
  GradientTile<Real> tile;
  tile.factor = static_cast<Real>(__builtin_fabs(args.scale) * kLog2E);
  tile.keep_scale = static_cast<Real>(dropout.keep_scale);
  tile.dropout = args.dropout > 0 ? &dropout : nullptr;
  tile.row_length = args.key_length;
  tile.keep_score_grads = gradients.dmask.data != nullptr;
  for (int64_t first_key = 0; first_key < key_end; first_key += kBlock) {
    const int count = static_cast<int>(least<int64_t>(kBlock, key_end - first_key));
    tile.range = {first_query, first_key, queries, count, args.causal};
    tile.first_index = first_row * args.key_length + first_key;
    tile.mask = nullptr;
    if (args.mask.data) {
      const Rows mask = rows_of(args.mask, args.mask_dtype, batch, head);
      const MaskEffect effect = load_mask(buffers.mask, buffers.mask_rows, mask, tile.range);
      if (effect == MaskEffect::All) continue;
      if (effect == MaskEffect::Some) tile.mask = buffers.mask;
    }
    backward_tile<Kind>(args, gradients, tile, buffers, keys, query_right, grad_right, batch, head);
  }
  if (gradients.dq.data) {
    const Rows to = rows_of(gradients.dq, args.dtype, batch, head).at(first_query);
    for (int i = 0; i < queries; ++i) {
      store_row<Real>(to, i, buffers.dq + i * width, args.width, static_cast<Real>(args.scale));
    }
  }
}

// Stores rows [begin, end) of the sum of `parts` partial gradients, `stride` apart.
template <class Real>
void store_sum(const Rows& to, Real* first, int64_t parts, int64_t stride, int64_t begin,
               int64_t end, int64_t width, int64_t padded_width, Real factor) {
  for (int64_t row = begin; row < end; ++row) {
    Real* sum = first + row * padded_width;
    for (int64_t part = 1; part < parts; ++part) {
      const Real* other = sum + part * stride;
      for (int64_t j = 0; j < width; ++j) sum[j] += other[j];
    }
    store_row<Real>(to, row, sum, width, factor);
  }
}

template <class Kind>
void backward(const Attention& args, const Gradients& gradients,
              const typename Kind::Real* logsumexp) {
  using Real = typename Kind::Real;
  const int64_t group = args.heads / greatest<int64_t>(args.kv_heads, 1);
  const int64_t blocks = (args.query_length + kBlock - 1) / kBlock;
  const int64_t items = group * blocks;  // (head, block of queries) pairs of one kv head
  const int64_t pairs = args.batch * args.kv_heads;
  if (pairs == 0) return;
  const int64_t width = padded<Kind>(args.width), value_width = padded<Kind>(args.value_width);
  const int64_t part_size = args.key_length * (width + value_width);

  // Enough chunks for a team of 32, but no fewer than four blocks a run: adding a partial gradient
  // costs about half a block.
  const int64_t runs = greatest<int64_t>(1, least((32 + pairs - 1) / pairs, items / 4));
  const double work = static_cast<double>(items) *
                      static_cast<double>(least<int64_t>(kBlock, args.query_length)) *
                      static_cast<double>(args.key_length) *
                      static_cast<double>(3 * args.width + 2 * args.value_width);
  const int64_t pairs_per_chunk = runs > 1 ? 1 : pieces_per_chunk(work, pairs);
  Real* parts =
      runs == 1
          ? nullptr
          : static_cast<Real*>(scratch(
                ScratchSlot::B, static_cast<size_t>(pairs * runs * part_size) * sizeof(Real)));
  const Real dk_factor = static_cast<Real>(args.scale);
  const Real dv_factor = static_cast<Real>(Dropout(args).keep_scale);

  auto run_one = [&](int64_t pair, int64_t run) {
    const int64_t batch = pair / args.kv_heads, kv_head = pair % args.kv_heads;
    const Rows q = rows_of(args.q, args.dtype, batch, 0);
    const Rows k = rows_of(args.k, args.dtype, batch, kv_head);
    const Rows v = rows_of(args.v, args.dtype, batch, kv_head);
    const Rows grad = rows_of(gradients.grad_out, args.dtype, batch, 0);
    Arena measure;
    BackwardBuffers<Kind>(measure, args, q, k, v, grad);
    measure.take<Real>(parts ? 0 : part_size);
    Arena arena(scratch(ScratchSlot::A, measure.used()));
    BackwardBuffers<Kind> buffers(arena, args, q, k, v, grad);
    Real* part =
        parts ? parts + (pair * runs + run) * part_size : arena.template take<Real>(part_size);
    std::memset(part, 0, static_cast<size_t>(part_size) * sizeof(Real));

    Keys<Kind> keys{};
    keys.keys = natural<Kind>(k, args.width, args.key_length, buffers.key_copy);
    keys.values = natural<Kind>(v, args.value_width, args.key_length, buffers.value_copy);
    if (gradients.dq.data) {
      keys.key_right =
          right_operand<Kind>(keys.keys, args.width, args.key_length, buffers.key_right);
    }
    keys.dk = gradients.dk.data ? part : nullptr;
    keys.dv = gradients.dv.data ? part + args.key_length * width : nullptr;
    for (int64_t item = items * run / runs; item < items * (run + 1) / runs; ++item) {
      backward_block<Kind>(args, gradients, logsumexp, buffers, keys, batch,
                           kv_head * group + item / blocks, item % blocks * kBlock);
    }
    return part;
  };
  auto store_keys = [&](int64_t pair, Real* part, int64_t begin, int64_t end) {
    const int64_t batch = pair / args.kv_heads, kv_head = pair % args.kv_heads;
    if (gradients.dk.data) {
      store_sum<Real>(rows_of(gradients.dk, args.dtype, batch, kv_head), part, runs, part_size,
                      begin, end, args.width, width, dk_factor);
    }
    if (gradients.dv.data) {
      store_sum<Real>(rows_of(gradients.dv, args.dtype, batch, kv_head),
                      part + args.key_length * width, runs, part_size, begin, end, args.value_width,
                      value_width, dv_factor);
    }
  };

  if (runs == 1) {
    parallel_for((pairs + pairs_per_chunk - 1) / pairs_per_chunk, [&](int64_t chunk) {
      const int64_t end = least(pairs, (chunk + 1) * pairs_per_chunk);
      for (int64_t pair = chunk * pairs_per_chunk; pair < end; ++pair) {
        store_keys(pair, run_one(pair, 0), 0, args.key_length);
      }
      release_tiles<Kind>();
    });
    return;
  }
  parallel_for(pairs * runs, [&](int64_t chunk) {
    run_one(chunk / runs, chunk % runs);
    release_tiles<Kind>();
  });
  const int64_t key_blocks = (args.key_length + kBlock - 1) / kBlock;
  parallel_for(pairs * key_blocks, [&](int64_t chunk) {
    const int64_t pair = chunk / key_blocks, begin = chunk % key_blocks * kBlock;
    store_keys(pair, parts + pair * runs * part_size, begin,
               least<int64_t>(args.key_length, begin + kBlock));
  });
}

}  // namespace
}  // namespace attention

void attention_backward(const Attention& args, const AttentionTensor& grad_out,
                        const AttentionTensor& out, const void* logsumexp,
                        const AttentionTensor& dq, const AttentionTensor& dk,
                        const AttentionTensor& dv, const AttentionTensor& dmask) {
  const attention::Gradients gradients{grad_out, out, dq, dk, dv, dmask};
  attention::with_kind(args, [&](auto kind) {
    using Kind = decltype(kind);
    attention::backward<Kind>(args, gradients, static_cast<const typename Kind::Real*>(logsumexp));
  });
}

}  // namespace accel::kernels::ACCEL_ISA
