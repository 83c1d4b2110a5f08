// Stochastic gradient descent with momentum: one pass. Called through optimizer.cpp.
// Operations, their order and which multiply-adds are fused are those of PyTorch's fused kernel on
// the CPU (whose bf16 and fp16 path, as of 2.13, forgets to store the parameter).
#include "kernels/optimizer/optimizer.h"
#include "kernels/optimizer/walk.h"

namespace accel::kernels::ACCEL_ISA {
namespace optimizer {
namespace {

template <class Real>
struct SgdCoefficients {
  Real minus_learning_rate, momentum, grad_weight, weight_decay, grad_scale;

  explicit SgdCoefficients(const Sgd& args)
      : minus_learning_rate(static_cast<Real>(
            -(args.learning_rate_pointer ? static_cast<double>(*args.learning_rate_pointer)
                                         : args.learning_rate))),
        momentum(static_cast<Real>(args.momentum)),
        grad_weight(static_cast<Real>(1 - args.dampening)),
        weight_decay(static_cast<Real>(args.weight_decay)),
        grad_scale(static_cast<Real>(args.grad_scale ? *args.grad_scale : 1.0f)) {}
};

template <class Element, class Real = RealOf<Element>>
ACCEL_INLINE void sgd_vector(const Sgd& args, const SgdCoefficients<Real>& c, Element* parameter_at,
                             Element* grad_at, Element* momentum_at) {
  using V = Vector<Real>;
  V parameter = load_wide(parameter_at), grad = load_wide(grad_at);
  if (args.grad_scale) {
    grad = grad / splat<V>(c.grad_scale);
    store_narrow(grad_at, grad);
  }
  if (args.maximize) grad = -grad;
  if (args.weight_decay != 0) grad = fma(parameter, splat<V>(c.weight_decay), grad);
  if (args.momentum != 0) {
    V momentum = grad;
    if (!args.first_step) {
      momentum = fma(grad, splat<V>(c.grad_weight), load_wide(momentum_at) * splat<V>(c.momentum));
    }
    store_narrow(momentum_at, momentum);
    grad = args.nesterov ? fma(momentum, splat<V>(c.momentum), grad) : momentum;
  }
  store_narrow(parameter_at, fma(grad, splat<V>(c.minus_learning_rate), parameter));
}

// args by value: stores to memory could change what a reference refers to.
template <class Element>
void sgd_piece(Sgd args, const SgdTensor& tensor, int64_t begin, int64_t end) {
  const SgdCoefficients<RealOf<Element>> c(args);
  Run<Element> parameter(tensor.parameter, begin), grad(tensor.grad, begin);
  Run<Element> momentum(args.momentum != 0 ? tensor.momentum_buffer : nullptr, begin);
  constexpr int kLanes = Run<Element>::kLanes;
  int64_t i = 0;
  const int64_t count = end - begin;
  for (; i + kLanes <= count; i += kLanes) {
    sgd_vector(args, c, parameter.at(i), grad.at(i), momentum.at(i));
  }
  if (i == count) return;
  const int64_t rest = count - i;
  sgd_vector(args, c, parameter.open_tail(i, rest), grad.open_tail(i, rest),
             momentum.open_tail(i, rest));
  parameter.close_tail(i, rest);
  if (args.grad_scale) grad.close_tail(i, rest);
  momentum.close_tail(i, rest);
}

}  // namespace
}  // namespace optimizer

void sgd(const Sgd& args, const SgdTensor* tensors, int64_t count) {
  using namespace optimizer;
  if (args.found_inf && *args.found_inf == 1.0f) return;
  for_each_piece(tensors, count, [&](const SgdTensor& tensor, int64_t begin, int64_t end) {
    with_floating(tensor.dtype,
                  [&](auto element) { sgd_piece<decltype(element)>(args, tensor, begin, end); });
  });
}

}  // namespace accel::kernels::ACCEL_ISA
