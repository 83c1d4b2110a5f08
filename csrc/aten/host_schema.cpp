// Reads schemas, and lists the operators whose schema does not tell the whole truth.
#include "csrc/aten/host_schema.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>

#include <ATen/core/enum_tag.h>

namespace accel::aten {

namespace {

using c10::Argument;
using c10::DispatchKey;
using c10::OperatorHandle;

constexpr std::string_view kNamespace = "aten::";

// Kernels that add atomically from several threads: ten runs gave ten results.
constexpr std::string_view kAtomicOps[] = {"aten::_index_put_impl_", "aten::index_put_",
                                           "aten::put_", "aten::_histogramdd_from_bin_cts",
                                           "aten::_histogramdd_from_bin_tensors"};

// Operators that take CPU tensors on purpose.
constexpr std::string_view kMixedOps[] = {
    "aten::index",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_pack_padded_sequence",
    "aten::_pack_padded_sequence_backward",
    "aten::_ctc_loss",
    "aten::_ctc_loss_backward",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::nested_to_padded_tensor",
};

// Operators whose CPU kernel gives other sizes than the meta function says (bookkeeping that its
// backward reads).
constexpr std::string_view kOtherSizes[] = {"aten::_embedding_bag",
                                            "aten::_embedding_bag_forward_only"};

// Operators without a meta function whose one result has the sizes and dtype of an argument.
struct ResultLike {
  std::string_view op;
  int argument;
};
constexpr ResultLike kResultsLike[] = {
    {"aten::_logcumsumexp", 0},
    {"aten::_dirichlet_grad", 0},
    {"aten::_sample_dirichlet", 0},
    {"aten::_standard_gamma_grad", 0},
    {"aten::binomial", 0},
    {"aten::_masked_softmax", 0},
    {"aten::_masked_softmax_backward", 0},
    {"aten::multi_margin_loss_backward", 1},
    {"aten::multilabel_margin_loss_backward", 1},
    {"aten::_ctc_loss_backward", 1},
};

template <typename List>
bool contains(const List& list, const std::string& name) {
  return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

HostSchema::Result result_of(const c10::TypePtr& type) {
  if (type->isSubtypeOf(*c10::TensorType::get())) return HostSchema::Result::Tensor;
  if (type->isSubtypeOf(*c10::ListType::ofTensors())) return HostSchema::Result::TensorList;
  return HostSchema::Result::Value;
}

// Operators by name without overload, made once: the dispatcher offers no such look-up.
std::vector<OperatorHandle> overloads_of(const std::string& name) {
  auto& dispatcher = c10::Dispatcher::singleton();
  static const auto* index = [&] {
    auto* result = new std::unordered_multimap<std::string, c10::OperatorName>;
    for (const c10::OperatorName& op : dispatcher.getAllOpNames()) result->emplace(op.name, op);
    return result;
  }();
  std::vector<OperatorHandle> overloads;
  const auto [begin, end] = index->equal_range(name);
  for (auto entry = begin; entry != end; ++entry) {
    if (auto op = dispatcher.findSchema(entry->second)) overloads.push_back(*op);
  }
  return overloads;
}

// Whether `out` takes the arguments of `functional`, and then one Tensor for each of its results.
bool is_out_overload(const c10::FunctionSchema& out, const c10::FunctionSchema& functional) {
  const auto& extended = out.arguments();
  const auto& plain = functional.arguments();
  if (extended.size() != plain.size() + functional.returns().size()) return false;
  for (size_t i = 0; i < extended.size(); ++i) {
    const Argument& argument = extended[i];
    if (i >= plain.size()) {
      if (!argument.is_out() || result_of(argument.type()) != HostSchema::Result::Tensor) {
        return false;
      }
    } else if (argument.name() != plain[i].name() || *argument.type() != *plain[i].type() ||
               argument.alias_info()) {
      return false;
    }
  }
  return true;
}

}  // namespace

HostSchema::HostSchema(const OperatorHandle& handle)
    : op(handle), name(c10::toString(handle.operator_name())) {
  const c10::FunctionSchema& schema = op.schema();
  const std::string& base = schema.name();
  bool writes = false;
  for (const Argument& argument : schema.arguments()) {
    const bool write = argument.alias_info() && argument.alias_info()->isWrite();
    written.push_back(write);
    out.push_back(argument.is_out());
    writes |= write;
    is_random |= argument.type()->str().find("Generator") != std::string::npos;
  }
  for (const Argument& result : schema.returns()) {
    Return entry{result_of(result.type())};
    if (const c10::AliasInfo* alias = result.alias_info(); alias && alias->isWrite()) {
      for (size_t i = 0; i < schema.arguments().size(); ++i) {
        const c10::AliasInfo* source = schema.arguments()[i].alias_info();
        if (source && source->isWrite() && source->beforeSets() == alias->beforeSets()) {
          entry.argument = static_cast<int>(i);
        }
      }
    } else if (alias) {
      is_view = true;
    }
    result_count += entry.argument < 0;
    reads_values |= entry.kind == Result::Value;
    returns.push_back(entry);
  }
  // index() is given positions, never masks (see indexing.cpp), so that its shape is known.
  const bool depends_on_data = base != "aten::index" && (op.hasTag(at::Tag::dynamic_output_shape) ||
                                                         op.hasTag(at::Tag::data_dependent_output));
  // These are values on every device; that unique() waits here is a want of a kernel.
  reads_values |= depends_on_data && (base == "aten::nonzero" || base == "aten::masked_select");
  const bool hides_its_generator = !is_random && op.hasTag(at::Tag::nondeterministic_seeded);
  is_inferable = !depends_on_data && !contains(kOtherSizes, base) && !reads_values &&
                 !hides_its_generator && base.compare(0, kNamespace.size(), kNamespace) == 0;
  for (const ResultLike& entry : kResultsLike) {
    if (entry.op == base && result_count == 1) results_like.push_back(entry.argument);
  }
  runs_on_one_thread = contains(kAtomicOps, base);
  takes_cpu_tensors = contains(kMixedOps, base);
  if (!writes && !is_view && is_inferable) {
    for (const OperatorHandle& overload : overloads_of(base)) {
      if (overload.hasKernelForDispatchKey(DispatchKey::CPU) &&
          is_out_overload(overload.schema(), schema)) {
        out_overload = overload;
      }
    }
  }
}

const HostSchema& host_schema_of(const OperatorHandle& op) {
  static auto* mutex = new std::mutex;
  static auto* schemas =
      new std::unordered_map<c10::OperatorName, std::unique_ptr<const HostSchema>>;
  std::lock_guard lock(*mutex);
  auto& schema = (*schemas)[op.operator_name()];
  if (!schema) schema = std::make_unique<const HostSchema>(op);
  return *schema;
}

}  // namespace accel::aten
