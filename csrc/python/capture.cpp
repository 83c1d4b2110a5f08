// torch_accel._C.Capture and CapturedCalls, by which torch_accel/compile.py runs graphs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <list>

#include "csrc/aten/capture.h"
#include "csrc/python/bindings.h"

namespace py = pybind11;

namespace accel::python {

namespace {

using aten::Capture;
using aten::CapturedCall;
using aten::Tensors;

// The Tensors of a list, and the rest, which is part of what a capture was made for.
struct Arguments {
  Tensors tensors;
  std::vector<py::object> others;  // null in the places of Tensors

  explicit Arguments(const py::list& list) {
    for (py::handle entry : list) {
      const bool is_tensor = THPVariable_Check(entry.ptr());
      if (is_tensor) tensors.push_back(THPVariable_Unpack(entry.ptr()));
      others.push_back(is_tensor ? py::object() : py::reinterpret_borrow<py::object>(entry));
    }
  }

  bool others_equal(const Arguments& other) const {
    if (others.size() != other.others.size()) return false;
    for (size_t i = 0; i < others.size(); ++i) {
      if (others[i].ptr() == other.others[i].ptr()) continue;
      if (!others[i] || !other.others[i] || !others[i].equal(other.others[i])) return false;
    }
    return true;
  }
};

// The captured calls of one graph, one for each set of sizes, the last used first. Sizes that never
// come again must not stay for ever, so the longest unused goes when there are too many.
class CapturedCalls {
 public:
  explicit CapturedCalls(size_t most) : most_(most) {}

  // The results, or None where no capture was made for such arguments. Empties the list, so that
  // what the caller has let go of is gone when it has run.
  py::object run(py::list list) {
    Arguments arguments(list);
    for (auto where = entries_.begin(); where != entries_.end(); ++where) {
      const std::shared_ptr<const Entry> entry = *where;
      if (!entry->arguments.others_equal(arguments) || !entry->call->accepts(arguments.tensors)) {
        continue;
      }
      entries_.splice(entries_.begin(), entries_, where);
      list.attr("clear")();
      // May wait for room in the queue, and so let other threads in.
      std::vector<at::Tensor> tensors = entry->call->run(std::move(arguments.tensors));
      py::list results;
      size_t next = 0;
      for (const py::object& other : entry->results.others) {
        results.append(other ? other : wrap(std::move(tensors[next++])));
      }
      return results;
    }
    return py::none();
  }

  // Ends the capture, whose ops took these arguments and made these results.
  void add(Capture& capture, const py::list& list, const py::list& results) {
    auto entry = std::make_shared<Entry>(Entry{Arguments(list), Arguments(results), nullptr});
    entry->call = capture.finish(entry->arguments.tensors, entry->results.tensors);
    entry->arguments.tensors.clear();
    entry->results.tensors.clear();
    entries_.push_front(std::move(entry));
    if (entries_.size() > most_) entries_.pop_back();
  }

  size_t size() const { return entries_.size(); }

  // Of each captured call, what its Launches are.
  py::list launches() const {
    py::list all;
    for (const auto& entry : entries_) {
      py::list launches;
      for (const runtime::Launch& launch : entry->call->region().plan().launches) {
        py::list reads, writes;
        for (const auto& [buffer, bytes, written] : launch.touched) {
          (written ? writes : reads).append(py::make_tuple(buffer, bytes));
        }
        py::dict description;
        description["name"] = launch.name;
        description["flops"] = launch.flops;
        description["reads"] = reads;
        description["writes"] = writes;
        launches.append(description);
      }
      all.append(launches);
    }
    return all;
  }

 private:
  struct Entry {
    Arguments arguments;
    Arguments results;
    std::shared_ptr<const CapturedCall> call;
  };

  static py::object wrap(at::Tensor tensor) {
    return py::reinterpret_steal<py::object>(THPVariable_Wrap(std::move(tensor)));
  }

  const size_t most_;
  std::list<std::shared_ptr<const Entry>> entries_;
};

}  // namespace

void bind_capture(py::module_& module) {
  py::class_<Capture>(module, "Capture")
      .def(py::init(torch::wrap_pybind_function(
          [](int device) { return std::make_unique<Capture>(device); })))
      .def("end", torch::wrap_pybind_function(&Capture::end));
  py::class_<CapturedCalls>(module, "CapturedCalls")
      .def(py::init<size_t>())
      .def("run", torch::wrap_pybind_function(&CapturedCalls::run))
      .def("add", torch::wrap_pybind_function(&CapturedCalls::add))
      .def("launches", &CapturedCalls::launches)
      .def("__len__", &CapturedCalls::size);
}

}  // namespace accel::python
