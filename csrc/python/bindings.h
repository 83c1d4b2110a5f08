// What the files of torch_accel._C add to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace accel::python {

void bind_capture(pybind11::module_& module);
void bind_compiled_kernel(pybind11::module_& module);
void bind_distributed(pybind11::module_& module);

}  // namespace accel::python
