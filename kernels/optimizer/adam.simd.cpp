// Adam and AdamW: one pass over parameter, gradient and moments. Called through optimizer.cpp.
// Operations and their order are those of PyTorch's fused kernel on the CPU, so that the results
// are within a few units in the last place of torch._fused_adamw_.
#include "kernels/optimizer/optimizer.h"
#include "kernels/optimizer/walk.h"

namespace accel::kernels::ACCEL_ISA {
namespace optimizer {
namespace {

// Everything about a step that is the same for all elements of a tensor, in fp64 and then rounded.
template <class Real>
struct AdamCoefficients {
  Real shrink, l2, beta2, grad_weight, grad_square_weight;
  Real minus_step_size, correction2_root, eps, grad_scale;
  bool from_grad;  // the mean is interpolated from the gradient's end: its weight is >= 1/2

  AdamCoefficients(const Adam& args, double step) {
    const double learning_rate = args.learning_rate_pointer
                                     ? static_cast<double>(*args.learning_rate_pointer)
                                     : args.learning_rate;
    const bool decoupled = args.decay == WeightDecay::Decoupled;
    shrink = static_cast<Real>(decoupled ? 1 - learning_rate * args.weight_decay : 1.0);
    l2 = static_cast<Real>(decoupled ? 0.0 : args.weight_decay);
    beta2 = static_cast<Real>(args.beta2);
    grad_weight = static_cast<Real>(1 - args.beta1);
    from_grad = !(grad_weight < Real{0.5});
    if (from_grad) grad_weight -= 1;
    grad_square_weight = static_cast<Real>(1 - args.beta2);
    minus_step_size = static_cast<Real>(-(learning_rate / (1 - __builtin_pow(args.beta1, step))));
    correction2_root = static_cast<Real>(__builtin_sqrt(1 - __builtin_pow(args.beta2, step)));
    eps = static_cast<Real>(args.eps);
    grad_scale = static_cast<Real>(args.grad_scale ? *args.grad_scale : 1.0f);
  }
};

// One vector of each array. Branches on options are free beside a square root and two divisions;
// amsgrad, a fifth array, is a template parameter.
template <bool kAmsgrad, class Element, class State, class Real = RealOf<Element>>
ACCEL_INLINE void adam_vector(const Adam& args, const AdamCoefficients<Real>& c,
                              Element* parameter_at, Element* grad_at, State* mean_at,
                              State* square_at, State* largest_at) {
  using V = Vector<Real>;
  V parameter = load_wide(parameter_at), grad = load_wide(grad_at);
  if (args.grad_scale) {
    grad = grad / splat<V>(c.grad_scale);
    store_narrow(grad_at, grad);
  }
  if (args.maximize) grad = -grad;
  if (args.weight_decay != 0) {
    if (args.decay == WeightDecay::Decoupled) {
      parameter = parameter * splat<V>(c.shrink);
    } else {
      grad = fma(parameter, splat<V>(c.l2), grad);
    }
  }
  V mean = load_wide(mean_at);
  mean = fma(splat<V>(c.grad_weight), grad - mean, c.from_grad ? grad : mean);
  V square = load_wide(square_at);
  square = fma(splat<V>(c.grad_square_weight) * grad, grad, square * splat<V>(c.beta2));
  store_narrow(mean_at, mean);
  store_narrow(square_at, square);
  if constexpr (kAmsgrad) {
    square = maximum(V(load_wide(largest_at)), square);
    store_narrow(largest_at, square);
  }
  const V denominator = sqrt(square) / splat<V>(c.correction2_root) + splat<V>(c.eps);
  parameter = parameter + splat<V>(c.minus_step_size) * mean / denominator;
  store_narrow(parameter_at, parameter);
}

// args by value: stores to memory could change what a reference refers to.
template <bool kAmsgrad, class Element, class State>
void adam_piece(Adam args, const AdamTensor& tensor, int64_t begin, int64_t end) {
  const AdamCoefficients<RealOf<Element>> c(args, static_cast<double>(*tensor.step));
  Run<Element> parameter(tensor.parameter, begin), grad(tensor.grad, begin);
  Run<State> mean(tensor.exp_avg, begin), square(tensor.exp_avg_sq, begin);
  Run<State> largest(kAmsgrad ? tensor.max_exp_avg_sq : nullptr, begin);
  constexpr int kLanes = Run<Element>::kLanes;
  int64_t i = 0;
  const int64_t count = end - begin;
  for (; i + kLanes <= count; i += kLanes) {
    adam_vector<kAmsgrad>(args, c, parameter.at(i), grad.at(i), mean.at(i), square.at(i),
                          kAmsgrad ? largest.at(i) : nullptr);
  }
  if (i == count) return;
  const int64_t rest = count - i;
  adam_vector<kAmsgrad>(args, c, parameter.open_tail(i, rest), grad.open_tail(i, rest),
                        mean.open_tail(i, rest), square.open_tail(i, rest),
                        largest.open_tail(i, rest));
  parameter.close_tail(i, rest);
  if (args.grad_scale) grad.close_tail(i, rest);
  mean.close_tail(i, rest);
  square.close_tail(i, rest);
  largest.close_tail(i, rest);
}

}  // namespace
}  // namespace optimizer

void adam(const Adam& args, const AdamTensor* tensors, int64_t count) {
  using namespace optimizer;
  if (args.found_inf && *args.found_inf == 1.0f) return;
  for_each_piece(tensors, count, [&](const AdamTensor& tensor, int64_t begin, int64_t end) {
    with_floating(tensor.dtype, [&](auto element) {
      using Element = decltype(element);
      with_floating(tensor.state_dtype, [&](auto state) {
        using State = decltype(state);
        if constexpr (__is_same(RealOf<Element>, RealOf<State>)) {
          if (args.amsgrad) {
            adam_piece<true, Element, State>(args, tensor, begin, end);
          } else {
            adam_piece<false, Element, State>(args, tensor, begin, end);
          }
        }
      });
    });
  });
}

}  // namespace accel::kernels::ACCEL_ISA
