// Optimizer steps against a reference in double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/optimizer/optimizer.h"
#include "tests/cpp/kernels/elements_test.h"

namespace accel::kernels {
namespace {

// Half a unit in the last place of a value near one, for each rounding on the way.
double epsilon(DType dtype) {
  switch (dtype) {
    case DType::Float64:
      return 0x1p-52;
    case DType::Float32:
      return 0x1p-23;
    case DType::Float16:
      return 0x1p-11;
    default:
      return 0x1p-8;
  }
}

// An array with a guard behind its end, to see writes that go too far.
struct Array {
  DType dtype;
  int64_t elements;
  std::vector<uint8_t> memory;

  static constexpr int64_t kGuard = 64;

  Array(int64_t count, DType type) : dtype(type), elements(count) {
    memory.assign(static_cast<size_t>(size_of(type) * (count + 1) + kGuard), 0xa5);
  }
  // One element off the start, so that vectors are not aligned.
  void* data() { return memory.data() + size_of(dtype); }
  const void* data() const { return memory.data() + size_of(dtype); }
  double at(int64_t i) const { return read_element(data(), i, dtype); }
  void fill(std::mt19937& generator, double low, double high) {
    std::uniform_real_distribution<double> uniform(low, high);
    for (int64_t i = 0; i < elements; ++i) write_element(data(), i, dtype, uniform(generator));
  }
  void expect_guard() const {
    for (int64_t i = 0; i < kGuard; ++i) {
      ASSERT_EQ(memory[memory.size() - static_cast<size_t>(kGuard) + static_cast<size_t>(i)], 0xa5);
    }
  }
};

// Relative to the value, or to one half where terms of that size cancelled.
void expect_near(const Array& actual, const std::vector<double>& expected, double tolerance,
                 const std::string& what) {
  for (int64_t i = 0; i < actual.elements; ++i) {
    const double want = expected[static_cast<size_t>(i)];
    ASSERT_NEAR(actual.at(i), want, tolerance * std::max(std::fabs(want), 0.5))
        << what << ", element " << i << " of " << actual.elements;
  }
  actual.expect_guard();
}

struct AdamState {
  Array parameter, grad, mean, square, largest;
  float step = 3;

  AdamState(int64_t n, DType dtype, DType state_dtype, unsigned seed = 1)
      : parameter(n, dtype),
        grad(n, dtype),
        mean(n, state_dtype),
        square(n, state_dtype),
        largest(n, state_dtype) {
    std::mt19937 generator(seed);
    parameter.fill(generator, -2, 2);
    grad.fill(generator, -1, 1);
    mean.fill(generator, -0.5, 0.5);
    square.fill(generator, 0.01, 1);
    largest.fill(generator, 0.01, 1);
  }
  AdamTensor tensor() {
    AdamTensor t;
    t.elements = parameter.elements;
    t.dtype = parameter.dtype;
    t.state_dtype = mean.dtype;
    t.parameter = parameter.data();
    t.grad = grad.data();
    t.exp_avg = mean.data();
    t.exp_avg_sq = square.data();
    t.max_exp_avg_sq = largest.data();
    t.step = &step;
    return t;
  }
};

struct AdamResult {
  std::vector<double> parameter, grad, mean, square, largest;
};

AdamResult adam_reference(const Adam& args, const AdamState& s) {
  AdamResult r;
  const double rate = args.learning_rate_pointer ? *args.learning_rate_pointer : args.learning_rate;
  for (int64_t i = 0; i < s.parameter.elements; ++i) {
    double p = s.parameter.at(i), g = s.grad.at(i), m = s.mean.at(i), v = s.square.at(i);
    double largest = s.largest.at(i);
    if (args.grad_scale) g /= *args.grad_scale;
    r.grad.push_back(g);
    if (args.maximize) g = -g;
    if (args.decay == WeightDecay::Decoupled) {
      p *= 1 - rate * args.weight_decay;
    } else {
      g += args.weight_decay * p;
    }
    m = args.beta1 * m + (1 - args.beta1) * g;
    v = args.beta2 * v + (1 - args.beta2) * g * g;
    largest = std::max(largest, v);
    const double mean = m / (1 - std::pow(args.beta1, s.step));
    const double square = (args.amsgrad ? largest : v) / (1 - std::pow(args.beta2, s.step));
    r.parameter.push_back(p - rate * mean / (std::sqrt(square) + args.eps));
    r.mean.push_back(m);
    r.square.push_back(v);
    r.largest.push_back(largest);
  }
  return r;
}

void check_adam(const Adam& args, int64_t n, DType dtype, DType state_dtype) {
  SCOPED_TRACE("n " + std::to_string(n) + " dtype " + std::to_string(static_cast<int>(dtype)) +
               " state " + std::to_string(static_cast<int>(state_dtype)) + " amsgrad " +
               std::to_string(args.amsgrad));
  AdamState s(n, dtype, state_dtype);
  const AdamResult expected = adam_reference(args, s);
  const AdamTensor tensor = s.tensor();
  adam(args, &tensor, 1);
  expect_near(s.parameter, expected.parameter, 4 * epsilon(dtype), "parameter");
  expect_near(s.mean, expected.mean, 4 * epsilon(state_dtype), "exp_avg");
  expect_near(s.square, expected.square, 4 * epsilon(state_dtype), "exp_avg_sq");
  if (args.amsgrad) {
    expect_near(s.largest, expected.largest, 4 * epsilon(state_dtype), "max_exp_avg_sq");
  }
  expect_near(s.grad, expected.grad, 2 * epsilon(dtype), "grad");
}

constexpr int64_t kLengths[] = {1, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 16384, 16385, 40000};
constexpr std::pair<DType, DType> kDTypes[] = {
    {DType::Float32, DType::Float32},   {DType::Float64, DType::Float64},
    {DType::BFloat16, DType::BFloat16}, {DType::Float16, DType::Float16},
    {DType::BFloat16, DType::Float32},  {DType::Float16, DType::Float32}};

TEST(Adam, LengthsAndDTypes) {
  for (const auto& [dtype, state_dtype] : kDTypes) {
    for (const int64_t n : kLengths) {
      Adam args;
      args.weight_decay = 0.1;
      args.learning_rate = 0.01;
      check_adam(args, n, dtype, state_dtype);
      args.amsgrad = true;
      check_adam(args, n, dtype, state_dtype);
    }
  }
}

TEST(Adam, Options) {
  const float scale = 4, rate = 0.02f;
  for (const WeightDecay decay : {WeightDecay::L2, WeightDecay::Decoupled}) {
    for (const bool maximize : {false, true}) {
      for (const float* grad_scale : {static_cast<const float*>(nullptr), &scale}) {
        for (const float* rate_pointer : {static_cast<const float*>(nullptr), &rate}) {
          for (const double beta1 : {0.9, 0.3}) {
            Adam args;
            args.decay = decay;
            args.maximize = maximize;
            args.grad_scale = grad_scale;
            args.learning_rate_pointer = rate_pointer;
            args.beta1 = beta1;
            args.weight_decay = 0.05;
            check_adam(args, 50, DType::Float32, DType::Float32);
            check_adam(args, 50, DType::Float64, DType::Float64);
          }
        }
      }
    }
  }
}

TEST(Adam, FoundInfSkipsEverything) {
  AdamState s(40, DType::Float32, DType::Float32), before = s;
  const float scale = 2, found = 1, none = 0;
  Adam args;
  args.grad_scale = &scale;
  args.found_inf = &found;
  const AdamTensor tensor = s.tensor();
  adam(args, &tensor, 1);
  EXPECT_EQ(s.parameter.memory, before.parameter.memory);
  EXPECT_EQ(s.grad.memory, before.grad.memory);
  EXPECT_EQ(s.mean.memory, before.mean.memory);
  args.found_inf = &none;
  adam(args, &tensor, 1);
  EXPECT_NE(s.parameter.memory, before.parameter.memory);
}

// Chunks run across tensors: neither that nor the team shows in a bit.
TEST(Adam, SameBitsForAnyTeamAndGrouping) {
  const int64_t sizes[] = {5, 20000, 1, 0, 16384, 70000, 33};
  std::vector<AdamState> together, apart;
  std::vector<AdamTensor> tensors;
  for (const int64_t n : sizes) {
    together.emplace_back(n, DType::Float32, DType::Float32, static_cast<unsigned>(n));
    apart.emplace_back(n, DType::Float32, DType::Float32, static_cast<unsigned>(n));
  }
  for (auto& state : together) tensors.push_back(state.tensor());
  Adam args;
  args.weight_decay = 0.01;
  set_team_width(2);
  adam(args, tensors.data(), static_cast<int64_t>(tensors.size()));
  set_team_width(1);
  for (size_t i = 0; i < apart.size(); ++i) {
    const AdamTensor tensor = apart[i].tensor();
    adam(args, &tensor, 1);
    EXPECT_EQ(together[i].parameter.memory, apart[i].parameter.memory);
    EXPECT_EQ(together[i].mean.memory, apart[i].mean.memory);
    EXPECT_EQ(together[i].square.memory, apart[i].square.memory);
    together[i].parameter.expect_guard();
  }
}

void check_sgd(const Sgd& args, int64_t n, DType dtype) {
  SCOPED_TRACE("n " + std::to_string(n) + " dtype " + std::to_string(static_cast<int>(dtype)) +
               " nesterov " + std::to_string(args.nesterov) + " first " +
               std::to_string(args.first_step));
  std::mt19937 generator(3);
  Array parameter(n, dtype), grad(n, dtype), momentum(n, dtype);
  parameter.fill(generator, -2, 2);
  grad.fill(generator, -1, 1);
  momentum.fill(generator, -1, 1);
  std::vector<double> expected, expected_momentum;
  for (int64_t i = 0; i < n; ++i) {
    const double p = parameter.at(i);
    double g = grad.at(i);
    if (args.grad_scale) g /= *args.grad_scale;
    if (args.maximize) g = -g;
    g += args.weight_decay * p;
    if (args.momentum != 0) {
      const double m =
          args.first_step ? g : args.momentum * momentum.at(i) + (1 - args.dampening) * g;
      expected_momentum.push_back(m);
      g = args.nesterov ? g + args.momentum * m : m;
    }
    expected.push_back(p - args.learning_rate * g);
  }
  SgdTensor tensor;
  tensor.elements = n;
  tensor.dtype = dtype;
  tensor.parameter = parameter.data();
  tensor.grad = grad.data();
  tensor.momentum_buffer = args.momentum != 0 ? momentum.data() : nullptr;
  sgd(args, &tensor, 1);
  expect_near(parameter, expected, 4 * epsilon(dtype), "parameter");
  if (args.momentum != 0) {
    for (int64_t i = 0; i < n; ++i) {
      ASSERT_NEAR(momentum.at(i), expected_momentum[static_cast<size_t>(i)], 4 * epsilon(dtype));
    }
  }
  momentum.expect_guard();
}

TEST(Sgd, LengthsAndDTypes) {
  for (const DType dtype : {DType::Float32, DType::Float64, DType::BFloat16, DType::Float16}) {
    for (const int64_t n : kLengths) {
      Sgd args;
      args.learning_rate = 0.1;
      check_sgd(args, n, dtype);
      args.momentum = 0.9;
      check_sgd(args, n, dtype);
    }
  }
}

TEST(Sgd, Options) {
  const float scale = 8;
  for (const bool nesterov : {false, true}) {
    for (const bool maximize : {false, true}) {
      for (const bool first_step : {false, true}) {
        Sgd args;
        args.learning_rate = 0.1;
        args.momentum = 0.8;
        args.dampening = nesterov ? 0 : 0.25;
        args.weight_decay = 0.1;
        args.nesterov = nesterov;
        args.maximize = maximize;
        args.first_step = first_step;
        check_sgd(args, 45, DType::Float32);
        args.grad_scale = &scale;
        check_sgd(args, 45, DType::Float64);
      }
    }
  }
}

TEST(Sgd, FoundInfSkipsEverything) {
  float parameter[3] = {1, 2, 3}, grad[3] = {1, 1, 1};
  const float found = 1;
  SgdTensor tensor;
  tensor.elements = 3;
  tensor.parameter = parameter;
  tensor.grad = grad;
  Sgd args;
  args.found_inf = &found;
  sgd(args, &tensor, 1);
  EXPECT_EQ(parameter[0], 1);
}

}  // namespace
}  // namespace accel::kernels
