// Connectionist temporal classification: how likely a target is, over all its alignments with the
// frames (Graves et al., 2006).
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/fault.h"

namespace accel::kernels {

// Sample b has input_lengths[b] frames and target_lengths[b] labels. Its extended target s has a
// blank before, between and behind the labels: 2 labels + 1 symbols. log_alpha[b, t, s] is the log
// probability of all alignments of the first t + 1 frames that end in symbol s; what a sample has
// no frames or symbols for is not written. A length or a label out of range is a fault, and nothing
// is computed for that sample.
struct Ctc {
  int64_t batch = 0, frames = 0, classes = 0;
  int64_t most_labels = 0;  // of any sample
  int64_t blank = 0;
  DType dtype = DType::Float32;     // or Float64
  const void* log_probs = nullptr;  // [frames, batch, classes]
  // [batch, most_labels] with these strides; or, with a batch stride of 0, all samples' labels one
  // after the other, label_count in all.
  const int64_t* labels = nullptr;
  int64_t label_batch_stride = 0, label_stride = 1, label_count = 0;
  const int64_t* input_lengths = nullptr;   // [batch]
  const int64_t* target_lengths = nullptr;  // [batch]
  void* loss = nullptr;       // [batch], the negative log likelihood; infinite where none aligns
  void* log_alpha = nullptr;  // [batch, frames, 2 most_labels + 1]
};
void ctc_loss(const Ctc& args, Fault* fault);

enum class InfiniteLoss : uint8_t { GivesNan, GivesZero };

// The gradient of the loss in log_probs, as if these were any numbers and their softmax taken: 0
// behind a sample's frames.
struct CtcBackward {
  Ctc forward;  // with its results
  InfiniteLoss infinite = InfiniteLoss::GivesNan;
  const void* grad = nullptr;  // [batch], of the loss
  void* grad_log_probs = nullptr;
};
void ctc_loss_backward(const CtcBackward& args, Fault* fault);

}  // namespace accel::kernels
