// Ops that only move elements. The result is allocated, and each piece of it is one recorded copy
// into a slice, so that its producer can write there at once.
#include <ATen/EmptyTensor.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/WrapDimUtilsMulti.h>
#include <ATen/core/op_registration/adaption.h>
#include <ATen/native/TypeProperties.h>
#include <ATen/ops/cat_meta.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/pixel_unshuffle_native.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>

#include "csrc/aten/alias.h"
#include "csrc/aten/recording.h"

namespace accel::aten {

namespace {

using at::ITensorListRef;
using at::TensorList;
using Dims = c10::SmallVector<int64_t, 6>;

// Pieces are copied without a dispatch where dtypes agree or convert natively.
bool can_copy(const Tensor& to, const Tensor& from) {
  return is_plain(from) && is_plain(to) && kernels::size_of(dtype_of(to.scalar_type())) > 0 &&
         (to.scalar_type() == from.scalar_type() || (is_native(to) && is_native(from)));
}

void copy_into(const Tensor& to, const Tensor& from) {
  if (!can_copy(to, from)) {
    to.copy_(from);
    return;
  }
  Recording(Opcode::Copy).output(to).input(from, to.sizes()).attribute(to.scalar_type()).record();
}

// The part of a Tensor that begins at `start` of dimension `dim` and is `length` long.
Tensor slice_of(const Tensor& tensor, int64_t dim, int64_t start, int64_t length) {
  Dims sizes(tensor.sizes().begin(), tensor.sizes().end());
  sizes[dim] = length;
  return alias_of(tensor, tensor.scalar_type(), sizes, tensor.strides(),
                  tensor.storage_offset() + start * tensor.stride(dim));
}

// --- cat -----------------------------------------------------------------------------------------

// PyTorch's own inference and checks for cat; allocates the output, or resizes the given one.
class CatOutput final : public at::meta::structured_cat {
 public:
  explicit CatOutput(c10::Device device, const Tensor& given = {})
      : device_(device), output_(given) {}
  const Tensor& tensor() const { return output_; }
  const Tensor& maybe_get_output(int64_t) override { return output_; }
  void set_output_raw_strided(int64_t, IntArrayRef sizes, IntArrayRef,
                              at::TensorOptions options) override {
    if (!output_.defined()) {
      const c10::DeviceGuard guard(device_);
      output_ =
          at::detail::empty_generic(sizes, c10::GetAllocator(c10::kPrivateUse1),
                                    c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                    options.dtype().toScalarType(), options.memory_format_opt());
      return;
    }
    resize_output(output_, sizes);
  }
  void set_output_strided(int64_t i, IntArrayRef sizes, IntArrayRef strides,
                          at::TensorOptions options) override {
    set_output_raw_strided(i, sizes, strides, options);
  }

 private:
  c10::Device device_;
  Tensor output_;
};

c10::Device common_device(const ITensorListRef& tensors, const char* op) {
  std::optional<c10::Device> device;
  for (const Tensor& tensor : tensors) {
    c10::impl::check_and_update_common_device(device, tensor, op, "tensors");
  }
  return device.value_or(c10::Device(c10::kPrivateUse1));
}

// A vector without elements may be joined to anything: an old rule that programs rely on.
bool is_skipped(const Tensor& tensor) { return tensor.dim() == 1 && tensor.size(0) == 0; }

void cat_into(CatOutput& output, const ITensorListRef& tensors, int64_t dim) {
  const auto inferred = output.meta(tensors, dim);
  const Tensor& result = output.tensor();
  if (result.numel() == 0) return;
  int64_t start = 0;
  for (const Tensor& tensor : tensors) {
    if (is_skipped(tensor)) continue;
    const int64_t length = tensor.size(inferred.dim);
    if (tensor.numel() > 0) copy_into(slice_of(result, inferred.dim, start, length), tensor);
    start += length;
  }
}

Tensor cat(const ITensorListRef& tensors, int64_t dim) {
  CatOutput output(common_device(tensors, "cat"));
  cat_into(output, tensors, dim);
  return output.tensor();
}

Tensor& cat_out(const ITensorListRef& tensors, int64_t dim, Tensor& out) {
  std::optional<c10::Device> device = common_device(tensors, "cat");
  c10::impl::check_and_update_common_device(device, out, "cat", "out");
  CatOutput output(*device, out);
  cat_into(output, tensors, dim);
  return out;
}

// --- stack ---------------------------------------------------------------------------------------

// Whether the tensors are single elements that follow each other in memory, as the results of
// _foreach_norm do.
bool is_run_of_elements(TensorList tensors) {
  const Tensor& first = tensors[0];
  if (first.dim() != 0) return false;
  for (size_t i = 1; i < tensors.size(); ++i) {
    if (!tensors[i].storage().is_alias_of(first.storage()) ||
        tensors[i].scalar_type() != first.scalar_type() || !is_plain(tensors[i]) ||
        tensors[i].storage_offset() != first.storage_offset() + static_cast<int64_t>(i)) {
      return false;
    }
  }
  return is_plain(first);
}

struct Stack {
  int64_t dim;
  Dims sizes;
  ScalarType dtype;
};

Stack infer_stack(TensorList tensors, int64_t dim) {
  TORCH_CHECK(!tensors.empty(), "stack expects a non-empty TensorList");
  common_device(tensors, "stack");
  const Tensor& first = tensors[0];
  for (size_t i = 1; i < tensors.size(); ++i) {
    TORCH_CHECK(tensors[i].sizes() == first.sizes(),
                "stack expects each tensor to be equal size, but got ", first.sizes(),
                " at entry 0 and ", tensors[i].sizes(), " at entry ", i);
  }
  Stack stack{at::maybe_wrap_dim(dim, first.dim() + 1), {}, at::native::result_type(tensors)};
  stack.sizes.assign(first.sizes().begin(), first.sizes().end());
  stack.sizes.insert(stack.sizes.begin() + stack.dim, static_cast<int64_t>(tensors.size()));
  return stack;
}

void fill_stack(const Tensor& out, TensorList tensors, int64_t dim) {
  if (out.numel() == 0) return;
  if (is_run_of_elements(tensors)) {
    const Tensor& first = tensors[0];
    return copy_into(
        out, alias_of(first, first.scalar_type(), out.sizes(), {1}, first.storage_offset()));
  }
  Dims strides(out.strides().begin(), out.strides().end());
  strides.erase(strides.begin() + dim);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t offset = out.storage_offset() + static_cast<int64_t>(i) * out.stride(dim);
    copy_into(alias_of(out, out.scalar_type(), tensors[i].sizes(), strides, offset), tensors[i]);
  }
}

Tensor stack(TensorList tensors, int64_t dim) {
  const Stack inferred = infer_stack(tensors, dim);
  // PyTorch stacks along a dimension that is there as it joins along it, in the same format.
  if (inferred.dim < tensors[0].dim()) return cat(tensors, inferred.dim).view(inferred.sizes);
  const Tensor out = empty_on(tensors[0], inferred.sizes, inferred.dtype);
  fill_stack(out, tensors, inferred.dim);
  return out;
}

Tensor& stack_out(TensorList tensors, int64_t dim, Tensor& out) {
  const Stack inferred = infer_stack(tensors, dim);
  TORCH_CHECK(at::canCast(inferred.dtype, out.scalar_type()),
              "torch.cat(): input types can't be cast to the desired output type ",
              out.scalar_type());
  resize_output(out, inferred.sizes);
  at::assert_no_internal_overlap(out);
  for (const Tensor& tensor : tensors) at::assert_no_overlap(out, tensor);
  fill_stack(out, tensors, inferred.dim);
  return out;
}

// --- roll ----------------------------------------------------------------------------------------

// Each rolled dimension is cut in two: 2^n pieces change places.
void roll_pieces(const Tensor& out, const Tensor& self, IntArrayRef shifts, IntArrayRef dims) {
  if (dims.empty()) return copy_into(out, self);
  const int64_t dim = at::maybe_wrap_dim(dims[0], self.dim());
  const int64_t size = self.size(dim);
  const int64_t shift = ((shifts[0] % size) + size) % size;
  if (shift == 0) return roll_pieces(out, self, shifts.slice(1), dims.slice(1));
  roll_pieces(slice_of(out, dim, shift, size - shift), slice_of(self, dim, 0, size - shift),
              shifts.slice(1), dims.slice(1));
  roll_pieces(slice_of(out, dim, 0, shift), slice_of(self, dim, size - shift, shift),
              shifts.slice(1), dims.slice(1));
}

Tensor roll(const Tensor& self, IntArrayRef shifts, IntArrayRef dims) {
  constexpr size_t kMostDims = 3;
  const bool flattens = dims.empty() && shifts.size() == 1;
  bool repeats = false;
  for (size_t i = 0; i < dims.size() && !self.sizes().empty(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      repeats |= at::maybe_wrap_dim(dims[i], self.dim()) == at::maybe_wrap_dim(dims[j], self.dim());
    }
  }
  if (flattens || dims.size() != shifts.size() || dims.size() > kMostDims || repeats ||
      self.dim() == 0 || shifts.empty() || !is_plain(self) || self.numel() == 0) {
    if (flattens && self.numel() > 0) {
      return roll(self.contiguous().view(-1), shifts, {0}).view(self.sizes());
    }
    return to_host<Tensor>("aten::roll", "", self, shifts, dims);
  }
  const Tensor out = empty_on(self, self.sizes(), self.scalar_type());
  roll_pieces(out, self, shifts, dims);
  return out;
}

// The CPU's own kernel wants another word for the same mistake.
Tensor narrow_copy(const Tensor& self, int64_t dim, int64_t start, int64_t length) {
  TORCH_CHECK(dim < self.dim(), "Expected dim < self.dim() to be true, but got false.");
  return self.narrow(dim, start, length).clone(at::MemoryFormat::Contiguous);
}

// Queued work holds its Blocks whichever stream it is on: there is nothing to note.
void record_stream(Tensor&, c10::Stream) {}

Tensor channel_shuffle(const Tensor& self, int64_t groups) {
  if (self.dim() < 3 || groups <= 0 || self.size(1) % groups != 0 || self.numel() == 0) {
    return to_host<Tensor>("aten::channel_shuffle", "", self, groups);
  }
  std::vector<int64_t> split = self.sizes().vec();
  split[1] /= groups;
  split.insert(split.begin() + 1, groups);
  return self.reshape(split).transpose(1, 2).reshape(self.sizes());
}

// --- flips and pads ------------------------------------------------------------------------------

// Copies into `to` the elements of `first`'s storage that begin with its first and lie `strides`
// apart: backward where they are negative, which a Tensor's own cannot be.
void copy_along(const Tensor& to, const Tensor& first, IntArrayRef strides) {
  Recording(Opcode::Copy)
      .output(to)
      .input(first, to.sizes(), strides)
      .attribute(to.scalar_type())
      .record();
}

Tensor flip(const Tensor& self, IntArrayRef dims) {
  const auto flipped = at::dim_list_to_bitset(dims, static_cast<size_t>(self.dim()));
  Tensor result = at::empty_like(self);
  if (self.numel() == 0) return result;
  Dims strides(self.strides().begin(), self.strides().end());
  int64_t first = self.storage_offset();
  for (int64_t dim = 0; dim < self.dim(); ++dim) {
    if (!flipped[static_cast<size_t>(dim)]) continue;
    first += (self.size(dim) - 1) * strides[dim];
    strides[dim] = -strides[dim];
  }
  copy_along(result, alias_of(self, self.scalar_type(), {}, {}, first), strides);
  return result;
}

// As PyTorch traces it: in the memory format of the input.
Tensor pixel_unshuffle(const Tensor& self, int64_t factor) {
  return at::native::math_pixel_unshuffle(self, factor).contiguous(self.suggest_memory_format());
}

enum class Padding { Reflect, Replicate };

// Padding of the last `kDims` dimensions, (before, after) for each, the last dimension first.
// Dimension by dimension, in places of the unpadded one: below 0 and from its size on, elements are
// reflected or repeated; less than no padding leaves some out.
template <Padding kPadding, int kDims>
struct Pad {
  static std::string name(bool backward) {
    return std::string("aten::") +
           (kPadding == Padding::Reflect ? "reflection_pad" : "replication_pad") +
           std::to_string(kDims) + "d" + (backward ? "_backward" : "");
  }
  struct Part {
    int64_t begin, end;
    int64_t length() const { return std::max<int64_t>(0, end - begin); }
  };
  struct Side {
    Side(const Tensor& self, IntArrayRef padding, int i)
        : dim(self.dim() - 1 - i),
          size(self.size(dim)),
          before(padding[2 * i]),
          after(padding[2 * i + 1]),
          left{-before, std::min<int64_t>(0, size + after)},
          kept{std::max<int64_t>(0, -before), std::min(size, size + after)},
          right{std::max(size, -before), size + after} {}
    // The element that a part repeats, or that its first one is, from which the others go backward.
    int64_t left_source() const { return kPadding == Padding::Reflect ? -left.begin : 0; }
    int64_t right_source() const {
      return kPadding == Padding::Reflect ? 2 * (size - 1) - right.begin : size - 1;
    }
    bool is_nothing() const { return before == 0 && after == 0; }
    Tensor padded(const Tensor& tensor, Part part) const {
      return slice_of(tensor, dim, part.begin + before, part.length());
    }

    int64_t dim, size, before, after;
    Part left, kept, right;
  };
  // What does not fit the host refuses.
  static bool fits(const Tensor& self, IntArrayRef padding) {
    if (!is_plain(self) || padding.size() != 2 * kDims || self.numel() == 0) return false;
    if (self.dim() != kDims + 1 && self.dim() != kDims + 2) return false;
    for (int i = 0; i < kDims; ++i) {
      const Side side(self, padding, i);
      if (side.size + side.before + side.after < 1) return false;
      if (kPadding == Padding::Reflect && (side.before >= side.size || side.after >= side.size)) {
        return false;
      }
    }
    return true;
  }
  static void fill(const Tensor& part, const Tensor& source, int64_t first, int64_t dim) {
    if (part.size(dim) == 0) return;
    Dims strides(source.strides().begin(), source.strides().end());
    strides[dim] *= kPadding == Padding::Reflect ? -1 : 0;
    copy_along(part, slice_of(source, dim, first, 1), strides);
  }
  static Tensor forward(const Tensor& self, IntArrayRef padding) {
    if (!fits(self, padding)) return to_host<Tensor>(name(false).c_str(), "", self, padding);
    const at::MemoryFormat format =
        self.dim() == kDims + 2 ? self.suggest_memory_format() : at::MemoryFormat::Contiguous;
    Tensor result = self;
    for (int i = 0; i < kDims; ++i) {
      const Side side(self, padding, i);
      if (side.is_nothing()) continue;
      const Tensor source = result;
      Dims sizes(source.sizes().begin(), source.sizes().end());
      sizes[side.dim] += side.before + side.after;
      result = at::empty(sizes, self.options(), format);
      if (side.kept.length() > 0) {
        copy_into(side.padded(result, side.kept),
                  slice_of(source, side.dim, side.kept.begin, side.kept.length()));
      }
      fill(side.padded(result, side.left), source, side.left_source(), side.dim);
      fill(side.padded(result, side.right), source, side.right_source(), side.dim);
    }
    return result.is_same(self) ? self.clone() : result;
  }
  // Adds the gradient of what was filled in from `first` on.
  static void add_back(const Tensor& result, const Tensor& part, int64_t first, int64_t dim) {
    const int64_t length = part.size(dim);
    if (length == 0) return;
    if (kPadding == Padding::Replicate) {
      slice_of(result, dim, first, 1).add_(part.sum(dim, /*keepdim=*/true));
    } else {
      slice_of(result, dim, first - length + 1, length).add_(flip(part, dim));
    }
  }
  static Tensor backward(const Tensor& grad, const Tensor& self, IntArrayRef padding) {
    bool matches = fits(self, padding) && is_plain(grad) && grad.dim() == self.dim() &&
                   grad.scalar_type() == self.scalar_type();
    for (int i = 0; matches && i < kDims; ++i) {
      matches = grad.size(-1 - i) == self.size(-1 - i) + padding[2 * i] + padding[2 * i + 1];
    }
    if (!matches) return to_host<Tensor>(name(true).c_str(), "", grad, self, padding);
    Tensor result = grad;
    for (int i = 0; i < kDims; ++i) {
      const Side side(self, padding, i);
      if (side.is_nothing()) continue;
      const Tensor padded = result;
      Dims sizes(padded.sizes().begin(), padded.sizes().end());
      sizes[side.dim] = side.size;
      result = side.kept.length() < side.size ? at::zeros(sizes, grad.options())
                                              : empty_on(grad, sizes, grad.scalar_type());
      if (side.kept.length() > 0) {
        copy_into(slice_of(result, side.dim, side.kept.begin, side.kept.length()),
                  side.padded(padded, side.kept));
      }
      add_back(result, side.padded(padded, side.left), side.left_source(), side.dim);
      add_back(result, side.padded(padded, side.right), side.right_source(), side.dim);
    }
    return result.is_same(grad) ? grad.clone() : result;
  }

  static void register_in(torch::Library& m) {
    m.impl(name(false).c_str(), TORCH_FN(forward));
    m.impl(name(true).c_str(), TORCH_FN(backward));
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("cat", TORCH_FN(cat));
  m.impl("cat.out", TORCH_FN(cat_out));
  m.impl("stack", TORCH_FN(stack));
  m.impl("stack.out", TORCH_FN(stack_out));
  m.impl("roll", TORCH_FN(roll));
  m.impl("flip", TORCH_FN(flip));
  m.impl("pixel_unshuffle", TORCH_FN(pixel_unshuffle));
  Pad<Padding::Reflect, 1>::register_in(m);
  Pad<Padding::Reflect, 2>::register_in(m);
  Pad<Padding::Reflect, 3>::register_in(m);
  Pad<Padding::Replicate, 1>::register_in(m);
  Pad<Padding::Replicate, 2>::register_in(m);
  Pad<Padding::Replicate, 3>::register_in(m);
  m.impl("channel_shuffle", TORCH_FN(channel_shuffle));
  m.impl("narrow_copy", TORCH_FN(narrow_copy));
  // LibTorch's own out= variant asks for one of the devices it knows.
  m.impl("mode", torch::CppFunction::makeFromBoxedFunction<&host_op>());
  m.impl("mode.values", torch::CppFunction::makeFromBoxedFunction<&host_op>());
  m.impl("record_stream", TORCH_FN(record_stream));
}

}  // namespace accel::aten
