// Sparse tensors: LibTorch's own sparse implementations over indices and values on the device. What
// takes them apart and puts them together is LibTorch's too; everything that computes falls back to
// the CPU by way of the components.
#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseCsrTensorUtils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/_coalesced_native.h>
#include <ATen/ops/_indices_native.h>
#include <ATen/ops/_nnz_native.h>
#include <ATen/ops/_sparse_compressed_tensor_unsafe.h>
#include <ATen/ops/_sparse_coo_tensor_unsafe.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_and_tensors_native.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_native.h>
#include <ATen/ops/_values_native.h>
#include <ATen/ops/ccol_indices_native.h>
#include <ATen/ops/clone_native.h>
#include <ATen/ops/col_indices_native.h>
#include <ATen/ops/copy_native.h>
#include <ATen/ops/copy_sparse_to_sparse_native.h>
#include <ATen/ops/crow_indices_native.h>
#include <ATen/ops/dense_dim_native.h>
#include <ATen/ops/empty_like_native.h>
#include <ATen/ops/empty_native.h>
#include <ATen/ops/indices_native.h>
#include <ATen/ops/is_coalesced_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/row_indices_native.h>
#include <ATen/ops/sparse_dim_native.h>
#include <ATen/ops/sparse_resize_and_clear_native.h>
#include <ATen/ops/sparse_resize_native.h>
#include <ATen/ops/values_native.h>

#include <set>

#include "csrc/aten/recording.h"

namespace accel::aten {

namespace {

using c10::DispatchKey;
using c10::IValue;

bool is_compressed(const Tensor& tensor) { return at::sparse_csr::is_sparse_compressed(tensor); }

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

void write_back(const Tensor& original, const Tensor& changed) {
  if (!changed.defined() || !original.device().is_privateuseone()) return;
  const Tensor moved = moved_to(changed, original.device());
  if (original.layout() == at::kStrided) {
    if (original.sizes() != moved.sizes()) original.resize_(moved.sizes());
    original.copy_(moved);
  } else if (original.is_sparse()) {
    at::native::copy_sparse_(const_cast<Tensor&>(original), moved);
  } else {
    const auto [compressed, plain] = at::sparse_csr::getCompressedPlainIndices(moved);
    at::sparse_csr::get_sparse_csr_impl(original)->set_member_tensors(
        compressed, plain, moved.values(), moved.sizes());
  }
}

void sparse_fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  note_fallback(c10::toString(op.operator_name()));
  const size_t count = schema.arguments().size();
  const auto originals = torch::jit::pop(*stack, count);
  const at::AutoDispatchBelowADInplaceOrView below;
  std::optional<c10::Device> device;
  torch::jit::Stack call;
  for (const IValue& original : originals) {
    if (original.isDevice()) {
      call.emplace_back(c10::Device(c10::kCPU));
      continue;
    }
    call.push_back(map_tensors(original, [&](const Tensor& tensor) {
      if (!tensor.defined() || !tensor.device().is_privateuseone()) return tensor;
      device = tensor.device();
      // Kernels ask whether a gradient is wanted, and keep for the backward what it needs.
      return moved_to(tensor, c10::kCPU).set_requires_grad(tensor.requires_grad());
    }));
  }
  const torch::jit::Stack arguments = call;
  op.callBoxed(&call);
  for (size_t i = 0; i < count; ++i) {
    const auto* alias = schema.arguments()[i].alias_info();
    if (!alias || !alias->isWrite()) continue;
    if (originals[i].isTensor()) {
      write_back(originals[i].toTensor(), arguments[i].toTensor());
    } else if (originals[i].isTensorList()) {
      const auto before = originals[i].toTensorVector(), after = arguments[i].toTensorVector();
      for (size_t t = 0; t < before.size(); ++t) write_back(before[t], after[t]);
    }
  }
  for (const IValue& result : call) {
    stack->push_back(map_tensors(result, [&](const Tensor& tensor) {
      for (size_t i = 0; i < count; ++i) {
        if (originals[i].isTensor() && arguments[i].toTensor().is_same(tensor)) {
          return originals[i].toTensor();
        }
      }
      if (!tensor.defined() || !device) return tensor;
      return moved_to(tensor.detach(), *device);
    }));
  }
}

}  // namespace

Tensor moved_to(const Tensor& tensor, c10::Device device) {
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
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&sparse_fallback>());
}
TORCH_LIBRARY_IMPL(_, SparseCsrPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&sparse_fallback>());
}

TORCH_LIBRARY_IMPL(aten, SparsePrivateUse1, m) {
  m.impl("empty.memory_format", TORCH_FN(at::native::empty_sparse));
  m.impl("empty_like", TORCH_FN(at::native::empty_like_sparse_coo));
  m.impl("_sparse_coo_tensor_with_dims", TORCH_FN(at::native::new_with_dims_sparse));
  m.impl("_sparse_coo_tensor_with_dims_and_tensors",
         TORCH_FN(at::native::new_with_dims_and_tensor_sparse_symint));
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
  m.impl("sparse_resize_", TORCH_FN(at::native::sparse_resize_));
  m.impl("sparse_resize_and_clear_", TORCH_FN(at::native::sparse_resize_and_clear_));
  m.impl("copy_sparse_to_sparse_", TORCH_FN(at::native::copy_sparse_));
  m.impl("copy_", TORCH_FN(at::native::copy_sparse_wrapper_));
  m.impl("clone", TORCH_FN(at::native::clone_sparse));
}

TORCH_LIBRARY_IMPL(aten, SparseCsrPrivateUse1, m) {
  m.impl("empty.memory_format", TORCH_FN(at::native::empty_sparse_compressed));
  m.impl("empty_like", TORCH_FN(at::native::empty_like_sparse_csr));
  m.impl("sparse_dim", TORCH_FN(at::native::sparse_dim_sparse_csr));
  m.impl("dense_dim", TORCH_FN(at::native::dense_dim_sparse_csr));
  m.impl("_nnz", TORCH_FN(at::native::_nnz_sparse_csr));
  m.impl("crow_indices", TORCH_FN(at::native::crow_indices_sparse_csr));
  m.impl("col_indices", TORCH_FN(at::native::col_indices_sparse_csr));
  m.impl("ccol_indices", TORCH_FN(at::native::ccol_indices_sparse_csr));
  m.impl("row_indices", TORCH_FN(at::native::row_indices_sparse_csr));
  m.impl("values", TORCH_FN(at::native::values_sparse_csr));
  m.impl("resize_", TORCH_FN(at::native::resize_sparse_csr_));
  m.impl("copy_", TORCH_FN(at::native::copy_sparse_compressed_));
  m.impl("clone", TORCH_FN(at::native::clone_sparse_compressed));
}

namespace {

// Kernels for all backends at once come before a fallback, and those of many ops know dense tensors
// only: what has a kernel for the CPU's sparse tensors gets the fallback as its own.
[[maybe_unused]] const bool g_registered = [] {
  static auto* handles = new std::vector<c10::RegistrationHandleRAII>;
  auto& dispatcher = c10::Dispatcher::singleton();
  constexpr std::pair<DispatchKey, DispatchKey> kKeys[] = {
      {DispatchKey::SparseCPU, DispatchKey::SparsePrivateUse1},
      {DispatchKey::SparseCsrCPU, DispatchKey::SparseCsrPrivateUse1},
  };
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findSchema(name);
    if (!op) continue;
    for (const auto& [there, here] : kKeys) {
      if (!op->hasKernelForDispatchKey(there) || op->hasKernelForDispatchKey(here)) continue;
      handles->push_back(dispatcher.registerImpl(
          name, here, c10::KernelFunction::makeFromBoxedFunction<&sparse_fallback>(), std::nullopt,
          nullptr, "accel: sparse fallback"));
    }
  }
  return true;
}();

}  // namespace

}  // namespace accel::aten
