// Connectionist temporal classification (torch.nn.CTCLoss). Lengths may lie on the host or on the
// device; those on the device are read there, and nobody waits for them.
#include <numeric>

#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/TensorUtils.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/_ctc_loss.h>
#include <ATen/ops/ctc_loss.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "csrc/aten/inference.h"
#include "kernels/loss/ctc.h"

namespace accel::aten {

namespace {

using TensorPair = std::tuple<Tensor, Tensor>;

// What both directions read.
struct Arguments {
  Tensor log_probs, targets, input_lengths, target_lengths;
  int64_t most_labels, blank;
};

void check(const Tensor& log_probs, const Tensor& targets, int64_t blank) {
  constexpr at::CheckedFrom kFrom = "ctc_loss_allocate_outputs";
  const at::TensorArg log_probs_arg(log_probs, "log_probs", 1), targets_arg(targets, "targets", 2);
  at::checkScalarTypes(kFrom, targets_arg, {at::kLong, at::kInt});
  at::checkDim(kFrom, log_probs_arg, 3);
  at::checkDimRange(kFrom, targets_arg, 1, 3);
  TORCH_CHECK(blank >= 0 && blank < log_probs.size(2), "blank must be in label range");
  const ScalarType dtype = log_probs.scalar_type();
  TORCH_CHECK_NOT_IMPLEMENTED(dtype == at::kFloat || dtype == at::kDouble,
                              "\"ctc_loss_cpu\" not implemented for '", toString(dtype), "'");
  check_same_device("_ctc_loss", {{log_probs, "log_probs"}, {targets, "targets"}});
}

// What is known of lengths on the host.
void check_lengths(const Tensor& log_probs, const Tensor& targets, IntArrayRef input_lengths,
                   IntArrayRef target_lengths) {
  const int64_t batch = log_probs.size(1);
  TORCH_CHECK(static_cast<int64_t>(input_lengths.size()) == batch,
              "input_lengths must be of size batch_size");
  TORCH_CHECK(static_cast<int64_t>(target_lengths.size()) == batch,
              "target_lengths must be of size batch_size");
  for (int64_t length : input_lengths) {
    TORCH_CHECK(length >= 0 && length <= log_probs.size(0),
                "Expected input_lengths to have value at most ", log_probs.size(0),
                ", but got value ", length, " (while checking arguments for ctc_loss)");
  }
  for (int64_t length : target_lengths) {
    TORCH_CHECK(length >= 0 && (targets.dim() == 1 || length <= targets.size(1)),
                "Expected tensor to have size at least ", length, " at dimension 1, but got size ",
                targets.dim() == 1 ? 0 : targets.size(1),
                " for argument #2 'targets' (while checking arguments for ctc_loss)");
  }
  const int64_t rows =
      targets.dim() == 1 ? std::accumulate(target_lengths.begin(), target_lengths.end(), int64_t{0})
                         : batch;
  TORCH_CHECK(targets.size(0) == rows, "Expected tensor to have size ", rows,
              " at dimension 0, but got size ", targets.size(0),
              " for argument #2 'targets' (while checking arguments for ctc_loss)");
}

Arguments prepared(const Tensor& log_probs, const Tensor& targets, const Tensor& input_lengths,
                   const Tensor& target_lengths, int64_t most_labels, int64_t blank) {
  auto integers = [&](const Tensor& lengths) {
    return lengths.to(log_probs.device(), at::kLong).contiguous();
  };
  return {log_probs.contiguous(),
          targets.to(at::kLong).contiguous(),
          integers(input_lengths),
          integers(target_lengths),
          most_labels,
          blank};
}

// Concatenated targets have no stride from sample to sample.
void add(Recording& recording, const Arguments& args) {
  const Tensor& targets = args.targets;
  const bool concatenated = targets.dim() == 1;
  recording.input(args.log_probs)
      .input(targets)
      .input(args.input_lengths)
      .input(args.target_lengths)
      .attribute(args.log_probs.scalar_type())
      .attribute(static_cast<uint64_t>(args.most_labels))
      .attribute(static_cast<uint64_t>(args.blank))
      .attribute(static_cast<uint64_t>(targets.numel()))
      .attribute(static_cast<uint64_t>(concatenated ? 0 : std::max<int64_t>(1, targets.stride(0))))
      .attribute(static_cast<uint64_t>(targets.stride(-1)));
}

TensorPair forward(const Arguments& args) {
  const Tensor& log_probs = args.log_probs;
  const int64_t frames = log_probs.size(0), batch = log_probs.size(1);
  Tensor loss = empty_on(log_probs, {batch}, log_probs.scalar_type());
  Tensor log_alpha =
      empty_on(log_probs, {batch, frames, 2 * args.most_labels + 1}, log_probs.scalar_type());
  if (batch == 0) return {loss, log_alpha};
  Recording recording(Opcode::CtcLoss);
  recording.output(loss).output(log_alpha);
  add(recording, args);
  recording.record();
  return {loss, log_alpha};
}

Tensor backward(const Arguments& args, const Tensor& grad, const Tensor& loss,
                const Tensor& log_alpha, bool zero_infinity) {
  const Tensor& log_probs = args.log_probs;
  Tensor grad_log_probs = empty_on(log_probs, log_probs.sizes(), log_probs.scalar_type());
  if (grad_log_probs.numel() == 0) return grad_log_probs;
  const auto infinite =
      zero_infinity ? kernels::InfiniteLoss::GivesZero : kernels::InfiniteLoss::GivesNan;
  Recording recording(Opcode::CtcLossBackward);
  recording.output(grad_log_probs);
  add(recording, args);
  recording.input(loss)
      .input(log_alpha.contiguous())
      .input(grad.contiguous())
      .attribute(static_cast<uint64_t>(infinite))
      .record();
  return grad_log_probs;
}

// --- lengths on the host -------------------------------------------------------------------------

int64_t most(IntArrayRef lengths) {
  return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
}

Arguments prepared(const Tensor& log_probs, const Tensor& targets, IntArrayRef input_lengths,
                   IntArrayRef target_lengths, int64_t blank) {
  return prepared(log_probs, targets, at::tensor(input_lengths, at::kLong),
                  at::tensor(target_lengths, at::kLong), most(target_lengths), blank);
}

TensorPair loss_of_list(const Tensor& log_probs, const Tensor& targets, IntArrayRef input_lengths,
                        IntArrayRef target_lengths, int64_t blank, bool) {
  check(log_probs, targets, blank);
  check_lengths(log_probs, targets, input_lengths, target_lengths);
  return forward(prepared(log_probs, targets, input_lengths, target_lengths, blank));
}

Tensor gradient_of_list(const Tensor& grad, const Tensor& log_probs, const Tensor& targets,
                        IntArrayRef input_lengths, IntArrayRef target_lengths, const Tensor& loss,
                        const Tensor& log_alpha, int64_t blank, bool zero_infinity) {
  return backward(prepared(log_probs, targets, input_lengths, target_lengths, blank), grad, loss,
                  log_alpha, zero_infinity);
}

// --- lengths on the device -----------------------------------------------------------------------

// A bound of a sample's labels: the columns of a padded target, all labels of a concatenated one.
int64_t most(const Tensor& targets) { return targets.size(-1); }

TensorPair loss_of_tensor(const Tensor& log_probs, const Tensor& targets,
                          const Tensor& input_lengths, const Tensor& target_lengths, int64_t blank,
                          bool) {
  check(log_probs, targets, blank);
  for (const Tensor* lengths : {&input_lengths, &target_lengths}) {
    const char* name = lengths == &input_lengths ? "input_lengths" : "target_lengths";
    TORCH_CHECK(at::isIntegralType(lengths->scalar_type(), /*includeBool=*/false), name,
                " must be integral");
    TORCH_CHECK(lengths->numel() == log_probs.size(1), name, " must be of size batch_size");
  }
  TORCH_CHECK(targets.dim() == 1 || targets.size(0) == log_probs.size(1),
              "Expected tensor to have size ", log_probs.size(1), " at dimension 0, but got size ",
              targets.size(0),
              " for argument #2 'targets' (while checking arguments for ctc_loss)");
  return forward(prepared(log_probs, targets, input_lengths, target_lengths, most(targets), blank));
}

Tensor gradient_of_tensor(const Tensor& grad, const Tensor& log_probs, const Tensor& targets,
                          const Tensor& input_lengths, const Tensor& target_lengths,
                          const Tensor& loss, const Tensor& log_alpha, int64_t blank,
                          bool zero_infinity) {
  return backward(prepared(log_probs, targets, input_lengths, target_lengths, most(targets), blank),
                  grad, loss, log_alpha, zero_infinity);
}

// PyTorch's own composition brings lengths to the host. This one, above autograd as that is, leaves
// them where they are.
Tensor ctc_loss(const Tensor& log_probs, const Tensor& targets, const Tensor& input_lengths,
                const Tensor& target_lengths, int64_t blank, int64_t reduction,
                bool zero_infinity) {
  const bool is_traced =
      at::areAnyTensorSubclassLike({log_probs, targets, input_lengths, target_lengths});
  if (input_lengths.is_cpu() && target_lengths.is_cpu() && !is_traced) {
    TORCH_CHECK(at::isIntegralType(input_lengths.scalar_type(), false),
                "input_lengths must be integral");
    TORCH_CHECK(at::isIntegralType(target_lengths.scalar_type(), false),
                "target_lengths must be integral");
    const Tensor inputs = input_lengths.to(at::kLong).contiguous();
    const Tensor labels = target_lengths.to(at::kLong).contiguous();
    auto list = [](const Tensor& lengths) {
      return IntArrayRef(lengths.const_data_ptr<int64_t>(), static_cast<size_t>(lengths.numel()));
    };
    return at::ctc_loss(log_probs, targets, list(inputs), list(labels), blank, reduction,
                        zero_infinity);
  }
  const bool is_batch = log_probs.dim() == 3;
  Tensor loss = std::get<0>(at::_ctc_loss(is_batch ? log_probs : log_probs.unsqueeze(1), targets,
                                          input_lengths, target_lengths, blank, zero_infinity));
  if (zero_infinity) {
    loss = at::where(loss.eq(std::numeric_limits<double>::infinity()),
                     at::zeros({}, loss.options()), loss);
  }
  if (reduction == at::Reduction::Mean) {
    return loss.div(target_lengths.to(loss.device(), loss.scalar_type()).clamp_min(1)).mean();
  }
  if (reduction == at::Reduction::Sum) return loss.sum();
  return is_batch ? loss : loss.squeeze(0);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_ctc_loss", TORCH_FN(loss_of_list));
  m.impl("_ctc_loss.Tensor", TORCH_FN(loss_of_tensor));
  m.impl("_ctc_loss_backward", TORCH_FN(gradient_of_list));
  m.impl("_ctc_loss_backward.Tensor", TORCH_FN(gradient_of_tensor));
  m.impl("ctc_loss.Tensor", TORCH_FN(ctc_loss));
}

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) { m.impl("ctc_loss.Tensor", TORCH_FN(ctc_loss)); }

}  // namespace accel::aten
