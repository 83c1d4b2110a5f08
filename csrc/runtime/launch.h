// Launches: what a Plan consists of, and the boundary at which a Driver takes over. A Launch says
// everything about one kernel call except addresses, offsets and scalars: those are Arguments, so
// that a cached Plan serves every turn of a loop.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/common/fault.h"
#include "kernels/convolution/convolution.h"
#include "kernels/embedding_bag/embedding_bag.h"
#include "kernels/folding/folding.h"
#include "kernels/grid_sampling/grid_sampling.h"
#include "kernels/indexing/indexing.h"
#include "kernels/loss/ctc.h"
#include "kernels/loss/nll_loss.h"
#include "kernels/matmul/grouped.h"
#include "kernels/matmul/matmul.h"
#include "kernels/optimizer/optimizer.h"
#include "kernels/pooling/pooling.h"
#include "kernels/resampling/resampling.h"
#include "kernels/scan/scan.h"
#include "kernels/search/search.h"
#include "kernels/sort/sort.h"
#include "kernels/vector/program.h"

namespace accel::runtime {

// A host op's call: runs an ATen CPU kernel on the stream's worker over aliased device memory.
// addresses: host-visible address of each of the Node's Views, in the order they were recorded.
class HostCall {
 public:
  virtual ~HostCall() = default;
  virtual void run(void* const* addresses) = 0;
  virtual const char* name() const = 0;
};

// Names one View of a Graph: its Buffer, and its ordinal among the Segment's Views, by which its
// offset is found at run time.
struct Reference {
  int32_t buffer = -1;
  int32_t view = -1;
  explicit operator bool() const { return buffer >= 0; }
};

// What changes from one execution of a Plan to the next.
struct Arguments {
  char* const* addresses = nullptr;  // per Buffer: where kernels find it
  const int64_t* offsets = nullptr;  // per View: bytes from the Buffer's start
  const kernels::vector::Scalar* scalars = nullptr;
  const std::unique_ptr<HostCall>* host_calls = nullptr;
  kernels::Fault* fault = nullptr;

  char* address(Reference reference) const {
    return reference ? addresses[reference.buffer] + offsets[reference.view] : nullptr;
  }
};

// A scalar of a vector program: the Segment's scalar with that index, or a constant (index -1).
struct ScalarSource {
  int32_t index = -1;
  kernels::vector::Scalar constant{};
};

// prepared: what the host driver's load() makes of the program.
struct VectorLaunch {
  kernels::vector::Program program;
  kernels::vector::Space space;
  std::vector<Reference> references;               // per operand
  std::vector<kernels::vector::Operand> operands;  // strides; data is filled in at run time
  std::vector<ScalarSource> scalars;
  std::shared_ptr<const kernels::vector::Prepared> prepared;
};

struct MatmulLaunch {
  kernels::Matmul matmul;  // pointers are filled in at run time
  Reference a, b, out;     // out: if the product itself is stored
  kernels::vector::Program program;
  std::vector<Reference> references;
  std::vector<kernels::Epilogue::Operand> operands;
  std::vector<ScalarSource> scalars;
  std::shared_ptr<const kernels::vector::Prepared> prepared;
};

struct AttentionLaunch {
  bool backward = false;
  kernels::Attention attention;
  ScalarSource scale, dropout;
  // Of the dropout: forward takes them from scalars and leaves them in memory for backward.
  ScalarSource seed, offset;
  Reference philox_seed, philox_offset;
  Reference q, k, v, mask, out, logsumexp, grad_out, dq, dk, dv, dmask;
  kernels::AttentionTensor out_layout, grad_out_layout, dq_layout, dk_layout, dv_layout,
      dmask_layout;
};

struct IndexingLaunch {
  kernels::Indexing indexing;
  Reference target, other;
  std::vector<Reference> indices;
};

struct NllLossLaunch {
  kernels::NllLoss loss;
  Reference input, targets, weight, out, total_weight;
};

struct CtcLaunch {
  bool backward = false;
  kernels::CtcBackward ctc;  // forward is ctc.forward
  Reference log_probs, labels, input_lengths, target_lengths, loss, log_alpha, grad, grad_log_probs;
};

struct GroupedMatmulLaunch {
  kernels::GroupedMatmul matmul;
  Reference a, b, ends, out;
};

struct EmbeddingBagLaunch {
  kernels::EmbeddingBag bags;
  Reference table, indices, offsets, weights, out, offset2bag, bag_size, maximum_index;
};

struct BagWeightGradientLaunch {
  kernels::BagWeightGradient gradient;
  Reference grad, table, indices, offset2bag, weight_grad;
};

struct SearchLaunch {
  kernels::Search search;
  Reference sequence, values, sorter, places;
};

struct SegmentsLaunch {
  kernels::Segments segments;
  Reference lengths, places;
};

struct ConvolutionLaunch {
  kernels::Convolution convolution;
  Reference input, weight, output, bias;
};

struct PoolingLaunch {
  kernels::Pooling pooling;
  Reference input, output, indices;
};

struct ResamplingLaunch {
  kernels::Resampling resampling;
  Reference input, output;
};

struct FoldingLaunch {
  kernels::Folding folding;
  Reference input, output;
};

struct GridSamplingLaunch {
  kernels::GridSampling sampling;
  Reference input, grid, grad, output;
};

struct AdamLaunch {
  kernels::Adam adam;
  ScalarSource learning_rate, beta1, beta2, weight_decay, eps;
  Reference learning_rate_pointer, grad_scale, found_inf;
  struct Tensor {
    int64_t elements;
    kernels::DType dtype, state_dtype;
    Reference parameter, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step;
  };
  std::vector<Tensor> tensors;
};

struct SgdLaunch {
  kernels::Sgd sgd;
  ScalarSource learning_rate, momentum, dampening, weight_decay;
  Reference learning_rate_pointer, grad_scale, found_inf;
  struct Tensor {
    int64_t elements;
    kernels::DType dtype;
    Reference parameter, grad, momentum_buffer;
  };
  std::vector<Tensor> tensors;
};

struct ScanLaunch {
  bool reduces = false;  // only the last values and places are wanted
  kernels::Scan scan;
  Reference in, values, indices;
};

struct SortLaunch {
  kernels::Sort sort;
  Reference in, values, indices;
};

struct SelectLaunch {
  kernels::Select select;
  Reference in, values, indices;
};

struct CopyLaunch {
  int64_t element_size = 0;
  std::vector<int64_t> sizes, destination_strides, source_strides;  // strides in bytes
  Reference destination, source;
};

struct HostLaunch {
  int32_t call = 0;  // into Arguments::host_calls
  std::vector<Reference> views;
};

// Memory that a Launch touches: distinct bytes, at most (Views that overlap themselves count once
// an element).
struct Touched {
  int32_t buffer;
  int64_t bytes;
  bool written;
};

struct Launch {
  std::variant<VectorLaunch, MatmulLaunch, AttentionLaunch, IndexingLaunch, NllLossLaunch,
               ConvolutionLaunch, PoolingLaunch, ResamplingLaunch, FoldingLaunch,
               GridSamplingLaunch, AdamLaunch, SgdLaunch, ScanLaunch, SortLaunch, SelectLaunch,
               CopyLaunch, HostLaunch, CtcLaunch, GroupedMatmulLaunch, EmbeddingBagLaunch,
               BagWeightGradientLaunch, SearchLaunch, SegmentsLaunch>
      kernel;
  std::string name;              // the ops it stands for, e.g. "mm+add+gelu"
  std::vector<Touched> touched;  // a Buffer may be there several times
  double flops = 0;              // of matrix products, convolutions and attention
  int node = 0;                  // the first Node that it computes, as recorded
};

// Makes a Launch ready for the kernels of this host, once; then runs it, on the calling thread's
// team.
void load_launch(Launch& launch);
void run_launch(const Launch& launch, const Arguments& arguments);

}  // namespace accel::runtime
