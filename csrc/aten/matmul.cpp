// Matrix products: mm, bmm, addmm, baddbmm, addmv, addr_, dot. One Matmul Node each; what is added
// to the product is a pointwise Node behind it, on the unrounded product, which fusion makes an
// epilogue.
#include <ATen/ExpandUtils.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/addr.h>
#include <ATen/ops/dot.h>
#include <ATen/ops/result_type.h>

#include "csrc/aten/matmul.h"
#include "csrc/aten/recording.h"

namespace accel::aten {

namespace {

bool multiplies(ScalarType dtype) { return is_native(dtype) && dtype != ScalarType::Bool; }

bool native(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* tensor : tensors) {
    if (!is_plain(*tensor) || !multiplies(tensor->scalar_type())) return false;
  }
  return true;
}

// A matrix as a batch of one.
struct Batched {
  explicit Batched(const Tensor& tensor) {
    if (tensor.dim() == 2) {
      sizes = {1, tensor.size(0), tensor.size(1)};
      strides = {0, tensor.stride(0), tensor.stride(1)};
    } else {
      sizes = {tensor.size(0), tensor.size(1), tensor.size(2)};
      strides = {tensor.stride(0), tensor.stride(1), tensor.stride(2)};
    }
  }
  std::array<int64_t, 3> sizes, strides;
};

// out = a @ b, 2-D or 3-D.
void record_product(const Tensor& out, const Tensor& a, const Tensor& b) {
  const Batched to(out), left(a), right(b);
  Recording(Opcode::Matmul)
      .output(out, to.sizes, to.strides)
      .input(a, left.sizes, left.strides)
      .input(b, right.sizes, right.strides)
      .attribute(a.scalar_type())
      .attribute(static_cast<uint64_t>(float32_precision()))
      .record();
}

// An output that shares memory with an input is computed aside.
bool shares_memory(const Tensor& out, std::initializer_list<const Tensor*> inputs) {
  for (const Tensor* input : inputs) {
    if (out.storage().is_alias_of(input->storage())) return true;
  }
  return false;
}

void product_into(const Tensor& out, const Tensor& a, const Tensor& b) {
  if (!shares_memory(out, {&a, &b})) return record_product(out, a, b);
  const Tensor aside = empty_on(a, out.sizes(), out.scalar_type());
  record_product(aside, a, b);
  out.copy_(aside);
}

// out = beta * bias + alpha * (a @ b). The product is kept in the accumulator's dtype, so that the
// sum is rounded once; beta 0 ignores the bias, NaNs included.
void affine_into(const Tensor& out, const Tensor& bias, const Tensor& a, const Tensor& b,
                 const at::Scalar& beta, const at::Scalar& alpha) {
  const ScalarType dtype = a.scalar_type();
  const ScalarType compute = at::isReducedFloatingType(dtype) ? ScalarType::Float : dtype;
  const bool scale_product = !alpha.equal(1);
  const bool add_bias = !beta.equal(0);
  if (!scale_product && !add_bias) return product_into(out, a, b);
  Tensor product = empty_on(a, out.sizes(), compute);
  record_product(product, a, b);
  if (scale_product) {
    const Tensor scaled = add_bias ? empty_on(a, out.sizes(), compute) : out;
    Recording(Opcode::Mul)
        .output(scaled)
        .input(product)
        .no_input()
        .attribute(compute)
        .scalar(scalar_of(alpha, compute))
        .record();
    product = scaled;
  }
  if (!add_bias) return;
  const bool one = beta.equal(1);
  Recording sum(Opcode::Add);
  sum.output(out).input(product).input(bias, out.sizes());
  sum.attribute(compute).attribute(uint64_t{one});
  if (!one) sum.scalar(scalar_of(beta, compute));
  sum.record();
}

// --- checks, in ATen's words ---------------------------------------------------------------------

void check_same_dtype(const Tensor& a, const Tensor& b) {
  TORCH_CHECK(a.scalar_type() == b.scalar_type(),
              "expected m1 and m2 to have the same dtype, but got: ", a.dtype(), " != ", b.dtype());
}

void check_device(const Tensor& a, const Tensor& b, const char* op, const char* argument) {
  TORCH_CHECK(b.device() == a.device(), "Expected all tensors to be on the same device, but got ",
              argument, " is on ", b.device(), ", different from other tensors on ", a.device(),
              " (when checking argument in method wrapper_PrivateUse1_", op, ")");
}

void check_mm(const Tensor& a, const Tensor& b) {
  TORCH_CHECK(a.dim() == 2, "mat1 must be a matrix, got ", a.dim(), "-D tensor");
  TORCH_CHECK(b.dim() == 2, "mat2 must be a matrix, got ", b.dim(), "-D tensor");
  TORCH_CHECK(a.size(1) == b.size(0), "mat1 and mat2 shapes cannot be multiplied (", a.size(0), "x",
              a.size(1), " and ", b.size(0), "x", b.size(1), ")");
}

void check_bmm(const Tensor& a, const Tensor& b) {
  TORCH_CHECK(a.dim() == 3, "batch1 must be a 3D tensor");
  TORCH_CHECK(b.dim() == 3, "batch2 must be a 3D tensor");
  TORCH_CHECK(b.size(0) == a.size(0) && b.size(1) == a.size(2),
              "Expected size for first two dimensions of batch2 tensor to be: [", a.size(0), ", ",
              a.size(2), "] but got: [", b.size(0), ", ", b.size(1), "].");
}

void check_out(const Tensor& out, const Tensor& a) {
  TORCH_CHECK(out.scalar_type() == a.scalar_type(), "Expected out tensor to have dtype ", a.dtype(),
              ", but got ", out.dtype(), " instead");
}

// --- ops -----------------------------------------------------------------------------------------

Tensor& mm_out(const Tensor& a, const Tensor& b, Tensor& out) {
  check_mm(a, b);
  check_device(a, b, "mm", "mat2");
  check_same_dtype(a, b);
  check_out(out, a);
  resize_output(out, {a.size(0), b.size(1)});
  if (!native({&a, &b, &out})) {
    to_host<Tensor>("aten::mm", "out", a, b, out);
  } else {
    product_into(out, a, b);
  }
  return out;
}

Tensor mm(const Tensor& a, const Tensor& b) {
  check_mm(a, b);
  check_device(a, b, "mm", "mat2");
  check_same_dtype(a, b);
  if (!native({&a, &b})) return to_host<Tensor>("aten::mm", "", a, b);
  const Tensor out = empty_on(a, {a.size(0), b.size(1)}, a.scalar_type());
  record_product(out, a, b);
  return out;
}

Tensor& bmm_out(const Tensor& a, const Tensor& b, Tensor& out) {
  check_bmm(a, b);
  check_device(a, b, "bmm", "mat2");
  check_same_dtype(a, b);
  check_out(out, a);
  resize_output(out, {a.size(0), a.size(1), b.size(2)});
  if (!native({&a, &b, &out})) {
    to_host<Tensor>("aten::bmm", "out", a, b, out);
  } else {
    product_into(out, a, b);
  }
  return out;
}

Tensor bmm(const Tensor& a, const Tensor& b) {
  check_bmm(a, b);
  check_device(a, b, "bmm", "mat2");
  check_same_dtype(a, b);
  if (!native({&a, &b})) return to_host<Tensor>("aten::bmm", "", a, b);
  const Tensor out = empty_on(a, {a.size(0), a.size(1), b.size(2)}, a.scalar_type());
  record_product(out, a, b);
  return out;
}

void check_bias(const Tensor& bias, const Tensor& a, IntArrayRef sizes) {
  TORCH_CHECK(bias.scalar_type() == a.scalar_type(),
              "self and mat2 must have the same dtype, but got ", bias.dtype(), " and ", a.dtype());
  TORCH_CHECK(at::is_expandable_to(bias.sizes(), sizes), "The expanded size of the tensor (",
              sizes.back(), ") must match the existing size (", bias.dim() ? bias.size(-1) : 1,
              ") at non-singleton dimension ", static_cast<int64_t>(sizes.size()) - 1,
              ".  Target sizes: ", sizes, ".  Tensor sizes: ", bias.sizes());
}

Tensor& affine_out(const char* name, const Tensor& bias, const Tensor& a, const Tensor& b,
                   IntArrayRef sizes, const at::Scalar& beta, const at::Scalar& alpha,
                   Tensor& out) {
  check_device(a, b, name, "mat2");
  check_device(a, bias, name, "self");
  check_same_dtype(a, b);
  check_bias(bias, a, sizes);
  check_out(out, a);
  if (!out.is_same(bias)) {
    resize_output(out, sizes);
  } else {
    TORCH_CHECK(out.sizes() == sizes, "Bad in-place call: input tensor size ", out.sizes(),
                " and output tensor size ", sizes, " should match");
  }
  if (!native({&a, &b, &bias, &out}) || beta.isComplex() || alpha.isComplex()) {
    to_host<Tensor>((std::string("aten::") + name).c_str(), "out", bias, a, b, beta, alpha, out);
  } else {
    affine_into(out, bias, a, b, beta, alpha);
  }
  return out;
}

Tensor& addmm_out(const Tensor& bias, const Tensor& a, const Tensor& b, const at::Scalar& beta,
                  const at::Scalar& alpha, Tensor& out) {
  check_mm(a, b);
  return affine_out("addmm", bias, a, b, {a.size(0), b.size(1)}, beta, alpha, out);
}

Tensor addmm(const Tensor& bias, const Tensor& a, const Tensor& b, const at::Scalar& beta,
             const at::Scalar& alpha) {
  check_mm(a, b);
  Tensor out = empty_on(a, {a.size(0), b.size(1)}, a.scalar_type());
  return addmm_out(bias, a, b, beta, alpha, out);
}

Tensor& addmm_(Tensor& bias, const Tensor& a, const Tensor& b, const at::Scalar& beta,
               const at::Scalar& alpha) {
  return addmm_out(bias, a, b, beta, alpha, bias);
}

Tensor& baddbmm_out(const Tensor& bias, const Tensor& a, const Tensor& b, const at::Scalar& beta,
                    const at::Scalar& alpha, Tensor& out) {
  check_bmm(a, b);
  return affine_out("baddbmm", bias, a, b, {a.size(0), a.size(1), b.size(2)}, beta, alpha, out);
}

Tensor baddbmm(const Tensor& bias, const Tensor& a, const Tensor& b, const at::Scalar& beta,
               const at::Scalar& alpha) {
  check_bmm(a, b);
  Tensor out = empty_on(a, {a.size(0), a.size(1), b.size(2)}, a.scalar_type());
  return baddbmm_out(bias, a, b, beta, alpha, out);
}

Tensor& baddbmm_(Tensor& bias, const Tensor& a, const Tensor& b, const at::Scalar& beta,
                 const at::Scalar& alpha) {
  return baddbmm_out(bias, a, b, beta, alpha, bias);
}

Tensor& addmv_out(const Tensor& bias, const Tensor& matrix, const Tensor& vector,
                  const at::Scalar& beta, const at::Scalar& alpha, Tensor& out) {
  TORCH_CHECK(matrix.dim() == 2 && vector.dim() == 1 && bias.dim() <= 1,
              "vector + matrix @ vector expected, got ", bias.dim(), ", ", matrix.dim(), ", ",
              vector.dim());
  TORCH_CHECK(
      matrix.size(1) == vector.size(0) && (matrix.size(0) == bias.numel() || bias.numel() == 1),
      "size mismatch, got input (", bias.size(0), "), mat (", matrix.size(0), "x", matrix.size(1),
      "), vec (", vector.size(0), ")");
  check_device(matrix, vector, "addmv", "vec");
  check_device(matrix, bias, "addmv", "self");
  if (!out.is_same(bias)) resize_output(out, {matrix.size(0)});
  if (!native({&matrix, &vector, &bias, &out}) || matrix.scalar_type() != vector.scalar_type()) {
    to_host<Tensor>("aten::addmv", "out", bias, matrix, vector, beta, alpha, out);
    return out;
  }
  affine_into(out.unsqueeze(1), bias.dim() ? bias.unsqueeze(1) : bias, matrix, vector.unsqueeze(1),
              beta, alpha);
  return out;
}

// PyTorch's own for a device other than CPU and CUDA would resize the input.
Tensor& addr_(Tensor& self, const Tensor& a, const Tensor& b, const at::Scalar& beta,
              const at::Scalar& alpha) {
  TORCH_CHECK(self.dim() == 2, "2D tensor expected, got ", self.dim(), "D tensor for input");
  TORCH_CHECK(a.dim() == 1 && b.dim() == 1, "vec1 and vec2 should be 1-dimensional vectors. Got ",
              a.dim(), "D and ", b.dim(), "D tensors");
  TORCH_CHECK(self.size(0) == a.size(0) && self.size(1) == b.size(0),
              "size mismatch, input: ", self.sizes(), ", v1: ", a.sizes(), ", v2: ", b.sizes());
  return self.copy_(at::addr(self, a, b, beta, alpha));
}

Tensor dot(const Tensor& a, const Tensor& b) {
  TORCH_CHECK(a.dim() == 1 && b.dim() == 1, "1D tensors expected, but got ", a.dim(), "D and ",
              b.dim(), "D tensors");
  TORCH_CHECK(a.scalar_type() == b.scalar_type(),
              "dot : expected both vectors to have same dtype, but found ", a.scalar_type(),
              " and ", b.scalar_type());
  TORCH_CHECK(a.numel() == b.numel(), "inconsistent tensor size, expected tensor [", a.numel(),
              "] and src [", b.numel(), "] to have the same number of elements, but got ",
              a.numel(), " and ", b.numel(), " elements respectively");
  check_device(a, b, "dot", "tensor");
  if (!native({&a, &b})) return to_host<Tensor>("aten::dot", "", a, b);
  const Tensor out = empty_on(a, {}, a.scalar_type());
  const std::array<int64_t, 3> one{1, 1, 1}, zero{0, 0, 0};
  Recording(Opcode::Matmul)
      .output(out, one, zero)
      .input(a, {1, 1, a.numel()}, {0, 0, a.stride(0)})
      .input(b, {1, b.numel(), 1}, {0, b.stride(0), 0})
      .attribute(a.scalar_type())
      .attribute(static_cast<uint64_t>(float32_precision()))
      .record();
  return out;
}

Tensor vdot(const Tensor& a, const Tensor& b) {
  if (a.is_complex() || b.is_complex()) return to_host<Tensor>("aten::vdot", "", a, b);
  return at::dot(a, b);
}

// The sum over a batch of products is one product with the batch in the inner dimension.
Tensor addbmm(const Tensor& bias, const Tensor& a, const Tensor& b, const at::Scalar& beta,
              const at::Scalar& alpha) {
  const bool fits =
      a.dim() == 3 && b.dim() == 3 && a.size(0) == b.size(0) && a.size(2) == b.size(1);
  if (!fits || !native({&bias, &a, &b}) || a.size(0) == 0) {
    return to_host<Tensor>("aten::addbmm", "", bias, a, b, beta, alpha);
  }
  const int64_t inner = a.size(0) * a.size(2);
  return at::addmm(bias, a.transpose(0, 1).reshape({a.size(1), inner}),
                   b.reshape({inner, b.size(2)}), beta, alpha);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("mm", TORCH_FN(mm));
  m.impl("mm.out", TORCH_FN(mm_out));
  m.impl("bmm", TORCH_FN(bmm));
  m.impl("bmm.out", TORCH_FN(bmm_out));
  m.impl("addmm", TORCH_FN(addmm));
  m.impl("addmm_", TORCH_FN(addmm_));
  m.impl("addmm.out", TORCH_FN(addmm_out));
  m.impl("baddbmm", TORCH_FN(baddbmm));
  m.impl("baddbmm_", TORCH_FN(baddbmm_));
  m.impl("baddbmm.out", TORCH_FN(baddbmm_out));
  m.impl("addr_", TORCH_FN(addr_));
  m.impl("addmv.out", TORCH_FN(addmv_out));
  m.impl("dot", TORCH_FN(dot));
  m.impl("vdot", TORCH_FN(vdot));
  m.impl("addbmm", TORCH_FN(addbmm));
}

}  // namespace accel::aten
