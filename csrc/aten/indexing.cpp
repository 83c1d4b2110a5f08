// Elements by integer index: gather and scatter, index_*, advanced indexing, take and put. Shapes
// and dtypes are checked by PyTorch's meta functions, or in the words of its CPU functions where
// there is none; indices are checked by the kernel, and one out of range is raised at the next
// wait.
#include "csrc/aten/indexing.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/native/TensorAdvancedIndexingUtils.h>
#include <ATen/ops/gather_meta.h>
#include <ATen/ops/index_add_meta.h>
#include <ATen/ops/index_copy_meta.h>
#include <ATen/ops/index_meta.h>
#include <ATen/ops/index_reduce_meta.h>
#include <ATen/ops/result_type.h>
#include <ATen/ops/scatter_add_meta.h>
#include <ATen/ops/scatter_meta.h>
#include <ATen/ops/scatter_reduce_meta.h>

#include "csrc/aten/inference.h"

namespace accel::aten {

bool can_reduce(ScalarType type, IndexingMode mode) {
  if (mode < IndexingMode::Sum) return kernels::size_of(dtype_of(type)) > 0;
  if (mode == IndexingMode::Mean && type == ScalarType::Bool) return false;
  const bool is_complex = type == ScalarType::ComplexFloat || type == ScalarType::ComplexDouble;
  return is_native(type) || (is_complex && mode == IndexingMode::Sum);
}

void record_indexing(Opcode opcode, const IndexingSpace& space, const IndexingRules& rules) {
  Recording recording(opcode);
  if (rules.mode == IndexingMode::Read) {
    recording.output(space.values, space.sizes, space.value_strides).input(space.target);
  } else {
    recording.output(space.target)
        .input(space.values, space.sizes, space.value_strides)
        .input(space.target);
  }
  recording.attribute(static_cast<uint64_t>(dtype_of(space.target.scalar_type())))
      .attribute(static_cast<uint64_t>(rules.mode))
      .attribute(static_cast<uint64_t>(rules.negative))
      .attribute(static_cast<uint64_t>(rules.include_self))
      .attribute(static_cast<uint64_t>(rules.skipped));
  for (int64_t stride : space.target_strides) recording.attribute(static_cast<uint64_t>(stride));
  for (const IndexingSpace::Index& index : space.indices) {
    recording.input(index.tensor, space.sizes, index.strides)
        .attribute(static_cast<uint64_t>(index.bound))
        .attribute(static_cast<uint64_t>(index.target_stride));
  }
  recording.record();
}

namespace {

using Dims = c10::SmallVector<int64_t, 6>;

// A Tensor without dimensions is one of a single element.
Dims sizes_of(const Tensor& tensor) {
  if (tensor.dim() == 0) return {1};
  return Dims(tensor.sizes().begin(), tensor.sizes().end());
}
Dims strides_of(const Tensor& tensor) {
  if (tensor.dim() == 0) return {1};
  return Dims(tensor.strides().begin(), tensor.strides().end());
}

bool are_plain(std::initializer_list<Argument> tensors) {
  return std::all_of(tensors.begin(), tensors.end(),
                     [](const Argument& each) { return is_plain(each.tensor); });
}

void copy_into(const Tensor& to, const Tensor& from) {
  if (to.is_same(from)) return;
  Recording(Opcode::Copy).output(to).input(from).attribute(to.scalar_type()).record();
}

// The value as a Tensor that broadcasts.
Tensor tensor_of(const at::Scalar& value, const Tensor& like) {
  return empty_on(like, {}, like.scalar_type()).fill_(value);
}

enum class IndexShape { Full, Vector };

// Along one dimension of the target: an index for every point (Full), or one for every position
// along the dimension (Vector). The space is that of the index, or of the values.
void record_along(Opcode opcode, const Tensor& target, int64_t dim, const Tensor& index,
                  const Tensor& values, IndexShape shape, const IndexingRules& rules) {
  const Dims sizes = sizes_of(shape == IndexShape::Full ? index : values);
  Dims target_strides = strides_of(target);
  Dims value_strides = values.dim() == 0 ? Dims(sizes.size(), 0) : strides_of(values);
  Dims index_strides = strides_of(index);
  if (shape == IndexShape::Vector) {
    const int64_t stride = index_strides[0];
    index_strides.assign(sizes.size(), 0);
    index_strides[dim] = stride;
  }
  const int64_t bound = target.dim() == 0 ? 1 : target.size(dim);
  const int64_t stride = std::exchange(target_strides[dim], 0);
  record_indexing(opcode,
                  {target,
                   values,
                   sizes,
                   target_strides,
                   value_strides,
                   {{index, index_strides, bound, stride}}},
                  rules);
}

// There is no place in a dimension of size 0: known at the call.
void check_places(const Tensor& target, int64_t dim, const Tensor& index) {
  TORCH_CHECK_INDEX(index.numel() == 0 || target.dim() == 0 || target.size(dim) > 0,
                    "index is out of bounds for dimension with size 0");
}

// --- reading -------------------------------------------------------------------------------------

void gather_into(const Tensor& out, const Tensor& self, int64_t dim, const Tensor& index) {
  if (index.numel() == 0) return;
  record_along(Opcode::Gather, self, at::maybe_wrap_dim(dim, self.dim()), index, out,
               IndexShape::Full, {});
}

Tensor gather(const Tensor& self, int64_t dim, const Tensor& index, bool sparse_grad) {
  check_same_device("gather", {{self, "self"}, {index, "index"}});
  if (!are_plain({{self, "self"}, {index, "index"}})) {
    return to_host<Tensor>("aten::gather", "", self, dim, index, sparse_grad);
  }
  Inferred<at::meta::structured_gather> op;
  op.meta(self, dim, index, sparse_grad);
  gather_into(op[0], self, dim, index);
  return op[0];
}

Tensor& gather_out(const Tensor& self, int64_t dim, const Tensor& index, bool sparse_grad,
                   Tensor& out) {
  check_same_device("gather", {{out, "out"}, {self, "self"}, {index, "index"}});
  if (!are_plain({{self, "self"}, {index, "index"}, {out, "out"}})) {
    to_host<void>("aten::gather", "out", self, dim, index, sparse_grad, out);
    return out;
  }
  Inferred<at::meta::structured_gather> op(out);
  op.meta(self, dim, index, sparse_grad);
  gather_into(out, self, dim, index);
  return out;
}

// Checks, and returns the result's sizes.
Dims infer_index_select(const Tensor& self, int64_t dim, const Tensor& index) {
  const int64_t count = index.numel();
  TORCH_CHECK_INDEX(index.dim() <= 1, "index_select(): Index is supposed to be a vector");
  TORCH_CHECK(self.dim() > 0 || count == 1,
              "index_select(): Index to scalar can have only 1 value, got ", count, " value(s)");
  TORCH_CHECK(index.scalar_type() == ScalarType::Int || index.scalar_type() == ScalarType::Long,
              "index_select(): Expected dtype int32 or int64 for index");
  Dims sizes(self.sizes().begin(), self.sizes().end());
  if (self.dim() > 0) sizes[dim] = count;
  return sizes;
}

Tensor index_select(const Tensor& self, int64_t dim, const Tensor& index) {
  check_same_device("index_select", {{self, "self"}, {index, "index"}});
  dim = at::maybe_wrap_dim(dim, self.dim());
  const Dims sizes = infer_index_select(self, dim, index);
  if (!are_plain({{self, "self"}, {index, "index"}})) {
    return to_host<Tensor>("aten::index_select", "", self, dim, index);
  }
  const Tensor out = empty_on(self, sizes, self.scalar_type());
  if (out.numel() > 0) {
    record_along(Opcode::IndexSelect, self, dim, index, out, IndexShape::Vector, {});
  }
  return out;
}

Tensor& index_select_out(const Tensor& self, int64_t dim, const Tensor& index, Tensor& out) {
  check_same_device("index_select", {{out, "out"}, {self, "self"}, {index, "index"}});
  dim = at::maybe_wrap_dim(dim, self.dim());
  const Dims sizes = infer_index_select(self, dim, index);
  TORCH_CHECK(self.scalar_type() == out.scalar_type(),
              "index_select(): self and result must have the same scalar type");
  if (!are_plain({{self, "self"}, {index, "index"}, {out, "out"}})) {
    to_host<void>("aten::index_select", "out", self, dim, index, out);
    return out;
  }
  at::assert_no_internal_overlap(out);
  at::assert_no_overlap(out, self);
  at::assert_no_overlap(out, index);
  resize_output(out, sizes);
  if (out.numel() > 0) {
    record_along(Opcode::IndexSelect, self, dim, index, out, IndexShape::Vector, {});
  }
  return out;
}

// --- writing -------------------------------------------------------------------------------------

// The three forms of a structured op that begins with its input's values and then writes some.
// Op: Meta, kName and kOverload; supports(arguments) and run(out, arguments), where out holds the
// input's values.
template <class Op, class... Arguments>
struct Writing {
  static Tensor functional(const Tensor& self, Arguments... arguments) {
    if (!supports(self, arguments...)) {
      return to_host<Tensor>(Op::kName, Op::kOverload, self, arguments...);
    }
    Inferred<typename Op::Meta> op;
    op.meta(self, arguments...);
    copy_into(op[0], self);
    Op::run(op[0], arguments...);
    return op[0];
  }
  static Tensor& in_place(Tensor& self, Arguments... arguments) {
    if (!supports(self, arguments...)) {
      to_host<void>((std::string(Op::kName) + '_').c_str(), Op::kOverload, self, arguments...);
      return self;
    }
    Inferred<typename Op::Meta> op(self);
    op.meta(self, arguments...);
    Op::run(self, arguments...);
    return self;
  }
  static Tensor& out(const Tensor& self, Arguments... arguments, Tensor& out) {
    if (!supports(self, arguments...) || !is_plain(out)) {
      const std::string overload = Op::kOverload;
      to_host<void>(Op::kName, (overload.empty() ? "out" : overload + "_out").c_str(), self,
                    arguments..., out);
      return out;
    }
    Inferred<typename Op::Meta> op(out);
    op.meta(self, arguments...);
    copy_into(out, self);
    Op::run(out, arguments...);
    return out;
  }

 private:
  static bool supports(const Tensor& self, Arguments... arguments) {
    return is_plain(self) && Op::supports(self, arguments...);
  }
};

template <class Op>
bool supports_source(const Tensor& self, const Tensor& index, const Tensor& source,
                     IndexingMode mode) {
  check_same_device(Op::kName, {{self, "self"}, {index, "index"}, {source, "src"}});
  return is_plain(index) && is_plain(source) && can_reduce(self.scalar_type(), mode) &&
         (index.scalar_type() == ScalarType::Long || index.scalar_type() == ScalarType::Int);
}

void scatter_along(Opcode opcode, const Tensor& out, int64_t dim, const Tensor& index,
                   const Tensor& source, const IndexingRules& rules) {
  if (index.numel() == 0) return;
  dim = at::maybe_wrap_dim(dim, out.dim());
  check_places(out, dim, index);
  record_along(opcode, out, dim, index, source, IndexShape::Full, rules);
}

struct ScatterSource {
  using Meta = at::meta::structured_scatter_src;
  static constexpr const char* kName = "aten::scatter";
  static constexpr const char* kOverload = "src";
  static bool supports(const Tensor& self, int64_t, const Tensor& index, const Tensor& source) {
    return supports_source<ScatterSource>(self, index, source, IndexingMode::Write);
  }
  static void run(const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source) {
    scatter_along(Opcode::Scatter, out, dim, index, source, {IndexingMode::Write});
  }
};

struct ScatterValue {
  using Meta = at::meta::structured_scatter_value;
  static constexpr const char* kName = "aten::scatter";
  static constexpr const char* kOverload = "value";
  static bool supports(const Tensor& self, int64_t, const Tensor& index, const at::Scalar&) {
    return supports_source<ScatterValue>(self, index, self, IndexingMode::Write);
  }
  static void run(const Tensor& out, int64_t dim, const Tensor& index, const at::Scalar& value) {
    scatter_along(Opcode::Scatter, out, dim, index, tensor_of(value, out), {IndexingMode::Write});
  }
};

struct ScatterAdd {
  using Meta = at::meta::structured_scatter_add;
  static constexpr const char* kName = "aten::scatter_add";
  static constexpr const char* kOverload = "";
  static bool supports(const Tensor& self, int64_t, const Tensor& index, const Tensor& source) {
    return supports_source<ScatterAdd>(self, index, source, IndexingMode::Sum);
  }
  static void run(const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source) {
    scatter_along(Opcode::ScatterAdd, out, dim, index, source, {IndexingMode::Sum});
  }
};

// The older form: of sums and products, without their gradients.
IndexingMode mode_of_scatter(std::string_view reduce) {
  return reduce == "multiply" ? IndexingMode::Product : IndexingMode::Sum;
}

struct ScatterSourceReduce {
  using Meta = at::meta::structured_scatter_reduce;
  static constexpr const char* kName = "aten::scatter";
  static constexpr const char* kOverload = "reduce";
  static bool supports(const Tensor& self, int64_t, const Tensor& index, const Tensor& source,
                       std::string_view reduce) {
    return supports_source<ScatterSourceReduce>(self, index, source, mode_of_scatter(reduce));
  }
  static void run(const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source,
                  std::string_view reduce) {
    scatter_along(Opcode::ScatterReduce, out, dim, index, source, {mode_of_scatter(reduce)});
  }
};

struct ScatterValueReduce {
  using Meta = at::meta::structured_scatter_value_reduce;
  static constexpr const char* kName = "aten::scatter";
  static constexpr const char* kOverload = "value_reduce";
  static bool supports(const Tensor& self, int64_t, const Tensor& index, const at::Scalar&,
                       std::string_view reduce) {
    return supports_source<ScatterValueReduce>(self, index, self, mode_of_scatter(reduce));
  }
  static void run(const Tensor& out, int64_t dim, const Tensor& index, const at::Scalar& value,
                  std::string_view reduce) {
    scatter_along(Opcode::ScatterReduce, out, dim, index, tensor_of(value, out),
                  {mode_of_scatter(reduce)});
  }
};

struct ScatterReduce {
  using Meta = at::meta::structured_scatter_reduce_two;
  static constexpr const char* kName = "aten::scatter_reduce";
  static constexpr const char* kOverload = "two";
  // What the meta function does not know, it refuses.
  static IndexingMode mode_of(std::string_view reduce) {
    if (reduce == "prod") return IndexingMode::Product;
    if (reduce == "mean") return IndexingMode::Mean;
    if (reduce == "amax") return IndexingMode::Maximum;
    if (reduce == "amin") return IndexingMode::Minimum;
    return IndexingMode::Sum;
  }
  static bool supports(const Tensor& self, int64_t, const Tensor& index, const Tensor& source,
                       std::string_view reduce, bool) {
    return supports_source<ScatterReduce>(self, index, source, mode_of(reduce));
  }
  static void run(const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source,
                  std::string_view reduce, bool include_self) {
    IndexingRules rules{mode_of(reduce)};
    rules.include_self = include_self ? IncludeSelf::Yes : IncludeSelf::No;
    scatter_along(Opcode::ScatterReduce, out, dim, index, source, rules);
  }
};

void write_along(Opcode opcode, const Tensor& out, int64_t dim, const Tensor& index,
                 const Tensor& source, const IndexingRules& rules) {
  if (index.numel() == 0 || source.numel() == 0) return;
  dim = at::maybe_wrap_dim(dim, out.dim());
  check_places(out, dim, index);
  record_along(opcode, out, dim, index, source, IndexShape::Vector, rules);
}

struct IndexAdd {
  using Meta = at::meta::structured_index_add;
  static constexpr const char* kName = "aten::index_add";
  static constexpr const char* kOverload = "";
  static bool supports(const Tensor& self, int64_t, const Tensor& index, const Tensor& source,
                       const at::Scalar& alpha) {
    return supports_source<IndexAdd>(self, index, source, IndexingMode::Sum) &&
           (is_one(alpha) || at::result_type(source, alpha) == source.scalar_type());
  }
  static void run(const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source,
                  const at::Scalar& alpha) {
    write_along(Opcode::IndexAdd, out, dim, index, is_one(alpha) ? source : source.mul(alpha),
                {IndexingMode::Sum});
  }
  static bool is_one(const at::Scalar& alpha) {
    return alpha.isBoolean() ? alpha.to<bool>() : alpha.equal(1);
  }
};

struct IndexReduce {
  using Meta = at::meta::structured_index_reduce;
  static constexpr const char* kName = "aten::index_reduce";
  static constexpr const char* kOverload = "";
  static bool supports(const Tensor& self, int64_t, const Tensor& index, const Tensor& source,
                       std::string_view reduce, bool) {
    // The CPU's mean of whole numbers rounds down, the engine's towards zero.
    const auto mode = ScatterReduce::mode_of(reduce);
    return supports_source<IndexReduce>(self, index, source, mode) &&
           (mode != IndexingMode::Mean || at::isFloatingType(self.scalar_type()));
  }
  static void run(const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source,
                  std::string_view reduce, bool include_self) {
    IndexingRules rules{ScatterReduce::mode_of(reduce)};
    rules.include_self = include_self ? IncludeSelf::Yes : IncludeSelf::No;
    write_along(Opcode::ScatterReduce, out, dim, index, source, rules);
  }
};

struct IndexCopy {
  using Meta = at::meta::structured_index_copy;
  static constexpr const char* kName = "aten::index_copy";
  static constexpr const char* kOverload = "";
  static bool supports(const Tensor& self, int64_t, const Tensor& index, const Tensor& source) {
    return supports_source<IndexCopy>(self, index, source, IndexingMode::Write);
  }
  static void run(const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source) {
    write_along(Opcode::IndexCopy, out, dim, index, source, {IndexingMode::Write});
  }
};

template <class Op>
using Scatters = Writing<Op, int64_t, const Tensor&, const Tensor&>;
using ScattersValue = Writing<ScatterValue, int64_t, const Tensor&, const at::Scalar&>;
using ScatterReduces =
    Writing<ScatterReduce, int64_t, const Tensor&, const Tensor&, std::string_view, bool>;
using IndexReduces =
    Writing<IndexReduce, int64_t, const Tensor&, const Tensor&, std::string_view, bool>;
using ScattersSourceReduce =
    Writing<ScatterSourceReduce, int64_t, const Tensor&, const Tensor&, std::string_view>;
using ScattersValueReduce =
    Writing<ScatterValueReduce, int64_t, const Tensor&, const at::Scalar&, std::string_view>;
using IndexAdds = Writing<IndexAdd, int64_t, const Tensor&, const Tensor&, const at::Scalar&>;

// The checks of index_fill_; the dimension, wrapped.
int64_t check_index_fill(const Tensor& self, int64_t dim, const Tensor& index) {
  TORCH_CHECK_INDEX(index.scalar_type() == ScalarType::Long,
                    "index_fill_(): Expected dtype int64 for index.");
  TORCH_CHECK(self.device() == index.device(),
              "index_fill_(): self and index value tensors should have same device type, but got "
              "self tensor device type ",
              self.device(), " and index value tensor device type ", index.device());
  at::assert_no_overlap(self, index);
  dim = at::maybe_wrap_dim(dim, self.dim());
  TORCH_CHECK(index.dim() <= 1, "Index has to be a vector/scalar");
  return dim;
}

// `value` broadcasts.
void fill_along(const Tensor& self, int64_t dim, const Tensor& index, const Tensor& value) {
  if (self.numel() == 0 || index.numel() == 0) return;
  Dims sizes = sizes_of(self);
  sizes[dim] = index.numel();
  const Tensor source = value.expand(self.dim() == 0 ? IntArrayRef{} : IntArrayRef(sizes));
  record_along(Opcode::IndexFill, self, dim, index, source, IndexShape::Vector,
               {IndexingMode::Write, NegativeIndex::Wraps});
}

Tensor& index_fill_scalar(Tensor& self, int64_t dim, const Tensor& index, const at::Scalar& value) {
  const int64_t wrapped = check_index_fill(self, dim, index);
  TORCH_CHECK(self.is_complex() || !value.isComplex(),
              "index_fill_(): Converting complex Scalar to non-complex type is not supported");
  if (!is_plain(self) || !is_plain(index) ||
      at::has_internal_overlap(self) == at::MemOverlap::Yes) {
    to_host<void>("aten::index_fill_", "int_Scalar", self, dim, index, value);
    return self;
  }
  fill_along(self, wrapped, index, tensor_of(value, self));
  return self;
}

Tensor& index_fill_tensor(Tensor& self, int64_t dim, const Tensor& index, const Tensor& value) {
  TORCH_CHECK(value.dim() == 0,
              "index_fill_ only supports a 0-dimensional value tensor, but got tensor with ",
              value.dim(), " dimension(s).");
  if (value.device().is_cpu()) return index_fill_scalar(self, dim, index, value.item());
  const int64_t wrapped = check_index_fill(self, dim, index);
  TORCH_CHECK(self.is_complex() || !value.is_complex(),
              "index_fill_(): Converting complex Scalar to non-complex type is not supported");
  if (!are_plain({{self, "self"}, {index, "index"}, {value, "value"}}) ||
      at::has_internal_overlap(self) == at::MemOverlap::Yes) {
    to_host<void>("aten::index_fill_", "int_Tensor", self, dim, index, value);
    return self;
  }
  // A copy, should it lie in self.
  fill_along(self, wrapped, index, value.to(self.scalar_type(), false, true));
  return self;
}

// --- advanced indexing ---------------------------------------------------------------------------

// PyTorch's own rules for a list of indices, masks and gaps: the result, and an iterator over it,
// the tensor indexed and the indices, in one space.
class IndexResult final : public at::meta::structured_index_Tensor {
 public:
  explicit IndexResult(const Tensor& given = {}) : result_(given) {}

  const Tensor& tensor() const { return result_; }
  void record(const Tensor& self, const meta_return_ty& places) const;

  const Tensor& maybe_get_output(int64_t) override { return result_; }
  void set_output_raw_strided(int64_t i, IntArrayRef sizes, IntArrayRef strides,
                              at::TensorOptions options) override {
    if (result_.defined()) {
      resize_output(result_, sizes);
    } else {
      result_ = empty_as_inferred(sizes, strides, options);
    }
    structured_index_Tensor::set_output_raw_strided(i, sizes, strides, options);
  }

 private:
  Tensor result_;
};

void IndexResult::record(const Tensor& self, const meta_return_ty& places) const {
  if (numel() == 0) return;
  // The iterator counts in bytes, and from the innermost dimension.
  auto strides_of = [&](int operand) {
    Dims result;
    const auto size = static_cast<int64_t>(TensorIteratorBase::tensor(operand).itemsize());
    for (int dim = ndim(); dim-- > 0;) result.push_back(strides(operand)[dim] / size);
    return result;
  };
  const Dims sizes(shape().rbegin(), shape().rend());
  const Dims value_strides = strides_of(0), target_strides = strides_of(1);
  const auto count = static_cast<size_t>(ninputs() - 1);
  IndexingSpace space{self, result_, sizes, target_strides, value_strides, {}};
  std::vector<Dims> index_strides(count);
  for (size_t k = 0; k < count; ++k) {
    const int operand = static_cast<int>(k) + 2;
    index_strides[k] = strides_of(operand);
    space.indices.push_back({TensorIteratorBase::tensor(operand), index_strides[k], places.sizes[k],
                             places.strides[k] / static_cast<int64_t>(self.itemsize())});
  }
  record_indexing(Opcode::Index, space, {IndexingMode::Read, NegativeIndex::Wraps});
}

bool on_one_device(const Tensor& self, at::IOptTensorListRef indices) {
  for (const auto& index : indices) {
    if (index.has_value() && index->defined() && !is_plain(*index) && !index->is_cpu()) {
      return false;
    }
  }
  return is_plain(self);
}

// A mask becomes the positions where it is true, which is a value to wait for.
Tensor index(const Tensor& self, const c10::List<OptionalTensor>& indices) {
  TORCH_CHECK(self.device().is_privateuseone(),
              "indices should be either on cpu or on the same device as the indexed tensor (",
              self.device(), ")");
  TORCH_CHECK_INDEX(static_cast<int64_t>(indices.size()) <= self.dim(),
                    "too many indices for tensor of dimension ", self.dim(), " (got ",
                    indices.size(), ")");
  if (!on_one_device(self, indices)) {
    c10::List<OptionalTensor> positions;
    for (Tensor& position : at::native::expandTensors(self, indices)) {
      positions.push_back(position.defined() ? OptionalTensor(std::move(position)) : std::nullopt);
    }
    return to_host<Tensor>("aten::index", "Tensor", self, positions);
  }
  IndexResult result;
  result.record(self, result.meta(self, indices));
  return result.tensor();
}

Tensor& index_out(const Tensor& self, const c10::List<OptionalTensor>& indices, Tensor& out) {
  check_same_device("index", {{out, "out"}, {self, "self"}});
  if (!on_one_device(self, indices) || !is_plain(out)) {
    to_host<void>("aten::index", "Tensor_out", self, indices, out);
    return out;
  }
  IndexResult result(out);
  result.record(self, result.meta(self, indices));
  return out;
}

// As at::native::make_info() and make_index_put_iterator() do, which are not LibTorch's to call.
void record_put(const Tensor& self, const c10::List<OptionalTensor>& indices, const Tensor& values,
                IndexingMode mode) {
  at::native::checkIndexTensorTypes(indices, /*allow_int=*/true);
  std::vector<Tensor> positions = at::native::expandTensors(self, indices, true);
  try {
    positions = at::expand_outplace(positions);
  } catch (const std::exception&) {
    TORCH_CHECK_INDEX(false,
                      "shape mismatch: indexing tensors could not be broadcast together with "
                      "shapes ",
                      at::native::shapes_as_str(positions));
  }
  positions.resize(static_cast<size_t>(self.dim()));
  Tensor target = self;
  if (!at::native::hasContiguousSubspace(positions)) {
    std::tie(target, positions) = at::native::transposeToFront(self, positions);
  }
  // The dimensions indexed are one run; in their stead the space has those of the indices.
  const auto is_index = [](const Tensor& tensor) { return tensor.defined(); };
  const auto first = std::find_if(positions.begin(), positions.end(), is_index);
  if (first == positions.end()) return static_cast<void>(target.copy_(values));
  const auto before = static_cast<size_t>(first - positions.begin());
  const auto count =
      static_cast<size_t>(std::count_if(positions.begin(), positions.end(), is_index));
  const IntArrayRef index_sizes = first->sizes();
  auto replaced = [&](IntArrayRef dims, IntArrayRef in_place) {
    Dims result(dims.begin(), dims.begin() + before);
    result.append(in_place.begin(), in_place.end());
    result.append(dims.begin() + before + count, dims.end());
    return result;
  };
  const Dims nothing(index_sizes.size(), 0), no_target(static_cast<size_t>(target.dim()), 0);
  const Dims sizes = replaced(target.sizes(), index_sizes);
  TORCH_CHECK(at::is_expandable_to(values.sizes(), sizes), "shape mismatch: value tensor of shape ",
              values.sizes(), " cannot be broadcast to indexing result of shape ",
              IntArrayRef(sizes));
  for (size_t k = 0; k < count; ++k) check_places(target, static_cast<int64_t>(before + k), *first);
  const Tensor source = values.expand(sizes);
  if (source.numel() == 0) return;
  const Dims target_strides = replaced(target.strides(), nothing);
  std::vector<Dims> index_strides(count);
  IndexingSpace space{self, source, sizes, target_strides, source.strides(), {}};
  for (size_t k = 0; k < count; ++k) {
    const Tensor& position = positions[before + k];
    index_strides[k] = replaced(no_target, position.strides());
    const auto dim = static_cast<int64_t>(before + k);
    space.indices.push_back({position, index_strides[k], target.size(dim), target.stride(dim)});
  }
  record_indexing(Opcode::IndexPut, space, {mode, NegativeIndex::Wraps});
}

Tensor& index_put_impl(Tensor& self, const c10::List<OptionalTensor>& indices, const Tensor& values,
                       bool accumulate, bool unsafe) {
  TORCH_CHECK_INDEX(static_cast<int64_t>(indices.size()) <= self.dim(),
                    "too many indices for tensor of dimension ", self.dim(), " (got ",
                    indices.size(), ")");
  const auto mode = accumulate ? IndexingMode::Sum : IndexingMode::Write;
  if (!on_one_device(self, indices) || values.is_conj() || values.is_neg() ||
      !can_reduce(self.scalar_type(), mode) ||
      at::has_internal_overlap(self) == at::MemOverlap::Yes) {
    to_host<void>("aten::_index_put_impl_", "", self, indices, values, accumulate, unsafe);
    return self;
  }
  if (!accumulate) {
    auto [is_mask, mask] = at::native::canDispatchToMaskedFill(self, indices, values);
    if (is_mask) return self.masked_fill_(mask, values.item());
  }
  const bool is_cpu_scalar = values.device() != self.device() && values.dim() == 0;
  const Tensor there = is_cpu_scalar ? values.to(self.device()) : values;
  check_same_device("index_put_", {{self, "self"}, {there, "values"}});
  at::assert_no_overlap(self, there);
  for (const auto& each : indices) {
    const OptionalTensor position = each;
    if (position && position->defined()) at::assert_no_overlap(self, *position);
  }
  TORCH_CHECK(values.scalar_type() == self.scalar_type(),
              "Index put requires the source and destination dtypes match, got ",
              self.scalar_type(), " for the destination and ", values.scalar_type(),
              " for the source.");
  record_put(self, indices, there, mode);
  return self;
}

// --- flat indices --------------------------------------------------------------------------------

// Every element of index names one of a contiguous target; values have the index' sizes.
void record_flat(Opcode opcode, const Tensor& target, const Tensor& index, const Tensor& values,
                 IndexingMode mode) {
  const Dims nothing(index.dim(), 0);
  record_indexing(opcode,
                  {target,
                   values,
                   index.sizes(),
                   nothing,
                   values.strides(),
                   {{index, index.strides(), target.numel(), 1}}},
                  {mode, NegativeIndex::Wraps});
}

Tensor& take_out(const Tensor& self, const Tensor& index, Tensor& out) {
  TORCH_CHECK(index.scalar_type() == ScalarType::Long,
              "take(): Expected a long tensor for index, but got ", index.scalar_type());
  TORCH_CHECK(self.scalar_type() == out.scalar_type(),
              "take(): self and out expected to have the same dtype, but got self.dtype = ",
              self.scalar_type(), " and out.dtype = ", out.scalar_type());
  TORCH_CHECK(self.device() == out.device() && self.device() == index.device(),
              "take(): self, index and out expected to be in the same device, but got "
              "self.device = ",
              self.device(), ", index.device = ", index.device(),
              ", and out.device = ", out.device());
  TORCH_CHECK_INDEX(self.numel() > 0 || index.numel() == 0,
                    "take(): tried to take from an empty tensor");
  if (!are_plain({{self, "self"}, {index, "index"}, {out, "out"}})) {
    to_host<void>("aten::take", "out", self, index, out);
    return out;
  }
  at::assert_no_internal_overlap(out);
  at::assert_no_overlap(out, index);
  at::assert_no_overlap(out, self);
  resize_output(out, index.sizes());
  record_flat(Opcode::Take, self.contiguous(), index, out, IndexingMode::Read);
  return out;
}

Tensor take(const Tensor& self, const Tensor& index) {
  Tensor out = empty_on(self, index.sizes(), self.scalar_type());
  return take_out(self, index, out);
}

Tensor& put_(Tensor& self, const Tensor& index, const Tensor& source, bool accumulate) {
  TORCH_CHECK(index.scalar_type() == ScalarType::Long,
              "put_(): Expected a long tensor for index, but got ", index.scalar_type());
  TORCH_CHECK(self.scalar_type() == source.scalar_type(),
              "put_(): self and source expected to have the same dtype, but got self.dtype = ",
              self.scalar_type(), " and source.dtype = ", source.scalar_type());
  TORCH_CHECK(self.device() == source.device() && self.device() == index.device(),
              "put_(): self, index and source expected to be in the same device, but got "
              "self.device = ",
              self.device(), ", index.device = ", index.device(),
              ", and source.device = ", source.device());
  TORCH_CHECK_INDEX(source.numel() == index.numel(),
                    "put_(): Expected source and index to have the same number of elements, but "
                    "got source.numel() = ",
                    source.numel(), ", index.numel() = ", index.numel());
  TORCH_CHECK_INDEX(self.numel() > 0 || index.numel() == 0,
                    "put_(): Tried to put elements into an empty tensor");
  const auto mode = accumulate ? IndexingMode::Sum : IndexingMode::Write;
  if (!are_plain({{self, "self"}, {index, "index"}, {source, "source"}}) || !self.is_contiguous() ||
      !can_reduce(self.scalar_type(), mode)) {
    to_host<void>("aten::put_", "", self, index, source, accumulate);
    return self;
  }
  at::assert_no_internal_overlap(self);
  at::assert_no_overlap(self, index);
  at::assert_no_overlap(self, source);
  if (index.numel() > 0) {
    record_flat(Opcode::Put, self, index, source.reshape(index.sizes()), mode);
  }
  return self;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("gather", TORCH_FN(gather));
  m.impl("gather.out", TORCH_FN(gather_out));
  m.impl("index_select", TORCH_FN(index_select));
  m.impl("index_select.out", TORCH_FN(index_select_out));
  m.impl("take", TORCH_FN(take));
  m.impl("take.out", TORCH_FN(take_out));
  m.impl("index.Tensor", TORCH_FN(index));
  m.impl("index.Tensor_out", TORCH_FN(index_out));
  m.impl("scatter.src", TORCH_FN(Scatters<ScatterSource>::functional));
  m.impl("scatter_.src", TORCH_FN(Scatters<ScatterSource>::in_place));
  m.impl("scatter.src_out", TORCH_FN(Scatters<ScatterSource>::out));
  m.impl("scatter.value", TORCH_FN(ScattersValue::functional));
  m.impl("scatter_.value", TORCH_FN(ScattersValue::in_place));
  m.impl("scatter.value_out", TORCH_FN(ScattersValue::out));
  m.impl("scatter_add", TORCH_FN(Scatters<ScatterAdd>::functional));
  m.impl("scatter_add_", TORCH_FN(Scatters<ScatterAdd>::in_place));
  m.impl("scatter_add.out", TORCH_FN(Scatters<ScatterAdd>::out));
  m.impl("scatter_reduce.two", TORCH_FN(ScatterReduces::functional));
  m.impl("scatter_reduce_.two", TORCH_FN(ScatterReduces::in_place));
  m.impl("scatter_reduce.two_out", TORCH_FN(ScatterReduces::out));
  m.impl("index_add", TORCH_FN(IndexAdds::functional));
  m.impl("index_add_", TORCH_FN(IndexAdds::in_place));
  m.impl("index_add.out", TORCH_FN(IndexAdds::out));
  m.impl("index_reduce", TORCH_FN(IndexReduces::functional));
  m.impl("index_reduce_", TORCH_FN(IndexReduces::in_place));
  m.impl("index_reduce.out", TORCH_FN(IndexReduces::out));
  m.impl("scatter.reduce", TORCH_FN(ScattersSourceReduce::functional));
  m.impl("scatter_.reduce", TORCH_FN(ScattersSourceReduce::in_place));
  m.impl("scatter.reduce_out", TORCH_FN(ScattersSourceReduce::out));
  m.impl("scatter.value_reduce", TORCH_FN(ScattersValueReduce::functional));
  m.impl("scatter_.value_reduce", TORCH_FN(ScattersValueReduce::in_place));
  m.impl("scatter.value_reduce_out", TORCH_FN(ScattersValueReduce::out));
  m.impl("index_copy", TORCH_FN(Scatters<IndexCopy>::functional));
  m.impl("index_copy_", TORCH_FN(Scatters<IndexCopy>::in_place));
  m.impl("index_copy.out", TORCH_FN(Scatters<IndexCopy>::out));
  m.impl("index_fill_.int_Scalar", TORCH_FN(index_fill_scalar));
  m.impl("index_fill_.int_Tensor", TORCH_FN(index_fill_tensor));
  m.impl("_index_put_impl_", TORCH_FN(index_put_impl));
  m.impl("put_", TORCH_FN(put_));
}

}  // namespace accel::aten
