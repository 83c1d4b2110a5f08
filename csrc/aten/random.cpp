// Random numbers: every op reserves its Philox numbers from the generator when it is recorded, so
// the values depend neither on when it runs nor on what it is fused with. Argument checks are
// PyTorch's own (DistributionTemplates.h), into which the kernels here are plugged.
#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/native/DistributionTemplates.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/zeros_like.h>

#include "csrc/aten/inference.h"
#include "csrc/runtime/generator.h"

namespace accel::aten {

namespace {

using OptionalGenerator = std::optional<at::Generator>;
using at::TensorIteratorBase;
namespace templates = at::native::templates;

PhiloxState reserve(const OptionalGenerator& generator, const Tensor& self) {
  return reserve_philox(generator, self.device().index(), self.numel());
}

// --- building blocks -----------------------------------------------------------------------------

// out ← uniform numbers between low and low + range, the latter excluded.
void record_uniform(const Tensor& out, double low, double range,
                    const OptionalGenerator& generator) {
  const PhiloxState philox = reserve(generator, out);
  Recording(Opcode::Uniform)
      .output(out)
      .attribute(arithmetic_dtype(out.scalar_type()))
      .random(philox)
      .scalar(low)
      .scalar(range)
      .record();
}

void record_normal(const Tensor& out, double mean, double deviation,
                   const OptionalGenerator& generator) {
  const PhiloxState radius = reserve(generator, out), angle = reserve(generator, out);
  Recording(Opcode::Normal)
      .output(out)
      .attribute(arithmetic_dtype(out.scalar_type()))
      .random(radius)
      .random(angle)
      .scalar(mean)
      .scalar(deviation)
      .record();
}

void record_unary(Opcode opcode, const Tensor& out, const Tensor& self) {
  Recording(opcode).output(out).input(self).attribute(self.scalar_type()).record();
}

// out ← self * factor + shift
void record_affine(const Tensor& out, const Tensor& self, double factor, double shift) {
  const ScalarType compute = self.scalar_type();
  Recording(Opcode::Mul)
      .output(self)
      .input(self)
      .attribute(compute)
      .no_input()
      .scalar(factor)
      .record();
  Recording(Opcode::Add)
      .output(out)
      .input(self)
      .attribute(compute)
      .attribute(true)
      .no_input()
      .scalar(shift)
      .record();
}

// The distributions below transform uniform or normal numbers in fp32 or fp64, in memory that no
// one reads again: a fused kernel never writes it.
Tensor scratch_for(const Tensor& self) {
  const ScalarType dtype = self.scalar_type();
  return empty_on(self, self.sizes(),
                  dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
}

void check_floating(const char* kernel, const Tensor& self) {
  TORCH_CHECK_NOT_IMPLEMENTED(at::isFloatingType(self.scalar_type()) && is_native(self), "\"",
                              kernel, "\" not implemented for '", toString(self.scalar_type()),
                              "'");
}

// --- uniform, normal -----------------------------------------------------------------------------

template <typename>
struct UniformKernel {
  void operator()(TensorIteratorBase& iter, double from, double to,
                  const OptionalGenerator& generator) {
    record_uniform(iter.tensor(0), from, to - from, generator);
  }
};

Tensor& uniform_(Tensor& self, double from, double to, OptionalGenerator generator) {
  return templates::uniform_impl_<UniformKernel, runtime::Generator>(self, from, to,
                                                                     std::move(generator));
}

template <typename>
struct NormalKernel {
  void operator()(const Tensor& self, double mean, double deviation,
                  const OptionalGenerator& generator) {
    check_floating("normal_kernel_cpu", self);
    at::assert_no_internal_overlap(self);
    record_normal(self, mean, deviation, generator);
  }
};

Tensor& normal_(Tensor& self, double mean, double deviation, OptionalGenerator generator) {
  return templates::normal_impl_<NormalKernel, runtime::Generator>(self, mean, deviation,
                                                                   std::move(generator));
}

// Mean and deviation: numbers or Tensors.
template <typename Mean, typename Deviation>
Tensor normal(Mean mean, Deviation deviation, OptionalGenerator generator) {
  return templates::normal_impl<NormalKernel, runtime::Generator>(mean, deviation,
                                                                  std::move(generator));
}

template <typename Mean, typename Deviation>
Tensor& normal_out(Mean mean, Deviation deviation, OptionalGenerator generator, Tensor& out) {
  return templates::normal_out_impl<NormalKernel, runtime::Generator>(out, mean, deviation,
                                                                      std::move(generator));
}

// --- other continuous distributions, by inversion ------------------------------------------------

// -ln(u) / lambda with u in (0, 1].
template <typename>
struct ExponentialKernel {
  void operator()(TensorIteratorBase& iter, double lambda, const OptionalGenerator& generator) {
    const Tensor& self = iter.tensor(0);
    TORCH_CHECK(at::isFloatingType(self.scalar_type()),
                "Exponential distribution is a continuous probability distribution. dtype must be "
                "a floating point but you specified ",
                self.scalar_type());
    const Tensor scratch = scratch_for(self);
    record_uniform(scratch, 1, -1, generator);
    record_unary(Opcode::Log, scratch, scratch);
    // Plus zero: the logarithm of one would give -0.
    record_affine(self, scratch, -1 / lambda, 0);
  }
};

Tensor& exponential_(Tensor& self, double lambda, OptionalGenerator generator) {
  return templates::exponential_impl_<ExponentialKernel, runtime::Generator>(self, lambda,
                                                                             std::move(generator));
}

template <typename>
struct LogNormalKernel {
  void operator()(TensorIteratorBase& iter, double mean, double deviation,
                  const OptionalGenerator& generator) {
    const Tensor& self = iter.tensor(0);
    check_floating("log_normal_cpu", self);
    const Tensor scratch = scratch_for(self);
    record_normal(scratch, mean, deviation, generator);
    record_unary(Opcode::Exp, self, scratch);
  }
};

Tensor& log_normal_(Tensor& self, double mean, double deviation, OptionalGenerator generator) {
  return templates::log_normal_impl_<LogNormalKernel, runtime::Generator>(self, mean, deviation,
                                                                          std::move(generator));
}

// median + sigma * tan(pi * u) with u in (-1/2, 1/2).
template <typename>
struct CauchyKernel {
  void operator()(TensorIteratorBase& iter, double median, double sigma,
                  const OptionalGenerator& generator) {
    const Tensor& self = iter.tensor(0);
    const Tensor scratch = scratch_for(self);
    record_uniform(scratch, -M_PI / 2, M_PI, generator);
    record_unary(Opcode::Tan, scratch, scratch);
    record_affine(self, scratch, sigma, median);
  }
};

Tensor& cauchy_(Tensor& self, double median, double sigma, OptionalGenerator generator) {
  return templates::cauchy_impl_<CauchyKernel, runtime::Generator>(self, median, sigma,
                                                                   std::move(generator));
}

// floor(ln(u) / ln(1 - p)) + 1 with u in (0, 1].
template <typename>
struct GeometricKernel {
  void operator()(TensorIteratorBase& iter, double p, const OptionalGenerator& generator) {
    const Tensor& self = iter.tensor(0);
    const Tensor scratch = scratch_for(self);
    record_uniform(scratch, 1, -1, generator);
    record_unary(Opcode::Log, scratch, scratch);
    const Tensor quotient = empty_on(scratch, scratch.sizes(), scratch.scalar_type());
    record_affine(quotient, scratch, 1 / std::log1p(-p), 0);
    record_unary(Opcode::Floor, quotient, quotient);
    record_affine(self, quotient, 1, 1);
  }
};

Tensor& geometric_(Tensor& self, double p, OptionalGenerator generator) {
  return templates::geometric_impl_<GeometricKernel, runtime::Generator>(self, p,
                                                                         std::move(generator));
}

// --- integers ------------------------------------------------------------------------------------

// A CPU generator whose numbers continue those of the device's.
at::Generator cpu_generator(const OptionalGenerator& generator, const Tensor& like,
                            int64_t elements) {
  graph::refuse_capture(like.device().index(), "random numbers made on the host");
  const PhiloxState philox = reserve_philox(generator, like.device().index(), elements);
  const auto mixed = static_cast<uint64_t>(philox.seed.i) +
                     0x9e3779b97f4a7c15ull * (static_cast<uint64_t>(philox.offset.i) + 1);
  return at::detail::createCPUGenerator(mixed);
}

// Uniform numbers carry 53 bits.
constexpr uint64_t kMostRange = uint64_t{1} << 53;

// Wider ranges, which nobody draws in a loop, come from the CPU.
template <typename Draw>
void fill_from_cpu(const Tensor& self, const OptionalGenerator& generator, const Draw& draw) {
  Tensor numbers = at::empty(self.sizes(), self.options().device(at::kCPU));
  draw(numbers, cpu_generator(generator, self, self.numel()));
  self.copy_(numbers);
}

// self ← whole numbers in [from, from + range).
void record_integers(const Tensor& self, uint64_t range, int64_t from,
                     const OptionalGenerator& generator) {
  const Tensor scratch = empty_on(self, self.sizes(), ScalarType::Double);
  const Tensor whole = empty_on(self, self.sizes(), ScalarType::Long);
  record_uniform(scratch, 0, static_cast<double>(range), generator);
  Recording(Opcode::Copy).output(whole).input(scratch).attribute(ScalarType::Double).record();
  Recording(Opcode::Add)
      .output(self)
      .input(whole)
      .no_input()
      .attribute(ScalarType::Long)
      .attribute(true)
      .scalar(scalar_of(from))
      .record();
}

template <typename>
struct RandomFromToKernel {
  void operator()(TensorIteratorBase& iter, uint64_t range, int64_t from,
                  const OptionalGenerator& generator) {
    const Tensor& self = iter.tensor(0);
    if (range <= kMostRange && is_native(self)) {
      return record_integers(self, range, from, generator);
    }
    fill_from_cpu(self, generator, [&](Tensor& numbers, const at::Generator& cpu) {
      const auto last = static_cast<int64_t>(static_cast<uint64_t>(from) + range - 1);
      if (last == std::numeric_limits<int64_t>::max()) {
        numbers.random_(from, std::nullopt, cpu);
      } else {
        numbers.random_(from, last + 1, cpu);
      }
    });
  }
  // All 64 bits.
  void operator()(TensorIteratorBase& iter, const OptionalGenerator& generator) {
    fill_from_cpu(iter.tensor(0), generator, [](Tensor& numbers, const at::Generator& cpu) {
      numbers.random_(std::numeric_limits<int64_t>::lowest(), std::nullopt, cpu);
    });
  }
};

Tensor& random_from_to_(Tensor& self, int64_t from, std::optional<int64_t> to,
                        OptionalGenerator generator) {
  return templates::random_from_to_impl<RandomFromToKernel, runtime::Generator>(
      self, from, to, std::move(generator));
}

Tensor& random_to_(Tensor& self, int64_t to, OptionalGenerator generator) {
  return random_from_to_(self, 0, to, std::move(generator));
}

// Without bounds: [0, largest] of an integer dtype, [0, 2^mantissa] of a floating one.
uint64_t default_range(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Bool:
      return 2;
    case ScalarType::Byte:
      return uint64_t{1} << 8;
    case ScalarType::Char:
      return uint64_t{1} << 7;
    case ScalarType::Short:
      return uint64_t{1} << 15;
    case ScalarType::Int:
      return uint64_t{1} << 31;
    case ScalarType::BFloat16:
      return (uint64_t{1} << std::numeric_limits<at::BFloat16>::digits) + 1;
    case ScalarType::Half:
      return (uint64_t{1} << std::numeric_limits<at::Half>::digits) + 1;
    case ScalarType::Float:
      return (uint64_t{1} << std::numeric_limits<float>::digits) + 1;
    default:
      return uint64_t{1} << 63;
  }
}

template <typename>
struct RandomKernel {
  void operator()(TensorIteratorBase& iter, const OptionalGenerator& generator) {
    const Tensor& self = iter.tensor(0);
    const uint64_t range = default_range(self.scalar_type());
    if (range <= kMostRange && is_native(self)) {
      return record_integers(self, range, 0, generator);
    }
    fill_from_cpu(self, generator,
                  [](Tensor& numbers, const at::Generator& cpu) { numbers.random_(cpu); });
  }
};

Tensor& random_(Tensor& self, OptionalGenerator generator) {
  return templates::random_impl<RandomKernel, runtime::Generator>(self, std::move(generator));
}

Tensor& randperm_out(int64_t count, OptionalGenerator generator, Tensor& out) {
  TORCH_CHECK(count >= 0, "n must be non-negative, got", count);
  at::native::check_supported_max_int_with_precision(count, out);
  const auto options = at::TensorOptions(at::kCPU).dtype(out.scalar_type());
  Tensor permutation = at::randperm(count, cpu_generator(generator, out, count), options);
  out.resize_({count});
  return out.copy_(permutation);
}

// --- Bernoulli, dropout --------------------------------------------------------------------------

template <typename>
struct BernoulliScalarKernel {
  void operator()(const Tensor& self, double p, const OptionalGenerator& generator) {
    TORCH_CHECK_NOT_IMPLEMENTED(is_native(self), "\"bernoulli_scalar_cpu_\" not implemented for '",
                                toString(self.scalar_type()), "'");
    const PhiloxState philox = reserve(generator, self);
    Recording(Opcode::Bernoulli)
        .output(self)
        .attribute(ScalarType::Float)
        .random(philox)
        .scalar(p)
        .record();
  }
};

template <typename>
struct BernoulliTensorKernel {
  void operator()(const Tensor& self, const Tensor& probabilities,
                  const OptionalGenerator& generator) {
    const ScalarType dtype = probabilities.scalar_type();
    TORCH_CHECK_NOT_IMPLEMENTED(at::isFloatingType(dtype) && is_native(probabilities),
                                "\"bernoulli_tensor_cpu_p_\" not implemented for '",
                                toString(dtype), "'");
    TORCH_CHECK_NOT_IMPLEMENTED(is_native(self),
                                "\"bernoulli_tensor_cpu_self_\" not implemented "
                                "for '",
                                toString(self.scalar_type()), "'");
    // A CPU tensor of probabilities is allowed.
    const Tensor p = probabilities.to(self.device());
    const PhiloxState philox = reserve(generator, self);
    Recording(Opcode::Bernoulli)
        .output(self)
        .input(p.expand_as(self))
        .attribute(arithmetic_dtype(dtype))
        .random(philox)
        .record();
  }
};

Tensor& bernoulli_scalar_(Tensor& self, double p, OptionalGenerator generator) {
  return templates::bernoulli_impl_<BernoulliScalarKernel, runtime::Generator>(
      self, p, std::move(generator));
}

Tensor& bernoulli_tensor_(Tensor& self, const Tensor& p, OptionalGenerator generator) {
  return templates::bernoulli_impl_<BernoulliTensorKernel, runtime::Generator>(
      self, p, std::move(generator));
}

Tensor& bernoulli_out(const Tensor& self, OptionalGenerator generator, Tensor& out) {
  return templates::bernoulli_out_impl<BernoulliTensorKernel, runtime::Generator>(
      out, self, std::move(generator));
}

std::tuple<Tensor, Tensor> dropout(const Tensor& input, double p, std::optional<bool> train) {
  if (!train.value_or(true)) {
    return {input.clone(), at::ones_like(input, input.options().dtype(at::kBool))};
  }
  TORCH_CHECK(at::isFloatingType(input.scalar_type()) || input.is_complex(),
              "result type Float can't be cast to the desired output type ",
              toString(input.scalar_type()));
  if (p == 1) {
    return {at::zeros_like(input), at::zeros_like(input, input.options().dtype(at::kBool))};
  }
  if (!is_plain(input) || !is_native(input)) {
    Tensor mask = empty_like(input, ScalarType::Bool).bernoulli_(1 - p);
    return {input.mul(mask).mul_(1 / (1 - p)), mask};
  }
  Tensor out = empty_like(input, input.scalar_type());
  Tensor mask = empty_like(input, ScalarType::Bool);
  const PhiloxState philox = reserve(std::nullopt, input);
  Recording(Opcode::Dropout)
      .output(out)
      .output(mask)
      .input(input)
      .attribute(arithmetic_dtype(input.scalar_type()))
      .random(philox)
      .scalar(p)
      .scalar(1 / (1 - p))
      .record();
  return {std::move(out), std::move(mask)};
}

Tensor dropout_backward(const Tensor& grad, const Tensor& mask, double scale) {
  TORCH_CHECK(mask.scalar_type() == ScalarType::Bool, "Mask should be Bool Scalar Type",
              mask.scalar_type());
  check_same_device("native_dropout_backward", {{grad, "grad_output"}, {mask, "mask"}});
  if (!is_plain(grad) || !is_native(grad) || !is_plain(mask) ||
      !at::isFloatingType(grad.scalar_type())) {
    return grad.mul(mask).mul(scale);
  }
  Tensor result = empty_like(grad, grad.scalar_type());
  Recording(Opcode::DropoutBackward)
      .output(result)
      .input(grad)
      .input(mask, grad.sizes())
      .attribute(arithmetic_dtype(grad.scalar_type()))
      .scalar(scale)
      .record();
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("uniform_", TORCH_FN(uniform_));
  m.impl("normal_", TORCH_FN(normal_));
  m.impl("normal.Tensor_float", TORCH_FN((normal<const Tensor&, double>)));
  m.impl("normal.float_Tensor", TORCH_FN((normal<double, const Tensor&>)));
  m.impl("normal.Tensor_Tensor", TORCH_FN((normal<const Tensor&, const Tensor&>)));
  m.impl("normal.Tensor_float_out", TORCH_FN((normal_out<const Tensor&, double>)));
  m.impl("normal.float_Tensor_out", TORCH_FN((normal_out<double, const Tensor&>)));
  m.impl("normal.Tensor_Tensor_out", TORCH_FN((normal_out<const Tensor&, const Tensor&>)));
  m.impl("exponential_", TORCH_FN(exponential_));
  m.impl("log_normal_", TORCH_FN(log_normal_));
  m.impl("cauchy_", TORCH_FN(cauchy_));
  m.impl("geometric_", TORCH_FN(geometric_));

  m.impl("random_", TORCH_FN(random_));
  m.impl("random_.from", TORCH_FN(random_from_to_));
  m.impl("random_.to", TORCH_FN(random_to_));
  m.impl("randperm.generator_out", TORCH_FN(randperm_out));

  m.impl("bernoulli_.float", TORCH_FN(bernoulli_scalar_));
  m.impl("bernoulli_.Tensor", TORCH_FN(bernoulli_tensor_));
  m.impl("bernoulli.out", TORCH_FN(bernoulli_out));
  m.impl("native_dropout", TORCH_FN(dropout));
  m.impl("native_dropout_backward", TORCH_FN(dropout_backward));
}

}  // namespace accel::aten
