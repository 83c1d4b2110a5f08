// Sparse, nested and quantized tensors: LibTorch's own implementations over dense components on the
// device (indices and values, a buffer, whole numbers). What takes them apart and puts them
// together is LibTorch's too; everything that computes falls back to the CPU by way of the
// components.
#include <ATen/NestedTensorImpl.h>
#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseCsrTensorUtils.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/_coalesced_native.h>
#include <ATen/ops/_indices_native.h>
#include <ATen/ops/_nested_tensor_size_native.h>
#include <ATen/ops/_nested_tensor_storage_offsets_native.h>
#include <ATen/ops/_nested_tensor_strides_native.h>
#include <ATen/ops/_nested_view_from_buffer_native.h>
#include <ATen/ops/_nnz_native.h>
#include <ATen/ops/_sparse_compressed_tensor_unsafe.h>
#include <ATen/ops/_sparse_coo_tensor_unsafe.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_and_tensors_native.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_native.h>
#include <ATen/ops/_to_copy_native.h>
#include <ATen/ops/_values_native.h>
#include <ATen/ops/alias_native.h>
#include <ATen/ops/ccol_indices_native.h>
#include <ATen/ops/clone_native.h>
#include <ATen/ops/col_indices_native.h>
#include <ATen/ops/copy_native.h>
#include <ATen/ops/copy_sparse_to_sparse_native.h>
#include <ATen/ops/crow_indices_native.h>
#include <ATen/ops/dense_dim_native.h>
#include <ATen/ops/detach_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like_native.h>
#include <ATen/ops/empty_native.h>
#include <ATen/ops/indices_native.h>
#include <ATen/ops/is_coalesced_native.h>
#include <ATen/ops/is_same_size_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/row_indices_native.h>
#include <ATen/ops/select_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/sparse_dim_native.h>
#include <ATen/ops/sparse_resize_and_clear_native.h>
#include <ATen/ops/sparse_resize_native.h>
#include <ATen/ops/split_with_sizes_native.h>
#include <ATen/ops/transpose_native.h>
#include <ATen/ops/unbind_native.h>
#include <ATen/ops/values_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/quantized/QTensorImpl.h>
#include <ATen/quantized/Quantizer.h>
#include <c10/core/DeviceGuard.h>

#include <set>

#include "csrc/aten/recording.h"

namespace accel::aten {

namespace {

using c10::DispatchKey;
using c10::IValue;

bool is_compressed(const Tensor& tensor) { return at::sparse_csr::is_sparse_compressed(tensor); }

// The memory of a quantized Tensor as a dense one.
Tensor bytes_of(const Tensor& tensor) {
  return at::empty({0}, tensor.options().dtype(at::kByte).layout(at::kStrided))
      .set_(tensor.storage());
}
// All that a nested Tensor's storage holds, whatever views its parts are.
Tensor buffer_of(const Tensor& nested) {
  return at::native::get_nested_tensor_impl(nested)->get_unsafe_storage_as_tensor();
}

// The dense Tensors that another one is made of, values last. A dense one has none.
std::vector<Tensor> components_of(const Tensor& tensor) {
  if (tensor.is_quantized()) return {bytes_of(tensor)};
  if (tensor.is_nested()) return {buffer_of(tensor)};
  if (tensor.is_sparse()) return {tensor._indices(), tensor._values()};
  if (!is_compressed(tensor)) return {};
  const auto [compressed, plain] = at::sparse_csr::getCompressedPlainIndices(tensor);
  return {compressed, plain, tensor.values()};
}

// --- the fallback --------------------------------------------------------------------------------

// Applies a function to every Tensor of an argument.
template <typename Function>
IValue map_tensors(const IValue& value, const Function& function) {
  if (value.isTensor()) return IValue(function(value.toTensor()));
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector()) list.push_back(function(tensor));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<OptionalTensor> list;
    for (const OptionalTensor& tensor : value.toOptionalTensorVector()) {
      list.push_back(tensor ? OptionalTensor(function(*tensor)) : std::nullopt);
    }
    return list;
  }
  return value;
}

// One Tensor of the device and its copy on the CPU, on which the kernel runs.
struct Twin {
  Tensor original, copy;
  std::vector<Tensor> components;  // of the copy, before the kernel ran
};

// The Tensors of one call. A Tensor given twice has one copy: kernels ask whether they are the
// same.
class Twins {
 public:
  Tensor copy_of(const Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!tensor.device().is_privateuseone()) {
      if (tensor.dim() > 0) others_.insert(tensor.device().str());
      return tensor;
    }
    for (const Twin& twin : twins_) {
      if (twin.original.is_same(tensor)) return twin.copy;
    }
    // Kernels ask whether a gradient is wanted, and keep for the backward what it needs.
    const Tensor copy = moved_to(tensor, c10::kCPU).set_requires_grad(tensor.requires_grad());
    if (device_ && *device_ != tensor.device()) others_.insert(tensor.device().str());
    if (!device_) device_ = tensor.device();
    twins_.push_back({tensor, copy, components_of(copy)});
    return copy;
  }
  // Where results go that have no Tensor to follow.
  void make_on(c10::Device device) {
    if (device.is_privateuseone()) target_ = device;
  }
  void check_devices() const {
    TORCH_CHECK(!device_ || others_.empty(),
                "Expected all tensors to be on the same device, but found at least two devices, ",
                *device_, " and ", *others_.begin(), "!");
  }
  // The Tensor of the device for one that the kernel left.
  Tensor original_of(const Tensor& result) const {
    for (const Twin& twin : twins_) {
      if (twin.copy.is_same(result)) return twin.original;
    }
    const std::optional<c10::Device> device = target_ ? target_ : device_;
    return result.defined() && device ? moved_to(result.detach(), *device) : result;
  }
  void write_back(const Tensor& original) const {
    for (const Twin& twin : twins_) {
      if (twin.original.is_same(original)) write_back_to(twin);
    }
  }

 private:
  static void write_back_to(const Twin& twin);

  std::vector<Twin> twins_;
  std::optional<c10::Device> device_, target_;
  std::set<std::string> others_;
};

// A component that the kernel wrote in place is written in place, for who else holds it; one that
// it replaced is replaced.
void Twins::write_back_to(const Twin& twin) {
  const auto& [original, copy, before] = twin;
  if (original.is_quantized() || original.is_nested()) {
    components_of(original)[0].copy_(components_of(copy)[0]);
    return;
  }
  if (original.layout() == at::kStrided) {
    if (original.sizes() != copy.sizes()) original.resize_(copy.sizes());
    original.copy_(copy);
    return;
  }
  const std::vector<Tensor> after = components_of(copy);
  std::vector<Tensor> components = components_of(original);
  for (size_t i = 0; i < components.size(); ++i) {
    Tensor& component = components[i];
    if (after[i].is_alias_of(before[i]) && after[i].sizes() == component.sizes()) {
      component.copy_(after[i]);
    } else {
      component = after[i].to(original.device());
    }
  }
  if (original.is_sparse()) {
    auto* impl = static_cast<at::SparseTensorImpl*>(original.unsafeGetTensorImpl());
    impl->raw_resize_(copy.sparse_dim(), copy.dense_dim(), copy.sizes());
    impl->set_indices_and_values_unsafe(components[0], components[1]);
    impl->set_coalesced(copy.is_coalesced());
  } else {
    at::sparse_csr::get_sparse_csr_impl(original)->set_member_tensors(components[0], components[1],
                                                                      components[2], copy.sizes());
  }
}

void layout_fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  // Copies on the CPU would go to the backend of another device.
  TORCH_CHECK_NOT_IMPLEMENTED(op.operator_name().getNamespace() != "c10d", "accl: ", schema.name(),
                              " takes dense tensors");
  note_fallback(c10::toString(op.operator_name()));
  const auto originals = torch::jit::pop(*stack, schema.arguments().size());
  const at::AutoDispatchBelowADInplaceOrView below;
  Twins twins;
  torch::jit::Stack call;
  for (const IValue& original : originals) {
    if (original.isDevice()) {
      twins.make_on(original.toDevice());
      call.emplace_back(c10::Device(c10::kCPU));
    } else {
      call.push_back(
          map_tensors(original, [&](const Tensor& tensor) { return twins.copy_of(tensor); }));
    }
  }
  twins.check_devices();
  op.callBoxed(&call);
  for (size_t i = 0; i < originals.size(); ++i) {
    const auto* alias = schema.arguments()[i].alias_info();
    if (!alias || !alias->isWrite()) continue;
    map_tensors(originals[i], [&](const Tensor& tensor) {
      twins.write_back(tensor);
      return tensor;
    });
  }
  for (const IValue& result : call) {
    stack->push_back(
        map_tensors(result, [&](const Tensor& tensor) { return twins.original_of(tensor); }));
  }
}

// Between devices too.
Tensor& copy_quantized_(Tensor& self, const Tensor& source, bool) {
  TORCH_CHECK(self.is_quantized() == source.is_quantized(),
              "Copying between a quantized and a plain Tensor needs quantize or dequantize");
  TORCH_CHECK(self.dtype() == source.dtype() && self.sizes() == source.sizes(),
              "Quantized copy only works with the same dtype and sizes");
  if (self.is_same(source)) return self;
  const Tensor dense = moved_to(source, c10::kCPU).contiguous(self.suggest_memory_format());
  TORCH_CHECK(self.is_contiguous(self.suggest_memory_format()),
              "Quantized copy only works with a contiguous destination");
  bytes_of(self).copy_(bytes_of(dense));
  at::set_quantizer_(self, at::get_qtensorimpl(dense)->quantizer());
  return self;
}

// LibTorch's kernel on the device that it is called for, the one it is given or that of its first
// Tensor: a SparseTensorImpl begins with components on the current device.
template <auto kKernel>
struct OnDevice;
template <class Result, class... Arguments, Result (*kKernel)(Arguments...)>
struct OnDevice<kKernel> {
  static Result call(Arguments... arguments) {
    c10::OptionalDeviceGuard guard;
    const auto look = [&](const auto& argument) {
      using Argument = std::decay_t<decltype(argument)>;
      if constexpr (std::is_same_v<Argument, std::optional<c10::Device>>) {
        if (argument) guard.reset_device(*argument);
      } else if constexpr (std::is_same_v<Argument, Tensor>) {
        if (!guard.current_device()) guard.reset_device(argument.device());
      }
    };
    (look(arguments), ...);
    return kKernel(std::forward<Arguments>(arguments)...);
  }
};

}  // namespace

Tensor moved_to(const Tensor& tensor, c10::Device device) {
  if (tensor.is_quantized()) {
    const Tensor bytes = bytes_of(tensor).to(device, /*non_blocking=*/false, /*copy=*/true);
    const auto key =
        device.is_cpu() ? DispatchKey::QuantizedCPU : DispatchKey::QuantizedPrivateUse1;
    Tensor moved = at::detail::make_tensor<at::QTensorImpl>(
        c10::Storage(bytes.storage()), c10::DispatchKeySet(key), tensor.dtype(),
        at::get_qtensorimpl(tensor)->quantizer());
    moved.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(),
                                                       tensor.storage_offset());
    return moved;
  }
  if (tensor.is_nested()) {
    const auto* impl = at::native::get_nested_tensor_impl(tensor);
    return at::detail::make_tensor<at::native::NestedTensorImpl>(
        buffer_of(tensor).to(device), impl->get_nested_sizes(), impl->get_nested_strides(),
        impl->get_storage_offsets());
  }
  if (tensor.layout() == at::kStrided) return tensor.to(device);
  const auto options = tensor.options().device(device);
  if (tensor.is_sparse()) {
    return at::_sparse_coo_tensor_unsafe(tensor._indices().to(device), tensor._values().to(device),
                                         tensor.sizes(), options, tensor.is_coalesced());
  }
  TORCH_CHECK_NOT_IMPLEMENTED(is_compressed(tensor), "a tensor of layout ", tensor.layout(),
                              " is not supported on accel");
  const auto [compressed, plain] = at::sparse_csr::getCompressedPlainIndices(tensor);
  return at::_sparse_compressed_tensor_unsafe(compressed.to(device), plain.to(device),
                                              tensor.values().to(device), tensor.sizes(), options);
}

TORCH_LIBRARY_IMPL(_, SparsePrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&layout_fallback>());
}
TORCH_LIBRARY_IMPL(_, SparseCsrPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&layout_fallback>());
}
TORCH_LIBRARY_IMPL(_, NestedTensorPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&layout_fallback>());
}
TORCH_LIBRARY_IMPL(_, QuantizedPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&layout_fallback>());
}

// What makes another layout of dense tensors.
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_nested_view_from_buffer", TORCH_FN(at::native::_nested_view_from_buffer));
  for (const char* op :
       {"quantize_per_tensor", "quantize_per_tensor.tensor_qparams", "quantize_per_tensor.tensors",
        "quantize_per_tensor_dynamic", "quantize_per_channel", "_make_per_tensor_quantized_tensor",
        "_make_per_channel_quantized_tensor", "_nested_from_padded", "_nested_tensor_from_mask",
        "_nested_tensor_from_mask_left_aligned"}) {
    m.impl(op, torch::CppFunction::makeFromBoxedFunction<&layout_fallback>());
  }
}

TORCH_LIBRARY_IMPL(aten, QuantizedPrivateUse1, m) {
  m.impl("copy_", TORCH_FN(copy_quantized_));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(at::native::set_storage_quantized_));
}

TORCH_LIBRARY_IMPL(aten, NestedTensorPrivateUse1, m) {
  m.impl("_nested_tensor_size", TORCH_FN(at::native::_nested_tensor_size));
  m.impl("_nested_tensor_strides", TORCH_FN(at::native::_nested_tensor_strides));
  m.impl("_nested_tensor_storage_offsets", TORCH_FN(at::native::_nested_tensor_storage_offsets));
  m.impl("_to_copy", TORCH_FN(at::native::_to_copy_nested));
  m.impl("alias", TORCH_FN(at::native::alias_nested));
  m.impl("clone", TORCH_FN(at::native::clone_nested));
  m.impl("copy_", TORCH_FN(at::native::copy_nested_));
  m.impl("detach", TORCH_FN(at::native::detach));
  m.impl("empty_like", TORCH_FN(at::native::empty_like_nested));
  m.impl("is_same_size", TORCH_FN(at::native::nested_is_same_size));
  m.impl("select.int", TORCH_FN(at::native::select_nested));
  m.impl("split_with_sizes", TORCH_FN(at::native::split_with_sizes_nested));
  m.impl("transpose.int", TORCH_FN(at::native::transpose_nested));
  m.impl("unbind.int", TORCH_FN(at::native::NestedTensor_unbind));
  m.impl("values", TORCH_FN(at::native::values_nested));
  m.impl("view", TORCH_FN(at::native::view_nested));
}

TORCH_LIBRARY_IMPL(aten, SparsePrivateUse1, m) {
  m.impl("empty.memory_format", TORCH_FN(OnDevice<&at::native::empty_sparse>::call));
  m.impl("empty_like", TORCH_FN(OnDevice<&at::native::empty_like_sparse_coo>::call));
  m.impl("_sparse_coo_tensor_with_dims",
         TORCH_FN(OnDevice<&at::native::new_with_dims_sparse>::call));
  m.impl("_sparse_coo_tensor_with_dims_and_tensors",
         TORCH_FN(OnDevice<&at::native::new_with_dims_and_tensor_sparse_symint>::call));
  m.impl("sparse_dim", TORCH_FN(at::native::sparse_dim_sparse));
  m.impl("_dimI", TORCH_FN(at::native::sparse_dim_sparse));
  m.impl("dense_dim", TORCH_FN(at::native::dense_dim_sparse));
  m.impl("_dimV", TORCH_FN(at::native::dense_dim_sparse));
  m.impl("_nnz", TORCH_FN(at::native::_nnz_sparse));
  m.impl("is_coalesced", TORCH_FN(at::native::is_coalesced_sparse));
  m.impl("_coalesced_", TORCH_FN(at::native::_coalesced_sparse_));
  m.impl("_indices", TORCH_FN(at::native::_indices_sparse));
  m.impl("_values", TORCH_FN(at::native::_values_sparse));
  m.impl("indices", TORCH_FN(at::native::indices_sparse));
  m.impl("values", TORCH_FN(at::native::values_sparse));
  m.impl("sparse_resize_", TORCH_FN(OnDevice<&at::native::sparse_resize_>::call));
  m.impl("sparse_resize_and_clear_",
         TORCH_FN(OnDevice<&at::native::sparse_resize_and_clear_>::call));
  m.impl("copy_sparse_to_sparse_", TORCH_FN(OnDevice<&at::native::copy_sparse_>::call));
  m.impl("copy_", TORCH_FN(OnDevice<&at::native::copy_sparse_wrapper_>::call));
  m.impl("clone", TORCH_FN(OnDevice<&at::native::clone_sparse>::call));
}

TORCH_LIBRARY_IMPL(aten, SparseCsrPrivateUse1, m) {
  m.impl("empty.memory_format", TORCH_FN(OnDevice<&at::native::empty_sparse_compressed>::call));
  m.impl("empty_like", TORCH_FN(OnDevice<&at::native::empty_like_sparse_csr>::call));
  m.impl("sparse_dim", TORCH_FN(at::native::sparse_dim_sparse_csr));
  m.impl("dense_dim", TORCH_FN(at::native::dense_dim_sparse_csr));
  m.impl("_nnz", TORCH_FN(at::native::_nnz_sparse_csr));
  m.impl("crow_indices", TORCH_FN(at::native::crow_indices_sparse_csr));
  m.impl("col_indices", TORCH_FN(at::native::col_indices_sparse_csr));
  m.impl("ccol_indices", TORCH_FN(at::native::ccol_indices_sparse_csr));
  m.impl("row_indices", TORCH_FN(at::native::row_indices_sparse_csr));
  m.impl("values", TORCH_FN(at::native::values_sparse_csr));
  m.impl("resize_", TORCH_FN(OnDevice<&at::native::resize_sparse_csr_>::call));
  m.impl("copy_", TORCH_FN(OnDevice<&at::native::copy_sparse_compressed_>::call));
  m.impl("clone", TORCH_FN(OnDevice<&at::native::clone_sparse_compressed>::call));
}

namespace {

// Kernels for all backends at once come before a fallback, and those of many ops know dense tensors
// only: what has a kernel for the CPU's tensors of a layout gets the fallback as its own.
[[maybe_unused]] const bool g_registered = [] {
  static auto* handles = new std::vector<c10::RegistrationHandleRAII>;
  auto& dispatcher = c10::Dispatcher::singleton();
  constexpr std::pair<DispatchKey, DispatchKey> kKeys[] = {
      {DispatchKey::SparseCPU, DispatchKey::SparsePrivateUse1},
      {DispatchKey::SparseCsrCPU, DispatchKey::SparseCsrPrivateUse1},
      {DispatchKey::NestedTensorCPU, DispatchKey::NestedTensorPrivateUse1},
      {DispatchKey::QuantizedCPU, DispatchKey::QuantizedPrivateUse1},
  };
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findSchema(name);
    if (!op || name.getNamespace() == "c10d") continue;  // its process group's
    for (const auto& [there, here] : kKeys) {
      if (!op->hasKernelForDispatchKey(there) || op->hasKernelForDispatchKey(here)) continue;
      handles->push_back(dispatcher.registerImpl(
          name, here, c10::KernelFunction::makeFromBoxedFunction<&layout_fallback>(), std::nullopt,
          nullptr, "accel: layout fallback"));
    }
  }
  return true;
}();

}  // namespace

}  // namespace accel::aten
