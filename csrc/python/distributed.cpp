// The process group "accl" for torch_accel/distributed.py. Apart from module.cpp: PyTorch's own
// types have to be bound first, which importing torch.distributed does.
#include <pybind11/chrono.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "csrc/distributed/flight_recorder.h"
#include "csrc/distributed/process_group.h"
#include "csrc/distributed/rendezvous.h"
#include "csrc/python/bindings.h"

namespace py = pybind11;

namespace accel::python {

namespace {

using distributed::ProcessGroup;

c10::intrusive_ptr<c10d::Backend> make_process_group(const c10::intrusive_ptr<c10d::Store>& store,
                                                     int rank, int size,
                                                     std::chrono::milliseconds timeout,
                                                     const std::vector<uint64_t>& global_ranks,
                                                     const std::string& name) {
  py::gil_scoped_release gil;
  auto options = c10::make_intrusive<ProcessGroup::Options>("accl", timeout);
  options->global_ranks_in_group = global_ranks;
  options->group_name = name;
  return c10::make_intrusive<ProcessGroup>(store, rank, size, std::move(options));
}

// torch's Gloo, made by torch_accel/distributed.py.
c10::intrusive_ptr<c10d::Backend> make_gloo(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                            int size, std::chrono::milliseconds timeout) {
  py::gil_scoped_acquire gil;
  return py::module_::import("torch_accel.distributed")
      .attr("_make_gloo")(store, rank, size, timeout)
      .cast<c10::intrusive_ptr<c10d::Backend>>();
}

py::list flight_record() {
  py::list list;
  for (const distributed::FlightEntry& entry : distributed::flight_record()) {
    py::dict dict;
    dict["group"] = entry.group;
    dict["rank"] = entry.rank;
    dict["operation"] = distributed::name_of(entry.kind);
    dict["sequence"] = entry.sequence;
    dict["root"] = entry.root;
    dict["dtype"] = c10::toString(entry.dtype);
    dict["input_elements"] = entry.input_elements;
    dict["output_elements"] = entry.output_elements;
    dict["state"] = distributed::name_of(entry.stage);
    dict["queued"] = entry.queued;
    dict["started"] = entry.started;
    dict["ended"] = entry.ended;
    dict["error"] = entry.error;
    list.append(dict);
  }
  return list;
}

// As those of PyTorch's backends are bound: what split_group and DeviceMesh ask of them.
void bind_process_group(py::module_ module) {
  using Backend = c10d::Backend;
  py::class_<ProcessGroup, c10::intrusive_ptr<ProcessGroup>, Backend> group(module,
                                                                            "ProcessGroupACCL");
  py::class_<ProcessGroup::Options, c10::intrusive_ptr<ProcessGroup::Options>, Backend::Options>(
      group, "Options")
      .def("__deepcopy__", [](const ProcessGroup::Options& self, const py::dict& /*memo*/) {
        return c10::make_intrusive<ProcessGroup::Options>(self);
      });
  group
      .def_property_readonly("options", &ProcessGroup::getBackendOptions)
      // new_group() calls it on ranks outside the group, for backends that split in step.
      .def("perform_nocolor_split", [](const ProcessGroup&, const py::object& /*device*/) {});
}

}  // namespace

void bind_distributed(py::module_& module) {
  distributed::register_gloo(make_gloo);
  module.def("make_process_group", torch::wrap_pybind_function(make_process_group));
  module.def("bind_process_group",
             [] { bind_process_group(py::module_::import("torch_accel._C")); });
  module.def("flight_record", flight_record);
  module.def("host_identity", distributed::host_identity);
}

}  // namespace accel::python
