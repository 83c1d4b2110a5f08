// What ops that PyTorch declares as structured share: their outputs, inferred and checked by
// PyTorch's own meta functions, and the device check that dispatch does on other devices.
#pragma once

#include <initializer_list>

#include <ATen/EmptyTensor.h>
#include <ATen/TensorMeta.h>
#include <ATen/core/op_registration/adaption.h>
#include <c10/core/DeviceGuard.h>

#include "csrc/aten/recording.h"

namespace accel::aten {

// An output as a meta function asks for it: dense where it names no strides.
inline Tensor empty_as_inferred(IntArrayRef sizes, IntArrayRef strides,
                                const at::TensorOptions& options) {
  const c10::DeviceGuard guard(options.device());
  auto* allocator = c10::GetAllocator(c10::kPrivateUse1);
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  const auto dtype = options.dtype().toScalarType();
  return strides.empty()
             ? at::detail::empty_generic(sizes, allocator, keys, dtype, options.memory_format_opt())
             : at::detail::empty_strided_generic(sizes, strides, allocator, keys, dtype);
}

// Runs the meta function of a structured op. Outputs that were not given are allocated, given ones
// (out=) are checked and resized, with PyTorch's types and wording:
//   Inferred<at::meta::structured_sum_dim_IntList> op;   // or op{out}
//   op.meta(self, dim, keepdim, dtype);
//   Recording(...).output(op[0])
template <typename Meta, int kOutputs = 1>
class Inferred final : public Meta {
 public:
  Inferred() = default;
  template <typename... Given>
  explicit Inferred(const Tensor& first, const Given&... others) : outputs_{first, others...} {}

  const Tensor& operator[](int i) const { return outputs_[i]; }

  const Tensor& maybe_get_output(int64_t i) override { return outputs_[i]; }
  void set_output_raw_strided(int64_t i, IntArrayRef sizes, IntArrayRef strides,
                              at::TensorOptions options) override {
    Tensor& output = outputs_[i];
    if (!output.defined()) {
      output = empty_as_inferred(sizes, strides, options);
      return;
    }
    TORCH_CHECK(output.dtype() == options.dtype(), "Expected out tensor to have dtype ",
                options.dtype(), ", but got ", output.dtype(), " instead");
    TORCH_CHECK(output.device() == options.device(), "Expected out tensor to have device ",
                options.device(), ", but got ", output.device(), " instead");
    resize_output(output, sizes);
  }
  void set_output_strided(int64_t i, IntArrayRef sizes, IntArrayRef strides,
                          at::TensorOptions options) override {
    set_output_raw_strided(i, sizes, strides, options);
  }

 private:
  Tensor outputs_[kOutputs];
};

struct Argument {
  const Tensor& tensor;  // undefined ones are skipped
  const char* name;
};

// Raises PyTorch's error unless all arguments are on one device.
inline void check_same_device(const char* op, std::initializer_list<Argument> arguments) {
  std::optional<c10::Device> device;
  for (const Argument& argument : arguments) {
    if (!argument.tensor.defined()) continue;
    c10::impl::check_and_update_common_device(device, argument.tensor, op, argument.name);
  }
}

inline const Tensor& value_or_undefined(const OptionalTensor& tensor) {
  static const Tensor undefined;
  return tensor ? *tensor : undefined;
}

// The dtype in which a row op or a random op computes: fp32 for the 16-bit floating types.
inline ScalarType arithmetic_dtype(ScalarType dtype) {
  return at::isReducedFloatingType(dtype) ? ScalarType::Float : dtype;
}

}  // namespace accel::aten
