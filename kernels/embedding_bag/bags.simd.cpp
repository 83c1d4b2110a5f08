// Bags of rows, see bags.h: a block of columns stays in registers while the rows pass.
#include "kernels/embedding_bag/bags.h"

#include "kernels/common/elements.h"

namespace accel::kernels::ACCEL_ISA {
namespace bags {
namespace {

// Columns that are summed at once.
constexpr int kVectors = 4;

template <class Element, class Index>
struct Bags {
  using Real = RealOf<Element>;
  using V = decltype(load_wide(static_cast<const Element*>(nullptr)));
  static constexpr int64_t kLanes = sizeof(V) / sizeof(Real);

  explicit Bags(const EmbeddingBag& each)
      : args(each),
        indices(static_cast<const Index*>(each.indices)),
        offsets(static_cast<const Index*>(each.offsets)),
        weights(static_cast<const Element*>(each.weights)) {}

  const EmbeddingBag& args;
  const Index* indices;
  const Index* offsets;
  const Element* weights;

  // Whether the row counts. An index out of range is noted, and does not.
  bool counts(Index index, BadIndex* bad) const {
    if (index >= 0 && index < args.rows) return index != args.padding;
    bad->note(index, args.rows);
    return false;
  }
  const Element* row(Index index) const {
    return static_cast<const Element*>(args.table) + index * args.row_stride;
  }

  // The sum of kVectors vectors of columns from `column`.
  template <int kCount>
  void sum_columns(int64_t begin, int64_t end, int64_t column, Real scale, Element* out) const {
    V sums[kCount] = {};
    for (int64_t i = begin; i < end; ++i) {
      if (indices[i] < 0 || indices[i] >= args.rows || indices[i] == args.padding) continue;
      const Element* from = row(indices[i]) + column;
      if (weights) {
        const V weight = splat<V>(widen(weights[i]));
        for (int v = 0; v < kCount; ++v) {
          sums[v] += load_wide(from + v * kLanes) * weight;
        }
      } else {
        for (int v = 0; v < kCount; ++v) sums[v] += load_wide(from + v * kLanes);
      }
    }
    for (int v = 0; v < kCount; ++v) {
      store_narrow(out + column + v * kLanes, sums[v] * splat<V>(scale));
    }
  }

  // The same, one column.
  void sum_column(int64_t begin, int64_t end, int64_t column, Real scale, Element* out) const {
    Real sum = 0;
    for (int64_t i = begin; i < end; ++i) {
      if (indices[i] < 0 || indices[i] >= args.rows || indices[i] == args.padding) continue;
      const Real value = widen(row(indices[i])[column]);
      sum += weights ? value * widen(weights[i]) : value;
    }
    narrow(out + column, sum * scale);
  }

  void sum(int64_t begin, int64_t end, Real scale, Element* out) const {
    int64_t column = 0;
    for (; column + kVectors * kLanes <= args.width; column += kVectors * kLanes) {
      sum_columns<kVectors>(begin, end, column, scale, out);
    }
    for (; column + kLanes <= args.width; column += kLanes) {
      sum_columns<1>(begin, end, column, scale, out);
    }
    for (; column < args.width; ++column) sum_column(begin, end, column, scale, out);
  }

  void maximum(int64_t begin, int64_t end, Element* out, Index* places) const {
    bool is_first = true;
    for (int64_t i = begin; i < end; ++i) {
      const Index index = indices[i];
      if (index < 0 || index >= args.rows || index == args.padding) continue;
      const Element* from = row(index);
      for (int64_t d = 0; d < args.width; ++d) {
        if (!is_first && !(widen(from[d]) > widen(out[d]))) continue;
        out[d] = from[d];
        places[d] = index;
      }
      is_first = false;
    }
    if (!is_first) return;
    for (int64_t d = 0; d < args.width; ++d) {
      narrow(out + d, 0);
      places[d] = -1;
    }
  }

  void reduce(int64_t bag, BadIndex* bad) const {
    int64_t begin = offsets[bag];
    int64_t end = bag + 1 < args.offset_count ? offsets[bag + 1] : args.count;
    if (bag == 0 && begin != 0) bad->note(begin, 1);
    if (begin < 0 || end < begin || end > args.count) {
      bad->note(end > args.count ? end : begin, args.count + 1);
      begin = end = 0;
    }
    Index size = 0;
    for (int64_t i = begin; i < end; ++i) {
      size += counts(indices[i], bad);
      static_cast<Index*>(args.offset2bag)[i] = static_cast<Index>(bag);
    }
    static_cast<Index*>(args.bag_size)[bag] = size;
    Element* out = static_cast<Element*>(args.out) + bag * args.width;
    if (args.mode == BagMode::Max) {
      return maximum(begin, end, out, static_cast<Index*>(args.maximum_index) + bag * args.width);
    }
    const bool divides = args.mode == BagMode::Mean && size > 0;
    sum(begin, end, divides ? Real(1) / static_cast<Real>(size) : Real(1), out);
  }
};

// Lanes are added up in order, so that a product of rows has one value.
template <class Element, class Index>
void gradients(const BagWeightGradient& all, int64_t begin, int64_t end, BadIndex* bad) {
  using Table = Bags<Element, Index>;
  using Real = typename Table::Real;
  using V = typename Table::V;
  const Table table(all.forward);
  const auto* bag_of = static_cast<const Index*>(all.forward.offset2bag);
  const int64_t width = all.forward.width;
  for (int64_t i = begin; i < end; ++i) {
    Element* to = static_cast<Element*>(all.weight_grad) + i;
    const Index index = table.indices[i];
    if (!table.counts(index, bad)) {
      narrow(to, 0);
      continue;
    }
    const Element* a = static_cast<const Element*>(all.grad) + bag_of[i] * width;
    const Element* b = table.row(index);
    V sums = {};
    int64_t d = 0;
    for (; d + Table::kLanes <= width; d += Table::kLanes) {
      sums += load_wide(a + d) * load_wide(b + d);
    }
    Real sum = 0;
    for (int64_t lane = 0; lane < Table::kLanes; ++lane) sum += sums[lane];
    for (; d < width; ++d) sum += widen(a[d]) * widen(b[d]);
    narrow(to, sum);
  }
}

template <class Body>
void with_types(const EmbeddingBag& args, Body&& body) {
  with_floating(args.dtype, [&](auto element) {
    args.index_dtype == DType::Int32 ? body(element, int32_t{}) : body(element, int64_t{});
  });
}

}  // namespace
}  // namespace bags

void reduce_bags(const EmbeddingBag& args, int64_t begin, int64_t end, BadIndex* bad) {
  bags::with_types(args, [&](auto element, auto index) {
    const bags::Bags<decltype(element), decltype(index)> each(args);
    for (int64_t bag = begin; bag < end; ++bag) each.reduce(bag, bad);
  });
}

void weight_gradients(const BagWeightGradient& args, int64_t begin, int64_t end, BadIndex* bad) {
  bags::with_types(args.forward, [&](auto element, auto index) {
    bags::gradients<decltype(element), decltype(index)>(args, begin, end, bad);
  });
}

}  // namespace accel::kernels::ACCEL_ISA
