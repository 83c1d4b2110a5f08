// Opcodes: what a Node can be. csrc/aten records them, lower.cpp says what they compute.
#pragma once

#include <cstdint>

namespace accel::graph {

// clang-format off
// One vector instruction each, in the Node's compute dtype (attribute 0).
#define ACCEL_UNARY_OPCODES(X)                                                               \
  X(Neg) X(Abs) X(Sign) X(Square) X(Sqrt) X(Rsqrt) X(Reciprocal) X(Exp) X(Exp2) X(Expm1)     \
  X(Log) X(Log2) X(Log10) X(Log1p) X(Sin) X(Cos) X(Tan) X(Asin) X(Acos) X(Atan) X(Sinh)      \
  X(Cosh) X(Tanh) X(Asinh) X(Acosh) X(Atanh) X(Erf) X(Erfc) X(Erfinv) X(Sigmoid) X(Lgamma)   \
  X(Floor) X(Ceil) X(Trunc) X(RoundEven) X(BitNot) X(IsNan) X(SignBit) X(IsInf) X(Digamma)   \
  X(Trigamma) X(BesselI0) X(BesselI0e) X(BesselI1) X(BesselI1e) X(Erfcx)

#define ACCEL_BINARY_OPCODES(X)                                                              \
  X(Mul) X(Div) X(TruncDiv) X(FloorDiv) X(Fmod) X(Remainder) X(Pow) X(Atan2) X(Hypot)        \
  X(Minimum) X(Maximum) X(Fmin) X(Fmax) X(BitAnd) X(BitOr) X(BitXor) X(ShiftLeft)            \
  X(ShiftRight) X(CopySign) X(Zeta) X(Igamma) X(Igammac) X(Eq) X(Ne) X(Lt) X(Le) X(Gt) X(Ge)

// Several instructions, one rounding. Scalars (s0, s1, ...) in brackets.
#define ACCEL_COMPOSITE_OPCODES(X)                                                           \
  X(Copy) X(Fill) /* [value] */ X(Add) /* a + [alpha] b */ X(Sub) /* a - [alpha] b */        \
  X(ReverseSub) X(Where) X(MaskedFill) /* [value] */ X(Clamp) /* [low, high] */              \
  X(ClampMin) X(ClampMax) X(Lerp) /* [weight] */ X(LerpTensor) X(Addcmul) /* [value] */      \
  X(Addcdiv) /* [value] */ X(LogicalNot) X(LogicalAnd) X(LogicalOr) X(LogicalXor)            \
  X(Relu) X(ThresholdBackward) /* [threshold] */ X(Gelu) X(GeluTanh) X(GeluBackward)         \
  X(GeluTanhBackward) X(Silu) X(SiluBackward) X(TanhBackward) X(SigmoidBackward)             \
  X(LeakyRelu) /* [slope] */ X(LeakyReluBackward) X(Elu) /* [negative, scale, input] */      \
  X(Softplus) /* [beta, threshold] */ X(SoftplusBackward) X(Hardtanh) /* [low, high] */      \
  X(HardtanhBackward) X(Hardsigmoid) X(Hardswish) X(Mish)                                    \
  X(Dropout) /* outputs value, mask; [seed, offset, p, scale] */                             \
  X(DropoutBackward) /* grad, mask; [scale] */ X(Uniform) /* [seed, offset, low, range] */   \
  X(Bernoulli) /* [seed, offset, p] */ X(Normal) /* [seed, offset, seed, offset, mean, std] */             \
  X(Arange) /* [start, step] */ X(SquaredDifference)                         \
  X(MseBackward) /* input, target, grad; [scale] */                                          \
  X(Normalize) /* (x - mean) scale + shift? */                                               \
  X(ClampTensor) /* x, low?, high? */ X(Cube) X(Frac) X(IsPosInf) X(IsNegInf) X(Heaviside)   \
  X(LogAddExp) X(LogAddExp2) X(XLogY) X(XLog1Py) X(Entr) X(Sinc)                             \
  X(EluBackward) /* [alpha, scale, input]; attribute 1 of the result */                      \
  X(HardsigmoidBackward) X(HardswishBackward) X(MishBackward) X(Hardshrink) /* [lambda] */   \
  X(Softshrink) /* [lambda] */ X(ShrinkBackward) /* [lambda] */                              \
  X(Threshold) /* [threshold, value] */ X(Glu) /* a, b */                                    \
  X(GluBackward) /* grad, a, b → da, db */ X(LogSigmoid) X(LogSigmoidBackward)               \
  X(Prelu) /* x, weight */ X(PreluBackward) /* grad, x, weight → dx, dweight */              \
  X(Logit) /* attribute 1: [eps] */ X(LogitBackward) /* attribute 1: [eps] */                \
  X(NanToNum) /* attributes 1-3: [nan, inf, -inf] */                                         \
  X(RoundDecimals) /* [power of ten]; attribute 1: of negative decimals */                   \
  X(Triangle) /* [diagonal, rows, columns]; attribute 1: the upper */                        \
  X(Linspace) /* [start, end, step, steps] */                                                \
  X(Angle) /* of real numbers: 0 or pi */ X(LogNdtr)                                         \
  X(Polygamma) /* [order + 1, its factorial's sign and size] */                              \
  X(CrossProduct) /* a, b, c, d → a b - c d */                                               \
  /* Complex numbers: each is two Views, real and imaginary parts (see complex.h). */        \
  X(ComplexMul) /* a, b; an absent imaginary part of b is 0 */                               \
  X(ComplexDiv) /* a, b; as above */ X(ComplexExp) X(ComplexSqrt) X(ComplexSgn)              \
  X(Polar) /* absolute value, angle → complex */

// Reductions of an input whose sizes are kept dimensions followed by reduced ones (Row) or the
// other way round (Column); attribute 1 is the number of kept dimensions, attribute 2 of 0 or 1
// says Column. Outputs have the kept dimensions' sizes.
#define ACCEL_REDUCE_OPCODES(X)                                                              \
  X(ReduceSum) X(ReduceMean) X(ReduceProd) X(ReduceMin) X(ReduceMax) X(ReduceAny)            \
  X(ReduceAll) X(ReduceNorm) /* 2-norm */ X(ReduceNormOne) X(ReduceNormInf)                  \
  X(ReduceVariance) /* outputs variance or deviation, mean; [correction] */

// Whole rows in, whole rows out; attribute 1 is the number of kept dimensions.
#define ACCEL_ROW_OPCODES(X)                                                                 \
  X(Softmax) X(LogSoftmax) X(SoftmaxBackward) X(LogSoftmaxBackward)                          \
  X(LayerNorm)              /* x, weight?, bias? → y, mean, rstd; [eps] */                   \
  X(LayerNormBackwardInput) /* dy, x, mean? (none: RMS norm), rstd, weight? → dx */          \
  X(RmsNorm)                /* x, weight? → y, rstd; [eps] */                                \
  X(BatchNorm)              /* x, weight?, bias?, running mean?, running variance? → y, mean,    \
                               rstd, running mean?, running variance?;                           \
                               [eps, momentum, 1 - momentum] */                                  \
  X(BatchNormBackward)      /* dy, x, mean, rstd or (attribute 3, evaluation) variance, weight?  \
                               → dx?, dweight?, dbias?; [eps] */                                 \
  X(NllLossBackward) /* grad, target, weight?, total? → dx; [ignore]; attribute 3 reduction */

// Rows or columns in, sums out; attributes as of reductions.
#define ACCEL_SUMS_OPCODES(X) \
  X(LayerNormBackwardParameters) /* dy, x, mean? (none: RMS norm), rstd → dweight?, dbias? */

// Elements and rows by index, all of them one engine (kernels/indexing/indexing.h): target,
// indices → values; then values, target, indices → target. Attributes as indexing_launch() of
// planner.cpp reads them.
#define ACCEL_INDEXING_OPCODES(X)                                                            \
  X(Embedding) X(Gather) X(Index) X(IndexSelect) X(Take) X(EmbeddingBackward) X(IndexAdd)    \
  X(IndexCopy) X(IndexFill) X(IndexPut) X(Put) X(Scatter) X(ScatterAdd) X(ScatterReduce)

// Engines of their own.
#define ACCEL_ENGINE_OPCODES(X)                                                              \
  X(Matmul) X(Attention) X(AttentionBackward) X(Convolution) X(NllLoss) X(Pooling)            \
  X(Resampling) X(Folding) X(GridSampling) X(Adam) X(Sgd) X(Host) X(CtcLoss)                  \
  X(CtcLossBackward) X(GroupedMm) X(EmbeddingBag) X(EmbeddingBagWeightGradient)               \
  X(Searchsorted) X(RepeatInterleave)

// Lines along one dimension, attribute 1; outputs are values?, indices?. Scans write as many elements
// as they read, sorts as many as the output has along the dimension, the others one: the outputs
// have the dimensions that are kept.
#define ACCEL_SCAN_OPCODES(X) \
  X(Cumsum) X(Cumprod) X(Logcumsumexp) X(Cummax) X(Cummin) X(Argmax) X(Argmin)
#define ACCEL_SORT_OPCODES(X) X(Sort) X(Topk) /* attribute 2: descending */
#define ACCEL_SELECT_OPCODES(X) X(Kthvalue) /* attribute 2: k, from 0 */ X(Median) X(Nanmedian)

// clang-format on
enum class Opcode : uint16_t {
#define ACCEL_DECLARE(name) name,
  ACCEL_UNARY_OPCODES(ACCEL_DECLARE) ACCEL_BINARY_OPCODES(ACCEL_DECLARE)
      ACCEL_COMPOSITE_OPCODES(ACCEL_DECLARE) ACCEL_REDUCE_OPCODES(ACCEL_DECLARE)
          ACCEL_ROW_OPCODES(ACCEL_DECLARE) ACCEL_SUMS_OPCODES(ACCEL_DECLARE)
              ACCEL_INDEXING_OPCODES(ACCEL_DECLARE) ACCEL_ENGINE_OPCODES(ACCEL_DECLARE)
                  ACCEL_SCAN_OPCODES(ACCEL_DECLARE) ACCEL_SORT_OPCODES(ACCEL_DECLARE)
                      ACCEL_SELECT_OPCODES(ACCEL_DECLARE)
#undef ACCEL_DECLARE
};

// How a Node takes part in fusion.
enum class Family : uint8_t { Pointwise, RowReduce, ColumnReduce, Matmul, Opaque };

const char* name_of(Opcode opcode);

constexpr bool is_indexing(Opcode opcode) {
  switch (opcode) {
#define ACCEL_CASE(name) case Opcode::name:
    ACCEL_INDEXING_OPCODES(ACCEL_CASE)
#undef ACCEL_CASE
    return true;
    default:
      return false;
  }
}

}  // namespace accel::graph
