// The arguments of a host op without a Tensor among them, and the call that runs it on the worker.
// Made by host_op.cpp.
#pragma once

#include <optional>
#include <vector>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/SmallVector.h>

#include "csrc/aten/host_schema.h"
#include "csrc/aten/recording.h"

namespace accel::aten {

// One distinct Tensor among the arguments.
struct HostTensor {
  ScalarType dtype;
  c10::SmallVector<int64_t, 6> sizes, strides;
  int64_t offset = 0;   // in elements, in its storage
  int32_t storage = 0;  // among those of the call
  bool written = false, write_only = false, wrapped_number = false, is_conj = false, is_neg = false;
};

// One distinct storage: of the device, found through one of the Node's Views; or of the CPU, whose
// bytes were taken at the call.
struct HostStorage {
  size_t bytes = 0;
  int32_t tensor = -1;  // a Tensor in it, by whose address it is found
  std::vector<char> content;
  bool is_device() const { return tensor >= 0; }
};

class HostArguments {
 public:
  // Takes the arguments apart. Raises where Tensors of several devices meet.
  HostArguments(const HostSchema& schema, c10::ArrayRef<c10::IValue> arguments);

  const std::vector<HostTensor>& tensors() const { return tensors_; }
  const std::vector<HostStorage>& storages() const { return storages_; }
  c10::Device device() const { return device_; }
  // The Tensors themselves, index for index, for as long as the op is being recorded. They are
  // named, not copied: a copy of a Tensor that Python holds can ask for the GIL.
  const Tensor& original(size_t i) const { return *originals_[i]; }
  void drop_originals() { originals_.clear(); }
  const std::optional<at::Generator>& generator() const { return generator_; }
  void drop_generator() { generator_.reset(); }

  // Another Tensor of the device, which the call writes. The caller keeps it where it is.
  int32_t add_output(const Tensor& tensor);

  // The Tensors as CPU Tensors over the storages at `bases` (of the device's; the others are here),
  // or, where that is null, as Meta Tensors. Resizing a CPU Tensor moves it to memory of its own.
  std::vector<Tensor> make_tensors(char* const* bases, bool resizable = false) const;
  // The stack of the call with `tensors` in their places, with devices and generators replaced.
  torch::jit::Stack make_stack(const std::vector<Tensor>& tensors, c10::DeviceType device,
                               const std::optional<at::Generator>& generator) const;
  // Identifies what a meta function can see, or is empty where something cannot be compared.
  std::string key() const;

 private:
  struct Place {
    enum class Kind : uint8_t { Tensor, TensorList, OptionalTensorList, Device, Generator };
    Kind kind;
    uint32_t argument;
    std::vector<int32_t> tensors;  // -1: none, or undefined
  };

  int32_t add(const Tensor& tensor, bool written, bool write_only, bool takes_cpu_tensors);
  int32_t add_storage(const Tensor& tensor);
  void join_device(c10::Device device);
  bool is_wrapped_number(size_t storage) const;

  std::vector<c10::IValue> values_;  // None where a Place is
  std::vector<Place> places_;
  std::vector<HostTensor> tensors_;
  std::vector<HostStorage> storages_;
  std::vector<const Tensor*> originals_;
  std::vector<const void*> storage_identities_;
  std::optional<at::Generator> generator_;
  c10::Device device_{c10::kCPU};
};

// Below autograd, autocast, functorch and Python: what calls ATen on behalf of the device.
class BelowAll {
  const at::AutoDispatchBelowADInplaceOrView autograd_;
  const c10::impl::ExcludeDispatchKeyGuard others_;

 public:
  BelowAll();
};

// The calling thread's OpenMP team has this width meanwhile: fixed, never elastic, because one or
// two threads change the bits of some CPU kernels.
class FixedTeam {
  const int before_;

 public:
  explicit FixedTeam(int threads);
  ~FixedTeam();
  FixedTeam(const FixedTeam&) = delete;
  FixedTeam& operator=(const FixedTeam&) = delete;
};

// Runs the CPU kernel on a stack; the results are left there.
void run_on_cpu(const c10::OperatorHandle& op, const HostSchema& schema, torch::jit::Stack& stack);

class HostOpCall final : public graph::HostCall {
 public:
  // outputs: for each result, the Tensors of `arguments` it goes to. seed: of random ops.
  HostOpCall(const HostSchema& schema, HostArguments arguments,
             std::vector<std::vector<int32_t>> outputs, std::optional<uint64_t> seed);

  // Records the Node that makes this call.
  static void record(std::unique_ptr<HostOpCall> call);

  void run(void* const* addresses) override;
  const char* name() const override { return schema_.name.c_str(); }

 private:
  // The address of each storage, from those of the Node's Views.
  // A kernel may set the conjugate or negative bit of what it wrote, instead of changing the
  // numbers: the device's Tensors know nothing of that.
  void resolve_bits(std::vector<Tensor>& tensors) const;
  std::vector<char*> bases(void* const* addresses) const;
  void store(const c10::IValue& result, const std::vector<int32_t>& outputs,
             std::vector<Tensor>& tensors) const;

  const HostSchema& schema_;
  HostArguments arguments_;
  std::vector<std::vector<int32_t>> outputs_;
  std::optional<uint64_t> seed_;
  bool writes_directly_ = false;        // into its outputs, by the out overload
  std::vector<int32_t> storage_views_;  // per storage: which View's address finds it
};

}  // namespace accel::aten
