// torch_accel._C.CompiledKernel, which torch_accel/inductor.py calls with the arguments of a
// kernel.
#include "csrc/aten/compiled_kernel.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include "csrc/python/bindings.h"

namespace py = pybind11;

namespace accel::python {

namespace {

using aten::CompiledKernel;
using Parameter = CompiledKernel::Parameter;

void call(const CompiledKernel& kernel, const py::args& arguments) {
  const auto& parameters = kernel.parameters();
  TORCH_CHECK_TYPE(arguments.size() == parameters.size(), kernel.name(), " takes ",
                   parameters.size(), " arguments, got ", arguments.size());
  c10::SmallVector<const at::Tensor*, 16> tensors;
  c10::SmallVector<aten::Scalar, 8> numbers;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const py::handle argument = arguments[i];
    if (parameters[i] == Parameter::Read || parameters[i] == Parameter::Written) {
      TORCH_CHECK_TYPE(THPVariable_Check(argument.ptr()), kernel.name(), ": argument ", i,
                       " must be a tensor");
      tensors.push_back(&THPVariable_Unpack(argument.ptr()));
      continue;
    }
    aten::Scalar number{};
    if (parameters[i] == Parameter::Integer) {
      number.i = argument.cast<int64_t>();
    } else {
      const auto value = argument.cast<float>();
      std::memcpy(&number, &value, sizeof(value));
    }
    numbers.push_back(number);
  }
  kernel.record(tensors, numbers);
}

}  // namespace

void bind_compiled_kernel(py::module_& module) {
  // function: the address of a CompiledKernel::Function. parameters: "r" and "w" for tensors that
  // are read and written, "i" and "f" for an int64_t and a float.
  const auto make = [](std::string name, uintptr_t function, const std::string& parameters) {
    std::vector<Parameter> kinds;
    for (const char parameter : parameters) {
      const size_t kind = std::string("rwif").find(parameter);
      TORCH_CHECK_VALUE(kind != std::string::npos, "unknown kind of parameter: ", parameter);
      kinds.push_back(static_cast<Parameter>(kind));
    }
    return std::make_unique<CompiledKernel>(
        std::move(name), reinterpret_cast<CompiledKernel::Function>(function), std::move(kinds));
  };
  py::class_<CompiledKernel>(module, "CompiledKernel")
      .def(py::init(torch::wrap_pybind_function(make)))
      .def_property_readonly("name", &CompiledKernel::name)
      .def("__call__", torch::wrap_pybind_function(call));
}

}  // namespace accel::python
