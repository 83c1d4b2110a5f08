// Ops whose values follow from an element's position: arange, linspace, eye, tril and triu.
#include <cmath>

#include "csrc/aten/pointwise.h"

namespace accel::aten {

namespace {

// --- ranges --------------------------------------------------------------------------------------

Tensor& arange_out(const at::Scalar& start, const at::Scalar& end, const at::Scalar& step,
                   Tensor& out) {
  const ScalarType compute = out.scalar_type();
  const double from = start.toDouble(), to = end.toDouble(), by = step.toDouble();
  const bool whole = at::isIntegralType(compute, /*includeBool=*/false);
  TORCH_CHECK(by != 0, "step must be nonzero");
  TORCH_CHECK_VALUE(!whole || step.toLong() != 0, "step must be nonzero");
  TORCH_CHECK(std::isfinite(from) && std::isfinite(to), "unsupported range: ", from, " -> ", to);
  TORCH_CHECK((by > 0 && to >= from) || (by < 0 && to <= from),
              "upper bound and lower bound inconsistent with step sign");
  int64_t elements;
  if (compute == ScalarType::Long) {  // counted without a detour over floating point
    const int64_t distance = end.toLong() - start.toLong(), stride = step.toLong();
    elements = distance / stride + (distance % stride != 0);
  } else {
    elements = static_cast<int64_t>(std::ceil((to - from) / by));
  }
  if (out.numel() != elements) out.resize_({elements});
  if (!is_native(compute) || !is_plain(out)) {
    to_host<Tensor>("aten::arange", "start_out", start, end, step, out);
    return out;
  }
  Recording(Opcode::Arange)
      .output(out)
      .attribute(compute)
      .scalar(scalar_of(start, compute))
      .scalar(scalar_of(step, compute))
      .record();
  return out;
}

Tensor& linspace_out(const at::Scalar& start, const at::Scalar& end, int64_t steps, Tensor& out) {
  const ScalarType dtype = out.scalar_type();
  TORCH_CHECK(steps >= 0, "number of steps must be non-negative");
  if (steps < 2 && !start.isComplex() && !end.isComplex() && is_plain(out)) {
    if (out.numel() != steps) out.resize_({steps});
    return steps == 1 ? out.fill_(start) : out;
  }
  if (start.isComplex() || end.isComplex() || !is_plain(out) ||
      (dtype != ScalarType::Float && dtype != ScalarType::Double)) {
    to_host<Tensor>("aten::linspace", "out", start, end, steps, out);
    return out;
  }
  if (out.numel() != steps) out.resize_({steps});
  const double from = start.toDouble(), to = end.toDouble();
  const double step =
      dtype == ScalarType::Float
          ? (static_cast<float>(to) - static_cast<float>(from)) / static_cast<float>(steps - 1)
          : (to - from) / static_cast<double>(steps - 1);
  Recording(Opcode::Linspace)
      .output(out)
      .attribute(dtype)
      .scalar(from)
      .scalar(to)
      .scalar(step)
      .scalar(static_cast<double>(steps))
      .record();
  return out;
}

// --- matrices ------------------------------------------------------------------------------------

Tensor& eye_out(int64_t rows, int64_t columns, Tensor& out) {
  TORCH_CHECK(rows >= 0, "n must be greater or equal to 0, got ", rows);
  TORCH_CHECK(columns >= 0, "m must be greater or equal to 0, got ", columns);
  out.resize_({rows, columns});
  out.zero_();
  out.diagonal().fill_(1);
  return out;
}

template <bool kUpper>
struct Triangle {
  static constexpr const char* name() { return kUpper ? "aten::triu" : "aten::tril"; }

  static void record(const Tensor& out, const Tensor& self, int64_t diagonal) {
    Recording(Opcode::Triangle)
        .output(out)
        .input(self)
        .attribute(self.scalar_type())
        .attribute(uint64_t{kUpper})
        .scalar(Scalar{.i = diagonal})
        .scalar(Scalar{.i = self.size(-2)})
        .scalar(Scalar{.i = self.size(-1)})
        .record();
  }
  static Tensor functional(const Tensor& self, int64_t diagonal) {
    if (self.dim() < 2 || !recordable({}, {&self})) {
      return to_host<Tensor>(name(), "", self, diagonal);
    }
    Tensor out = empty_on(self, self.sizes(), self.scalar_type());
    record(out, self, diagonal);
    return out;
  }
  static Tensor& in_place(Tensor& self, int64_t diagonal) {
    if (self.dim() < 2 || !recordable(self, {&self}) || !self.is_non_overlapping_and_dense()) {
      to_host<Tensor>((std::string(name()) + "_").c_str(), "", self, diagonal);
      return self;
    }
    record(self, self, diagonal);
    return self;
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("arange.start_out", TORCH_FN(arange_out));
  m.impl("linspace.out", TORCH_FN(linspace_out));
  m.impl("eye.m_out", TORCH_FN(eye_out));
  m.impl("tril", TORCH_FN(Triangle<false>::functional));
  m.impl("tril_", TORCH_FN(Triangle<false>::in_place));
  m.impl("triu", TORCH_FN(Triangle<true>::functional));
  m.impl("triu_", TORCH_FN(Triangle<true>::in_place));
}

}  // namespace accel::aten
