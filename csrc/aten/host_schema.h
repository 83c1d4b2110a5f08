// What the schema of an operator says about running it as a host op: which arguments it writes,
// what it returns, and what no schema says. Made once an operator, for host_op.cpp and
// host_call.cpp.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>

namespace accel::aten {

struct HostSchema {
  enum class Result : uint8_t { Tensor, TensorList, Value };
  struct Return {
    Result kind = Result::Value;
    int argument = -1;  // the argument that is returned: out=, in place
  };

  explicit HostSchema(const c10::OperatorHandle& op);

  c10::OperatorHandle op;
  std::string name;                // "aten::sort.values_stable"
  std::vector<bool> written, out;  // per argument; out: write-only
  std::vector<Return> returns;
  int result_count = 0;  // returns that are no argument

  // The result is an alias of an argument: metadata only.
  bool is_view = false;
  // The result is a number, or its size depends on data: on every device, such an op waits.
  bool reads_values = false;
  // Neither the schema nor the meta function tells the outputs, or the kernel may be in Python, or
  // it draws from a generator that it does not take as an argument.
  bool is_inferable = true;
  bool is_random = false;  // takes a generator
  // Its threads add atomically: it runs on one, so that runs agree bit by bit.
  bool runs_on_one_thread = false;
  // Takes tensors of the CPU (indices, lengths) beside those of the device.
  bool takes_cpu_tensors = false;

  // Where there is no meta function: the arguments whose sizes and dtypes the results have.
  std::vector<int> results_like;

  // The overload that writes into tensors it is given, with a CPU kernel of its own.
  std::optional<c10::OperatorHandle> out_overload;
};

const HostSchema& host_schema_of(const c10::OperatorHandle& op);

}  // namespace accel::aten
