// The worker's side of host ops: CPU Tensors over device memory, the CPU kernel, its results.
// Nothing here may keep a Tensor, a Storage or a Generator beyond the run.
#include "csrc/aten/host_call.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <omp.h>

#include <algorithm>
#include <cstring>

#include "csrc/graph/counters.h"
#include "csrc/runtime/stream.h"
#include "csrc/runtime/team.h"

namespace accel::aten {

namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;

template <typename Value>
void append(std::string& key, const Value& value) {
  key.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename List>
void append_list(std::string& key, const List& list) {
  append(key, list.size());
  for (const auto& value : list) append(key, value);
}

bool append_value(std::string& key, const IValue& value) {
  key.push_back(value.isNone()         ? 'n'
                : value.isInt()        ? 'i'
                : value.isBool()       ? 'b'
                : value.isDouble()     ? 'd'
                : value.isString()     ? 's'
                : value.isIntList()    ? 'I'
                : value.isDoubleList() ? 'D'
                : value.isBoolList()   ? 'B'
                                       : '?');
  if (value.isNone()) return true;
  if (value.isInt()) {
    append(key, value.toInt());
  } else if (value.isBool()) {
    append(key, value.toBool());
  } else if (value.isDouble()) {
    append(key, value.toDouble());
  } else if (value.isString()) {
    append(key, value.toStringRef().size());
    key += value.toStringRef();
  } else if (value.isIntList()) {
    append_list(key, value.toIntVector());
  } else if (value.isDoubleList()) {
    append_list(key, value.toDoubleVector());
  } else if (value.isBoolList()) {
    const auto list = value.toBoolList();
    append(key, list.size());
    for (bool entry : list) append(key, entry);
  } else {
    return false;
  }
  return true;
}

DispatchKeySet all_above_backends() {
  return c10::autocast_dispatch_keyset | c10::functorch_transforms_ks |
         DispatchKeySet({DispatchKey::Python, DispatchKey::PythonTLSSnapshot,
                         DispatchKey::Functionalize, DispatchKey::FuncTorchDynamicLayerFrontMode});
}

}  // namespace

BelowAll::BelowAll() : others_(all_above_backends()) {}

// --- arguments -----------------------------------------------------------------------------------

HostArguments::HostArguments(const HostSchema& schema, c10::ArrayRef<IValue> arguments) {
  values_.reserve(arguments.size());
  for (size_t i = 0; i < arguments.size(); ++i) {
    const IValue& value = arguments[i];
    Place place{Place::Kind::Tensor, static_cast<uint32_t>(i), {}};
    auto take = [&](const Tensor& tensor) {
      place.tensors.push_back(
          add(tensor, schema.written[i], schema.out[i], schema.takes_cpu_tensors));
    };
    bool is_place = true;
    if (value.isTensor()) {
      take(value.toTensor());
    } else if (value.isTensorList() || value.isOptionalTensorList()) {
      place.kind = value.isTensorList() ? Place::Kind::TensorList : Place::Kind::OptionalTensorList;
      for (const IValue& element : value.toListRef()) {
        if (element.isTensor()) {
          take(element.toTensor());
        } else {
          place.tensors.push_back(-1);
        }
      }
    } else if (value.isDevice() && value.toDevice().is_privateuseone()) {
      place.kind = Place::Kind::Device;
      join_device(value.toDevice());
    } else if (value.isGenerator()) {
      place.kind = Place::Kind::Generator;
      generator_ = value.toGenerator();
    } else {
      is_place = false;
    }
    values_.push_back(is_place ? IValue() : value);
    if (is_place) places_.push_back(std::move(place));
  }
  if (device_.is_cpu() || !device_.has_index()) {
    device_ =
        c10::Device(c10::kPrivateUse1, static_cast<c10::DeviceIndex>(runtime::current_device()));
  }
  // An absent generator is a None; random ops are given one all the same.
  if (schema.is_random) {
    const auto& parameters = schema.op.schema().arguments();
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (arguments[i].isNone() && parameters[i].name() == "generator") {
        places_.push_back({Place::Kind::Generator, static_cast<uint32_t>(i), {}});
      }
    }
  }
}

void HostArguments::join_device(c10::Device device) {
  TORCH_CHECK(device_.is_cpu() || !device_.has_index() || !device.has_index() || device_ == device,
              "Expected all tensors to be on the same device, but found at least two devices, ",
              device_, " and ", device, "!");
  if (device_.is_cpu() || device.has_index()) device_ = device;
}

int32_t HostArguments::add_storage(const Tensor& tensor) {
  const c10::StorageImpl* storage =
      tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
  const auto found = std::find(storage_identities_.begin(), storage_identities_.end(), storage);
  const auto index = static_cast<int32_t>(found - storage_identities_.begin());
  if (found != storage_identities_.end()) return index;
  storage_identities_.push_back(storage);
  HostStorage entry;
  entry.bytes = storage->nbytes();
  entry.tensor = static_cast<int32_t>(tensors_.size());
  storages_.push_back(std::move(entry));
  return index;
}

int32_t HostArguments::add(const Tensor& tensor, bool written, bool write_only,
                           bool takes_cpu_tensors) {
  if (!tensor.defined()) return -1;
  for (size_t i = 0; i < originals_.size(); ++i) {
    if (!originals_[i]->is_same(tensor)) continue;
    tensors_[i].written |= written;
    tensors_[i].write_only &= write_only;
    return static_cast<int32_t>(i);
  }
  HostTensor entry;
  entry.dtype = tensor.scalar_type();
  entry.written = written;
  entry.write_only = write_only;
  entry.wrapped_number = tensor.unsafeGetTensorImpl()->is_wrapped_number();
  entry.is_conj = tensor.is_conj();
  entry.is_neg = tensor.is_neg();
  entry.sizes.assign(tensor.sizes().begin(), tensor.sizes().end());
  if (tensor.device().is_privateuseone()) {
    join_device(tensor.device());
    TORCH_CHECK_NOT_IMPLEMENTED(tensor.layout() == at::kStrided && !tensor.is_quantized(),
                                "[host op] a tensor of layout ", tensor.layout(),
                                " is not supported on accel");
    entry.strides.assign(tensor.strides().begin(), tensor.strides().end());
    entry.offset = tensor.storage_offset();
    entry.storage = add_storage(tensor);
  } else {
    TORCH_CHECK(tensor.device().is_cpu() && !written && (takes_cpu_tensors || tensor.dim() == 0),
                "Expected all tensors to be on the same device, but found at least two devices, ",
                device_.is_cpu() ? c10::Device(c10::kPrivateUse1, 0) : device_, " and ",
                tensor.device(), "!");
    const Tensor dense = tensor.contiguous();
    entry.is_conj = dense.is_conj();
    entry.is_neg = dense.is_neg();
    entry.strides.assign(dense.strides().begin(), dense.strides().end());
    entry.storage = static_cast<int32_t>(storages_.size());
    const auto* bytes = static_cast<const char*>(dense.const_data_ptr());
    HostStorage content;
    content.bytes = dense.nbytes();
    if (bytes) content.content.assign(bytes, bytes + content.bytes);
    storages_.push_back(std::move(content));
    storage_identities_.push_back(nullptr);
  }
  originals_.push_back(&tensor);
  tensors_.push_back(std::move(entry));
  return static_cast<int32_t>(tensors_.size()) - 1;
}

int32_t HostArguments::add_output(const Tensor& tensor) { return add(tensor, true, true, false); }

bool HostArguments::is_wrapped_number(size_t storage) const {
  return !storages_[storage].is_device() &&
         std::any_of(tensors_.begin(), tensors_.end(), [&](const HostTensor& tensor) {
           return tensor.storage == static_cast<int32_t>(storage) && tensor.wrapped_number;
         });
}

std::vector<Tensor> HostArguments::make_tensors(char* const* bases, bool resizable) const {
  std::vector<c10::Storage> storages;
  storages.reserve(storages_.size());
  for (size_t i = 0; i < storages_.size(); ++i) {
    char* content = const_cast<char*>(storages_[i].content.data());
    // A wrapped number stays on the CPU: Python's meta functions insist on it.
    const bool is_meta = !bases && !is_wrapped_number(i);
    char* base = storages_[i].is_device() ? (bases ? bases[i] : nullptr) : content;
    const c10::DeviceType type = is_meta ? c10::kMeta : c10::kCPU;
    storages.emplace_back(c10::Storage::use_byte_size_t(), storages_[i].bytes,
                          c10::DataPtr(is_meta ? nullptr : base, type),
                          is_meta || resizable ? c10::GetAllocator(type) : nullptr,
                          is_meta || resizable);
  }
  std::vector<Tensor> tensors;
  tensors.reserve(tensors_.size());
  for (const HostTensor& entry : tensors_) {
    Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
        c10::Storage(storages[entry.storage]),
        DispatchKeySet(storages[entry.storage].device_type() == c10::kMeta ? DispatchKey::Meta
                                                                           : DispatchKey::CPU),
        c10::scalarTypeToTypeMeta(entry.dtype));
    c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
    impl->set_sizes_and_strides(entry.sizes, entry.strides, entry.offset);
    if (entry.wrapped_number) impl->set_wrapped_number(true);
    if (entry.is_conj) tensor._set_conj(true);
    if (entry.is_neg) tensor._set_neg(true);
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

torch::jit::Stack HostArguments::make_stack(const std::vector<Tensor>& tensors,
                                            c10::DeviceType device,
                                            const std::optional<at::Generator>& generator) const {
  torch::jit::Stack stack(values_.begin(), values_.end());
  for (const Place& place : places_) {
    IValue& value = stack[place.argument];
    auto tensor_at = [&](int32_t index) { return index < 0 ? Tensor() : tensors[index]; };
    switch (place.kind) {
      case Place::Kind::Tensor:
        value = tensor_at(place.tensors[0]);
        break;
      case Place::Kind::TensorList: {
        c10::List<Tensor> list;
        for (int32_t index : place.tensors) list.push_back(tensor_at(index));
        value = std::move(list);
        break;
      }
      case Place::Kind::OptionalTensorList: {
        c10::List<OptionalTensor> list;
        for (int32_t index : place.tensors) {
          list.push_back(index < 0 ? OptionalTensor() : OptionalTensor(tensors[index]));
        }
        value = std::move(list);
        break;
      }
      case Place::Kind::Device:
        value = c10::Device(device);
        break;
      case Place::Kind::Generator:
        value = generator ? IValue(*generator) : IValue();
        break;
    }
  }
  return stack;
}

std::string HostArguments::key() const {
  std::string key;
  for (const IValue& value : values_) {
    if (!append_value(key, value)) return {};
  }
  for (const Place& place : places_) {
    append(key, place.kind);
    append(key, place.argument);
    append_list(key, place.tensors);
  }
  for (const HostTensor& tensor : tensors_) {
    append(key, tensor.dtype);
    append(key, tensor.storage);
    append(key, tensor.offset);
    append(key, tensor.wrapped_number);
    append(key, tensor.is_conj);
    append(key, tensor.is_neg);
    append_list(key, tensor.sizes);
    append_list(key, tensor.strides);
  }
  return key;
}

// --- the call ------------------------------------------------------------------------------------

// ATen sets a thread's width at its first question, so that has to come before ours.
FixedTeam::FixedTeam(int threads) : before_(at::get_num_threads()) {
  if (before_ != threads) omp_set_num_threads(threads);
}

FixedTeam::~FixedTeam() { omp_set_num_threads(before_); }

void run_on_cpu(const c10::OperatorHandle& op, const HostSchema& schema, torch::jit::Stack& stack) {
  const FixedTeam team(schema.runs_on_one_thread ? 1 : runtime::full_team());
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), &stack);
}

HostOpCall::HostOpCall(const HostSchema& schema, HostArguments arguments,
                       std::vector<std::vector<int32_t>> outputs, std::optional<uint64_t> seed)
    : schema_(schema), arguments_(std::move(arguments)), outputs_(std::move(outputs)), seed_(seed) {
  writes_directly_ =
      schema.out_overload &&
      std::all_of(outputs_.begin(), outputs_.end(), [](const std::vector<int32_t>& result) {
        return result.size() == 1 && result[0] >= 0;
      });
}

void HostOpCall::record(std::unique_ptr<HostOpCall> call) {
  HostArguments& arguments = call->arguments_;
  std::vector<graph::ViewSpec> outputs, inputs;
  std::vector<int32_t> output_of(arguments.tensors().size(), -1), input_of = output_of;
  for (size_t i = 0; i < arguments.tensors().size(); ++i) {
    const HostTensor& tensor = arguments.tensors()[i];
    if (!arguments.storages()[tensor.storage].is_device()) continue;
    const Tensor& original = arguments.original(i);
    graph::ViewSpec view;
    view.block = block_of(original);
    view.dtype = dtype_of(tensor.dtype);
    view.dims = static_cast<int>(tensor.sizes.size());
    view.sizes = tensor.sizes.data();
    view.strides = tensor.strides.data();
    view.offset = offset_in(*view.block, original);
    if (tensor.written) {
      output_of[i] = static_cast<int32_t>(outputs.size());
      outputs.push_back(view);
    }
    if (!tensor.write_only) {
      input_of[i] = static_cast<int32_t>(inputs.size());
      inputs.push_back(view);
    }
  }
  for (const HostStorage& storage : arguments.storages()) {
    int32_t ordinal = -1;
    if (storage.is_device()) {
      ordinal = output_of[storage.tensor] >= 0
                    ? output_of[storage.tensor]
                    : input_of[storage.tensor] + static_cast<int32_t>(outputs.size());
    }
    call->storage_views_.push_back(ordinal);
  }
  // The caller holds the Tensors until the Recorder has their Blocks.
  arguments.drop_originals();
  arguments.drop_generator();
  const int device = arguments.device().index();
  graph::NodeSpec node{graph::Opcode::Host, outputs, inputs, {}, {}, {}, std::move(call)};
  graph::record(device, node);
}

void HostOpCall::run(void* const* addresses) {
  const BelowAll below;
  const at::NoGradGuard no_grad;
  std::vector<Tensor> tensors = arguments_.make_tensors(bases(addresses).data());
  std::optional<at::Generator> generator;
  if (seed_) generator = at::detail::createCPUGenerator(*seed_);
  torch::jit::Stack stack = arguments_.make_stack(tensors, c10::kCPU, generator);
  if (writes_directly_) {
    for (const auto& output : outputs_) stack.emplace_back(tensors[output[0]]);
  }
  try {
    run_on_cpu(writes_directly_ ? *schema_.out_overload : schema_.op, schema_, stack);
  } catch (c10::Error& error) {
    // It is raised at some later wait, where nothing else tells which op it was.
    error.add_context(c10::str("in ", schema_.name, " on accel"));
    throw;
  }
  resolve_bits(tensors);
  if (writes_directly_) return;
  size_t next = 0;
  for (size_t i = 0; i < schema_.returns.size(); ++i) {
    if (schema_.returns[i].argument < 0) store(stack[i], outputs_[next++], tensors);
  }
}

void HostOpCall::resolve_bits(std::vector<Tensor>& tensors) const {
  for (size_t i = 0; i < tensors.size(); ++i) {
    const HostTensor& entry = arguments_.tensors()[i];
    Tensor& tensor = tensors[i];
    if (!entry.written || !tensor.defined()) continue;
    if (tensor.is_conj() != entry.is_conj) {
      tensor._set_conj(false);
      tensor.conj_physical_();
      tensor._set_conj(entry.is_conj);
    }
    if (tensor.is_neg() != entry.is_neg) {
      tensor._set_neg(false);
      tensor.neg_();
      tensor._set_neg(entry.is_neg);
    }
  }
}

std::vector<char*> HostOpCall::bases(void* const* addresses) const {
  std::vector<char*> bases;
  for (size_t i = 0; i < arguments_.storages().size(); ++i) {
    const HostStorage& storage = arguments_.storages()[i];
    if (!storage.is_device()) {
      bases.push_back(nullptr);
      continue;
    }
    const HostTensor& tensor = arguments_.tensors()[storage.tensor];
    const auto item = static_cast<int64_t>(c10::elementSize(tensor.dtype));
    bases.push_back(static_cast<char*>(addresses[storage_views_[i]]) - tensor.offset * item);
  }
  return bases;
}

void HostOpCall::store(const IValue& result, const std::vector<int32_t>& outputs,
                       std::vector<Tensor>& tensors) const {
  const auto values = result.isTensorList()
                          ? result.toTensorVector()
                          : std::vector<Tensor>{result.isTensor() ? result.toTensor() : Tensor()};
  TORCH_INTERNAL_ASSERT(values.size() == outputs.size(), schema_.name,
                        " gave another number of results than was inferred");
  for (size_t i = 0; i < values.size(); ++i) {
    if (outputs[i] < 0) continue;
    Tensor& target = tensors[outputs[i]];
    // An undefined gradient is a zero one; what a kernel leaves empty (the statistics of a batch
    // norm that does not train) nobody reads.
    if (!values[i].defined() || (values[i].numel() == 0 && target.numel() > 0)) {
      target.zero_();
      continue;
    }
    TORCH_INTERNAL_ASSERT(values[i].sizes() == target.sizes(), schema_.name, " gave a result of ",
                          values[i].sizes(), " where ", target.sizes(), " was inferred");
    target.copy_(values[i]);
    graph::count(graph::Counter::HostOpCopies);
  }
}

}  // namespace accel::aten
