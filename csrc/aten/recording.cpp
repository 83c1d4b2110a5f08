#include "csrc/aten/recording.h"

#include <ATen/Dispatch.h>
#include <ATen/EmptyTensor.h>
#include <ATen/TensorIterator.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/empty_like.h>

#include <list>
#include <mutex>

#include <c10/core/DeviceGuard.h>

#include "csrc/runtime/allocator.h"
#include "csrc/runtime/generator.h"

namespace accel::aten {

namespace {

// The Block of storages of zero bytes: a View of no elements still names one.
runtime::Block* nothing_of(int device) {
  static runtime::Block* blocks[runtime::kMaximumDevices] = {};
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  runtime::Block*& block = blocks[std::max(device, 0)];
  if (!block) {
    block = runtime::allocate_block(1, std::max(device, 0));
    // Kept for good, but nothing that the user has allocated.
    block->retain();
    runtime::delete_block(block);
  }
  return block;
}

}  // namespace

bool is_native(ScalarType type) {
  switch (type) {
    case ScalarType::Byte:
    case ScalarType::Char:
    case ScalarType::Short:
    case ScalarType::Int:
    case ScalarType::Long:
    case ScalarType::Half:
    case ScalarType::Float:
    case ScalarType::Double:
    case ScalarType::Bool:
    case ScalarType::BFloat16:
      return true;
    default:
      return false;
  }
}

bool is_plain(const Tensor& tensor) {
  return tensor.device().is_privateuseone() && tensor.layout() == at::kStrided &&
         !tensor.is_conj() && !tensor.is_neg();
}

runtime::Block* block_of(const Tensor& tensor) {
  const c10::DataPtr& pointer = tensor.unsafeGetTensorImpl()->unsafe_storage().data_ptr();
  if (runtime::Block* block = runtime::block_of(pointer)) return block;
  // Memory that came through DLPack or from_blob: its Block is found by address.
  runtime::BlockReference found = runtime::find_block(pointer.get());
  if (found) return found.get();
  TORCH_CHECK(!pointer.get(), "[accel] the tensor's memory is not memory of an accel device");
  return nothing_of(tensor.device().index());
}

int64_t offset_in(const runtime::Block& block, const Tensor& tensor) {
  const auto* base =
      static_cast<const char*>(tensor.unsafeGetTensorImpl()->unsafe_storage().data());
  return tensor.storage_offset() * static_cast<int64_t>(tensor.itemsize()) +
         (base ? base - block.address : 0);
}

namespace {

// A number becomes one of the tensor's dtype before anything is computed.
int64_t wrapped(int64_t value, ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte:
      return static_cast<uint8_t>(value);
    case ScalarType::Char:
      return static_cast<int8_t>(value);
    case ScalarType::Short:
      return static_cast<int16_t>(value);
    case ScalarType::Int:
      return static_cast<int32_t>(value);
    default:
      return value;
  }
}

}  // namespace

Scalar scalar_of(const at::Scalar& value, ScalarType compute) {
  Scalar scalar;
  if (at::isFloatingType(compute)) {
    scalar.d = value.toDouble();
  } else if (compute == ScalarType::Bool) {
    scalar.i = value.to<bool>();
  } else {
    const int64_t whole =
        value.isFloatingPoint() ? static_cast<int64_t>(value.toDouble()) : value.toLong();
    scalar.i = wrapped(whole, compute);
  }
  return scalar;
}

Scalar checked_scalar_of(const at::Scalar& value, ScalarType dtype) {
  AT_DISPATCH_ALL_TYPES_AND3(ScalarType::Half, ScalarType::BFloat16, ScalarType::Bool, dtype,
                             "scalar", [&] { static_cast<void>(value.to<scalar_t>()); });
  return scalar_of(value, dtype);
}

Scalar scalar_of(double value) {
  Scalar scalar;
  scalar.d = value;
  return scalar;
}

Scalar scalar_of(int64_t value) {
  Scalar scalar;
  scalar.i = value;
  return scalar;
}

Scalar scalar_of_cpu(const Tensor& tensor, ScalarType compute) {
  return scalar_of(tensor.item(), compute);
}

Recording& Recording::add(const Tensor& tensor, Entries& entries) {
  Entry entry;
  entry.view.block = block_of(tensor);
  entry.view.dtype = dtype_of(tensor.scalar_type());
  const IntArrayRef sizes = tensor.sizes();
  entry.view.dims = static_cast<int>(sizes.size());
  entry.view.sizes = sizes.data();
  entry.view.strides = tensor.strides().data();
  entry.view.offset = offset_in(*entry.view.block, tensor);
  if (device_ < 0) device_ = tensor.device().index();
  entries.push_back(std::move(entry));
  return *this;
}

Recording& Recording::add(const Tensor& tensor, IntArrayRef sizes, IntArrayRef strides,
                          Entries& entries) {
  add(tensor, entries);
  Entry& entry = entries.back();
  entry.dims_at = static_cast<int>(dims_.size());
  entry.view.dims = static_cast<int>(sizes.size());
  dims_.append(sizes.begin(), sizes.end());
  dims_.append(strides.begin(), strides.end());
  return *this;
}

Recording& Recording::input(const OptionalTensor& tensor) {
  if (!tensor || !tensor->defined()) return no_input();
  return input(*tensor);
}

Recording& Recording::input(const Tensor& tensor, IntArrayRef sizes) {
  if (!tensor.defined() || tensor.sizes() == sizes) return input(tensor);
  c10::SmallVector<int64_t, 8> strides(sizes.size(), 0);
  const auto missing = static_cast<int64_t>(sizes.size()) - tensor.dim();
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) != 1) strides[missing + i] = tensor.stride(i);
  }
  return input(tensor, sizes, strides);
}

Recording& Recording::input(const Tensor& tensor, IntArrayRef sizes, IntArrayRef strides) {
  return tensor.defined() ? add(tensor, sizes, strides, inputs_) : no_input();
}

Recording& Recording::output(const Tensor& tensor, IntArrayRef sizes, IntArrayRef strides) {
  return tensor.defined() ? add(tensor, sizes, strides, outputs_) : no_output();
}

Recording& Recording::no_output() {
  outputs_.emplace_back();
  return *this;
}

Recording& Recording::no_input() {
  inputs_.emplace_back();
  return *this;
}

Recording& Recording::attribute(uint64_t value) {
  attributes_.push_back(value);
  return *this;
}

Recording& Recording::scalar(Scalar value) {
  scalars_.push_back(value);
  return *this;
}

Recording& Recording::random(const PhiloxState& state) {
  random_.push_back({static_cast<uint32_t>(scalars_.size()), state.from});
  return scalar(state.seed).scalar(state.offset);
}

Recording& Recording::host_call(std::unique_ptr<graph::HostCall> call) {
  host_call_ = std::move(call);
  return *this;
}

namespace {

// Whether the elements of a view lie one behind the other.
bool is_dense(const graph::ViewSpec& view) {
  int64_t step = 1;
  for (int d = view.dims; d-- > 0;) {
    if (view.sizes[d] != 1 && view.strides[d] != step) return false;
    step *= view.sizes[d];
  }
  return true;
}

void record_copy(int device, const graph::ViewSpec& to, const graph::ViewSpec& from) {
  const auto dtype = static_cast<uint64_t>(to.dtype);
  graph::NodeSpec node{Opcode::Copy, {&to, 1}, {&from, 1}, {&dtype, 1}};
  graph::record(device, node);
}

// Views of more dimensions than a vector program walks, unless they are dense, are computed in
// dense memory: what is read is copied there, and what is written, back.
class DenseTwins {
 public:
  explicit DenseTwins(int device) : device_(device) {}

  static bool needs(const graph::ViewSpec& view) {
    return view.dims > kernels::vector::kMaxDims && !is_dense(view);
  }
  void replace(graph::ViewSpec& view, bool is_written) {
    const c10::DeviceGuard guard(c10::Device(c10::kPrivateUse1, static_cast<int8_t>(device_)));
    const graph::ViewSpec original = view;
    const Tensor& twin = twins_.emplace_back(at::detail::empty_generic(
        {view.sizes, static_cast<size_t>(view.dims)}, c10::GetAllocator(c10::kPrivateUse1),
        c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), static_cast<ScalarType>(view.dtype),
        std::nullopt));
    view.block = block_of(twin);
    view.strides = twin.strides().data();
    view.offset = 0;
    record_copy(device_, view, original);
    if (is_written) back_.emplace_back(original, view);
  }
  void write_back() const {
    for (const auto& [original, twin] : back_) record_copy(device_, original, twin);
  }

 private:
  const int device_;
  std::list<Tensor> twins_;
  std::vector<std::pair<graph::ViewSpec, graph::ViewSpec>> back_;
};

}  // namespace

void Recording::record() {
  c10::SmallVector<graph::ViewSpec, 8> outputs, inputs;
  bool writes = opcode_ == Opcode::Host;
  auto finish = [&](Entries& entries, c10::SmallVector<graph::ViewSpec, 8>& views) {
    for (Entry& entry : entries) {
      if (entry.dims_at >= 0) {
        entry.view.sizes = dims_.data() + entry.dims_at;
        entry.view.strides = entry.view.sizes + entry.view.dims;
      }
      views.push_back(entry.view);
    }
  };
  finish(outputs_, outputs);
  finish(inputs_, inputs);
  for (const graph::ViewSpec& view : outputs) {
    int64_t elements = view.block ? 1 : 0;
    for (int i = 0; i < view.dims; ++i) elements *= view.sizes[i];
    writes |= elements > 0;
  }
  if (!writes) return;
  DenseTwins twins(device_);
  const bool only_moves = opcode_ == Opcode::Copy && outputs[0].dtype == inputs[0].dtype;
  if (opcode_ <= Opcode::LayerNormBackwardParameters && !only_moves) {
    for (graph::ViewSpec& view : inputs) {
      if (DenseTwins::needs(view)) [[unlikely]]
        twins.replace(view, /*is_written=*/false);
    }
    for (graph::ViewSpec& view : outputs) {
      if (DenseTwins::needs(view)) [[unlikely]]
        twins.replace(view, /*is_written=*/true);
    }
  }
  graph::NodeSpec node{opcode_,
                       {outputs.data(), outputs.size()},
                       {inputs.data(), inputs.size()},
                       {attributes_.data(), attributes_.size()},
                       {scalars_.data(), scalars_.size()},
                       {random_.data(), random_.size()},
                       std::move(host_call_)};
  graph::record(device_, node);
  twins.write_back();
}

void record_copy(const Tensor& to, const Tensor& from) {
  Recording(Opcode::Copy).output(to).input(from, to.sizes()).attribute(to.scalar_type()).record();
}

Tensor empty_on(const Tensor& like, IntArrayRef sizes, ScalarType dtype) {
  const c10::DeviceGuard guard(like.device());
  return at::detail::empty_generic(sizes, c10::GetAllocator(c10::kPrivateUse1),
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), dtype,
                                   std::nullopt);
}

Tensor empty_on(const Tensor& like, IntArrayRef sizes, IntArrayRef strides, ScalarType dtype) {
  const c10::DeviceGuard guard(like.device());
  return at::detail::empty_strided_generic(sizes, strides, c10::GetAllocator(c10::kPrivateUse1),
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           dtype);
}

Tensor empty_like(const Tensor& like, ScalarType dtype) {
  if (like.is_non_overlapping_and_dense()) {
    return empty_on(like, like.sizes(), like.strides(), dtype);
  }
  return at::empty_like(like, like.options().dtype(dtype));
}

Tensor empty_elementwise(std::initializer_list<const Tensor*> operands, IntArrayRef sizes,
                         ScalarType dtype) {
  const Tensor* first = nullptr;
  bool contiguous = true;
  for (const Tensor* operand : operands) {
    if (!operand->defined() || !operand->device().is_privateuseone()) continue;
    if (first == nullptr) first = operand;
    contiguous = contiguous && operand->is_contiguous();
  }
  if (contiguous) return empty_on(*first, sizes, dtype);
  at::TensorIteratorConfig config;
  config.check_all_same_dtype(false)
      .declare_static_dtype_and_device(dtype, first->device())
      .add_owned_output(Tensor());
  for (const Tensor* operand : operands) {
    if (operand->defined() && operand->device().is_privateuseone()) {
      config.add_owned_const_input(operand->expand(sizes));
    }
  }
  return config.build().output();
}

Tensor empty_result(const Tensor& like) {
  return at::empty(like.sizes(), like.options().memory_format(like.suggest_memory_format()));
}

void resize_output(const Tensor& out, IntArrayRef sizes) { at::native::resize_output(out, sizes); }

PhiloxState reserve_philox(const std::optional<at::Generator>& generator, int device,
                           int64_t elements) {
  const at::Generator& chosen =
      generator && generator->defined() ? *generator : runtime::default_generator(device);
  const auto& state = at::check_generator<runtime::Generator>(chosen)->random_state();
  const auto [seed, offset] = state->reserve(static_cast<uint64_t>((elements + 3) / 4));
  return {scalar_of(static_cast<int64_t>(seed)), scalar_of(static_cast<int64_t>(offset)), state};
}

}  // namespace accel::aten
