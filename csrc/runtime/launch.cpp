// Binds Arguments to a Launch and calls the kernel. Called by the host driver on a stream's worker.
#include "csrc/runtime/launch.h"

#include <c10/util/SmallVector.h>

#include "kernels/copy/copy.h"

namespace accel::runtime {

namespace {

using kernels::vector::Scalar;

Scalar value_of(const ScalarSource& source, const Arguments& arguments) {
  return source.index < 0 ? source.constant : arguments.scalars[source.index];
}

void gather(const std::vector<ScalarSource>& sources, const Arguments& arguments, Scalar* out) {
  for (size_t i = 0; i < sources.size(); ++i) out[i] = value_of(sources[i], arguments);
}

void run(const VectorLaunch& launch, const Arguments& arguments) {
  kernels::vector::Operand operands[kernels::vector::kMaxOperands];
  Scalar scalars[kernels::vector::kMaxScalars];
  for (size_t i = 0; i < launch.operands.size(); ++i) {
    operands[i] = launch.operands[i];
    operands[i].data = arguments.address(launch.references[i]);
  }
  gather(launch.scalars, arguments, scalars);
  kernels::vector::run(launch.program, *launch.prepared, launch.space, operands, scalars);
}

void run(const MatmulLaunch& launch, const Arguments& arguments) {
  kernels::Matmul matmul = launch.matmul;
  kernels::Epilogue::Operand operands[kernels::vector::kMaxOperands];
  Scalar scalars[kernels::vector::kMaxScalars];
  matmul.a.data = arguments.address(launch.a);
  matmul.b.data = arguments.address(launch.b);
  matmul.out.data = arguments.address(launch.out);
  if (!launch.program.code.empty()) {
    for (size_t i = 0; i < launch.operands.size(); ++i) {
      operands[i] = launch.operands[i];
      operands[i].data = arguments.address(launch.references[i]);
    }
    gather(launch.scalars, arguments, scalars);
    matmul.epilogue = {&launch.program, launch.prepared.get(), operands, scalars};
  }
  kernels::matmul(matmul);
}

kernels::AttentionTensor bind(const kernels::AttentionTensor& layout, Reference reference,
                              const Arguments& arguments) {
  kernels::AttentionTensor tensor = layout;
  tensor.data = arguments.address(reference);
  return tensor;
}

void run(const AttentionLaunch& launch, const Arguments& arguments) {
  kernels::Attention attention = launch.attention;
  attention.q = bind(attention.q, launch.q, arguments);
  attention.k = bind(attention.k, launch.k, arguments);
  attention.v = bind(attention.v, launch.v, arguments);
  attention.mask = bind(attention.mask, launch.mask, arguments);
  attention.scale = value_of(launch.scale, arguments).d;
  attention.dropout = value_of(launch.dropout, arguments).d;
  if (launch.philox_seed) {
    auto* seed = reinterpret_cast<int64_t*>(arguments.address(launch.philox_seed));
    auto* offset = reinterpret_cast<int64_t*>(arguments.address(launch.philox_offset));
    if (!launch.backward) {
      *seed = value_of(launch.seed, arguments).i;
      *offset = value_of(launch.offset, arguments).i;
    }
    attention.seed = *seed;
    attention.offset = *offset;
  }
  const auto out = bind(launch.out_layout, launch.out, arguments);
  void* logsumexp = arguments.address(launch.logsumexp);
  if (!launch.backward) return kernels::attention_forward(attention, out, logsumexp);
  kernels::attention_backward(attention, bind(launch.grad_out_layout, launch.grad_out, arguments),
                              out, logsumexp, bind(launch.dq_layout, launch.dq, arguments),
                              bind(launch.dk_layout, launch.dk, arguments),
                              bind(launch.dv_layout, launch.dv, arguments),
                              bind(launch.dmask_layout, launch.dmask, arguments));
}

void run(const IndexingLaunch& launch, const Arguments& arguments) {
  c10::SmallVector<const void*, 4> indices;
  for (Reference index : launch.indices) indices.push_back(arguments.address(index));
  kernels::indexing(launch.indexing, arguments.address(launch.target),
                    arguments.address(launch.other), indices.data(), arguments.fault);
}

const int64_t* integers(Reference reference, const Arguments& arguments) {
  return reinterpret_cast<const int64_t*>(arguments.address(reference));
}

void run(const NllLossLaunch& launch, const Arguments& arguments) {
  kernels::NllLoss loss = launch.loss;
  loss.input = arguments.address(launch.input);
  loss.targets = integers(launch.targets, arguments);
  loss.weight = arguments.address(launch.weight);
  loss.out = arguments.address(launch.out);
  loss.total_weight = arguments.address(launch.total_weight);
  kernels::nll_loss(loss, arguments.fault);
}

void run(const CtcLaunch& launch, const Arguments& arguments) {
  kernels::CtcBackward ctc = launch.ctc;
  ctc.forward.log_probs = arguments.address(launch.log_probs);
  ctc.forward.labels = integers(launch.labels, arguments);
  ctc.forward.input_lengths = integers(launch.input_lengths, arguments);
  ctc.forward.target_lengths = integers(launch.target_lengths, arguments);
  ctc.forward.loss = arguments.address(launch.loss);
  ctc.forward.log_alpha = arguments.address(launch.log_alpha);
  if (!launch.backward) return kernels::ctc_loss(ctc.forward, arguments.fault);
  ctc.grad = arguments.address(launch.grad);
  ctc.grad_log_probs = arguments.address(launch.grad_log_probs);
  kernels::ctc_loss_backward(ctc, arguments.fault);
}

void run(const GroupedMatmulLaunch& launch, const Arguments& arguments) {
  kernels::GroupedMatmul grouped = launch.matmul;
  grouped.matmul.a.data = arguments.address(launch.a);
  grouped.matmul.b.data = arguments.address(launch.b);
  grouped.matmul.out.data = arguments.address(launch.out);
  grouped.ends = reinterpret_cast<const int32_t*>(arguments.address(launch.ends));
  kernels::grouped_matmul(grouped, arguments.fault);
}

void run(const EmbeddingBagLaunch& launch, const Arguments& arguments) {
  kernels::EmbeddingBag bags = launch.bags;
  bags.table = arguments.address(launch.table);
  bags.indices = arguments.address(launch.indices);
  bags.offsets = arguments.address(launch.offsets);
  bags.weights = arguments.address(launch.weights);
  bags.out = arguments.address(launch.out);
  bags.offset2bag = arguments.address(launch.offset2bag);
  bags.bag_size = arguments.address(launch.bag_size);
  bags.maximum_index = arguments.address(launch.maximum_index);
  kernels::embedding_bag(bags, arguments.fault);
}

void run(const BagWeightGradientLaunch& launch, const Arguments& arguments) {
  kernels::BagWeightGradient gradient = launch.gradient;
  gradient.grad = arguments.address(launch.grad);
  gradient.forward.table = arguments.address(launch.table);
  gradient.forward.indices = arguments.address(launch.indices);
  gradient.forward.offset2bag = arguments.address(launch.offset2bag);
  gradient.weight_grad = arguments.address(launch.weight_grad);
  kernels::bag_weight_gradient(gradient, arguments.fault);
}

void run(const SearchLaunch& launch, const Arguments& arguments) {
  kernels::Search search = launch.search;
  search.sequence = arguments.address(launch.sequence);
  search.values = arguments.address(launch.values);
  search.sorter = integers(launch.sorter, arguments);
  search.places = arguments.address(launch.places);
  kernels::search(search, arguments.fault);
}

void run(const SegmentsLaunch& launch, const Arguments& arguments) {
  kernels::Segments segments = launch.segments;
  segments.lengths = arguments.address(launch.lengths);
  segments.places = arguments.address(launch.places);
  kernels::repeat_places(segments, arguments.fault);
}

void run(const ConvolutionLaunch& launch, const Arguments& arguments) {
  kernels::Convolution convolution = launch.convolution;
  convolution.input.data = arguments.address(launch.input);
  convolution.weight.data = arguments.address(launch.weight);
  convolution.output.data = arguments.address(launch.output);
  convolution.bias = arguments.address(launch.bias);
  kernels::convolution(convolution);
}

void run(const PoolingLaunch& launch, const Arguments& arguments) {
  kernels::Pooling pooling = launch.pooling;
  pooling.input = arguments.address(launch.input);
  pooling.output = arguments.address(launch.output);
  pooling.indices = reinterpret_cast<int64_t*>(arguments.address(launch.indices));
  pooling.fault = arguments.fault;
  kernels::pooling(pooling);
}

void run(const ResamplingLaunch& launch, const Arguments& arguments) {
  kernels::Resampling resampling = launch.resampling;
  resampling.input = arguments.address(launch.input);
  resampling.output = arguments.address(launch.output);
  kernels::resampling(resampling);
}

void run(const FoldingLaunch& launch, const Arguments& arguments) {
  kernels::Folding folding = launch.folding;
  folding.input = arguments.address(launch.input);
  folding.output = arguments.address(launch.output);
  kernels::folding(folding);
}

void run(const GridSamplingLaunch& launch, const Arguments& arguments) {
  kernels::GridSampling sampling = launch.sampling;
  sampling.input = arguments.address(launch.input);
  sampling.grid = arguments.address(launch.grid);
  sampling.grad = arguments.address(launch.grad);
  sampling.output = arguments.address(launch.output);
  kernels::grid_sampling(sampling);
}

const float* float_pointer(Reference reference, const Arguments& arguments) {
  return reinterpret_cast<const float*>(arguments.address(reference));
}

void run(const AdamLaunch& launch, const Arguments& arguments) {
  kernels::Adam adam = launch.adam;
  adam.learning_rate = value_of(launch.learning_rate, arguments).d;
  adam.beta1 = value_of(launch.beta1, arguments).d;
  adam.beta2 = value_of(launch.beta2, arguments).d;
  adam.weight_decay = value_of(launch.weight_decay, arguments).d;
  adam.eps = value_of(launch.eps, arguments).d;
  adam.learning_rate_pointer = float_pointer(launch.learning_rate_pointer, arguments);
  adam.grad_scale = float_pointer(launch.grad_scale, arguments);
  adam.found_inf = float_pointer(launch.found_inf, arguments);
  std::vector<kernels::AdamTensor> tensors;
  tensors.reserve(launch.tensors.size());
  for (const auto& tensor : launch.tensors) {
    tensors.push_back({tensor.elements, tensor.dtype, tensor.state_dtype,
                       arguments.address(tensor.parameter), arguments.address(tensor.grad),
                       arguments.address(tensor.exp_avg), arguments.address(tensor.exp_avg_sq),
                       arguments.address(tensor.max_exp_avg_sq),
                       float_pointer(tensor.step, arguments)});
  }
  kernels::adam(adam, tensors.data(), static_cast<int64_t>(tensors.size()));
}

void run(const SgdLaunch& launch, const Arguments& arguments) {
  kernels::Sgd sgd = launch.sgd;
  sgd.learning_rate = value_of(launch.learning_rate, arguments).d;
  sgd.momentum = value_of(launch.momentum, arguments).d;
  sgd.dampening = value_of(launch.dampening, arguments).d;
  sgd.weight_decay = value_of(launch.weight_decay, arguments).d;
  sgd.learning_rate_pointer = float_pointer(launch.learning_rate_pointer, arguments);
  sgd.grad_scale = float_pointer(launch.grad_scale, arguments);
  sgd.found_inf = float_pointer(launch.found_inf, arguments);
  std::vector<kernels::SgdTensor> tensors;
  tensors.reserve(launch.tensors.size());
  for (const auto& tensor : launch.tensors) {
    tensors.push_back({tensor.elements, tensor.dtype, arguments.address(tensor.parameter),
                       arguments.address(tensor.grad), arguments.address(tensor.momentum_buffer)});
  }
  kernels::sgd(sgd, tensors.data(), static_cast<int64_t>(tensors.size()));
}

// The operands of a kernel that works along lines.
template <class Launch, class Kernel>
Kernel bind_lines(const Launch& launch, Kernel kernel, const Arguments& arguments) {
  kernel.in.data = arguments.address(launch.in);
  kernel.values.data = arguments.address(launch.values);
  kernel.indices.data = arguments.address(launch.indices);
  return kernel;
}

void run(const ScanLaunch& launch, const Arguments& arguments) {
  const kernels::Scan scan = bind_lines(launch, launch.scan, arguments);
  launch.reduces ? kernels::arg_reduce(scan) : kernels::scan(scan);
}

void run(const SortLaunch& launch, const Arguments& arguments) {
  kernels::sort(bind_lines(launch, launch.sort, arguments));
}

void run(const SelectLaunch& launch, const Arguments& arguments) {
  kernels::select(bind_lines(launch, launch.select, arguments));
}

void run(const CopyLaunch& launch, const Arguments& arguments) {
  kernels::strided_copy(static_cast<int>(launch.sizes.size()), launch.sizes.data(),
                        launch.element_size, arguments.address(launch.destination),
                        launch.destination_strides.data(), arguments.address(launch.source),
                        launch.source_strides.data());
}

void run(const HostLaunch& launch, const Arguments& arguments) {
  std::vector<void*> addresses;
  addresses.reserve(launch.views.size());
  for (Reference view : launch.views) addresses.push_back(arguments.address(view));
  arguments.host_calls[launch.call]->run(addresses.data());
}

}  // namespace

void load_launch(Launch& launch) {
  if (auto* vector = std::get_if<VectorLaunch>(&launch.kernel)) {
    vector->prepared =
        kernels::vector::prepare(vector->program, vector->space, vector->operands.data());
  } else if (auto* matmul = std::get_if<MatmulLaunch>(&launch.kernel);
             matmul && !matmul->program.code.empty()) {
    matmul->prepared = kernels::vector::prepare(matmul->program);
  }
}

void run_launch(const Launch& launch, const Arguments& arguments) {
  std::visit([&](const auto& kernel) { run(kernel, arguments); }, launch.kernel);
}

}  // namespace accel::runtime
