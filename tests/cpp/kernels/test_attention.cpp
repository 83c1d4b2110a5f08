// Attention against a reference in double precision that materialises everything.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/attention/internal.h"
#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "tests/cpp/kernels/elements_test.h"

namespace accel::kernels {
namespace {

using attention_internal::Bf16Path;

// The order of dimensions in memory, outermost first.
enum class Layout { HeadsOuter, HeadsInner, WidthOuter, Sparse };

struct Tensor {
  int64_t sizes[4];
  int64_t strides[4];
  DType dtype;
  std::vector<uint8_t> memory;

  Tensor(int64_t b, int64_t h, int64_t t, int64_t d, DType type, Layout layout = Layout::HeadsOuter)
      : sizes{b, h, t, d}, dtype(type) {
    int order[4] = {0, 1, 2, 3};
    int64_t step = 1;
    if (layout == Layout::HeadsInner) std::swap(order[1], order[2]);
    if (layout == Layout::WidthOuter) std::swap(order[2], order[3]);
    if (layout == Layout::Sparse) step = 3;
    for (int i = 3; i >= 0; --i) {
      strides[order[i]] = step;
      step *= sizes[order[i]] + (layout == Layout::Sparse ? 1 : 0);
    }
    memory.resize(static_cast<size_t>((step + 8) * size_of(dtype)));
    // NaN wherever no element lies: reading past an end shows.
    if (is_floating(dtype)) {
      for (int64_t i = 0; i < step + 8; ++i) write_element(memory.data(), i, dtype, NAN);
    }
  }
  void* data() { return memory.data() + 4 * size_of(dtype); }
  const void* data() const { return memory.data() + 4 * size_of(dtype); }
  int64_t index(int64_t b, int64_t h, int64_t t, int64_t d) const {
    return b * strides[0] + h * strides[1] + t * strides[2] + d * strides[3];
  }
  double get(int64_t b, int64_t h, int64_t t, int64_t d) const {
    return read_element(data(), index(b, h, t, d), dtype);
  }
  void set(int64_t b, int64_t h, int64_t t, int64_t d, double value) {
    write_element(data(), index(b, h, t, d), dtype, value);
  }
  template <class Body>
  void each(Body&& body) const {
    for (int64_t b = 0; b < sizes[0]; ++b)
      for (int64_t h = 0; h < sizes[1]; ++h)
        for (int64_t t = 0; t < sizes[2]; ++t)
          for (int64_t d = 0; d < sizes[3]; ++d) body(b, h, t, d);
  }
  void fill(std::mt19937& generator, double spread = 1) {
    std::normal_distribution<double> normal(0, spread);
    each([&](auto... i) { set(i..., normal(generator)); });
  }
  AttentionTensor view() const {
    AttentionTensor result;
    result.data = const_cast<void*>(data());
    for (int i = 0; i < 4; ++i) result.strides[i] = strides[i];
    return result;
  }
};

double uniform_reference(uint64_t seed, uint64_t offset, uint64_t index) {
  const uint64_t counter = offset + index / 4;
  uint32_t c[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
  uint32_t k[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p = 0xD2511F53ull * c[0], q = 0xCD9E8D57ull * c[2];
    const uint32_t next[4] = {
        static_cast<uint32_t>(q >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(q),
        static_cast<uint32_t>(p >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p)};
    std::memcpy(c, next, sizeof(c));
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return (c[index % 4] >> 8) * 0x1p-24;
}

enum class MaskKind { None, BoolPerKey, BoolFull, AdditivePerHead };

struct Case {
  int64_t batch = 2, heads = 2, kv_heads = 2, query_length = 16, key_length = 16;
  int64_t width = 16, value_width = 16;
  DType dtype = DType::Float32;
  bool causal = false;
  MaskKind mask = MaskKind::None;
  double dropout = 0;
  Layout layout = Layout::HeadsOuter;
  float scale = 0;  // 0: 1 / sqrt(width)
  int64_t seed = 0x123456789abcdef, offset = 0;

  std::string name() const {
    return "B" + std::to_string(batch) + " H" + std::to_string(heads) + "/" +
           std::to_string(kv_heads) + " T" + std::to_string(query_length) + "x" +
           std::to_string(key_length) + " D" + std::to_string(width) + "/" +
           std::to_string(value_width) + " dtype " + std::to_string(static_cast<int>(dtype)) +
           (causal ? " causal" : "") + " mask " + std::to_string(static_cast<int>(mask)) +
           " dropout " + std::to_string(dropout) + " layout " +
           std::to_string(static_cast<int>(layout));
  }
};

struct Problem {
  Case c;
  Attention args;
  Tensor q, k, v, grad_out, mask;
  Tensor out, dq, dk, dv, dmask;
  std::vector<uint8_t> logsumexp;

  static Tensor make_mask(const Case& c) {
    switch (c.mask) {
      case MaskKind::BoolPerKey:
        return {c.batch, 1, 1, c.key_length, DType::Bool};
      case MaskKind::BoolFull:
        return {c.batch, c.heads, c.query_length, c.key_length, DType::Bool, c.layout};
      case MaskKind::AdditivePerHead:
        return {1, c.heads, c.query_length, c.key_length, c.dtype};
      default:
        return {1, 1, 1, 1, DType::Bool};
    }
  }

  explicit Problem(const Case& a)
      : c(a),
        q(a.batch, a.heads, a.query_length, a.width, a.dtype, a.layout),
        k(a.batch, a.kv_heads, a.key_length, a.width, a.dtype, a.layout),
        v(a.batch, a.kv_heads, a.key_length, a.value_width, a.dtype, a.layout),
        grad_out(a.batch, a.heads, a.query_length, a.value_width, a.dtype, a.layout),
        mask(make_mask(a)),
        out(a.batch, a.heads, a.query_length, a.value_width, a.dtype, a.layout),
        dq(a.batch, a.heads, a.query_length, a.width, a.dtype, a.layout),
        dk(a.batch, a.kv_heads, a.key_length, a.width, a.dtype, a.layout),
        dv(a.batch, a.kv_heads, a.key_length, a.value_width, a.dtype, a.layout),
        dmask(a.batch, a.heads, a.query_length, a.key_length, a.dtype, a.layout),
        logsumexp(static_cast<size_t>(a.batch * a.heads * a.query_length) * 8) {
    std::mt19937 generator(7);
    q.fill(generator);
    k.fill(generator);
    v.fill(generator);
    grad_out.fill(generator);
    args.batch = c.batch;
    args.heads = c.heads;
    args.kv_heads = c.kv_heads;
    args.query_length = c.query_length;
    args.key_length = c.key_length;
    args.width = c.width;
    args.value_width = c.value_width;
    args.dtype = c.dtype;
    args.scale = c.scale != 0 ? c.scale : 1 / std::sqrt(static_cast<float>(c.width));
    args.causal = c.causal;
    args.q = q.view();
    args.k = k.view();
    args.v = v.view();
    args.dropout = c.dropout;
    args.seed = c.seed;
    args.offset = c.offset;
    if (c.mask == MaskKind::None) return;
    if (c.mask == MaskKind::AdditivePerHead) {
      mask.fill(generator);
      // A few forbidden places.
      for (int64_t i = 0; i < c.query_length; i += 3) {
        mask.set(0, 0, i, i % c.key_length, -INFINITY);
      }
    } else {
      mask.each([&](auto... i) { mask.set(i..., generator() % 4 != 0); });
      if (c.mask == MaskKind::BoolFull) {  // one row sees nothing
        for (int64_t j = 0; j < c.key_length; ++j) mask.set(0, 0, c.query_length / 2, j, 0);
      }
    }
    args.mask = mask.view();
    args.mask_dtype = mask.dtype;
    for (int i = 0; i < 4; ++i) {
      if (mask.sizes[i] == 1) args.mask.strides[i] = 0;
    }
  }

  void forward() { attention_forward(args, out.view(), logsumexp.data()); }
  void backward() {
    attention_backward(args, grad_out.view(), out.view(), logsumexp.data(), dq.view(), dk.view(),
                       dv.view(), dmask.view());
  }
  double logsumexp_at(int64_t i) const {
    return read_element(logsumexp.data(), i,
                        c.dtype == DType::Float64 ? DType::Float64 : DType::Float32);
  }
};

using Values = std::vector<double>;

struct Reference {
  Values out, logsumexp, dq, dk, dv, dmask;
};

Reference reference(const Problem& p) {
  const Case& c = p.c;
  const int64_t group = c.heads / c.kv_heads;
  Reference r;
  r.out.resize(c.batch * c.heads * c.query_length * c.value_width);
  r.logsumexp.resize(c.batch * c.heads * c.query_length);
  r.dq.resize(c.batch * c.heads * c.query_length * c.width);
  r.dk.resize(c.batch * c.kv_heads * c.key_length * c.width);
  r.dv.resize(c.batch * c.kv_heads * c.key_length * c.value_width);
  r.dmask.resize(c.batch * c.heads * c.query_length * c.key_length);
  Values score(c.key_length), kept(c.key_length), grad(c.key_length);
  for (int64_t b = 0; b < c.batch; ++b)
    for (int64_t h = 0; h < c.heads; ++h)
      for (int64_t i = 0; i < c.query_length; ++i) {
        const int64_t kv = h / group, row = (b * c.heads + h) * c.query_length + i;
        double largest = -INFINITY, sum = 0;
        for (int64_t j = 0; j < c.key_length; ++j) {
          double s = 0;
          for (int64_t d = 0; d < c.width; ++d) s += p.q.get(b, h, i, d) * p.k.get(b, kv, j, d);
          s *= p.args.scale;
          if (p.args.mask.data) {
            const int64_t* strides = p.args.mask.strides;
            const double m = read_element(
                p.args.mask.data, b * strides[0] + h * strides[1] + i * strides[2] + j * strides[3],
                p.args.mask_dtype);
            s = p.args.mask_dtype == DType::Bool ? (m ? s : -INFINITY) : s + m;
          }
          if (c.causal && j > i) s = -INFINITY;
          score[j] = s;
          largest = std::max(largest, s);
        }
        for (int64_t j = 0; j < c.key_length; ++j) {
          score[j] = largest == -INFINITY ? 0 : std::exp(score[j] - largest);
          sum += score[j];
        }
        r.logsumexp[row] = largest + std::log(sum);
        if (largest == -INFINITY) r.logsumexp[row] = -INFINITY;
        double delta = 0;
        for (int64_t j = 0; j < c.key_length; ++j) {
          if (sum > 0) score[j] /= sum;
          kept[j] = 1;
          if (c.dropout > 0) {
            const double u = uniform_reference(c.seed, c.offset, row * c.key_length + j);
            kept[j] = u < c.dropout ? 0 : 1 / (1 - c.dropout);
          }
          grad[j] = 0;
          for (int64_t d = 0; d < c.value_width; ++d) {
            const double g = p.grad_out.get(b, h, i, d);
            r.out[row * c.value_width + d] += score[j] * kept[j] * p.v.get(b, kv, j, d);
            grad[j] += g * p.v.get(b, kv, j, d) * kept[j];
            r.dv[((b * c.kv_heads + kv) * c.key_length + j) * c.value_width + d] +=
                score[j] * kept[j] * g;
          }
          delta += score[j] * grad[j];
        }
        for (int64_t j = 0; j < c.key_length; ++j) {
          const double ds = score[j] * (grad[j] - delta);
          r.dmask[row * c.key_length + j] = ds;
          for (int64_t d = 0; d < c.width; ++d) {
            r.dq[row * c.width + d] += p.args.scale * ds * p.k.get(b, kv, j, d);
            r.dk[((b * c.kv_heads + kv) * c.key_length + j) * c.width + d] +=
                p.args.scale * ds * p.q.get(b, h, i, d);
          }
        }
      }
  return r;
}

// The largest difference relative to the largest expected value; inputs are of the order of one,
// so that exact zeros are compared on that scale.
void expect_close(const Tensor& actual, const Values& expected, double tolerance,
                  const std::string& what) {
  double largest = 0.5, difference = 0;
  size_t n = 0;
  actual.each([&](auto... i) {
    const double value = actual.get(i...), want = expected[n++];
    largest = std::max(largest, std::fabs(want));
    const double error = std::fabs(value - want);
    if (!(error <= difference)) difference = error;  // NaN too
  });
  EXPECT_LE(difference, tolerance * largest) << what;
}

double tolerance_of(DType dtype) {
  switch (dtype) {
    case DType::Float64:
      return 1e-12;
    case DType::Float32:
      return 1e-5;
    case DType::Float16:
      return 2e-3;
    default:
      return 2e-2;
  }
}

void check(const Case& c) {
  SCOPED_TRACE(c.name());
  Problem p(c);
  const Reference expected = reference(p);
  p.forward();
  const double tolerance = tolerance_of(c.dtype);
  expect_close(p.out, expected.out, tolerance, "out");
  const double tolerance_of_sum = c.dtype == DType::Float64 ? 1e-12 : 2e-6;
  for (size_t i = 0; i < expected.logsumexp.size(); ++i) {
    const double want = expected.logsumexp[i], got = p.logsumexp_at(static_cast<int64_t>(i));
    if (std::isinf(want)) {
      ASSERT_EQ(got, want) << "logsumexp of row " << i;
    } else {
      ASSERT_NEAR(got, want, tolerance_of_sum * std::max(1.0, std::fabs(want)))
          << "logsumexp of row " << i;
    }
  }
  p.backward();
  expect_close(p.dq, expected.dq, tolerance, "dq");
  expect_close(p.dk, expected.dk, tolerance, "dk");
  expect_close(p.dv, expected.dv, tolerance, "dv");
  expect_close(p.dmask, expected.dmask, tolerance, "dmask");
}

constexpr DType kDTypes[] = {DType::Float32, DType::BFloat16, DType::Float16, DType::Float64};

// Restores what the machine would choose.
struct PathGuard {
  Bf16Path before = attention_internal::bf16_path();
  ~PathGuard() { attention_internal::override_bf16_path(before); }
};

TEST(Attention, LengthsAndWidths) {
  for (const DType dtype : kDTypes) {
    for (const int64_t length : {1, 3, 17, 33, 65, 130}) {
      for (const int64_t width : {8, 16, 64, 80, 128}) {
        for (const bool causal : {false, true}) {
          Case c;
          c.batch = 1;
          c.dtype = dtype;
          c.query_length = c.key_length = length;
          c.width = c.value_width = width;
          c.causal = causal;
          check(c);
        }
      }
    }
  }
}

TEST(Attention, OddWidthsAndDifferentValueWidth) {
  for (const DType dtype : kDTypes) {
    for (const auto& [width, value_width] : {std::pair{1, 7}, {5, 16}, {24, 40}, {33, 1}}) {
      Case c;
      c.dtype = dtype;
      c.query_length = c.key_length = 70;
      c.width = width;
      c.value_width = value_width;
      c.causal = true;
      check(c);
    }
  }
}

TEST(Attention, QueriesAndKeysOfDifferentLength) {
  for (const DType dtype : kDTypes) {
    for (const auto& [queries, keys] :
         {std::pair{1, 130}, {130, 1}, {17, 65}, {130, 66}, {64, 200}}) {
      for (const bool causal : {false, true}) {
        Case c;
        c.dtype = dtype;
        c.query_length = queries;
        c.key_length = keys;
        c.causal = causal;
        check(c);
      }
    }
  }
}

TEST(Attention, Masks) {
  for (const DType dtype : kDTypes) {
    for (const MaskKind mask :
         {MaskKind::BoolPerKey, MaskKind::BoolFull, MaskKind::AdditivePerHead}) {
      for (const bool causal : {false, true}) {
        for (const int64_t length : {5, 65, 130}) {
          Case c;
          c.dtype = dtype;
          c.query_length = c.key_length = length;
          c.mask = mask;
          c.causal = causal;
          check(c);
        }
      }
    }
  }
}

// A decoding step has a way of its own.
TEST(Attention, OneQuery) {
  for (const DType dtype : kDTypes) {
    for (const int64_t keys : {1, 15, 16, 77, 300}) {
      for (const auto& [heads, kv_heads] : {std::pair{3, 3}, {8, 2}, {6, 1}}) {
        for (const MaskKind mask : {MaskKind::None, MaskKind::BoolPerKey, MaskKind::BoolFull,
                                    MaskKind::AdditivePerHead}) {
          for (const Layout layout : {Layout::HeadsOuter, Layout::HeadsInner, Layout::Sparse}) {
            Case c;
            c.dtype = dtype;
            c.query_length = 1;
            c.key_length = keys;
            c.heads = heads;
            c.kv_heads = kv_heads;
            c.mask = mask;
            c.layout = layout;
            c.width = keys % 2 ? 16 : 40;
            c.value_width = keys % 3 ? 24 : 64;
            c.scale = keys == 77 ? -0.3f : 0;
            check(c);
          }
        }
      }
    }
  }
}

TEST(Attention, GroupedHeads) {
  for (const DType dtype : kDTypes) {
    for (const auto& [heads, kv_heads] : {std::pair{4, 2}, {6, 1}, {12, 3}}) {
      Case c;
      c.dtype = dtype;
      c.heads = heads;
      c.kv_heads = kv_heads;
      c.query_length = c.key_length = 66;
      c.causal = true;
      check(c);
    }
  }
}

TEST(Attention, Layouts) {
  for (const DType dtype : kDTypes) {
    for (const Layout layout : {Layout::HeadsInner, Layout::WidthOuter, Layout::Sparse}) {
      for (const int64_t width : {16, 40}) {
        Case c;
        c.dtype = dtype;
        c.layout = layout;
        c.query_length = 65;
        c.key_length = 80;
        c.width = c.value_width = width;
        c.mask = MaskKind::BoolFull;
        c.dropout = 0.2;
        check(c);
      }
    }
  }
}

// The reference draws its own numbers, so this also says that forward and backward drop the same
// elements, whether rows start at a multiple of four or not.
TEST(Attention, Dropout) {
  for (const DType dtype : kDTypes) {
    for (const int64_t keys : {4, 17, 64, 66, 131}) {
      for (const bool causal : {false, true}) {
        Case c;
        c.dtype = dtype;
        c.query_length = 67;
        c.key_length = keys;
        c.dropout = 0.3;
        c.causal = causal;
        c.offset = 0xfffffffe;  // the counter's lower word overflows on the way
        check(c);
      }
    }
  }
  Case masked;
  masked.query_length = masked.key_length = 70;
  masked.mask = MaskKind::AdditivePerHead;
  masked.dropout = 0.1;
  check(masked);
}

TEST(Attention, DropoutOfEverythingIsZero) {
  Case c;
  c.dropout = 1;
  Problem p(c);
  p.forward();
  p.out.each([&](auto... i) { ASSERT_EQ(p.out.get(i...), 0); });
  p.backward();
  p.dq.each([&](auto... i) { ASSERT_EQ(p.dq.get(i...), 0); });
  p.dv.each([&](auto... i) { ASSERT_EQ(p.dv.get(i...), 0); });
}

// With equal scores and ones as values, out is the kept share of each row.
TEST(Attention, DropoutRate) {
  Case c;
  c.batch = 4;
  c.query_length = c.key_length = 256;
  c.dropout = 0.1;
  Problem p(c);
  p.q.each([&](auto... i) { p.q.set(i..., 0); });
  p.v.each([&](auto... i) { p.v.set(i..., 1); });
  p.forward();
  double sum = 0, rows = 0;
  p.out.each([&](int64_t b, int64_t h, int64_t t, int64_t d) {
    if (d == 0) sum += p.out.get(b, h, t, d), rows += 1;
  });
  // Standard deviation of the mean: sqrt(0.1 / 0.9 / (rows * 256)) = 0.0005.
  EXPECT_NEAR(sum / rows, 1, 0.002);
}

TEST(Attention, Bfloat16Paths) {
  PathGuard guard;
  if (current_isa() < Isa::Avx512) GTEST_SKIP() << "one path only";
  for (const Bf16Path path : {Bf16Path::Convert, Bf16Path::Dot, Bf16Path::Tiles}) {
    if (path != Bf16Path::Convert && highest_isa() < Isa::Avx512Bf16) continue;
    attention_internal::override_bf16_path(path);
    for (const int64_t width : {7, 16, 64, 80}) {
      for (const auto& [queries, keys] : {std::pair{64, 64}, {65, 130}, {130, 67}}) {
        for (const bool causal : {false, true}) {
          Case c;
          c.batch = 1;
          c.dtype = DType::BFloat16;
          c.query_length = queries;
          c.key_length = keys;
          c.width = c.value_width = width;
          c.causal = causal;
          c.dropout = causal ? 0.1 : 0;
          c.layout = width == 80 ? Layout::HeadsInner : Layout::HeadsOuter;
          SCOPED_TRACE(static_cast<int>(path));
          check(c);
        }
      }
    }
  }
}

TEST(Attention, NegativeAndZeroScale) {
  for (const DType dtype : kDTypes) {
    Case c;
    c.dtype = dtype;
    c.query_length = c.key_length = 66;
    c.scale = -0.3f;
    check(c);
  }
  Case zero;
  Problem p(zero);
  p.args.scale = 0;
  p.forward();
  const Reference expected = reference(p);
  expect_close(p.out, expected.out, 1e-6, "out");
}

// As model code masks: the most negative number instead of infinity, in every place of a row.
TEST(Attention, RowHiddenByFiniteMaskIsUniform) {
  Case c;
  c.mask = MaskKind::AdditivePerHead;
  c.query_length = c.key_length = 70;
  Problem p(c);
  for (int64_t j = 0; j < 70; ++j) {
    p.mask.set(0, 1, 3, j, std::numeric_limits<float>::lowest());
  }
  p.forward();
  double mean = 0;
  for (int64_t j = 0; j < 70; ++j) mean += p.v.get(0, 1, j, 0) / 70;
  EXPECT_NEAR(p.out.get(0, 1, 3, 0), mean, 1e-5);
  p.backward();
  p.dq.each([&](auto... i) { ASSERT_TRUE(std::isfinite(p.dq.get(i...))); });
}

TEST(Attention, LargeScoresDoNotOverflow) {
  Case c;
  c.query_length = c.key_length = 70;
  c.scale = 500;
  Problem p(c);
  p.forward();
  // Scores of thousands are known to 1e-3 only; what they select is not in doubt.
  expect_close(p.out, reference(p).out, 1e-2, "out");
  p.backward();
  p.dq.each([&](auto... i) { ASSERT_TRUE(std::isfinite(p.dq.get(i...))); });
}

TEST(Attention, NanAndInfinityInInputsReachTheOutput) {
  Case c;
  c.query_length = c.key_length = 70;
  Problem p(c);
  p.q.set(0, 0, 5, 0, NAN);
  p.v.set(1, 1, 69, 3, INFINITY);
  p.forward();
  EXPECT_TRUE(std::isnan(p.out.get(0, 0, 5, 1)));
  EXPECT_FALSE(std::isnan(p.out.get(0, 0, 6, 1)));
  EXPECT_TRUE(std::isinf(p.out.get(1, 1, 0, 3)));
}

std::vector<uint8_t> all_results(Problem& p) {
  p.forward();
  p.backward();
  std::vector<uint8_t> bytes;
  for (const Tensor* t : {&p.out, &p.dq, &p.dk, &p.dv, &p.dmask}) {
    t->each([&](auto... i) {
      const double value = t->get(i...);
      const auto* raw = reinterpret_cast<const uint8_t*>(&value);
      bytes.insert(bytes.end(), raw, raw + sizeof(value));
    });
  }
  return bytes;
}

TEST(Attention, SameBitsForAnyTeam) {
  for (const DType dtype : kDTypes) {
    // Few heads and many queries: the backward adds partial gradients.
    for (const auto& [batch, heads, kv_heads, length] :
         {std::tuple{4, 8, 8, 65}, {1, 2, 1, 600}, {1, 1, 1, 1100}}) {
      Case c;
      c.dtype = dtype;
      c.batch = batch;
      c.heads = heads;
      c.kv_heads = kv_heads;
      c.query_length = c.key_length = length;
      c.causal = true;
      c.dropout = 0.1;
      SCOPED_TRACE(c.name());
      Problem one(c), two(c);
      const auto expected = all_results(one);
      set_team_width(2);
      const auto actual = all_results(two);
      set_team_width(1);
      EXPECT_TRUE(expected == actual);
    }
  }
}

TEST(Attention, PartialGradientsAddUp) {
  for (const DType dtype : kDTypes) {
    Case c;
    c.dtype = dtype;
    c.batch = 1;
    c.heads = 4;
    c.kv_heads = 2;
    c.query_length = 300;
    c.key_length = 310;
    check(c);
  }
}

TEST(Attention, SameBitsForAnyStrides) {
  for (const DType dtype : kDTypes) {
    Case c;
    c.dtype = dtype;
    c.query_length = c.key_length = 130;
    c.width = c.value_width = 64;
    c.causal = true;
    Problem contiguous(c);
    const auto expected = all_results(contiguous);
    for (const Layout layout : {Layout::HeadsInner, Layout::WidthOuter, Layout::Sparse}) {
      c.layout = layout;
      Problem strided(c);
      EXPECT_TRUE(expected == all_results(strided)) << c.name();
    }
  }
}

TEST(Attention, AbsentGradientsAreNotTouched) {
  Case c;
  c.query_length = c.key_length = 66;
  Problem all(c), some(c);
  all.forward();
  all.backward();
  for (int which = 0; which < 3; ++which) {
    some.forward();
    AttentionTensor dq = some.dq.view(), dk = some.dk.view(), dv = some.dv.view();
    (which == 0 ? dq : which == 1 ? dk : dv).data = nullptr;
    attention_backward(some.args, some.grad_out.view(), some.out.view(), some.logsumexp.data(), dq,
                       dk, dv, AttentionTensor{});
    if (which != 0) {
      EXPECT_EQ(some.dq.memory, all.dq.memory);
    }
    if (which != 1) {
      EXPECT_EQ(some.dk.memory, all.dk.memory);
    }
    if (which != 2) {
      EXPECT_EQ(some.dv.memory, all.dv.memory);
    }
    some.dq.each([&](auto... i) { some.dq.set(i..., 0); });
    some.dk.each([&](auto... i) { some.dk.set(i..., 0); });
    some.dv.each([&](auto... i) { some.dv.set(i..., 0); });
  }
}

// Central differences of sum(out * grad_out), in double.
TEST(Attention, FiniteDifferences) {
  Case c;
  c.dtype = DType::Float64;
  c.batch = 1;
  c.heads = 2;
  c.kv_heads = 1;
  c.query_length = 5;
  c.key_length = 6;
  c.width = 3;
  c.value_width = 4;
  c.dropout = 0.25;
  c.mask = MaskKind::AdditivePerHead;
  Problem p(c);
  p.forward();
  p.backward();
  auto loss = [&] {
    p.forward();
    double sum = 0;
    p.out.each([&](auto... i) { sum += p.out.get(i...) * p.grad_out.get(i...); });
    return sum;
  };
  constexpr double kStep = 1e-5;
  for (auto [input, grad] : {std::pair{&p.q, &p.dq}, {&p.k, &p.dk}, {&p.v, &p.dv}}) {
    input->each([&, input = input, grad = grad](auto... i) {
      const double value = input->get(i...);
      input->set(i..., value + kStep);
      const double above = loss();
      input->set(i..., value - kStep);
      const double below = loss();
      input->set(i..., value);
      ASSERT_NEAR(grad->get(i...), (above - below) / (2 * kStep), 1e-8);
    });
  }
}

TEST(Attention, EmptyLengths) {
  Case c;
  c.query_length = 0;
  Problem no_queries(c);
  no_queries.dk.each([&](auto... i) { no_queries.dk.set(i..., 1); });
  no_queries.forward();
  no_queries.backward();
  no_queries.dk.each([&](auto... i) { ASSERT_EQ(no_queries.dk.get(i...), 0); });
  c = Case();
  c.key_length = 0;
  Problem no_keys(c);
  no_keys.forward();
  no_keys.out.each([&](auto... i) { ASSERT_EQ(no_keys.out.get(i...), 0); });
}

}  // namespace
}  // namespace accel::kernels
