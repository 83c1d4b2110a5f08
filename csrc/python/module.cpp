// torch_accel._C: what the Python package asks of the runtime and of csrc/graph, and how the
// runtime reaches Python while it waits. Loading it registers the device. No policy and no
// arithmetic here.
#include <ATen/Context.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include <unistd.h>

#include <string>

#include "csrc/graph/counters.h"
#include "csrc/graph/plan.h"
#include "csrc/graph/recorder.h"
#include "csrc/python/bindings.h"
#include "csrc/runtime/allocator.h"
#include "csrc/runtime/driver.h"
#include "csrc/runtime/process.h"
#include "csrc/runtime/stream.h"

namespace py = pybind11;

namespace accel::python {

namespace {

// ---- how waits reach Python ----

void* release_gil() { return PyGILState_Check() ? PyEval_SaveThread() : nullptr; }

void acquire_gil(void* state) {
  // CPython 3.11 ends a daemon thread that asks for the GIL of a finalizing interpreter, or waits
  // for it when that begins, by unwinding its stack, which C++ frames do not survive; later
  // versions hang the thread, as this does.
  try {
    PyEval_RestoreThread(static_cast<PyThreadState*>(state));
  } catch (...) {
    for (;;) pause();
  }
}

// KeyboardInterrupt, or what another signal's handler raises, goes through the waiting C++ frames
// as a python_error, which PyTorch's bindings turn back into the exception.
void check_signals() {
  py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) {
    python_error error;
    error.persist();
    throw error;
  }
}

bool starts_with(const std::string& text, const std::string& prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

// The innermost frame of the program itself: frames of torch and of this package are passed over.
std::string innermost_program_frame() {
  const auto folder_of = [](const char* module) {
    const auto file = py::module_::import(module).attr("__file__").cast<std::string>();
    return file.substr(0, file.rfind('/') + 1);
  };
  const std::string torch = folder_of("torch"), own = folder_of("torch_accel");
  py::object frame =
      py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(PyEval_GetFrame()));
  while (frame && !frame.is_none()) {
    const auto file = frame.attr("f_code").attr("co_filename").cast<std::string>();
    if (!starts_with(file, torch) && !starts_with(file, own)) {
      return file + ":" + std::to_string(frame.attr("f_lineno").cast<int>());
    }
    frame = frame.attr("f_back");
  }
  return {};
}

// On autograd's thread there is no Python frame: the line of the forward op stands in the metadata
// of the autograd node, where ACCEL_LOG=sync has anomaly mode put it.
std::string forward_line() {
  const py::object node = py::module_::import("torch._C").attr("_current_autograd_node")();
  if (node.is_none()) return {};
  const py::dict metadata = node.attr("metadata");
  if (!metadata.contains("traceback_")) return {};
  return "backward of\n" + py::str("").attr("join")(metadata["traceback_"]).cast<std::string>();
}

std::string python_location() {
  if (!Py_IsInitialized()) return {};
  py::gil_scoped_acquire gil;
  try {
    const std::string frame = innermost_program_frame();
    return frame.empty() ? forward_line() : frame;
  } catch (py::error_already_set&) {
    return {};  // a log must not fail the program
  }
}

const runtime::GilHooks kGilHooks{release_gil, acquire_gil, check_signals, python_location};

// At the interpreter's exit queued work is finished, and then Python is not called any more.
void leave_python() {
  {
    py::gil_scoped_release gil;
    runtime::shutdown();
  }
  runtime::register_gil_hooks(nullptr);
}

// ---- what torch.accel asks ----

int64_t all_waits() {
  int64_t total = 0;
  for (const auto& [reason, count] : runtime::wait_counts()) total += static_cast<int64_t>(count);
  return total;
}

py::dict counters() {
  py::dict result;
  for (int i = 0; i < static_cast<int>(graph::Counter::Count); ++i) {
    const auto counter = static_cast<graph::Counter>(i);
    result[graph::name_of(counter)] = graph::value_of(counter);
  }
  result["waits"] = all_waits();
  result["cached_plans"] = graph::plan_cache().size();
  return result;
}

py::dict report() {
  py::dict result;
  result["totals"] = counters();
  result["waits"] = runtime::wait_counts();
  for (const auto& [kind, tallies] : graph::op_tallies()) result[py::str(kind)] = tallies;
  return result;
}

void reset_counters() {
  graph::reset_counters();
  runtime::reset_wait_counts();
}

// The arenas of a device in the format of torch.cuda.memory_snapshot().
py::list memory_snapshot(int device) {
  py::list arenas;
  for (const auto& arena : runtime::memory_snapshot()) {
    if (arena.device != device) continue;
    py::list blocks;
    size_t address = arena.address;
    for (const auto& info : arena.blocks) {
      py::dict block;
      block["address"] = address;
      block["size"] = info.size;
      block["requested_size"] = info.requested_size;
      block["state"] = info.allocated ? "active_allocated"
                       : info.active  ? "active_awaiting_free"
                                      : "inactive";
      blocks.append(block);
      address += info.size;
    }
    py::dict entry;
    entry["device"] = device;
    entry["address"] = arena.address;
    entry["total_size"] = arena.total_size;
    entry["allocated_size"] = arena.allocated_size;
    entry["active_size"] = arena.active_size;
    entry["requested_size"] = arena.requested_size;
    entry["segment_type"] = arena.is_large ? "large" : "small";
    entry["is_expandable"] = false;
    entry["blocks"] = blocks;
    arenas.append(entry);
  }
  return arenas;
}

void check_device(int device) {
  TORCH_CHECK(device >= 0 && device < runtime::device_count(), "Invalid accel device index ",
              device, ": there are ", runtime::device_count(), " devices");
}

runtime::DeviceProperties device_properties(int device) {
  check_device(device);
  return runtime::driver().properties(device);
}

c10::Stream default_stream(int device) {
  check_device(device);
  return runtime::to_c10(runtime::default_stream(device));
}

at::Generator default_generator(int device) {
  return at::globalContext().defaultGenerator(
      at::Device(at::kPrivateUse1, static_cast<c10::DeviceIndex>(device)));
}

void set_memory_fraction(double fraction, int device) {
  check_device(device);
  runtime::set_memory_fraction(device, fraction);
}

std::string describe(const runtime::DeviceProperties& properties) {
  return "DeviceProperties(name='" + properties.name + "', isa='" + properties.isa +
         "', total_memory=" + std::to_string(properties.total_memory >> 20) +
         "MB, multi_processor_count=" + std::to_string(properties.cores) + ")";
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  runtime::register_gil_hooks(&kGilHooks);
  py::module_::import("atexit").attr("register")(py::cpp_function(leave_python));

  // Processes.
  // What may raise is wrapped, so that it raises PyTorch's kinds of error.
  module.def("initialize", torch::wrap_pybind_function([] {
               runtime::check_fork();
               runtime::note_use();
             }));
  module.def("is_initialized", runtime::in_use);
  module.def("is_in_bad_fork", runtime::in_bad_fork);

  // Devices.
  py::class_<runtime::DeviceProperties>(module, "DeviceProperties")
      .def_readonly("name", &runtime::DeviceProperties::name)
      .def_readonly("isa", &runtime::DeviceProperties::isa)
      .def_readonly("supported_isas", &runtime::DeviceProperties::supported_isas)
      .def_readonly("total_memory", &runtime::DeviceProperties::total_memory)
      .def_readonly("multi_processor_count", &runtime::DeviceProperties::cores)
      .def("__repr__", describe);
  module.def("device_count", runtime::device_count);
  module.def("device_properties", torch::wrap_pybind_function(device_properties));
  module.def("host_addressable", [] { return runtime::driver().host_addressable(); });
  module.def("default_stream", torch::wrap_pybind_function(default_stream));
  module.def("is_current_stream_capturing", torch::wrap_pybind_function([] {
               const runtime::Tail* tail =
                   runtime::current_stream(runtime::current_device()).tail();
               return tail && tail->is_capturing();
             }));
  module.def("default_generator", torch::wrap_pybind_function(default_generator));

  // Memory.
  module.def("set_memory_fraction", torch::wrap_pybind_function(set_memory_fraction));
  module.def("memory_snapshot", memory_snapshot);

  // What the device did.
  module.def("counters", counters);
  module.def("report", report);
  module.def("reset_counters", reset_counters);
  module.def("count_op", graph::count_op);

  // ACCEL_FUSION while the process runs, for what compares the two.
  module.def("fusion_enabled", graph::fusion_enabled);
  module.def("set_fusion_enabled", graph::set_fusion_enabled);

  bind_capture(module);
  bind_compiled_kernel(module);
  bind_distributed(module);
}

}  // namespace accel::python
