// The samples of a CTC loss on the team, see ctc.h.
#include "kernels/loss/ctc.h"

#include <vector>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/loss/ctc_sample.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, ctc_sample, (const Ctc& args, const CtcSample& sample), (args, sample))
ACCEL_DISPATCH(void, ctc_sample_backward, (const CtcBackward& args, const CtcSample& sample),
               (args, sample))

namespace {

// Calls body(sample) for all whose lengths and labels are in range.
template <class Body>
void for_each_sample(const Ctc& args, Fault* fault, const Body& body) {
  std::vector<int64_t> starts(static_cast<size_t>(args.batch), 0);
  if (args.label_batch_stride == 0) {
    for (int64_t b = 1; b < args.batch; ++b) {
      starts[static_cast<size_t>(b)] =
          starts[static_cast<size_t>(b - 1)] + args.target_lengths[b - 1];
    }
  }
  parallel_for(args.batch, [&](int64_t b) {
    CtcSample sample;
    sample.index = b;
    sample.frames = args.input_lengths[b];
    if (sample.frames < 0 || sample.frames > args.frames) {
      return fault->report(sample.frames, args.frames + 1);
    }
    const int64_t labels = args.target_lengths[b], start = starts[static_cast<size_t>(b)];
    const bool fits =
        args.label_batch_stride != 0 || (start >= 0 && start + labels <= args.label_count);
    if (labels < 0 || labels > args.most_labels || !fits) {
      return fault->report(labels, args.most_labels + 1);
    }
    sample.symbols = 2 * labels + 1;
    sample.labels = args.labels + b * args.label_batch_stride + start * args.label_stride;
    for (int64_t i = 0; i < labels; ++i) {
      const int64_t label = sample.labels[i * args.label_stride];
      if (label < 0 || label >= args.classes) return fault->report(label, args.classes);
    }
    body(sample);
  });
}

}  // namespace

void ctc_loss(const Ctc& args, Fault* fault) {
  for_each_sample(args, fault, [&](const CtcSample& sample) { ctc_sample(args, sample); });
}

void ctc_loss_backward(const CtcBackward& args, Fault* fault) {
  for_each_sample(args.forward, fault,
                  [&](const CtcSample& sample) { ctc_sample_backward(args, sample); });
}

}  // namespace accel::kernels
