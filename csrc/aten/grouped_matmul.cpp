// torch._grouped_mm (torch.nn.functional.grouped_mm): the products of a mixture of experts. Where
// groups end is read on the device, so nobody waits for how many tokens an expert got.
#include <ATen/native/GroupedMMUtils.h>
#include <ATen/ops/bmm.h>

#include "csrc/aten/inference.h"
#include "csrc/aten/matmul.h"
#include "kernels/matmul/grouped.h"

namespace accel::aten {

namespace {

using kernels::GroupedDimension;

bool is_grouped_dtype(const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  return dtype == at::kBFloat16 || dtype == at::kFloat || dtype == at::kHalf;
}

// One of the last two strides is 1, the other a multiple of 16 bytes that does not overlap.
void check_strides(const Tensor& matrix) {
  const int64_t rows = matrix.size(-2), columns = matrix.size(-1);
  const int64_t row_stride = matrix.stride(-2), column_stride = matrix.stride(-1);
  const bool is_transposed = row_stride == 1 && column_stride >= std::max<int64_t>(1, rows);
  const bool is_dense = column_stride == 1 && row_stride >= std::max<int64_t>(1, columns);
  TORCH_CHECK(is_transposed || is_dense, "Invalid strides/sizes, got ", matrix.strides(),
              " for strides and ", matrix.sizes(), " for sizes");
  const int64_t stride = is_transposed ? column_stride : row_stride;
  TORCH_CHECK(stride % (16 / static_cast<int64_t>(matrix.itemsize())) == 0,
              "strides should be multiple of 16 bytes");
}

void check(const Tensor& a, const Tensor& b, const OptionalTensor& ends, const OptionalTensor& bias,
           std::optional<ScalarType> out_dtype) {
  TORCH_CHECK(is_grouped_dtype(a), "Expected mat_a to be Float32, BFloat16 or Float16 matrix, got ",
              a.scalar_type());
  TORCH_CHECK(is_grouped_dtype(b), "Expected mat_b to be Float32, BFloat16 or Float16 matrix, got ",
              b.scalar_type());
  TORCH_CHECK(a.dim() == 2 || a.dim() == 3, "mat_a has to be 2 or 3d");
  TORCH_CHECK(b.dim() == 2 || b.dim() == 3, "mat_b has to be 2 or 3d");
  const bool any_3d = a.dim() == 3 || b.dim() == 3, any_2d = a.dim() == 2 || b.dim() == 2;
  TORCH_CHECK(!any_3d || a.size(-1) == b.size(-2),
              "contraction dimension of mat_a and mat_b must match");
  check_strides(a);
  check_strides(b);
  TORCH_CHECK(ends.has_value() == any_2d,
              "Have to provide offsets if there is a 2d matrix, or no offset if both matrices are "
              "3d");
  if (ends) {
    TORCH_CHECK(ends->dim() == 1, "offs has to be 1D");
    TORCH_CHECK(ends->dtype() == at::kInt, "Offsets have to be int32");
  }
  TORCH_CHECK(!bias, "Bias not supported yet");
  TORCH_CHECK(out_dtype.value_or(a.scalar_type()) == a.scalar_type(),
              "Grouped gemm output dtype must match `mat_a` dtype");
  TORCH_CHECK(a.scalar_type() == b.scalar_type(),
              "expected m1 and m2 to have the same dtype, but got: ", a.dtype(), " != ", b.dtype());
  check_same_device("_grouped_mm", {{a, "self"}, {b, "mat2"}, {value_or_undefined(ends), "offs"}});
  // Without a group there is nothing that this could be checked by.
  TORCH_CHECK(any_3d || a.size(1) == b.size(0), "mat_a and mat_b shapes cannot be multiplied (",
              a.size(0), "x", a.size(1), " and ", b.size(0), "x", b.size(1), ")");
}

// Three dimensions; a single matrix is the first.
struct Stack {
  at::DimVector sizes, strides;
  explicit Stack(const Tensor& tensor) : sizes(tensor.sizes()), strides(tensor.strides()) {
    if (tensor.dim() == 2) {
      sizes.insert(sizes.begin(), 1);
      strides.insert(strides.begin(), 0);
    }
  }
};

Tensor grouped_mm(const Tensor& a, const Tensor& b, const OptionalTensor& ends,
                  const OptionalTensor& bias, std::optional<ScalarType> out_dtype) {
  check(a, b, ends, bias, out_dtype);
  const Tensor out = at::native::create_grouped_gemm_output_tensor(a, b, ends, a.scalar_type());
  if (!ends) {
    out.copy_(at::bmm(a, b));
    return out;
  }
  const auto divided = a.dim() == 3   ? GroupedDimension::Columns
                       : b.dim() == 3 ? GroupedDimension::Rows
                                      : GroupedDimension::Inner;
  const Stack to(out), left(a), right(b);
  Recording(Opcode::GroupedMm)
      .output(out, to.sizes, to.strides)
      .input(a, left.sizes, left.strides)
      .input(b, right.sizes, right.strides)
      .input(ends->contiguous())
      .attribute(a.scalar_type())
      .attribute(static_cast<uint64_t>(float32_precision()))
      .attribute(static_cast<uint64_t>(divided))
      .record();
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) { m.impl("_grouped_mm", TORCH_FN(grouped_mm)); }

}  // namespace accel::aten
