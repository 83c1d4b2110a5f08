// Host ops: the way of every operator without a kernel of its own. Its outputs are inferred by its
// meta function and one Node is recorded, whose call runs ATen's CPU kernel on the worker; where
// they cannot be inferred, the op falls back: it waits for its inputs and runs at the call.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "csrc/aten/alias.h"
#include "csrc/aten/host_call.h"
#include "csrc/aten/host_schema.h"
#include "csrc/aten/recording.h"
#include "csrc/graph/counters.h"
#include "csrc/runtime/address.h"

namespace accel::aten {

namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;
using torch::jit::Stack;

// --- inference -----------------------------------------------------------------------------------

struct OutputSpec {
  bool defined = false;
  ScalarType dtype = ScalarType::Undefined;
  c10::SmallVector<int64_t, 6> sizes, strides;
};

struct Inference {
  // For each result that is no argument: its Tensors.
  std::vector<std::vector<OutputSpec>> results;
  // Arguments that a meta function gave another shape: out= is resized before it is recorded.
  std::vector<std::pair<int32_t, OutputSpec>> resized;
};

// Why an op is not recorded: nothing tells its outputs, their inference raised, or there is nothing
// to write, and the kernel is only asked whether it minds its arguments.
enum class Failure { NotInferable, Raised, NothingToWrite };

std::optional<OutputSpec> spec_of(const Tensor& tensor) {
  OutputSpec spec;
  if (!tensor.defined()) return spec;
  if (tensor.layout() != at::kStrided || tensor.is_quantized()) return std::nullopt;
  spec.defined = true;
  spec.dtype = tensor.scalar_type();
  spec.sizes.assign(tensor.sizes().begin(), tensor.sizes().end());
  spec.strides.assign(tensor.strides().begin(), tensor.strides().end());
  return spec;
}

// Calls the meta function. Nothing where there is none or its results are no strided Tensors.
std::optional<Inference> call_meta(const HostSchema& schema, const HostArguments& arguments) {
  const std::vector<Tensor> tensors = arguments.make_tensors(nullptr);
  Stack stack = arguments.make_stack(tensors, c10::kMeta, std::nullopt);
  schema.op.redispatchBoxed(DispatchKeySet(DispatchKey::Meta), &stack);
  Inference inference;
  for (size_t i = 0; i < schema.returns.size(); ++i) {
    if (schema.returns[i].argument >= 0) continue;
    std::vector<OutputSpec> specs;
    const bool is_list = stack[i].isTensorList();
    for (const Tensor& tensor :
         is_list ? stack[i].toTensorVector()
                 : std::vector<Tensor>{stack[i].isNone() ? Tensor() : stack[i].toTensor()}) {
      const auto spec = spec_of(tensor);
      if (!spec) return std::nullopt;
      specs.push_back(*spec);
    }
    inference.results.push_back(std::move(specs));
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    const HostTensor& before = arguments.tensors()[i];
    if (!before.written) continue;
    const auto after = spec_of(tensors[i]);
    if (!after || after->dtype != before.dtype) return std::nullopt;
    if (after->sizes == before.sizes && after->strides == before.strides) continue;
    if (!before.write_only) return std::nullopt;
    inference.resized.emplace_back(static_cast<int32_t>(i), *after);
  }
  return inference;
}

// Meta functions cost microseconds, those written in Python a hundred: what they said is kept. A
// loop repeats a few dozen calls; the bound is there for shapes that never come again.
class InferenceCache {
 public:
  std::shared_ptr<const Inference> find(const std::string& key) {
    std::lock_guard lock(mutex_);
    const auto entry = entries_.find(key);
    return entry == entries_.end() ? nullptr : entry->second;
  }
  void insert(std::string key, std::shared_ptr<const Inference> inference) {
    std::lock_guard lock(mutex_);
    if (entries_.size() >= kMost) entries_.clear();
    entries_.emplace(std::move(key), std::move(inference));
  }

 private:
  static constexpr size_t kMost = 8192;
  std::mutex mutex_;
  std::unordered_map<std::string, std::shared_ptr<const Inference>> entries_;
};

InferenceCache& inference_cache() {
  static auto* cache = new InferenceCache;
  return *cache;
}

bool has_meta_function(const c10::OperatorHandle& op) {
  // Meta has a fallback kernel that only raises, so the table of computed kernels does not tell.
  return op.hasKernelForDispatchKey(DispatchKey::Meta) ||
         op.hasKernelForDispatchKey(DispatchKey::CompositeExplicitAutograd) ||
         op.hasKernelForDispatchKey(DispatchKey::CompositeExplicitAutogradNonFunctional) ||
         op.hasKernelForDispatchKey(DispatchKey::CompositeImplicitAutograd);
}

// What is known without a meta function: results like an argument, or none but arguments of known
// sizes.
std::shared_ptr<const Inference> infer_from_schema(const HostSchema& schema, const Stack& stack) {
  const bool has_out = std::find(schema.out.begin(), schema.out.end(), true) != schema.out.end();
  if (has_out || static_cast<size_t>(schema.result_count) != schema.results_like.size()) {
    return nullptr;
  }
  auto inference = std::make_shared<Inference>();
  const auto arguments = torch::jit::last(stack, schema.written.size());
  for (int argument : schema.results_like) {
    if (!arguments[argument].isTensor()) return nullptr;
    const Tensor& like = arguments[argument].toTensor();
    OutputSpec spec;
    spec.defined = true;
    spec.dtype = like.scalar_type();
    spec.sizes.assign(like.sizes().begin(), like.sizes().end());
    spec.strides.resize(spec.sizes.size());
    int64_t stride = 1;
    for (size_t i = spec.sizes.size(); i-- > 0; stride *= std::max<int64_t>(spec.sizes[i], 1)) {
      spec.strides[i] = stride;
    }
    inference->results.push_back({std::move(spec)});
  }
  return inference;
}

std::shared_ptr<const Inference> infer(const HostSchema& schema, const HostArguments& arguments,
                                       const Stack& stack, Failure& failure) {
  failure = Failure::NotInferable;
  if (!schema.is_inferable) return nullptr;
  if (!has_meta_function(schema.op)) return infer_from_schema(schema, stack);
  std::string key = arguments.key();
  if (!key.empty()) {
    // What meta functions read beside their arguments.
    key += static_cast<char>(c10::get_default_dtype_as_scalartype());
    key += schema.name;
    if (auto known = inference_cache().find(key)) return known;
  }
  try {
    const BelowAll below;
    const at::NoGradGuard no_grad;
    auto called = call_meta(schema, arguments);
    if (!called) return nullptr;
    auto inference = std::make_shared<const Inference>(std::move(*called));
    if (!key.empty() && inference->resized.empty()) inference_cache().insert(key, inference);
    return inference;
  } catch (const c10::NotImplementedError&) {
    return nullptr;
  } catch (const std::exception&) {
    // The user's mistake, or the meta function's: the CPU kernel knows, and has the words for it.
    failure = Failure::Raised;
    return nullptr;
  }
}

// --- results -------------------------------------------------------------------------------------

// Pushes what the op returns, given the Tensors of its results.
void push_results(const HostSchema& schema, Stack* stack, std::vector<IValue> results) {
  const size_t count = schema.op.schema().arguments().size();
  const auto arguments = torch::jit::pop(*stack, count);
  size_t next = 0;
  for (const HostSchema::Return& entry : schema.returns) {
    stack->push_back(entry.argument >= 0 ? arguments[entry.argument] : std::move(results[next++]));
  }
}

// The results that are no arguments, from their Tensors.
std::vector<IValue> as_results(const HostSchema& schema, std::vector<std::vector<Tensor>> results) {
  std::vector<IValue> values;
  for (const HostSchema::Return& entry : schema.returns) {
    if (entry.argument >= 0) continue;
    std::vector<Tensor>& tensors = results[values.size()];
    if (entry.kind == HostSchema::Result::TensorList) {
      values.emplace_back(c10::List<Tensor>(std::move(tensors)));
    } else {
      values.emplace_back(std::move(tensors[0]));
    }
  }
  return values;
}

// --- views ---------------------------------------------------------------------------------------

// An op that returns an alias is metadata only: its meta function says which.
void view_op(const HostSchema& schema, const HostArguments& arguments, Stack* stack) {
  const BelowAll below;
  std::vector<Tensor> tensors = arguments.make_tensors(nullptr);
  Stack meta = arguments.make_stack(tensors, c10::kMeta, std::nullopt);
  schema.op.redispatchBoxed(DispatchKeySet(DispatchKey::Meta), &meta);
  TORCH_CHECK_NOT_IMPLEMENTED(!arguments.tensors().empty(), "[host op] ", schema.name,
                              " returns an alias of no tensor");
  const Tensor& source = arguments.original(0);
  std::vector<std::vector<Tensor>> results;
  for (size_t i = 0; i < schema.returns.size(); ++i) {
    std::vector<Tensor> aliases;
    for (const Tensor& tensor : meta[i].isTensorList() ? meta[i].toTensorVector()
                                                       : std::vector<Tensor>{meta[i].toTensor()}) {
      aliases.push_back(alias_of(source, tensor.scalar_type(), tensor.sizes(), tensor.strides(),
                                 tensor.storage_offset()));
    }
    results.push_back(std::move(aliases));
  }
  push_results(schema, stack, as_results(schema, std::move(results)));
}

// --- recording -----------------------------------------------------------------------------------

// The calls that have run before without an error. A CPU kernel that refuses a dtype says so only
// when it runs, and some run otherwise for tensors without dimensions: the first run of each
// operator and dtypes is waited for, so that the error is raised at the call. Where nothing is to
// be written it runs at the call, once for equal arguments.
class FirstRuns {
 public:
  static uint64_t key_of_dtypes(const HostSchema& schema, const HostArguments& arguments) {
    uint64_t key = reinterpret_cast<uintptr_t>(&schema);
    for (const HostTensor& tensor : arguments.tensors()) {
      key = graph::mix(key, static_cast<uint64_t>(tensor.dtype) << 1 | tensor.sizes.empty());
    }
    return key;
  }
  static uint64_t key_of_call(const HostSchema& schema, const HostArguments& arguments) {
    return graph::mix(reinterpret_cast<uintptr_t>(&schema),
                      std::hash<std::string>()(arguments.key()));
  }
  bool includes(uint64_t key) {
    std::lock_guard lock(mutex_);
    return !keys_.contains(key);
  }
  void succeeded(uint64_t key) {
    std::lock_guard lock(mutex_);
    keys_.insert(key);
  }

 private:
  std::mutex mutex_;
  std::unordered_set<uint64_t> keys_;
};

FirstRuns& first_runs() {
  static auto* runs = new FirstRuns;
  return *runs;
}

// Why the host reads device memory then.
std::string first_run_of(const HostSchema& schema) { return "first run of " + schema.name; }

bool writes_nothing(const HostSchema& schema, const HostArguments& arguments,
                    const Inference& inference) {
  auto has_elements = [](const OutputSpec& spec) {
    return spec.defined && c10::multiply_integers(spec.sizes) > 0;
  };
  for (const std::vector<OutputSpec>& specs : inference.results) {
    if (std::any_of(specs.begin(), specs.end(), has_elements)) return false;
  }
  for (const auto& [index, spec] : inference.resized) {
    if (has_elements(spec)) return false;
  }
  for (const HostTensor& tensor : arguments.tensors()) {
    if (tensor.written && c10::multiply_integers(tensor.sizes) > 0) return false;
  }
  return !schema.returns.empty();  // an assertion writes nothing, and must run
}

void record(const HostSchema& schema, HostArguments arguments, const Inference& inference,
            Stack* stack) {
  const c10::DeviceGuard guard(arguments.device());
  for (size_t i = 0; i < arguments.tensors().size(); ++i) {
    if (arguments.tensors()[i].written) at::assert_no_internal_overlap(arguments.original(i));
  }
  if (!inference.resized.empty()) {
    for (const auto& [index, spec] : inference.resized) {
      const Tensor& out = arguments.original(index);
      out.resize_(spec.sizes);
      if (out.strides() != IntArrayRef(spec.strides)) out.as_strided_(spec.sizes, spec.strides);
    }
    arguments = HostArguments(schema, torch::jit::last(*stack, schema.written.size()));
  }
  std::optional<uint64_t> seed;
  if (schema.is_random) {
    graph::refuse_capture(arguments.device().index(), "random numbers made on the host");
    const PhiloxState state =
        reserve_philox(arguments.generator(), arguments.device().index(), /*elements=*/4);
    seed = graph::mix(static_cast<uint64_t>(state.seed.i), static_cast<uint64_t>(state.offset.i));
  }
  std::vector<std::vector<Tensor>> results;
  std::vector<std::vector<int32_t>> outputs;
  bool writes = schema.returns.empty();  // an assertion writes nothing, and must run
  const uint64_t dtypes = FirstRuns::key_of_dtypes(schema, arguments);
  Tensor written;
  for (const std::vector<OutputSpec>& specs : inference.results) {
    auto& tensors = results.emplace_back(specs.size());
    auto& indices = outputs.emplace_back(specs.size(), -1);
    for (size_t i = 0; i < specs.size(); ++i) {
      if (!specs[i].defined) continue;
      tensors[i] = at::detail::empty_strided_generic(
          specs[i].sizes, specs[i].strides, c10::GetAllocator(c10::kPrivateUse1),
          DispatchKeySet(DispatchKey::PrivateUse1), specs[i].dtype);
      indices[i] = arguments.add_output(tensors[i]);
    }
  }
  for (size_t i = 0; i < arguments.tensors().size(); ++i) {
    const HostTensor& tensor = arguments.tensors()[i];
    if (!tensor.written || c10::multiply_integers(tensor.sizes) == 0) continue;
    writes = true;
    if (!written.defined()) written = arguments.original(i);
  }
  if (writes) {
    graph::count(graph::Counter::HostOps);
    graph::count_op("host_op", schema.name);
    HostOpCall::record(
        std::make_unique<HostOpCall>(schema, std::move(arguments), std::move(outputs), seed));
    if (written.defined() && first_runs().includes(dtypes)) {
      graph::wait_for(*block_of(written), first_run_of(schema).c_str());
      first_runs().succeeded(dtypes);
    }
  }
  push_results(schema, stack, as_results(schema, std::move(results)));
}

// --- falling back --------------------------------------------------------------------------------

enum class Policy { Warn, Quiet, Error };

// ACCEL_FALLBACK: "warn" (once an op), "quiet", or "error".
Policy fallback_policy() {
  static const Policy policy = [] {
    const char* value = std::getenv("ACCEL_FALLBACK");
    const std::string_view text = value ? value : "";
    return text == "error" ? Policy::Error : text == "quiet" ? Policy::Quiet : Policy::Warn;
  }();
  return policy;
}

void raise_if_forbidden(const std::string& name) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      fallback_policy() != Policy::Error, name,
      " has no kernel on accel whose outputs are known before it runs, so it would wait and run on "
      "the host, which ACCEL_FALLBACK=error forbids");
}

void count_fallback(const std::string& name) {
  graph::count(graph::Counter::Fallbacks);
  graph::count_op("fallback", name);
  if (fallback_policy() != Policy::Warn) return;
  static auto* mutex = new std::mutex;
  static auto* warned = new std::set<std::string>;
  {
    std::lock_guard lock(*mutex);
    if (!warned->insert(name).second) return;
  }
  TORCH_WARN(name, " waits for the accel device and runs on the host. This warning comes once an ",
             "op; torch.accel.report() counts, and ACCEL_FALLBACK=quiet silences it");
}

// A CPU result as a Tensor of the device.
Tensor to_device(const Tensor& result, const HostArguments& arguments,
                 const std::vector<Tensor>& tensors) {
  if (!result.defined()) return result;
  if (result.layout() != at::kStrided || result.is_quantized() || result.is_nested()) {
    return moved_to(result, arguments.device());
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (arguments.original(i).device().is_privateuseone() && result.has_storage() &&
        result.storage().is_alias_of(tensors[i].storage())) {
      return alias_of(arguments.original(i), result.scalar_type(), result.sizes(), result.strides(),
                      result.storage_offset());
    }
  }
  // The memory is fresh, so no queued work can touch it: the host may write it at once.
  Tensor out = at::detail::empty_strided_generic(
      result.sizes(), result.strides(), c10::GetAllocator(c10::kPrivateUse1),
      DispatchKeySet(DispatchKey::PrivateUse1), result.scalar_type());
  if (out.numel() > 0) {
    char* base = static_cast<char*>(runtime::host_pointer(out.storage().data()));
    Tensor aliased = at::detail::make_tensor<c10::TensorImpl>(
        c10::Storage(c10::Storage::use_byte_size_t(), out.storage().nbytes(),
                     c10::DataPtr(base, c10::kCPU), nullptr, false),
        DispatchKeySet(DispatchKey::CPU), result.dtype());
    aliased.unsafeGetTensorImpl()->set_sizes_and_strides(out.sizes(), out.strides());
    aliased.copy_(result);
  }
  return out;
}

void fall_back(const HostSchema& schema, const HostArguments& arguments, Failure failure,
               Stack* stack) {
  graph::refuse_capture(arguments.device().index(), schema.name.c_str());
  // An op whose inference raised most likely raises again: no fallback, the user's error.
  const bool counts = !schema.reads_values && failure != Failure::NothingToWrite;
  if (counts && failure == Failure::NotInferable) {
    raise_if_forbidden(schema.name);
    count_fallback(schema.name);
  }
  const c10::DeviceGuard guard(arguments.device());
  const BelowAll below;
  const at::NoGradGuard no_grad;
  // Memory that the op writes is a copy, written back in the stream's order: queued work may still
  // read the original. Whole storages are copied, so that the kernel sees which Tensors overlap.
  std::vector<bool> written(arguments.storages().size());
  for (const HostTensor& tensor : arguments.tensors()) {
    if (tensor.written) written[tensor.storage] = true;
  }
  const std::string reason =
      failure == Failure::NothingToWrite ? first_run_of(schema) : schema.name;
  std::vector<char*> bases;
  std::vector<c10::DataPtr> copies;
  for (size_t i = 0; i < arguments.storages().size(); ++i) {
    const HostStorage& storage = arguments.storages()[i];
    char*& base = bases.emplace_back(nullptr);
    if (!storage.is_device()) continue;
    const Tensor& tensor = arguments.original(storage.tensor);
    graph::wait_for(*block_of(tensor), reason.c_str());
    base = static_cast<char*>(runtime::host_pointer(tensor.storage().data()));
    if (!written[i]) continue;
    copies.push_back(c10::GetAllocator(c10::kCPU)->allocate(storage.bytes));
    if (storage.bytes) std::memcpy(copies.back().get(), base, storage.bytes);
    base = static_cast<char*>(copies.back().get());
  }
  std::vector<Tensor> tensors = arguments.make_tensors(bases.data(), /*resizable=*/true);
  std::optional<at::Generator> generator;
  if (schema.is_random) {
    const PhiloxState state =
        reserve_philox(arguments.generator(), arguments.device().index(), /*elements=*/4);
    generator = at::detail::createCPUGenerator(
        graph::mix(static_cast<uint64_t>(state.seed.i), static_cast<uint64_t>(state.offset.i)));
  }
  Stack call = arguments.make_stack(tensors, c10::kCPU, generator);
  run_on_cpu(schema.op, schema, call);
  if (counts && failure == Failure::Raised) {
    raise_if_forbidden(schema.name);
    count_fallback(schema.name);
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!arguments.tensors()[i].written) continue;
    const Tensor& original = arguments.original(i);
    if (original.sizes() != tensors[i].sizes()) original.resize_(tensors[i].sizes());
    original.copy_(tensors[i]);
  }
  std::vector<IValue> results;
  for (size_t i = 0; i < schema.returns.size(); ++i) {
    if (schema.returns[i].argument >= 0) continue;
    if (call[i].isTensor()) {
      results.emplace_back(to_device(call[i].toTensor(), arguments, tensors));
    } else if (call[i].isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& tensor : call[i].toTensorVector()) {
        list.push_back(to_device(tensor, arguments, tensors));
      }
      results.emplace_back(std::move(list));
    } else {
      results.push_back(std::move(call[i]));
    }
  }
  push_results(schema, stack, std::move(results));
}

}  // namespace

void host_op(const c10::OperatorHandle& op, Stack* stack) {
  const HostSchema& schema = host_schema_of(op);
  TORCH_CHECK_NOT_IMPLEMENTED(op.hasComputedKernelForDispatchKey(DispatchKey::CPU),
                              "The operator '", schema.name,
                              "' is not implemented for the accel device");
  HostArguments arguments(schema, torch::jit::last(*stack, schema.written.size()));
  if (schema.is_view) return view_op(schema, arguments, stack);
  Failure failure;
  if (const auto inference = infer(schema, arguments, *stack, failure)) {
    if (!writes_nothing(schema, arguments, *inference)) {
      return record(schema, std::move(arguments), *inference, stack);
    }
    const uint64_t call = FirstRuns::key_of_call(schema, arguments);
    if (!first_runs().includes(call)) {
      return record(schema, std::move(arguments), *inference, stack);
    }
    fall_back(schema, arguments, Failure::NothingToWrite, stack);
    return first_runs().succeeded(call);
  }
  fall_back(schema, arguments, failure, stack);
}

void note_fallback(const std::string& name) {
  raise_if_forbidden(name);
  count_fallback(name);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&host_op>());
}

}  // namespace accel::aten
