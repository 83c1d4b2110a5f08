#include "csrc/aten/compiled_kernel.h"

#include <deque>

#include "csrc/aten/host_call.h"
#include "csrc/graph/counters.h"
#include "csrc/runtime/driver.h"
#include "csrc/runtime/team.h"

namespace accel::aten {

namespace {

using Parameter = CompiledKernel::Parameter;

bool is_tensor(Parameter parameter) {
  return parameter == Parameter::Read || parameter == Parameter::Written;
}

// Elements from the tensor's first to the end of its storage.
int64_t reach_of(const Tensor& tensor) {
  const auto bytes = static_cast<int64_t>(tensor.unsafeGetTensorImpl()->unsafe_storage().nbytes());
  return std::max<int64_t>(
      0, bytes / static_cast<int64_t>(tensor.itemsize()) - tensor.storage_offset());
}

}  // namespace

class CompiledKernel::Call final : public graph::HostCall {
 public:
  // A value is the ordinal of a View, the bytes of a CPU tensor, or a number.
  struct Value {
    int32_t view = -1;
    std::vector<char> content;
    Scalar number{};
  };

  Call(const CompiledKernel& kernel, std::vector<Value> values)
      : name_(kernel.name_), function_(kernel.function_), values_(std::move(values)) {}

  void run(void* const* addresses) override {
    // As wide as inductor was told when it sized the kernel's partial results.
    const FixedTeam team(runtime::full_team());
    c10::SmallVector<void*, 32> pointers(values_.size()), arguments;
    for (size_t i = 0; i < values_.size(); ++i) {
      Value& value = values_[i];
      if (value.view >= 0 || !value.content.empty()) {
        pointers[i] = value.view >= 0 ? addresses[value.view] : value.content.data();
        arguments.push_back(&pointers[i]);
      } else {
        arguments.push_back(&value.number);
      }
    }
    function_(arguments.data());
  }

  const char* name() const override { return name_.c_str(); }

 private:
  const std::string name_;
  const Function function_;
  std::vector<Value> values_;
};

CompiledKernel::CompiledKernel(std::string name, Function function,
                               std::vector<Parameter> parameters)
    : name_(std::move(name)), function_(function), parameters_(std::move(parameters)) {
  TORCH_CHECK(runtime::driver().host_addressable(), "[", name_,
              "] kernels compiled for the host cannot reach the memory of this device");
}

void CompiledKernel::record(c10::ArrayRef<const Tensor*> tensors,
                            c10::ArrayRef<Scalar> numbers) const {
  std::vector<Call::Value> values(parameters_.size());
  c10::SmallVector<graph::ViewSpec, 16> outputs, inputs;
  std::deque<int64_t> reaches;
  const int64_t stride = 1;
  int device = -1;
  // Outputs come first among a Node's Views, so the ordinals of inputs wait for their number.
  c10::SmallVector<int32_t, 16> input_of(parameters_.size(), -1);
  size_t next_tensor = 0, next_number = 0;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (!is_tensor(parameters_[i])) {
      values[i].number = numbers[next_number++];
      continue;
    }
    const Tensor& tensor = *tensors[next_tensor++];
    if (tensor.device().is_cpu()) {
      TORCH_CHECK(parameters_[i] == Parameter::Read, "[", name_,
                  "] a kernel of accel cannot write a tensor on the CPU");
      const auto* bytes = static_cast<const char*>(tensor.const_data_ptr());
      // Not empty, so that it is told from a number.
      values[i].content.assign(1, 0);
      if (const size_t size = reach_of(tensor) * tensor.itemsize(); size > 0) {
        values[i].content.assign(bytes, bytes + size);
      }
      continue;
    }
    TORCH_CHECK(is_plain(tensor), "[", name_, "] expected a strided tensor on accel, got one on ",
                tensor.device(), " with layout ", tensor.layout());
    TORCH_CHECK(device < 0 || device == tensor.device().index(),
                "Expected all tensors to be on the same device, but found at least two devices, ",
                c10::Device(c10::kPrivateUse1, static_cast<c10::DeviceIndex>(device)), " and ",
                tensor.device(), "!");
    device = tensor.device().index();
    graph::ViewSpec view;
    view.block = block_of(tensor);
    view.dtype = dtype_of(tensor.scalar_type());
    view.dims = 1;
    view.sizes = &reaches.emplace_back(reach_of(tensor));
    view.strides = &stride;
    view.offset = offset_in(*view.block, tensor);
    if (parameters_[i] == Parameter::Written) {
      values[i].view = static_cast<int32_t>(outputs.size());
      outputs.push_back(view);
    } else {
      input_of[i] = static_cast<int32_t>(inputs.size());
    }
    inputs.push_back(view);
  }
  TORCH_CHECK(device >= 0, "[", name_, "] none of the tensors is on accel");
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (input_of[i] >= 0) values[i].view = input_of[i] + static_cast<int32_t>(outputs.size());
  }
  graph::NodeSpec node{graph::Opcode::Host,
                       {outputs.data(), outputs.size()},
                       {inputs.data(), inputs.size()},
                       {},
                       {},
                       {},
                       std::make_unique<Call>(*this, std::move(values))};
  graph::record(device, node);
  graph::count_op("compiled_kernel", name_);
}

}  // namespace accel::aten
