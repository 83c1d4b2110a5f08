// A kernel that somebody else has compiled for this host (inductor's C++) as one recorded Node: it
// runs on the stream's worker over the addresses of its Views. Called by torch_accel/inductor.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>

#include "csrc/aten/recording.h"

namespace accel::aten {

class CompiledKernel {
 public:
  // Takes, for each argument, the address of its value, as cuLaunchKernel does: of a pointer, an
  // int64_t or a float.
  using Function = void (*)(void** arguments);
  // Written: and perhaps read, and perhaps only in part.
  enum class Parameter : uint8_t { Read, Written, Integer, Float };

  // The function must stay loaded for as long as the process runs.
  CompiledKernel(std::string name, Function function, std::vector<Parameter> parameters);

  const std::string& name() const { return name_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }

  // Records a call with these arguments in the order of the parameters, tensors and numbers apart.
  // A kernel may go from a tensor's first element to the end of its storage. Of a tensor on the
  // CPU, which is only read, the bytes are taken now. Raises where there is no tensor of the
  // device, or where several devices meet.
  void record(c10::ArrayRef<const Tensor*> tensors, c10::ArrayRef<Scalar> numbers) const;

 private:
  class Call;

  const std::string name_;
  const Function function_;
  const std::vector<Parameter> parameters_;
};

}  // namespace accel::aten
