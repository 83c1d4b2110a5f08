// Which Nodes become one Launch, and which must not.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/cpp/graph/graph_fixture.h"

namespace accel::graph::testing {
namespace {

std::vector<std::string> names(const Plan& plan) {
  std::vector<std::string> result;
  for (const runtime::Launch& launch : plan.launches) result.push_back(launch.name);
  return result;
}

using Names = std::vector<std::string>;

size_t stores(const runtime::Launch& launch) {
  size_t count = 0;
  const auto& program = std::get<runtime::VectorLaunch>(launch.kernel).program;
  for (const auto& instruction : program.code) {
    count += instruction.op == kernels::vector::Op::Store;
  }
  return count;
}

TEST(Fusion, ChainOfPointwiseIsOneLaunchThatStoresOnlyWhatLives) {
  Program program;
  const Tensor x = program.tensor({8, 32});
  const Tensor a = program.unary(Opcode::Exp, x);
  const Tensor b = program.unary(Opcode::Neg, a);
  const Tensor c = program.binary(Opcode::Mul, b, x);
  Program::drop(a);
  Program::drop(b);
  const Plan plan = program.plan();
  EXPECT_EQ(names(plan), Names{"Exp+Neg+Mul"});
  EXPECT_EQ(stores(plan.launches[0]), 1u);
}

TEST(Fusion, LiveIntermediatesAreStoredToo) {
  Program program;
  const Tensor x = program.tensor({8, 32});
  const Tensor a = program.unary(Opcode::Exp, x);
  program.unary(Opcode::Neg, a);
  const Plan plan = program.plan();
  ASSERT_EQ(plan.launches.size(), 1u);
  EXPECT_EQ(stores(plan.launches[0]), 2u);
}

TEST(Fusion, DeadResultsAreNeverComputed) {
  Program program;
  const Tensor x = program.tensor({8, 32});
  Program::drop(program.unary(Opcode::Exp, x));
  program.unary(Opcode::Neg, x);
  EXPECT_EQ(names(program.plan()), Names{"Neg"});
}

// The row that a cross entropy hands back has one element: its sum needs no pass of its own.
TEST(Fusion, TheSumOfWhatACrossEntropyHandsBackIsNotAddedUp) {
  for (const bool hands_back : {true, false}) {
    Program program;
    const Tensor grad = program.tensor({8, 32}), y = program.tensor({8, 32});
    if (hands_back) {
      Scalar ignored;
      ignored.i = -100;
      program.add(Opcode::NllLossBackward, {grad},
                  {program.tensor({8}), program.tensor({8}, DType::Int64), Tensor{}}, {6, 1, 0, 0},
                  {ignored});
      Program::drop(grad);
    }
    program.add(Opcode::LogSoftmaxBackward, {program.tensor({8, 32})}, {grad, y}, {6, 1});
    const Plan plan = program.plan();
    ASSERT_EQ(plan.launches.size(), 1u);
    const auto& code = std::get<runtime::VectorLaunch>(plan.launches[0].kernel).program.code;
    const bool reduces = std::any_of(code.begin(), code.end(), [](const auto& instruction) {
      return instruction.op == kernels::vector::Op::ReduceSum;
    });
    EXPECT_EQ(reduces, !hands_back);
  }
}

// An optimizer reads its state too, which the Node names among its outputs alone.
TEST(Fusion, DeadStateIsStoredForTheStepThatGoesOnFromIt) {
  for (const Opcode step : {Opcode::Adam, Opcode::Sgd}) {
    Program program;
    const Tensor absent{}, parameter = program.tensor({8}), grad = program.tensor({8});
    const Tensor first = program.tensor({8}), second = program.tensor({8});
    for (const Tensor& state : {first, second}) {
      program.add(Opcode::Fill, {state}, {}, {6}, {Scalar{0.0}});
    }
    if (step == Opcode::Adam) {
      program.add(step, {parameter, first, second, absent},
                  {absent, absent, absent, grad, program.tensor({})}, {6, 0, 0, 0},
                  std::vector<Scalar>(5, Scalar{0.5}));
    } else {
      program.add(step, {parameter, first}, {absent, absent, absent, grad}, {6, 0, 0, 0},
                  std::vector<Scalar>(4, Scalar{0.5}));
    }
    Program::drop(first);
    Program::drop(second);
    const Plan plan = program.plan();
    ASSERT_EQ(plan.launches.size(), 2u);
    EXPECT_EQ(stores(plan.launches[0]), step == Opcode::Adam ? 2u : 1u);
  }
}

// A product of one row reads a weight in fp32 where 16 bits of it were made for that product alone.
TEST(Fusion, AMatrixNarrowedForOneRowIsReadAsItIs) {
  enum class Twist { None, TwoRows, LivesOn, ReadTwice, SourceWritten, OtherLayout };
  for (const Twist twist : {Twist::None, Twist::TwoRows, Twist::LivesOn, Twist::ReadTwice,
                            Twist::SourceWritten, Twist::OtherLayout}) {
    Program program;
    const int64_t rows = twist == Twist::TwoRows ? 2 : 1;
    const Tensor weight = program.tensor({32, 16});
    const Tensor narrow = program.tensor({32, 16}, DType::BFloat16);
    const Tensor x = program.tensor({1, rows, 16}, DType::BFloat16);
    const Tensor y = program.tensor({1, rows, 32}, DType::BFloat16);
    const Tensor source =
        twist == Twist::OtherLayout ? program.tensor({16, 32}).view({32, 16}, {1, 32}) : weight;
    program.add(Opcode::Copy, {narrow}, {source}, {15});
    if (twist == Twist::SourceWritten) program.add(Opcode::Fill, {weight}, {}, {6}, {Scalar{0.0}});
    program.add(Opcode::Matmul, {y}, {x, narrow.view({1, 16, 32}, {0, 1, 16})}, {15, 0});
    if (twist == Twist::ReadTwice) program.unary(Opcode::Neg, narrow);
    if (twist != Twist::LivesOn) Program::drop(narrow);
    const Plan plan = program.plan();
    ASSERT_GE(plan.launches.size(), 1u);
    for (const runtime::Launch& launch : plan.launches) {
      if (const auto* matmul = std::get_if<runtime::MatmulLaunch>(&launch.kernel)) {
        EXPECT_EQ(matmul->matmul.b.dtype == DType::Float32, twist == Twist::None);
        EXPECT_EQ(matmul->matmul.b.row_stride, 1);
      }
    }
    EXPECT_EQ(plan.launches.size() == 1, twist == Twist::None) << static_cast<int>(twist);
  }
}

TEST(Fusion, ReshapedReaderJoins) {
  Program program;
  const Tensor x = program.tensor({8, 32});
  const Tensor a = program.unary(Opcode::Exp, x);
  program.unary(Opcode::Neg, a.view({2, 4, 32}, {128, 32, 1}));
  EXPECT_EQ(names(program.plan()), Names{"Exp+Neg"});
}

TEST(Fusion, TransposedReaderDoesNotJoin) {
  Program program;
  const Tensor x = program.tensor({8, 32});
  const Tensor a = program.unary(Opcode::Exp, x);
  program.unary(Opcode::Neg, a.view({32, 8}, {1, 32}));
  EXPECT_EQ(names(program.plan()), (Names{"Exp", "Neg"}));
}

TEST(Fusion, BroadcastReaderOfASmallerResultDoesNotJoin) {
  Program program;
  const Tensor row = program.tensor({32});
  const Tensor a = program.unary(Opcode::Exp, row);
  const Tensor x = program.tensor({8, 32});
  program.binary(Opcode::Add, x, a);
  EXPECT_EQ(names(program.plan()), (Names{"Exp", "Add"}));
}

TEST(Fusion, PointwiseJoinsReductionOnBothSides) {
  Program program;
  const Tensor x = program.tensor({8, 32});
  const Tensor a = program.unary(Opcode::Exp, x);
  const Tensor sum = program.tensor({8});
  program.add(Opcode::ReduceSum, {sum}, {a}, {6, 1, 0});
  const Tensor logs = program.unary(Opcode::Log, sum);
  program.binary(Opcode::Add, a, logs.view({8, 1}, {1, 1}).expand({8, 32}));
  Program::drop(sum);
  // The last one reads a value over rows as one over all elements: another Launch.
  EXPECT_EQ(names(program.plan())[0].substr(0, 17), "Exp+ReduceSum+Log");
}

TEST(Fusion, ColumnReductionTakesItsInputFromTheChain) {
  Program program;
  const Tensor x = program.tensor({64, 32});
  const Tensor a = program.unary(Opcode::Exp, x);
  const Tensor sum = program.tensor({32});
  program.add(Opcode::ReduceSum, {sum}, {a}, {6, 1, 1});
  EXPECT_EQ(names(program.plan()), Names{"Exp+ReduceSum"});
}

TEST(Fusion, SoftmaxTakesInWhatIsBeforeAndBehindIt) {
  Program program;
  const Tensor x = program.tensor({8, 32});
  const Tensor a = program.unary(Opcode::Neg, x);
  const Tensor y = program.tensor({8, 32});
  program.add(Opcode::Softmax, {y}, {a}, {6, 1});
  program.unary(Opcode::Exp, y);
  EXPECT_EQ(names(program.plan()), Names{"Neg+Softmax+Exp"});
}

TEST(Fusion, MatmulTakesBiasAndActivationAsEpilogue) {
  Program program;
  const Tensor a = program.tensor({1, 64, 16}), b = program.tensor({1, 16, 32});
  const Tensor product = program.tensor({64, 32});
  program.add(Opcode::Matmul, {product.view({1, 64, 32}, {0, 32, 1})}, {a, b}, {6, 0});
  const Tensor bias = program.tensor({32});
  const Tensor sum = program.binary(Opcode::Add, product, bias);
  program.unary(Opcode::Gelu, sum.view({2, 32, 32}, {1024, 32, 1}));
  Program::drop(product);
  Program::drop(sum);
  const Plan plan = program.plan();
  EXPECT_EQ(names(plan), Names{"Matmul+Add+Gelu"});
  EXPECT_FALSE(std::get<runtime::MatmulLaunch>(plan.launches[0].kernel).out);
}

// The gradient of a weight under autocast, rounded to bf16 and then cast to fp32, is stored as fp32
// by the product itself; what else becomes of it is left to the epilogue.
TEST(Fusion, AProductStoresItselfInFloat32) {
  enum class Twist { None, LivesOn, ReadTwice, OtherRounding, Accumulated, Transposed };
  for (const Twist twist : {Twist::None, Twist::LivesOn, Twist::ReadTwice, Twist::OtherRounding,
                            Twist::Accumulated, Twist::Transposed}) {
    Program program;
    const Tensor a = program.tensor({1, 64, 16}, DType::BFloat16);
    const Tensor b = program.tensor({1, 16, 32}, DType::BFloat16);
    const Tensor product = program.tensor({1, 64, 32}, DType::BFloat16);
    program.add(Opcode::Matmul, {product}, {a, b}, {15, 0});
    Tensor rounded = product;
    if (twist == Twist::OtherRounding) {
      rounded = program.tensor({1, 64, 32}, DType::Float16);
      program.add(Opcode::Copy, {rounded}, {product}, {5});
      Program::drop(rounded);
    }
    Tensor wide = program.tensor({1, 64, 32});
    if (twist == Twist::Transposed) {
      wide = program.tensor({1, 32, 64}).view({1, 64, 32}, {2048, 1, 64});
    }
    if (twist == Twist::Accumulated) {
      program.add(Opcode::Add, {wide}, {wide, rounded}, {6, 1});
    } else {
      program.add(Opcode::Copy, {wide}, {rounded}, {6});
    }
    if (twist == Twist::ReadTwice) program.unary(Opcode::Neg, wide);
    if (twist != Twist::LivesOn) Program::drop(product);
    const Plan plan = program.plan();
    ASSERT_EQ(plan.launches.size(), 1u) << static_cast<int>(twist);
    const auto& launch = std::get<runtime::MatmulLaunch>(plan.launches[0].kernel);
    const bool stores =
        twist == Twist::None || twist == Twist::LivesOn || twist == Twist::ReadTwice;
    EXPECT_EQ(static_cast<bool>(launch.out), stores) << static_cast<int>(twist);
    EXPECT_EQ(launch.matmul.widened, stores);
    EXPECT_EQ(launch.program.code.empty(), twist == Twist::None);
    EXPECT_EQ(launch.program.operands.size(), launch.operands.size());
    EXPECT_EQ(launch.matmul.result, DType::BFloat16);
  }
}

// What only moves bfloat16 values about is not rounded; its store says so.
TEST(Fusion, OnlyWhatIsNewIsRounded) {
  for (const bool rounds : {false, true}) {
    Program program;
    const Tensor x = program.tensor({64}, DType::BFloat16);
    const Tensor other = program.tensor({64}, DType::BFloat16);
    const Tensor negated = program.tensor({64}, DType::BFloat16);
    const Tensor result = program.tensor({64}, DType::BFloat16);
    program.add(Opcode::Neg, {negated}, {x});
    program.add(rounds ? Opcode::Mul : Opcode::Maximum, {result}, {negated, other});
    Program::drop(negated);
    const Plan plan = program.plan();
    ASSERT_EQ(plan.launches.size(), 1u);
    const auto& code = std::get<runtime::VectorLaunch>(plan.launches[0].kernel).program.code;
    const auto count = std::count_if(code.begin(), code.end(), [](const auto& instruction) {
      return instruction.op == kernels::vector::Op::Round;
    });
    EXPECT_EQ(count, rounds ? 1 : 0);
    EXPECT_EQ(code.back().op, kernels::vector::Op::Store);
    EXPECT_EQ(code.back().dtype, DType::BFloat16);
  }
}

TEST(Fusion, WriteToWhatAnEarlierLaunchReadsStaysBehindIt) {
  Program program;
  const Tensor x = program.tensor({1, 8, 8});
  const Tensor a = program.unary(Opcode::Exp, x);
  const Tensor product = program.tensor({1, 8, 8});
  program.add(Opcode::Matmul, {product}, {a, x}, {6, 0});
  // In place on a, which the matmul reads: may not move in front of it.
  program.add(Opcode::Neg, {a}, {a});
  EXPECT_EQ(names(program.plan()), (Names{"Exp", "Matmul", "Neg"}));
}

TEST(Fusion, InPlaceChainStoresTheLastVersionOnce) {
  Program program;
  const Tensor x = program.tensor({8, 32});
  program.add(Opcode::Exp, {x}, {x});
  program.add(Opcode::Neg, {x}, {x});
  const Plan plan = program.plan();
  EXPECT_EQ(names(plan), Names{"Exp+Neg"});
  EXPECT_EQ(stores(plan.launches[0]), 1u);
}

TEST(Fusion, OverlappingButShiftedViewsAreNotPaired) {
  Program program;
  const Tensor x = program.tensor({65});
  program.add(Opcode::Exp, {x.view({64}, {1})}, {x.view({64}, {1})});
  program.unary(Opcode::Neg, x.view({64}, {1}, 1));
  EXPECT_EQ(names(program.plan()), (Names{"Exp", "Neg"}));
}

TEST(Fusion, DisjointSlicesOfOneBufferAreIndependent) {
  Program program;
  const Tensor x = program.tensor({512, 64});
  const Tensor left = x.view({512, 32}, {64, 1}), right = x.view({512, 32}, {64, 1}, 32);
  program.add(Opcode::Exp, {left}, {left});
  program.add(Opcode::Neg, {right}, {right});
  // Neither depends on the other, so neither needs the other's group.
  EXPECT_EQ(program.plan().launches.size(), 2u);
}

TEST(Fusion, SmallOnesThatAreIndependentShareALaunch) {
  Program program;
  const Tensor gates = program.tensor({8, 256});
  auto gate = [&](int64_t i) { return gates.view({8, 64}, {256, 1}, i * 64); };
  const Tensor forget = program.unary(Opcode::Sigmoid, gate(0));
  const Tensor other = program.unary(Opcode::Exp, program.tensor({7}));
  const Tensor enter = program.unary(Opcode::Sigmoid, gate(1));
  program.binary(Opcode::Mul, forget, enter);
  EXPECT_EQ(names(program.plan()), (Names{"Sigmoid+Sigmoid+Mul", "Exp"}));
}

TEST(Fusion, SmallOnesStayBehindWhatTheyDependOn) {
  Program program;
  const Tensor x = program.tensor({8, 64}), y = program.tensor({8, 64});
  program.add(Opcode::Exp, {y}, {y});
  const Tensor sum = program.tensor({8});
  program.add(Opcode::ReduceSum, {sum}, {x}, {6, 1, 0});
  program.unary(Opcode::Neg, sum.view({8, 64}, {1, 0}));
  EXPECT_EQ(names(program.plan()), (Names{"Exp", "ReduceSum", "Neg"}));
}

TEST(Fusion, LongChainsStillFitTheirPrograms) {
  Program program;
  Tensor x = program.tensor({4, 300});
  for (int i = 0; i < 300; ++i) {
    const Tensor other = program.tensor({4, 300});
    const Tensor next = program.binary(Opcode::Add, x, other);
    Program::drop(next);
    x = next;
  }
  x.block->user_alive = true;
  size_t instructions = 0;
  for (const auto& launch : program.plan().launches) {
    instructions += std::get<runtime::VectorLaunch>(launch.kernel).program.code.size();
  }
  EXPECT_GE(instructions, 600u);  // a load and an add each: nothing is lost
}

TEST(Segment, KeyIgnoresAddressesAndOffsetsOfWhatIsOnlyRead) {
  auto build = [](int64_t k) {
    auto program = std::make_unique<Program>();
    const Tensor x = program->tensor({32, 8, 16});
    program->unary(Opcode::Exp, x.view({8, 16}, {16, 1}, k * 128));
    program->seal();
    return program;
  };
  const auto first = build(1), second = build(5);
  EXPECT_EQ(first->seal().words(), second->seal().words());
  EXPECT_EQ(first->seal().hash(), second->seal().hash());
}

TEST(Segment, KeyTellsOverlapsOfWrittenBuffersApart) {
  auto words = [](int64_t shift) {
    Program program;
    const Tensor x = program.tensor({256});
    program.add(Opcode::Exp, {x.view({64}, {1})}, {x.view({64}, {1})});
    program.unary(Opcode::Neg, x.view({64}, {1}, shift));
    return program.seal().words();
  };
  EXPECT_NE(words(64), words(32));
  EXPECT_EQ(words(64), words(64));
}

TEST(PlanCache, LivenessThatKeepsMoreServesAfterThreeTurns) {
  PlanCache cache;
  auto segment = [](bool a_lives, bool b_lives) {
    auto program = std::make_unique<Program>();
    const Tensor x = program->tensor({8});
    const Tensor a = program->unary(Opcode::Exp, x);
    const Tensor b = program->unary(Opcode::Neg, a);
    if (!a_lives) Program::drop(a);
    if (!b_lives) Program::drop(b);
    return program;
  };
  const auto all = segment(true, true), last = segment(false, true), first = segment(true, false);
  const auto plan_all = cache.get(all->seal());
  const auto plan_last = cache.get(last->seal());
  EXPECT_NE(plan_all, plan_last);
  EXPECT_EQ(cache.get(last->seal()), plan_last);
  // The fourth turn: the plan that keeps everything serves a mask never seen.
  EXPECT_EQ(cache.get(first->seal()), plan_all);
  EXPECT_EQ(cache.size(), 2u);
}

}  // namespace
}  // namespace accel::graph::testing
