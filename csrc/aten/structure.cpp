// Structure: making tensors, viewing and resizing them, copying to, from and within the device,
// reading single values. Views are metadata only.
#include <ATen/EmptyTensor.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceGuard.h>

#include "csrc/aten/complex.h"
#include "csrc/aten/recording.h"
#include "csrc/runtime/address.h"
#include "csrc/runtime/allocator.h"
#include "csrc/runtime/hooks.h"
#include "csrc/runtime/process.h"

namespace accel::aten {

namespace {

// --- making --------------------------------------------------------------------------------------

bool fills_what_is_uninitialised() {
  const at::Context& context = at::globalContext();
  return context.deterministicAlgorithms() && context.deterministicFillUninitializedMemory();
}

// With NaN or the largest integer, where torch.use_deterministic_algorithms asks for it.
Tensor uninitialised(Tensor tensor) {
  if (fills_what_is_uninitialised()) at::native::fill_empty_deterministic_(tensor);
  return tensor;
}

Tensor empty(IntArrayRef size, std::optional<ScalarType> dtype, std::optional<at::Layout> layout,
             std::optional<at::Device> device, std::optional<bool> pin_memory,
             std::optional<at::MemoryFormat> memory_format) {
  TORCH_CHECK(at::layout_or_default(layout) == at::kStrided,
              "Only strided tensors can be created on accel by empty");
  TORCH_CHECK(!c10::pinned_memory_or_default(pin_memory), "Only dense CPU tensors can be pinned");
  const c10::DeviceGuard guard(c10::device_or_default(device));
  return uninitialised(at::detail::empty_generic(size, c10::GetAllocator(c10::kPrivateUse1),
                                                 c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                                 c10::dtype_or_default(dtype), memory_format));
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<ScalarType> dtype,
                     std::optional<at::Layout> layout, std::optional<at::Device> device,
                     std::optional<bool> pin_memory) {
  TORCH_CHECK(at::layout_or_default(layout) == at::kStrided,
              "Only strided tensors can be created on accel by empty_strided");
  TORCH_CHECK(!c10::pinned_memory_or_default(pin_memory), "Only dense CPU tensors can be pinned");
  const c10::DeviceGuard guard(c10::device_or_default(device));
  return uninitialised(at::detail::empty_strided_generic(
      size, stride, c10::GetAllocator(c10::kPrivateUse1),
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype)));
}

// --- storage -------------------------------------------------------------------------------------

// A flat view of a Block's first bytes.
graph::ViewSpec bytes_of(runtime::Block* block, const int64_t* size, const int64_t* stride) {
  return {block, DType::UInt8, 1, size, stride, 0};
}

void resize_storage(const c10::Storage& storage, size_t bytes) {
  c10::StorageImpl* impl = storage.unsafeGetStorageImpl();
  TORCH_CHECK(impl->resizable(), "Trying to resize storage that is not resizable");
  const int device = storage.device().index();
  runtime::Block* old = runtime::block_of(storage.data_ptr());
  runtime::Block* fresh = runtime::allocate_block(bytes, device);
  const auto shared = static_cast<int64_t>(std::min(bytes, storage.nbytes()));
  if (shared > 0 && old) {
    const int64_t stride = 1;
    const graph::ViewSpec output = bytes_of(fresh, &shared, &stride);
    const graph::ViewSpec input = bytes_of(old, &shared, &stride);
    const auto compute = static_cast<uint64_t>(ScalarType::Byte);
    graph::NodeSpec node{Opcode::Copy, {&output, 1}, {&input, 1}, {&compute, 1}};
    graph::record(device, node);
  }
  impl->set_data_ptr_noswap(runtime::to_data_ptr(fresh, device));
  impl->set_nbytes(bytes);
}

[[maybe_unused]] const bool g_registered = [] {
  runtime::register_resize_bytes(&resize_storage);
  return true;
}();

// Sizes and strides first, then as much storage as they need.
void resize_to(const Tensor& self, IntArrayRef size, at::OptionalIntArrayRef stride) {
  c10::TensorImpl* impl = self.unsafeGetTensorImpl();
  at::native::resize_impl_cpu_(impl, size, stride, /*resize_storage=*/false);
  if (impl->numel() == 0) return;
  const size_t needed =
      at::detail::computeStorageNbytes(impl->sizes(), impl->strides(), impl->dtype().itemsize(),
                                       static_cast<size_t>(impl->storage_offset()));
  if (needed > impl->unsafe_storage().nbytes()) resize_storage(impl->unsafe_storage(), needed);
}

const Tensor& resize_(const Tensor& self, IntArrayRef size,
                      std::optional<at::MemoryFormat> memory_format) {
  const auto old_bytes =
      static_cast<int64_t>(self.unsafeGetTensorImpl()->unsafe_storage().nbytes());
  resize_to(self, size, std::nullopt);
  if (fills_what_is_uninitialised()) at::native::fill_resize_deterministic_(self, old_bytes);
  if (memory_format) {
    TORCH_CHECK(*memory_format != at::MemoryFormat::Preserve, "Unsupported memory format ",
                *memory_format);
    self.unsafeGetTensorImpl()->empty_tensor_restride(*memory_format);
  }
  return self;
}

Tensor& set_storage_offset(Tensor& self, at::Storage source, int64_t offset, IntArrayRef size,
                           IntArrayRef stride) {
  at::native::checkSetStorage(self, std::move(source), offset, size, stride);
  self.unsafeGetTensorImpl()->set_storage_offset(offset);
  resize_to(self, size,
            stride.data() ? at::OptionalIntArrayRef(stride) : at::OptionalIntArrayRef());
  return self;
}

Tensor& set_storage(Tensor& self, at::Storage source) {
  const auto elements = static_cast<int64_t>(source.nbytes() / self.dtype().itemsize());
  return set_storage_offset(self, std::move(source), 0, elements, {});
}

Tensor& set_tensor(Tensor& self, const Tensor& source) {
  if (self.unsafeGetTensorImpl() == source.unsafeGetTensorImpl()) return self;
  return set_storage_offset(self, source.storage(), source.storage_offset(), source.sizes(),
                            source.strides());
}

Tensor& set_empty(Tensor& self) {
  at::Storage storage(at::Storage::use_byte_size_t(), 0, c10::GetAllocator(c10::kPrivateUse1),
                      /*resizable=*/true);
  return set_storage_offset(self, std::move(storage), 0, {0}, {});
}

// --- copying -------------------------------------------------------------------------------------

// The device's memory as a CPU tensor, for host code that has waited for it.
Tensor host_alias(const Tensor& tensor) {
  return at::from_blob(runtime::host_pointer(tensor.data_ptr()), tensor.sizes(), tensor.strides(),
                       tensor.options().device(at::kCPU).requires_grad(false));
}

bool is_pinned(const Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.layout() == at::kStrided &&
         runtime::block_of(tensor.storage().data_ptr()) != nullptr;
}

// A device tensor with the sizes of `from`, dense, filled from the host at once: nobody else knows
// its memory yet.
Tensor upload(const Tensor& from, const at::Device& device) {
  const Tensor dense = from.is_non_overlapping_and_dense() ? from : from.contiguous();
  const c10::DeviceGuard guard(device);
  Tensor to = at::detail::empty_strided_generic(
      dense.sizes(), dense.strides(), c10::GetAllocator(c10::kPrivateUse1),
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), dense.scalar_type());
  if (dense.numel() == 0) return to;
  block_of(to)->filled_by_host.store(true, std::memory_order_relaxed);
  std::memcpy(runtime::host_pointer(to.data_ptr()), dense.const_data_ptr(), dense.nbytes());
  return to;
}

void copy_from_host(const Tensor& from, const Tensor& to, bool non_blocking) {
  const bool same_bits = from.scalar_type() == to.scalar_type();
  if (non_blocking && is_pinned(from) && same_bits && !from.is_conj() && !from.is_neg()) {
    return record_copy(to, from);
  }
  const Tensor plain = from.resolve_conj().resolve_neg();
  runtime::Block* block = runtime::block_of(to.storage().data_ptr());
  const bool untouched = block && !block->writer.load() && block->references.load() == 1;
  if (untouched) {
    // Fresh memory that no recorded Node knows: written in place, with the conversion.
    block->filled_by_host.store(true, std::memory_order_relaxed);
    host_alias(to).copy_(plain);
    return;
  }
  const bool native = is_native(plain) && is_native(to);
  if (!native && !same_bits)
    return record_copy(to, upload(plain.to(to.scalar_type()), to.device()));
  record_copy(to, upload(plain, to.device()));
}

void copy_to_host(const Tensor& from, const Tensor& to, bool non_blocking) {
  if (non_blocking && is_pinned(to) && from.scalar_type() == to.scalar_type()) {
    Recording(Opcode::Copy).output(to).input(from, to.sizes()).attribute(to.scalar_type()).record();
    return;
  }
  graph::wait_for(*block_of(from), "copy to host");
  to.copy_(host_alias(from));
}

void copy_within(const Tensor& from, const Tensor& to) {
  if (from.device() != to.device()) {
    // Another device's queue: what it wrote must be there first.
    graph::wait_for(*block_of(from), "copy between devices");
  }
  if (from.scalar_type() == to.scalar_type() || (is_native(from) && is_native(to))) {
    return record_copy(to, from);
  }
  if (copy_complex(to, from)) return;
  to_host<Tensor>("aten::copy_", "", to, from, false);
}

Tensor copy_from(const Tensor& self, const Tensor& dst, bool non_blocking) {
  runtime::check_fork();
  if (dst.numel() == 0) return dst;
  at::assert_no_internal_overlap(dst);
  if (self.device().is_privateuseone() && (self.is_conj() || self.is_neg())) {
    // The bits are views of the plain numbers: those are copied, then changed where they arrive.
    // (Resolving the bits would copy, and so come here again.)
    Tensor plain = self.is_conj() ? self.conj() : self;
    if (plain.is_neg()) plain = plain._neg_view();
    copy_from(plain, dst, /*non_blocking=*/false);
    if (self.is_conj()) dst.conj_physical_();
    if (self.is_neg()) dst.neg_();
    return dst;
  }
  const Tensor source = self.sizes() == dst.sizes() ? self : self.expand(dst.sizes());
  if (dst.device().is_privateuseone() && (dst.is_conj() || dst.is_neg())) {
    Tensor plain = dst.is_conj() ? dst.conj() : dst._neg_view();
    copy_from(dst.is_conj() ? source.conj() : source.neg(), plain, non_blocking);
    return dst;
  }
  if (!self.device().is_privateuseone()) {
    copy_from_host(source, dst, non_blocking);
  } else if (!dst.device().is_privateuseone()) {
    copy_to_host(source, dst, non_blocking);
  } else {
    copy_within(source, dst);
  }
  return dst;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& dst) {
  at::native::resize_output(dst, self.sizes());
  return copy_from(self, dst, false);
}

at::Scalar local_scalar_dense(const Tensor& self) {
  TORCH_CHECK(self.numel() > 0, "_local_scalar_dense: Empty tensor not supported");
  graph::wait_for(*block_of(self), "item");
  return at::_local_scalar_dense(host_alias(self));
}

// Whether `x.data = y` may change x in place. It must where a module moves to the device:
// parameters stay the objects they were, so that tied weights stay tied and an optimizer made
// before keeps its parameters. LibTorch says so of the devices it knows only.
bool has_compatible_shallow_copy_type(const Tensor& self, const Tensor& from) {
  auto is_plain_tensor = [](const Tensor& tensor) {
    return (tensor.is_cpu() || tensor.is_privateuseone()) && tensor.layout() == at::kStrided &&
           !tensor.is_quantized() && !tensor.is_nested() &&
           !tensor.key_set().has(c10::DispatchKey::Python);
  };
  return self.unsafeGetTensorImpl()->has_compatible_shallow_copy_type(from.key_set()) ||
         (is_plain_tensor(self) && is_plain_tensor(from));
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  // Making.
  m.impl("empty.memory_format", TORCH_FN(empty));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  // Views.
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  // Storage.
  m.impl("resize_", TORCH_FN(resize_));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(set_storage_offset));
  m.impl("set_.source_Storage", TORCH_FN(set_storage));
  m.impl("set_.source_Tensor", TORCH_FN(set_tensor));
  m.impl("set_", TORCH_FN(set_empty));
  // Copies and values.
  m.impl("_has_compatible_shallow_copy_type", TORCH_FN(has_compatible_shallow_copy_type));
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  m.impl("_local_scalar_dense", TORCH_FN(local_scalar_dense));
}

// The fallback of these bits resolves them by a clone, which is a copy: it would come back forever.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

}  // namespace accel::aten
