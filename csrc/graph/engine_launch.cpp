// The Launch of each Node that an engine runs.
#include "csrc/graph/engine_launch.h"

#include <array>
#include <bit>

namespace accel::graph {

namespace {

using runtime::Launch;
using runtime::Reference;
using runtime::ScalarSource;

Reference reference_of(const std::vector<View>& views, size_t index) {
  return index < views.size() ? views[index].reference() : Reference{};
}

ScalarSource scalar_of(const Node& node, int index) { return {node.first_scalar + index, {}}; }

kernels::AttentionTensor tensor_of(const View& view) {
  kernels::AttentionTensor tensor;
  for (size_t i = 0; i < 4 && i < view.strides.size(); ++i) tensor.strides[i] = view.strides[i];
  return tensor;
}

Launch attention_launch(const Node& node) {
  runtime::AttentionLaunch launch;
  launch.backward = node.opcode == Opcode::AttentionBackward;
  const View &q = node.inputs[0], &k = node.inputs[1], &v = node.inputs[2], &mask = node.inputs[3];
  kernels::Attention& attention = launch.attention;
  attention.batch = q.sizes[0];
  attention.heads = q.sizes[1];
  attention.kv_heads = k.sizes[1];
  attention.query_length = q.sizes[2];
  attention.key_length = k.sizes[2];
  attention.width = q.sizes[3];
  attention.value_width = v.sizes[3];
  attention.dtype = q.dtype;
  attention.causal = node.attributes.at(1) != 0;
  attention.q = tensor_of(q);
  attention.k = tensor_of(k);
  attention.v = tensor_of(v);
  if (!mask.absent()) {
    attention.mask = tensor_of(mask);
    attention.mask_dtype = mask.dtype;
  }
  launch.scale = scalar_of(node, 0);
  launch.dropout = scalar_of(node, 1);
  launch.q = q.reference();
  launch.k = k.reference();
  launch.v = v.reference();
  launch.mask = mask.reference();
  if (!launch.backward) {
    launch.out = node.outputs[0].reference();
    launch.out_layout = tensor_of(node.outputs[0]);
    launch.logsumexp = node.outputs[1].reference();
    launch.seed = scalar_of(node, 2);
    launch.offset = scalar_of(node, 3);
    launch.philox_seed = reference_of(node.outputs, 2);
    launch.philox_offset = reference_of(node.outputs, 3);
  } else {
    launch.philox_seed = reference_of(node.inputs, 7);
    launch.philox_offset = reference_of(node.inputs, 8);
    launch.out = node.inputs[4].reference();
    launch.out_layout = tensor_of(node.inputs[4]);
    launch.logsumexp = node.inputs[5].reference();
    launch.grad_out = node.inputs[6].reference();
    launch.grad_out_layout = tensor_of(node.inputs[6]);
    launch.dq = reference_of(node.outputs, 0);
    launch.dq_layout = tensor_of(node.outputs[0]);
    launch.dk = reference_of(node.outputs, 1);
    launch.dk_layout = tensor_of(node.outputs[1]);
    launch.dv = reference_of(node.outputs, 2);
    launch.dv_layout = tensor_of(node.outputs[2]);
    launch.dmask = reference_of(node.outputs, 3);
    launch.dmask_layout = tensor_of(node.outputs[3]);
  }
  return {launch, name_of(node.opcode), {}};
}

// Inputs: for Read target, indices; else values, target, indices. Output: values, or the target.
// Values and indices have the sizes of the space. Attributes: dtype, mode, negative indices,
// include self, skipped index; target strides over the space; bound and target stride of each
// index.
Launch indexing_launch(const Node& node) {
  runtime::IndexingLaunch launch;
  kernels::Indexing indexing;
  auto attribute = node.attributes.begin();
  indexing.dtype = static_cast<DType>(*attribute++);
  indexing.mode = static_cast<kernels::IndexingMode>(*attribute++);
  indexing.negative = static_cast<kernels::NegativeIndex>(*attribute++);
  indexing.include_self = static_cast<kernels::IncludeSelf>(*attribute++);
  indexing.skipped = static_cast<int64_t>(*attribute++);
  const bool reads = indexing.mode == kernels::IndexingMode::Read;
  const View& values = reads ? node.outputs[0] : node.inputs[0];
  launch.target = (reads ? node.inputs[0] : node.outputs[0]).reference();
  launch.other = values.reference();
  indexing.sizes = values.sizes;
  indexing.other_strides = values.strides;
  for (size_t i = 0; i < values.sizes.size(); ++i) {
    indexing.target_strides.push_back(static_cast<int64_t>(*attribute++));
  }
  for (size_t i = reads ? 1 : 2; i < node.inputs.size(); ++i) {
    const View& view = node.inputs[i];
    kernels::Indexing::Index index{view.dtype, 0, 0, view.strides};
    index.bound = static_cast<int64_t>(*attribute++);
    index.target_stride = static_cast<int64_t>(*attribute++);
    indexing.indices.push_back(std::move(index));
    launch.indices.push_back(view.reference());
  }
  launch.indexing = kernels::simplify(indexing);
  return {launch, name_of(node.opcode), {}};
}

// The attributes of a Node in the order in which csrc/aten wrote them.
class Attributes {
 public:
  explicit Attributes(const Node& node) : next_(node.attributes.begin()) {}
  int64_t next() { return static_cast<int64_t>(*next_++); }
  double next_double() { return std::bit_cast<double>(*next_++); }

 private:
  decltype(Node::attributes)::const_iterator next_;
};

// input [rows, classes], targets [rows], weight? [classes] → out, total_weight;
// attributes: -, ignore_index, reduction
Launch nll_loss_launch(const Node& node) {
  runtime::NllLossLaunch launch;
  const View &input = node.inputs[0], &targets = node.inputs[1];
  launch.loss.rows = input.sizes[0];
  launch.loss.classes = input.sizes[1];
  launch.loss.dtype = input.dtype;
  launch.loss.row_stride = input.strides[0];
  launch.loss.column_stride = input.strides[1];
  launch.loss.target_stride = targets.strides[0];
  launch.loss.ignore_index = static_cast<int64_t>(node.attributes.at(1));
  launch.loss.reduction = static_cast<kernels::Reduction>(node.attributes.at(2));
  launch.input = input.reference();
  launch.targets = targets.reference();
  launch.weight = reference_of(node.inputs, 2);
  launch.out = node.outputs[0].reference();
  launch.total_weight = node.outputs[1].reference();
  return {launch, "NllLoss", {}};
}

// log_probs [frames, batch, classes], labels, input lengths, target lengths → loss, log_alpha; then
// also loss, log_alpha, grad → gradient. Attributes: dtype, the most labels of a sample, blank, how
// many labels, their batch stride and stride; what an infinite loss gives.
Launch ctc_launch(const Node& node) {
  runtime::CtcLaunch launch;
  launch.backward = node.opcode == Opcode::CtcLossBackward;
  const View& log_probs = node.inputs[0];
  kernels::Ctc& ctc = launch.ctc.forward;
  ctc.frames = log_probs.sizes[0];
  ctc.batch = log_probs.sizes[1];
  ctc.classes = log_probs.sizes[2];
  Attributes attributes(node);
  ctc.dtype = static_cast<DType>(attributes.next());
  ctc.most_labels = attributes.next();
  ctc.blank = attributes.next();
  ctc.label_count = attributes.next();
  ctc.label_batch_stride = attributes.next();
  ctc.label_stride = attributes.next();
  launch.log_probs = log_probs.reference();
  launch.labels = node.inputs[1].reference();
  launch.input_lengths = node.inputs[2].reference();
  launch.target_lengths = node.inputs[3].reference();
  if (!launch.backward) {
    launch.loss = node.outputs[0].reference();
    launch.log_alpha = node.outputs[1].reference();
  } else {
    launch.ctc.infinite = static_cast<kernels::InfiniteLoss>(attributes.next());
    launch.loss = node.inputs[4].reference();
    launch.log_alpha = node.inputs[5].reference();
    launch.grad = node.inputs[6].reference();
    launch.grad_log_probs = node.outputs[0].reference();
  }
  return {launch, name_of(node.opcode), {}};
}

// a, b, ends → out, each of three dimensions, the first of size 1 where the operand is one matrix.
// Attributes: dtype, precision, the dimension that is divided.
Launch grouped_matmul_launch(const Node& node) {
  runtime::GroupedMatmulLaunch launch;
  const View &a = node.inputs[0], &b = node.inputs[1], &ends = node.inputs[2];
  const View& out = node.outputs[0];
  launch.matmul.matmul = matmul_launch(node).matmul;
  launch.matmul.matmul.batch = ends.sizes[0];
  launch.matmul.matmul.out = {nullptr, out.strides[0], out.strides[1], out.strides[2]};
  launch.matmul.grouped = static_cast<kernels::GroupedDimension>(node.attributes.at(2));
  launch.a = a.reference();
  launch.b = b.reference();
  launch.ends = ends.reference();
  launch.out = out.reference();
  return {launch, name_of(node.opcode), {}};
}

// table, indices, offsets, weights? → out, offset2bag, bag_size, maximum_index?. Attributes: dtype,
// mode, padding.
Launch embedding_bag_launch(const Node& node) {
  runtime::EmbeddingBagLaunch launch;
  kernels::EmbeddingBag& bags = launch.bags;
  Attributes attributes(node);
  bags.dtype = static_cast<DType>(attributes.next());
  bags.mode = static_cast<kernels::BagMode>(attributes.next());
  bags.padding = attributes.next();
  const View &table = node.inputs[0], &indices = node.inputs[1], &offsets = node.inputs[2];
  bags.index_dtype = indices.dtype;
  bags.rows = table.sizes[0];
  bags.width = table.sizes[1];
  bags.row_stride = table.strides[0];
  bags.count = indices.sizes[0];
  bags.offset_count = offsets.sizes[0];
  bags.bags = node.outputs[0].sizes[0];
  launch.table = table.reference();
  launch.indices = indices.reference();
  launch.offsets = offsets.reference();
  launch.weights = reference_of(node.inputs, 3);
  launch.out = node.outputs[0].reference();
  launch.offset2bag = node.outputs[1].reference();
  launch.bag_size = node.outputs[2].reference();
  launch.maximum_index = reference_of(node.outputs, 3);
  return {launch, name_of(node.opcode), {}};
}

// grad, table, indices, offset2bag → weight gradient. Attributes: dtype, padding.
Launch bag_weight_gradient_launch(const Node& node) {
  runtime::BagWeightGradientLaunch launch;
  kernels::EmbeddingBag& bags = launch.gradient.forward;
  bags.dtype = static_cast<DType>(node.attributes.at(0));
  bags.padding = static_cast<int64_t>(node.attributes.at(1));
  const View &table = node.inputs[1], &indices = node.inputs[2];
  bags.index_dtype = indices.dtype;
  bags.rows = table.sizes[0];
  bags.width = table.sizes[1];
  bags.row_stride = table.strides[0];
  bags.count = indices.sizes[0];
  launch.grad = node.inputs[0].reference();
  launch.table = table.reference();
  launch.indices = indices.reference();
  launch.offset2bag = node.inputs[3].reference();
  launch.weight_grad = node.outputs[0].reference();
  return {launch, name_of(node.opcode), {}};
}

// sequence [rows or 1, length], values [rows, count], sorter? → places. Attributes: dtype, side.
Launch search_launch(const Node& node) {
  runtime::SearchLaunch launch;
  kernels::Search& search = launch.search;
  const View &sequence = node.inputs[0], &values = node.inputs[1];
  search.dtype = static_cast<DType>(node.attributes.at(0));
  search.side = static_cast<kernels::SearchSide>(node.attributes.at(1));
  search.place_dtype = node.outputs[0].dtype;
  search.rows = values.sizes[0];
  search.count = values.sizes[1];
  search.length = sequence.sizes[1];
  search.shares_sequence = sequence.sizes[0] == 1;
  launch.sequence = sequence.reference();
  launch.values = values.reference();
  launch.sorter = reference_of(node.inputs, 2);
  launch.places = node.outputs[0].reference();
  return {launch, name_of(node.opcode), {}};
}

// lengths → places.
Launch segments_launch(const Node& node) {
  runtime::SegmentsLaunch launch;
  launch.segments.dtype = node.inputs[0].dtype;
  launch.segments.count = node.inputs[0].sizes[0];
  launch.segments.total = node.outputs[0].sizes[0];
  launch.lengths = node.inputs[0].reference();
  launch.places = node.outputs[0].reference();
  return {launch, name_of(node.opcode), {}};
}

// Dimensions that a convolution does not have stand before the others, with size 1.
kernels::ConvolutionTensor convolution_tensor(const View& view) {
  kernels::ConvolutionTensor tensor;
  tensor.batch_stride = view.strides[0];
  tensor.channel_stride = view.strides[1];
  std::copy(view.strides.begin() + 2, view.strides.end(),
            std::end(tensor.strides) - (view.strides.size() - 2));
  return tensor;
}

// Input, weight and output, of which the Node computes one and is given the others in this order.
std::array<const View*, 3> convolution_views(const Node& node) {
  const auto kind = static_cast<kernels::ConvolutionKind>(node.attributes.at(1));
  const auto computed = kind == kernels::ConvolutionKind::InputGradient    ? 0
                        : kind == kernels::ConvolutionKind::WeightGradient ? 1
                                                                           : 2;
  std::array<const View*, 3> views{};
  for (int role = 0, given = 0; role < 3; ++role) {
    views[role] = role == computed ? &node.outputs[0] : &node.inputs[given++];
  }
  return views;
}

// Of input, weight and output, in this order, one is the Node's output and the others are its first
// inputs; then comes bias?. Attributes: dtype, kind, groups, then stride, padding and dilation for
// each dimension.
Launch convolution_launch(const Node& node) {
  runtime::ConvolutionLaunch launch;
  kernels::Convolution& convolution = launch.convolution;
  Attributes attributes(node);
  auto next = [&] { return attributes.next(); };
  convolution.dtype = static_cast<DType>(next());
  convolution.kind = static_cast<kernels::ConvolutionKind>(next());
  convolution.groups = next();
  const auto views = convolution_views(node);
  const View &input = *views[0], &weight = *views[1], &output = *views[2];
  const size_t dims = input.sizes.size() - 2;
  const auto set = [&](int64_t(&numbers)[3], auto&& number) {
    for (size_t i = 0; i < dims; ++i) numbers[3 - dims + i] = number(i);
  };
  convolution.batch = input.sizes[0];
  convolution.input_channels = input.sizes[1];
  convolution.output_channels = output.sizes[1];
  set(convolution.input_size, [&](size_t i) { return input.sizes[2 + i]; });
  set(convolution.output_size, [&](size_t i) { return output.sizes[2 + i]; });
  set(convolution.kernel, [&](size_t i) { return weight.sizes[2 + i]; });
  set(convolution.stride, [&](size_t) { return next(); });
  set(convolution.padding, [&](size_t) { return next(); });
  set(convolution.dilation, [&](size_t) { return next(); });
  convolution.input = convolution_tensor(input);
  convolution.weight = convolution_tensor(weight);
  convolution.output = convolution_tensor(output);
  launch.input = input.reference();
  launch.weight = weight.reference();
  launch.output = output.reference();
  launch.bias = reference_of(node.inputs, 2);
  return {launch, "Convolution", {}};
}

// How the last dimensions of a View, up to three, are its places, and the others its planes; or,
// where channels lie innermost, the first and the second.
struct PlaceSizes {
  int64_t planes = 1, channels = 1, places[3] = {1, 1, 1};
};
PlaceSizes place_sizes(const View& view, size_t dims, bool channels_last) {
  PlaceSizes result;
  const size_t leading = view.sizes.size() - dims;
  for (size_t i = 0; i < leading; ++i) {
    (channels_last && i > 0 ? result.channels : result.planes) *= view.sizes[i];
  }
  for (size_t i = 0; i < dims; ++i) result.places[3 - dims + i] = view.sizes[leading + i];
  return result;
}

// Attributes as csrc/aten/pooling.cpp writes them; views as kernels/pooling/pooling.h names them.
Launch pooling_launch(const Node& node) {
  runtime::PoolingLaunch launch;
  kernels::Pooling& pooling = launch.pooling;
  Attributes attributes(node);
  pooling.dtype = static_cast<DType>(attributes.next());
  pooling.kind = static_cast<kernels::PoolingKind>(attributes.next());
  pooling.adaptive = attributes.next() != 0;
  const auto dims = static_cast<size_t>(attributes.next());
  const bool channels_last = attributes.next() != 0;
  const bool is_forward = pooling.kind == kernels::PoolingKind::Max;
  const View &from = node.inputs[0], &to = node.outputs[0];
  const PlaceSizes full = place_sizes(is_forward ? from : to, dims, channels_last);
  const PlaceSizes pooled = place_sizes(is_forward ? to : from, dims, channels_last);
  pooling.planes = full.planes;
  pooling.channels = full.channels;
  for (size_t i = 0; i < 3; ++i) {
    pooling.axes[i].full = full.places[i];
    pooling.axes[i].pooled = pooled.places[i];
  }
  for (size_t i = 3 - dims; i < 3; ++i) {
    kernels::PoolingAxis& axis = pooling.axes[i];
    axis.kernel = attributes.next();
    axis.stride = attributes.next();
    axis.padding = attributes.next();
    axis.dilation = attributes.next();
  }
  launch.input = from.reference();
  launch.output = to.reference();
  launch.indices = reference_of(is_forward ? node.outputs : node.inputs, 1);
  return {launch, "Pooling", {}};
}

// input → output, or their gradients; attributes as csrc/aten/resampling.cpp writes them.
Launch resampling_launch(const Node& node) {
  runtime::ResamplingLaunch launch;
  kernels::Resampling& resampling = launch.resampling;
  Attributes attributes(node);
  resampling.dtype = static_cast<DType>(attributes.next());
  resampling.method = static_cast<kernels::ResamplingMethod>(attributes.next());
  resampling.backward = attributes.next() != 0;
  resampling.align_corners = attributes.next() != 0;
  resampling.count_padding = attributes.next() != 0;
  resampling.divisor = attributes.next();
  const auto dims = static_cast<size_t>(attributes.next());
  const bool channels_last = attributes.next() != 0;
  const View &from = node.inputs[0], &to = node.outputs[0];
  const PlaceSizes full = place_sizes(resampling.backward ? to : from, dims, channels_last);
  const PlaceSizes resampled = place_sizes(resampling.backward ? from : to, dims, channels_last);
  resampling.planes = full.planes;
  resampling.channels = full.channels;
  for (size_t i = 0; i < 3; ++i) {
    resampling.axes[i].full = full.places[i];
    resampling.axes[i].resampled = resampled.places[i];
  }
  for (size_t i = 3 - dims; i < 3; ++i) {
    kernels::ResamplingAxis& axis = resampling.axes[i];
    axis.kernel = attributes.next();
    axis.stride = attributes.next();
    axis.padding = attributes.next();
    axis.scale = attributes.next_double();
  }
  launch.input = from.reference();
  launch.output = to.reference();
  return {launch, "Resampling", {}};
}

// images → columns, or columns → images; attributes as csrc/aten/folding.cpp writes them.
Launch folding_launch(const Node& node) {
  runtime::FoldingLaunch launch;
  kernels::Folding& folding = launch.folding;
  Attributes attributes(node);
  folding.dtype = static_cast<DType>(attributes.next());
  folding.fold = attributes.next() != 0;
  folding.planes = attributes.next();
  folding.plane_stride = attributes.next();
  for (kernels::FoldingAxis* axis : {&folding.rows, &folding.columns}) {
    axis->image = attributes.next();
    axis->kernel = attributes.next();
    axis->windows = attributes.next();
    axis->stride = attributes.next();
    axis->padding = attributes.next();
    axis->dilation = attributes.next();
    axis->kernel_stride = attributes.next();
    axis->window_stride = attributes.next();
  }
  launch.input = node.inputs[0].reference();
  launch.output = node.outputs[0].reference();
  return {launch, "Folding", {}};
}

// input?, grid, gradient? → output, as kernels/grid_sampling/grid_sampling.h names them; attributes
// as csrc/aten/grid_sampling.cpp writes them.
Launch grid_sampling_launch(const Node& node) {
  runtime::GridSamplingLaunch launch;
  kernels::GridSampling& sampling = launch.sampling;
  Attributes attributes(node);
  sampling.dtype = static_cast<DType>(attributes.next());
  sampling.kind = static_cast<kernels::GridSamplingKind>(attributes.next());
  sampling.interpolation = static_cast<kernels::GridInterpolation>(attributes.next());
  sampling.padding = static_cast<kernels::GridPadding>(attributes.next());
  sampling.align_corners = attributes.next() != 0;
  const View& grid = node.inputs[1];
  const bool has_input = sampling.kind != kernels::GridSamplingKind::InputGradient;
  const View& image = has_input ? node.inputs[0] : node.outputs[0];
  sampling.dims = static_cast<int>(image.sizes.size()) - 2;
  const PlaceSizes sizes = place_sizes(image, static_cast<size_t>(sampling.dims), false);
  std::copy(std::begin(sizes.places), std::end(sizes.places), sampling.sizes);
  sampling.batch = image.sizes[0];
  sampling.channels = image.sizes[1];
  sampling.places = 1;
  for (size_t i = 1; i + 1 < grid.sizes.size(); ++i) sampling.places *= grid.sizes[i];
  launch.input = reference_of(node.inputs, 0);
  launch.grid = grid.reference();
  launch.grad = reference_of(node.inputs, 2);
  launch.output = node.outputs[0].reference();
  return {launch, "GridSampling", {}};
}

// Attributes: -, amsgrad, maximize, decay. Scalars: lr, beta1, beta2, weight_decay, eps. Inputs:
// learning rate?, grad scale?, found inf?, then a gradient and a step a tensor. Outputs, a tensor:
// parameter, exp_avg, exp_avg_sq, max_exp_avg_sq?; with a grad scale, then all gradients.
Launch adam_launch(const Node& node) {
  runtime::AdamLaunch launch;
  launch.adam.amsgrad = node.attributes.at(1) != 0;
  launch.adam.maximize = node.attributes.at(2) != 0;
  launch.adam.decay = static_cast<kernels::WeightDecay>(node.attributes.at(3));
  launch.learning_rate = scalar_of(node, 0);
  launch.beta1 = scalar_of(node, 1);
  launch.beta2 = scalar_of(node, 2);
  launch.weight_decay = scalar_of(node, 3);
  launch.eps = scalar_of(node, 4);
  launch.learning_rate_pointer = node.inputs[0].reference();
  launch.grad_scale = node.inputs[1].reference();
  launch.found_inf = node.inputs[2].reference();
  const size_t count = (node.inputs.size() - 3) / 2;
  for (size_t i = 0; i < count; ++i) {
    const View* out = &node.outputs[4 * i];
    const View* in = &node.inputs[3 + 2 * i];
    launch.tensors.push_back({out[0].elements(), out[0].dtype, out[1].dtype, out[0].reference(),
                              in[0].reference(), out[1].reference(), out[2].reference(),
                              out[3].reference(), in[1].reference()});
  }
  return {launch, "Adam", {}};
}

// Attributes: -, nesterov, maximize, first step. Scalars: lr, momentum, dampening, weight_decay.
// Inputs: learning rate?, grad scale?, found inf?, then gradients. Outputs, a tensor: parameter,
// momentum buffer?; with a grad scale, then all gradients.
Launch sgd_launch(const Node& node) {
  runtime::SgdLaunch launch;
  launch.sgd.nesterov = node.attributes.at(1) != 0;
  launch.sgd.maximize = node.attributes.at(2) != 0;
  launch.sgd.first_step = node.attributes.at(3) != 0;
  launch.learning_rate = scalar_of(node, 0);
  launch.momentum = scalar_of(node, 1);
  launch.dampening = scalar_of(node, 2);
  launch.weight_decay = scalar_of(node, 3);
  launch.learning_rate_pointer = node.inputs[0].reference();
  launch.grad_scale = node.inputs[1].reference();
  launch.found_inf = node.inputs[2].reference();
  const size_t count = node.inputs.size() - 3;
  for (size_t i = 0; i < count; ++i) {
    const View* out = &node.outputs[2 * i];
    launch.tensors.push_back({out[0].elements(), out[0].dtype, out[0].reference(),
                              node.inputs[3 + i].reference(), out[1].reference()});
  }
  return {launch, "Sgd", {}};
}

kernels::ScanOp scan_op_of(Opcode opcode) {
  switch (opcode) {
    case Opcode::Cumsum:
      return kernels::ScanOp::Sum;
    case Opcode::Cumprod:
      return kernels::ScanOp::Product;
    case Opcode::Logcumsumexp:
      return kernels::ScanOp::LogSumExp;
    case Opcode::Cummax:
      return kernels::ScanOp::LastMaximum;
    case Opcode::Cummin:
      return kernels::ScanOp::LastMinimum;
    case Opcode::Argmax:
      return kernels::ScanOp::FirstMaximum;
    default:
      return kernels::ScanOp::FirstMinimum;
  }
}

// A View as the engines that work along lines take it: strides in bytes. Results of one element a
// line have only the kept dimensions.
enum class Along : uint8_t { Line, KeptOnly };

kernels::LineOperand line_operand(const View& view, size_t dim, Along along) {
  kernels::LineOperand operand;
  operand.dtype = view.dtype;
  for (size_t i = 0; i < view.sizes.size(); ++i) {
    const int64_t stride = view.strides[i] * kernels::size_of(view.dtype);
    if (along == Along::Line && i == dim) {
      operand.stride = stride;
    } else {
      operand.strides.push_back(stride);
    }
  }
  return operand;
}

// What all such Nodes have: kernels::Scan, Sort and Select name it alike.
template <class LineLaunch, class Kernel>
Launch line_launch(const Node& node, LineLaunch launch, Kernel LineLaunch::*member, Along results) {
  Kernel& kernel = launch.*member;
  const View& in = node.inputs[0];
  const auto dim = static_cast<size_t>(node.attributes.at(1));
  kernel.sizes = in.sizes;
  kernel.sizes.erase(kernel.sizes.begin() + static_cast<std::ptrdiff_t>(dim));
  kernel.length = in.sizes[dim];
  kernel.in = line_operand(in, dim, Along::Line);
  launch.in = in.reference();
  kernel.values = line_operand(node.outputs[0], dim, results);
  launch.values = node.outputs[0].reference();
  launch.indices = reference_of(node.outputs, 1);
  if (launch.indices) kernel.indices = line_operand(node.outputs[1], dim, results);
  return {launch, name_of(node.opcode), {}};
}

Launch scan_launch(const Node& node) {
  runtime::ScanLaunch launch;
  launch.reduces = node.opcode == Opcode::Argmax || node.opcode == Opcode::Argmin;
  launch.scan.op = scan_op_of(node.opcode);
  return line_launch(node, launch, &runtime::ScanLaunch::scan,
                     launch.reduces ? Along::KeptOnly : Along::Line);
}

Launch sort_launch(const Node& node) {
  runtime::SortLaunch launch;
  launch.sort.count = node.outputs[0].sizes[static_cast<size_t>(node.attributes.at(1))];
  launch.sort.order =
      node.attributes.at(2) ? kernels::SortOrder::Descending : kernels::SortOrder::Ascending;
  return line_launch(node, launch, &runtime::SortLaunch::sort, Along::Line);
}

Launch select_launch(const Node& node) {
  runtime::SelectLaunch launch;
  launch.select.rank = node.opcode == Opcode::Kthvalue ? kernels::Rank::Kth
                       : node.opcode == Opcode::Median ? kernels::Rank::Median
                                                       : kernels::Rank::NanMedian;
  launch.select.k = static_cast<int64_t>(node.attributes.at(2));
  return line_launch(node, launch, &runtime::SelectLaunch::select, Along::KeptOnly);
}

Launch host_launch(const Node& node) {
  runtime::HostLaunch launch;
  launch.call = node.host_call;
  for (const View& view : node.outputs) launch.views.push_back(view.reference());
  for (const View& view : node.inputs) launch.views.push_back(view.reference());
  return {launch, "Host", {}};
}

}  // namespace

runtime::MatmulLaunch matmul_launch(const Node& node) {
  runtime::MatmulLaunch launch;
  const View &a = node.inputs[0], &b = node.inputs[1], &out = node.outputs[0];
  kernels::Matmul& matmul = launch.matmul;
  matmul.batch = out.sizes[0];
  matmul.m = out.sizes[1];
  matmul.n = out.sizes[2];
  matmul.k = a.sizes[2];
  matmul.a = {nullptr, a.dtype, a.strides[0], a.strides[1], a.strides[2]};
  matmul.b = {nullptr, b.dtype, b.strides[0], b.strides[1], b.strides[2]};
  matmul.compute = static_cast<DType>(node.attributes.at(0));
  matmul.precision = static_cast<kernels::Float32Precision>(node.attributes.at(1));
  matmul.result = out.dtype;
  launch.a = a.reference();
  launch.b = b.reference();
  return launch;
}

Launch engine_launch(const Node& node) {
  if (is_indexing(node.opcode)) return indexing_launch(node);
  switch (node.opcode) {
    case Opcode::Attention:
    case Opcode::AttentionBackward:
      return attention_launch(node);
    case Opcode::NllLoss:
      return nll_loss_launch(node);
    case Opcode::CtcLoss:
    case Opcode::CtcLossBackward:
      return ctc_launch(node);
    case Opcode::GroupedMm:
      return grouped_matmul_launch(node);
    case Opcode::EmbeddingBag:
      return embedding_bag_launch(node);
    case Opcode::EmbeddingBagWeightGradient:
      return bag_weight_gradient_launch(node);
    case Opcode::Searchsorted:
      return search_launch(node);
    case Opcode::RepeatInterleave:
      return segments_launch(node);
    case Opcode::Convolution:
      return convolution_launch(node);
    case Opcode::Pooling:
      return pooling_launch(node);
    case Opcode::Resampling:
      return resampling_launch(node);
    case Opcode::Folding:
      return folding_launch(node);
    case Opcode::GridSampling:
      return grid_sampling_launch(node);
    case Opcode::Adam:
      return adam_launch(node);
    case Opcode::Sgd:
      return sgd_launch(node);
#define ACCEL_SCAN_CASE(name) case Opcode::name:
      ACCEL_SCAN_OPCODES(ACCEL_SCAN_CASE)
#undef ACCEL_SCAN_CASE
      return scan_launch(node);
    case Opcode::Sort:
    case Opcode::Topk:
      return sort_launch(node);
    case Opcode::Kthvalue:
    case Opcode::Median:
    case Opcode::Nanmedian:
      return select_launch(node);
    default:
      return host_launch(node);
  }
}

Launch copy_launch(const Node& node) {
  runtime::CopyLaunch launch;
  const View &to = node.outputs[0], &from = node.inputs[0];
  launch.element_size = kernels::size_of(to.dtype);
  launch.sizes = to.sizes;
  for (size_t i = 0; i < to.sizes.size(); ++i) {
    launch.destination_strides.push_back(to.strides[i] * launch.element_size);
    launch.source_strides.push_back(from.strides[i] * launch.element_size);
  }
  launch.destination = to.reference();
  launch.source = from.reference();
  return {launch, "Copy", {}};
}

double flops_of(const Node& node) {
  const auto elements = [](const View& view) { return static_cast<double>(view.elements()); };
  switch (node.opcode) {
    case Opcode::Matmul:
      return 2 * elements(node.outputs[0]) * static_cast<double>(node.inputs[0].sizes[2]);
    case Opcode::GroupedMm: {
      // Each element of a matrix that the groups divide is in one product.
      const View &a = node.inputs[0], &b = node.inputs[1];
      const bool divides_columns =
          node.attributes.at(2) == static_cast<uint64_t>(kernels::GroupedDimension::Columns);
      return 2 * (divides_columns ? elements(b) * static_cast<double>(a.sizes[1])
                                  : elements(a) * static_cast<double>(b.sizes[2]));
    }
    case Opcode::Convolution: {
      const auto [input, weight, output] = convolution_views(node);
      return 2 * elements(*output) * elements(*weight) / static_cast<double>(output->sizes[1]);
    }
    case Opcode::Attention:
    case Opcode::AttentionBackward: {
      // Scores and their product with the values; backward computes the scores again, and four
      // gradients.
      const View &q = node.inputs[0], &k = node.inputs[1], &v = node.inputs[2];
      const double pairs =
          elements(q) / static_cast<double>(q.sizes[3]) * static_cast<double>(k.sizes[2]);
      const auto widths = static_cast<double>(q.sizes[3] + v.sizes[3]);
      return 2 * pairs * widths * (node.opcode == Opcode::Attention ? 1 : 2.5);
    }
    default:
      return 0;
  }
}

}  // namespace accel::graph
