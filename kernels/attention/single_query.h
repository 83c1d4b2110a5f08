// Attention of one query a head, forward: what a decoding step does. A tile would have one lane in
// use, so here the lanes are keys (scores, softmax) and the width (values), and memory is read once
// for the heads of a group. Included by forward.simd.cpp only.
#pragma once

#include "kernels/attention/tiles.h"

namespace accel::kernels::ACCEL_ISA::attention {
namespace {

// Heads of a group that are one piece of work: they share what is read of keys and values.
inline constexpr int kSharingHeads = 4;

// The sums over the lanes of kLanes vectors, that of the i-th in lane i.
template <int kStep = 1, class V>
ACCEL_INLINE V sums_of_lanes(V* vectors) {
  constexpr int kN = sizeof(V) / sizeof(vectors[0][0]);
  if constexpr (kStep == kN) {
    return vectors[0];
  } else {
    // Neighbours become one vector: runs of kStep lanes by turns of either, added in pairs.
    Vector<std::conditional_t<sizeof(vectors[0][0]) == 4, int32_t, int64_t>> first, second;
#pragma GCC unroll 16
    for (int lane = 0; lane < kN; ++lane) {
      const int run = lane / (2 * kStep) * 2 * kStep + lane % kStep;
      first[lane] = (lane & kStep ? kN : 0) + run;
      second[lane] = first[lane] + kStep;
    }
#pragma GCC unroll 8
    for (int i = 0; i < kN / kStep / 2; ++i) {
      const V a = vectors[2 * i], b = vectors[2 * i + 1];
      vectors[i] = __builtin_shuffle(a, b, first) + __builtin_shuffle(a, b, second);
    }
    return sums_of_lanes<2 * kStep>(vectors);
  }
}

template <class Kind>
class SingleQuery {
  using Real = typename Kind::Real;
  using V = Vector<Real>;
  static constexpr int kN = kLanes<Real>;
  static constexpr Real kInfinity = std::numeric_limits<Real>::infinity();

 public:
  SingleQuery(Arena& arena, const Attention& args)
      : args_(args),
        keys_(args.causal ? least<int64_t>(1, args.key_length) : args.key_length),
        score_stride_(round_up(keys_, kN)),
        width_(padded<Kind>(args.width)),
        value_width_(padded<Kind>(args.value_width)) {
    queries_ = arena.take<Real>(kSharingHeads * width_);
    rows_ = arena.take<Real>(kN * greatest(width_, value_width_));
    scores_ = arena.take<Real>(kSharingHeads * score_stride_);
    accumulated_ = arena.take<Real>(kSharingHeads * value_width_);
  }

  // Heads of one group.
  void run(const AttentionTensor& out, Real* logsumexp, int64_t batch, int64_t first_head,
           int heads) {
    const int64_t kv_head = first_head / (args_.heads / args_.kv_heads);
    for (int h = 0; h < heads; ++h) {
      const Rows q = rows_of(args_.q, args_.dtype, batch, first_head + h);
      Real* query = queries_ + h * width_;
      load_row(query, q, 0, args_.width);
      for (int64_t j = args_.width; j < width_; ++j) query[j] = 0;
    }
    const Rows k = rows_of(args_.k, args_.dtype, batch, kv_head);
    for (int64_t first = 0; first < keys_; first += kN) {
      const int count = static_cast<int>(least<int64_t>(kN, keys_ - first));
      const Natural<Kind> rows = natural<Kind>(k.at(first), args_.width, count, rows_);
      for (int h = 0; h < heads; ++h) {
        store(scores_ + h * score_stride_ + first, products(rows, count, queries_ + h * width_));
      }
    }
    for (int h = 0; h < heads; ++h) {
      Real* scores = scores_ + h * score_stride_;
      if (args_.mask.data) {
        add_mask(scores, rows_of(args_.mask, args_.mask_dtype, batch, first_head + h));
      }
      for (int64_t j = keys_; j < score_stride_; ++j) scores[j] = -kInfinity;
    }
    for (int64_t j = 0; j < heads * value_width_; ++j) accumulated_[j] = 0;
    Real sums[kSharingHeads];
    for (int h = 0; h < heads; ++h) {
      sums[h] =
          softmax(scores_ + h * score_stride_, logsumexp + batch * args_.heads + first_head + h);
    }
    const Rows v = rows_of(args_.v, args_.dtype, batch, kv_head);
    for (int64_t first = 0; first < keys_; first += kN) {
      const int count = static_cast<int>(least<int64_t>(kN, keys_ - first));
      const Natural<Kind> rows = natural<Kind>(v.at(first), args_.value_width, count, rows_);
      if (heads == kSharingHeads) {
        add_values<kSharingHeads>(rows, count, scores_ + first, accumulated_);
      } else {
        for (int h = 0; h < heads; ++h) {
          add_values<1>(rows, count, scores_ + h * score_stride_ + first,
                        accumulated_ + h * value_width_);
        }
      }
    }
    for (int h = 0; h < heads; ++h) {
      store_row<Real>(rows_of(out, args_.dtype, batch, first_head + h), 0,
                      accumulated_ + h * value_width_, args_.value_width,
                      sums[h] == 0 ? Real{0} : Real{1} / sums[h]);
    }
  }

 private:
  // Of kN keys, those past `count` being the last one again, with one query: to base 2.
  V products(Natural<Kind> rows, int count, const Real* query) const {
    V sums[kN];
#pragma GCC unroll 16
    for (int r = 0; r < kN; ++r) {
      const Real* row = rows.data + (r < count ? r : count - 1) * rows.row_stride;
      V sum = {};
      for (int64_t j = 0; j < width_; j += kN) sum = fma(load(row + j), load(query + j), sum);
      sums[r] = sum;
    }
    return sums_of_lanes(sums) * broadcast(static_cast<Real>(args_.scale * kLog2E));
  }

  void add_mask(Real* scores, Rows mask) {
    Real row[kN] = {};
    for (int64_t first = 0; first < keys_; first += kN) {
      Rows part = mask;
      part.data += first * part.column_stride * size_of(part.dtype);
      load_mask_row<Real>(row, part, 0, static_cast<int>(least<int64_t>(kN, keys_ - first)));
      store(scores + first, load(scores + first) + mask_to_base_2(load(row)));
    }
  }

  // Scores to probabilities that are not divided by their sum, which is returned.
  Real softmax(Real* scores, Real* logsumexp) const {
    V largest = broadcast(-kInfinity);
    for (int64_t j = 0; j < score_stride_; j += kN) largest = larger(largest, load(scores + j));
    Real maximum = largest[0];
    for (int i = 1; i < kN; ++i) maximum = maximum > largest[i] ? maximum : largest[i];
    // Without a visible key: subtracting zero leaves all scores at -inf.
    const V subtracted = broadcast(maximum == -kInfinity ? Real{0} : maximum);
    V sums = {};
    for (int64_t j = 0; j < score_stride_; j += kN) {
      const V probability = power_of_two(load(scores + j) - subtracted);
      store(scores + j, probability);
      sums += probability;
    }
    const Real sum = sum_of_lanes(sums);
    *logsumexp = sum == 0 ? -kInfinity : maximum * static_cast<Real>(kLn2) + natural_logarithm(sum);
    return sum;
  }

  // accumulated += probabilities * values, of kHeads heads.
  template <int kHeads>
  void add_values(Natural<Kind> rows, int count, const Real* probabilities, Real* accumulated) {
    for (int64_t j = 0; j < value_width_; j += kN) {
      V even[kHeads], odd[kHeads] = {};
#pragma GCC unroll 4
      for (int h = 0; h < kHeads; ++h) even[h] = load(accumulated + h * value_width_ + j);
      auto add = [&](int row, V* sums) {
        const V value = load(rows.data + row * rows.row_stride + j);
#pragma GCC unroll 4
        for (int h = 0; h < kHeads; ++h) {
          sums[h] = fma(broadcast(probabilities[h * score_stride_ + row]), value, sums[h]);
        }
      };
      int row = 0;
      for (; row + 2 <= count; row += 2) {
        add(row, even);
        add(row + 1, odd);
      }
      if (row < count) add(row, even);
#pragma GCC unroll 4
      for (int h = 0; h < kHeads; ++h) {
        store(accumulated + h * value_width_ + j, even[h] + odd[h]);
      }
    }
  }

  const Attention& args_;
  const int64_t keys_, score_stride_, width_, value_width_;
  Real *queries_, *rows_, *scores_, *accumulated_;
};

template <class Kind>
void forward_single_query(const Attention& args, const AttentionTensor& out,
                          typename Kind::Real* logsumexp) {
  const int64_t group = args.heads / args.kv_heads;
  const int64_t pieces_per_group = (group + kSharingHeads - 1) / kSharingHeads;
  const int64_t pieces = args.batch * args.kv_heads * pieces_per_group;
  const double work = static_cast<double>(least<int64_t>(group, kSharingHeads)) *
                      static_cast<double>(args.key_length) *
                      static_cast<double>(args.width + args.value_width);
  // A multiply-add takes about eight times as long as one of a tile (8.5 and 60 a ns on an Emerald
  // Rapids), and 5 µs are enough here: a decoding step has no more to share.
  const int64_t per_chunk = pieces_per_chunk(16 * work, pieces);
  parallel_for((pieces + per_chunk - 1) / per_chunk, [&](int64_t chunk) {
    Arena measure;
    SingleQuery<Kind>(measure, args);
    Arena arena(scratch(ScratchSlot::A, measure.used()));
    SingleQuery<Kind> query(arena, args);
    const int64_t end = least(pieces, (chunk + 1) * per_chunk);
    for (int64_t piece = chunk * per_chunk; piece < end; ++piece) {
      const int64_t batch = piece / (args.kv_heads * pieces_per_group);
      const int64_t in_batch = piece % (args.kv_heads * pieces_per_group);
      const int64_t first = in_batch % pieces_per_group * kSharingHeads;
      query.run(out, logsumexp, batch, in_batch / pieces_per_group * group + first,
                static_cast<int>(least<int64_t>(kSharingHeads, group - first)));
    }
  });
}

}  // namespace
}  // namespace accel::kernels::ACCEL_ISA::attention
