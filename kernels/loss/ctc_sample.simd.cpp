// Forward and backward variables of one sample, a vector of symbols at a time; see ctc_sample.h.
#include "kernels/loss/ctc_sample.h"

#include "kernels/common/elements.h"
#include "kernels/common/math.h"
#include "kernels/common/scratch.h"

namespace accel::kernels::ACCEL_ISA {
namespace ctc {
namespace {

// What a step computes at once: a vector of float, one double.
template <class Real>
struct Step;
template <>
struct Step<float> {
  using Type = VectorF32;
  static constexpr int64_t kSize = kLanes32;
};
template <>
struct Step<double> {
  using Type = double;
  static constexpr int64_t kSize = 1;
};

ACCEL_INLINE VectorF32 exponential(VectorF32 x) { return exp(x); }
ACCEL_INLINE VectorF32 logarithm(VectorF32 x) { return log(x); }
ACCEL_INLINE double exponential(double x) { return __builtin_exp(x); }
ACCEL_INLINE double logarithm(double x) { return __builtin_log(x); }
ACCEL_INLINE VectorF32 larger(VectorF32 a, VectorF32 b) { return a > b ? a : b; }
ACCEL_INLINE double larger(double a, double b) { return a > b ? a : b; }
ACCEL_INLINE VectorF32 finite_or_zero(VectorF32 x) {
  return x == -__builtin_inff() ? VectorF32{} : x;
}
ACCEL_INLINE double finite_or_zero(double x) { return x == -__builtin_inf() ? 0 : x; }

template <class V>
ACCEL_INLINE V log_sum(V a, V b, V c) {
  const V most = finite_or_zero(larger(larger(a, b), c));
  return logarithm(exponential(a - most) + exponential(b - most) + exponential(c - most)) + most;
}

// A sample's symbols, and rows over them for one frame. Rows have kBorder elements of minus
// infinity before and behind them, and room for whole vectors.
template <class Real>
class Rows {
 public:
  static constexpr int64_t kBorder = 2;
  static constexpr Real kNever = -Real(__builtin_inf());

  Rows(const Ctc& args, const CtcSample& sample) : args_(args), symbols_(sample.symbols) {
    row_ = 2 * kBorder + (symbols_ + kLanes32 - 1) / kLanes32 * kLanes32;
    memory_ = static_cast<Real*>(
        scratch(ScratchSlot::A, static_cast<size_t>(kRows * row_) * sizeof(Real)));
    classes_ = static_cast<int64_t*>(
        scratch(ScratchSlot::B, static_cast<size_t>(symbols_) * sizeof(int64_t)));
    for (int64_t i = 0; i < kRows * row_; ++i) memory_[i] = kNever;
    for (int64_t s = 0; s < symbols_; ++s) {
      classes_[s] = s % 2 ? sample.labels[s / 2 * args.label_stride] : args.blank;
    }
    // Between different labels the blank may be left out.
    for (int64_t s = 3; s < symbols_; s += 2) {
      if (classes_[s] != classes_[s - 2]) skips()[s] = 0;
    }
    frames_ = static_cast<const Real*>(args.log_probs) + sample.index * args.classes;
  }

  const Real* frame(int64_t t) const { return frames_ + t * args_.batch * args_.classes; }
  int64_t class_of(int64_t s) const { return classes_[s]; }
  // 0 where symbol s can follow s - 2, else minus infinity.
  Real* skips() { return row(0); }
  // The log probability of each symbol in the frame at hand.
  Real* emissions() { return row(1); }
  // Forward or backward variables of this frame and its neighbour.
  Real* current() { return row(2 + turn_); }
  Real* neighbour() { return row(3 - turn_); }

  void enter(int64_t t) {
    turn_ = 1 - turn_;
    const Real* from = frame(t);
    for (int64_t s = 0; s < symbols_; ++s) emissions()[s] = from[classes_[s]];
  }

  // Where a sample begins (or ends): in two symbols.
  void begin_in(int64_t first, int64_t second) {
    Real* to = current();
    for (int64_t s = 0; s < symbols_; ++s) to[s] = kNever;
    for (int64_t s : {first, second}) {
      if (s >= 0 && s < symbols_) to[s] = emissions()[s];
    }
  }

  // A symbol comes after itself, after the one before and, where skips() allows, the one before
  // that; kDirection -1 says so, 1 goes back in time.
  template <int kDirection>
  void advance() {
    using V = typename Step<Real>::Type;
    const Real* from = neighbour();
    const Real* skip = skips() + (kDirection > 0 ? 2 : 0);
    Real* to = current();
    for (int64_t s = 0; s < symbols_; s += Step<Real>::kSize) {
      const V same = load<V>(from + s), next = load<V>(from + s + kDirection);
      const V skipped = load<V>(from + s + 2 * kDirection) + load<V>(skip + s);
      store(to + s, log_sum(same, next, skipped) + load<V>(emissions() + s));
    }
    for (int64_t s = symbols_; s < row_ - kBorder; ++s) to[s] = kNever;
  }

 private:
  static constexpr int64_t kRows = 4;
  Real* row(int64_t number) { return memory_ + number * row_ + kBorder; }

  const Ctc& args_;
  const int64_t symbols_;
  int64_t row_ = 0;
  int turn_ = 0;
  Real* memory_;
  int64_t* classes_;
  const Real* frames_;
};

template <class Real>
void forward(const Ctc& args, const CtcSample& sample) {
  Real* loss = static_cast<Real*>(args.loss) + sample.index;
  if (sample.frames == 0) {
    *loss = sample.symbols == 1 ? Real(0) : Real(__builtin_inf());
    return;
  }
  const int64_t alpha_row = 2 * args.most_labels + 1;
  Real* alpha = static_cast<Real*>(args.log_alpha) + sample.index * args.frames * alpha_row;
  Rows<Real> rows(args, sample);
  for (int64_t t = 0; t < sample.frames; ++t, alpha += alpha_row) {
    rows.enter(t);
    t == 0 ? rows.begin_in(0, 1) : rows.template advance<-1>();
    const Real* current = rows.current();
    for (int64_t s = 0; s < sample.symbols; ++s) alpha[s] = current[s];
  }
  const Real* last = rows.current() + sample.symbols - 1;
  const double a = last[0], b = last[-1];  // of a sample without labels, the border
  *loss = -static_cast<Real>(log_sum<double>(a, b, Rows<double>::kNever));
}

template <class Real>
void fill(Real* to, int64_t stride, int64_t rows, int64_t count, Real value) {
  for (int64_t t = 0; t < rows; ++t, to += stride) {
    for (int64_t c = 0; c < count; ++c) to[c] = value;
  }
}

template <class Real>
void backward(const CtcBackward& all, const CtcSample& sample) {
  using V = typename Step<Real>::Type;
  const Ctc& args = all.forward;
  const int64_t frame = args.batch * args.classes, classes = args.classes;
  Real* grads = static_cast<Real*>(all.grad_log_probs) + sample.index * classes;
  const Real loss = static_cast<const Real*>(args.loss)[sample.index];
  const bool never = loss == Real(__builtin_inf());
  const bool gives_nan = never && all.infinite == InfiniteLoss::GivesNan;
  fill(grads, frame, sample.frames, never ? classes : 0,
       gives_nan ? Real(__builtin_nan("")) : Real(0));
  fill(grads + sample.frames * frame, frame, args.frames - sample.frames, classes, Real(0));
  if (never) return;
  const Real grad = static_cast<const Real*>(all.grad)[sample.index];
  const int64_t alpha_row = 2 * args.most_labels + 1;
  const Real* alphas =
      static_cast<const Real*>(args.log_alpha) + sample.index * args.frames * alpha_row;
  Rows<Real> rows(args, sample);
  for (int64_t t = sample.frames; t-- > 0;) {
    rows.enter(t);
    t + 1 == sample.frames ? rows.begin_in(sample.symbols - 1, sample.symbols - 2)
                           : rows.template advance<1>();
    const Real* frame_probs = rows.frame(t);
    Real* to = grads + t * frame;
    int64_t c = 0;
    for (; c + Step<Real>::kSize <= classes; c += Step<Real>::kSize) {
      store(to + c, exponential(load<V>(frame_probs + c)));
    }
    for (; c < classes; ++c) {
      to[c] = static_cast<Real>(__builtin_exp(static_cast<double>(frame_probs[c])));
    }
    // The share of the alignments that pass through a symbol: its emission is in both variables.
    const Real* alpha = alphas + t * alpha_row;
    const Real* beta = rows.current();
    const Real* emissions = rows.emissions();
    int64_t s = 0;
    for (; s < sample.symbols; s += Step<Real>::kSize) {
      constexpr int64_t kSize = Step<Real>::kSize;
      Real part[kSize];
      const int64_t n = sample.symbols - s < kSize ? sample.symbols - s : kSize;
      for (int64_t i = 0; i < kSize; ++i) part[i] = i < n ? alpha[s + i] : Real(0);
      store(part, exponential(load<V>(part) + load<V>(beta + s) + loss - load<V>(emissions + s)));
      for (int64_t i = 0; i < n; ++i) to[rows.class_of(s + i)] -= part[i];
    }
    for (c = 0; c < classes; ++c) to[c] *= grad;
  }
}

}  // namespace
}  // namespace ctc

void ctc_sample(const Ctc& args, const CtcSample& sample) {
  args.dtype == DType::Float64 ? ctc::forward<double>(args, sample)
                               : ctc::forward<float>(args, sample);
}

void ctc_sample_backward(const CtcBackward& args, const CtcSample& sample) {
  args.forward.dtype == DType::Float64 ? ctc::backward<double>(args, sample)
                                       : ctc::backward<float>(args, sample);
}

}  // namespace accel::kernels::ACCEL_ISA
