// The CTC loss against sums over all alignments, and its gradient against differences.
#include "kernels/loss/ctc.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/common/parallel.h"

namespace accel::kernels {
namespace {

constexpr int64_t kBlank = 1;

// The probability of a target: that of all paths that are the target once repeats are joined and
// blanks dropped.
double likelihood(const std::vector<double>& log_probs, int64_t frames, int64_t classes,
                  const std::vector<int64_t>& target) {
  double sum = 0;
  std::vector<int64_t> path(static_cast<size_t>(frames), 0);
  while (true) {
    std::vector<int64_t> read;
    double log_probability = 0;
    for (int64_t t = 0; t < frames; ++t) {
      const int64_t c = path[static_cast<size_t>(t)];
      log_probability += log_probs[static_cast<size_t>(t * classes + c)];
      const bool repeats = t > 0 && path[static_cast<size_t>(t - 1)] == c;
      if (c != kBlank && !repeats) read.push_back(c);
    }
    if (read == target) sum += std::exp(log_probability);
    int64_t t = 0;
    while (t < frames && ++path[static_cast<size_t>(t)] == classes)
      path[static_cast<size_t>(t++)] = 0;
    if (t == frames) return sum;
  }
}

template <class Real>
struct Problem {
  int64_t frames, classes, most;
  std::vector<std::vector<int64_t>> targets;
  std::vector<int64_t> lengths;
  std::vector<Real> log_probs, loss, alpha, grad, gradient;
  std::vector<int64_t> labels, label_lengths;
  CtcBackward args;

  Problem(int64_t all_frames, int64_t all_classes, std::vector<std::vector<int64_t>> each,
          std::vector<int64_t> frames_of, bool concatenated)
      : frames(all_frames),
        classes(all_classes),
        targets(std::move(each)),
        lengths(std::move(frames_of)) {
    std::mt19937 generator(3);
    std::normal_distribution<double> normal;
    const auto batch = static_cast<int64_t>(targets.size());
    most = 0;
    for (const auto& target : targets) {
      most = std::max(most, static_cast<int64_t>(target.size()));
      label_lengths.push_back(static_cast<int64_t>(target.size()));
    }
    for (const auto& target : targets) {
      labels.insert(labels.end(), target.begin(), target.end());
      if (!concatenated)
        labels.resize(labels.size() + static_cast<size_t>(most) - target.size(), 99);
    }
    labels.push_back(99);
    log_probs.resize(static_cast<size_t>(frames * batch * classes));
    for (Real& x : log_probs) x = static_cast<Real>(normal(generator) - 1);
    loss.resize(static_cast<size_t>(batch), Real(7));
    grad.assign(static_cast<size_t>(batch), Real(0.5));
    alpha.resize(static_cast<size_t>(batch * frames * (2 * most + 1)));
    gradient.assign(log_probs.size(), Real(7));
    Ctc& ctc = args.forward;
    ctc.batch = batch;
    ctc.frames = frames;
    ctc.classes = classes;
    ctc.most_labels = most;
    ctc.blank = kBlank;
    ctc.dtype = sizeof(Real) == 8 ? DType::Float64 : DType::Float32;
    ctc.log_probs = log_probs.data();
    ctc.labels = labels.data();
    ctc.label_batch_stride = concatenated ? 0 : most;
    ctc.label_count = static_cast<int64_t>(labels.size()) - 1;
    ctc.input_lengths = lengths.data();
    ctc.target_lengths = label_lengths.data();
    ctc.loss = loss.data();
    ctc.log_alpha = alpha.data();
    args.grad = grad.data();
    args.grad_log_probs = gradient.data();
  }

  std::vector<double> sample(int64_t b) const {
    const auto batch = static_cast<int64_t>(targets.size());
    std::vector<double> result;
    for (int64_t t = 0; t < frames; ++t) {
      for (int64_t c = 0; c < classes; ++c) {
        result.push_back(log_probs[static_cast<size_t>((t * batch + b) * classes + c)]);
      }
    }
    return result;
  }
};

template <class Real>
void check(bool concatenated) {
  Problem<Real> problem(5, 3, {{0, 2}, {}, {2, 2}, {0}, {0, 2, 0}}, {5, 4, 3, 0, 5}, concatenated);
  Fault fault;
  set_team_width(2);
  ctc_loss(problem.args.forward, &fault);
  ctc_loss_backward(problem.args, &fault);
  set_team_width(1);
  ASSERT_FALSE(fault.raised);
  const double tolerance = sizeof(Real) == 8 ? 1e-9 : 1e-5;
  const size_t batch = problem.targets.size();
  for (size_t b = 0; b < batch; ++b) {
    const int64_t frames = problem.lengths[b];
    auto log_probs = problem.sample(static_cast<int64_t>(b));
    const double expected = likelihood(log_probs, frames, 3, problem.targets[b]);
    if (expected == 0) {
      EXPECT_TRUE(std::isinf(problem.loss[b])) << b;
      continue;
    }
    EXPECT_NEAR(problem.loss[b], -std::log(expected), tolerance) << b;
    // exp(log_probs) less the share of alignments: the derivative, once a softmax comes before.
    for (size_t i = 0; i < log_probs.size(); ++i) {
      const size_t t = i / 3, c = i % 3;
      double slope = 0;
      if (static_cast<int64_t>(t) < frames) {
        auto moved = log_probs;
        moved[i] += 1e-6;
        const double more = likelihood(moved, frames, 3, problem.targets[b]);
        slope = 0.5 * (std::exp(log_probs[i]) - (std::log(more) - std::log(expected)) / 1e-6);
      }
      EXPECT_NEAR(problem.gradient[(t * batch + b) * 3 + c], slope, 2e-5) << b << " " << i;
    }
  }
}

TEST(Ctc, AllAlignments) {
  for (const bool concatenated : {false, true}) {
    check<float>(concatenated);
    check<double>(concatenated);
  }
}

// Rows of more symbols than a vector holds.
TEST(Ctc, FloatAsDouble) {
  std::mt19937 generator(5);
  for (const int64_t labels : {1, 7, 8, 15, 16, 17, 40}) {
    std::vector<int64_t> target;
    for (int64_t i = 0; i < labels; ++i)
      target.push_back(2 + static_cast<int64_t>(generator() % 9));
    Problem<float> narrow(90, 37, {target, {3}}, {90, 2}, false);
    Problem<double> wide(90, 37, {target, {3}}, {90, 2}, false);
    for (size_t i = 0; i < narrow.log_probs.size(); ++i) wide.log_probs[i] = narrow.log_probs[i];
    Fault fault;
    ctc_loss(narrow.args.forward, &fault);
    ctc_loss(wide.args.forward, &fault);
    ctc_loss_backward(narrow.args, &fault);
    ctc_loss_backward(wide.args, &fault);
    ASSERT_FALSE(fault.raised);
    for (size_t b = 0; b < 2; ++b) {
      EXPECT_NEAR(narrow.loss[b], wide.loss[b], 1e-5 * std::fabs(wide.loss[b]) + 1e-5);
    }
    for (size_t i = 0; i < narrow.gradient.size(); ++i) {
      ASSERT_NEAR(narrow.gradient[i], wide.gradient[i], 1e-3) << labels << " " << i;
    }
  }
}

TEST(Ctc, WhatNeverAlignsGivesNanOrZero) {
  for (const auto infinite : {InfiniteLoss::GivesNan, InfiniteLoss::GivesZero}) {
    Problem<float> problem(3, 4, {{2, 2}}, {2}, false);
    problem.args.infinite = infinite;
    Fault fault;
    ctc_loss(problem.args.forward, &fault);
    ctc_loss_backward(problem.args, &fault);
    EXPECT_TRUE(std::isinf(problem.loss[0]));
    for (size_t i = 0; i < problem.gradient.size(); ++i) {
      const bool is_nan = infinite == InfiniteLoss::GivesNan && i < 2 * 4;
      EXPECT_TRUE(is_nan ? std::isnan(problem.gradient[i]) : problem.gradient[i] == 0) << i;
    }
  }
}

TEST(Ctc, LengthsAndLabelsOutOfRangeAreFaults) {
  auto faults = [](auto&& spoil) {
    Problem<float> problem(3, 4, {{2, 3}, {0}}, {3, 3}, true);
    spoil(problem);
    Fault fault;
    ctc_loss(problem.args.forward, &fault);
    return fault.raised.load();
  };
  EXPECT_FALSE(faults([](auto&) {}));
  EXPECT_TRUE(faults([](auto& problem) { problem.lengths[1] = 4; }));
  EXPECT_TRUE(faults([](auto& problem) { problem.lengths[0] = -1; }));
  EXPECT_TRUE(faults([](auto& problem) { problem.label_lengths[1] = 2; }));
  EXPECT_TRUE(faults([](auto& problem) { problem.label_lengths[0] = -1; }));
  EXPECT_TRUE(faults([](auto& problem) { problem.labels[0] = 4; }));
  EXPECT_TRUE(faults([](auto& problem) { problem.labels[2] = -1; }));
}

}  // namespace
}  // namespace accel::kernels
