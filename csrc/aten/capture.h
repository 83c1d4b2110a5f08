// Capture: a piece of program whose ops are recorded once, as a Region, and called again with other
// Tensors of the same sizes and strides. torch.compile's graphs run this way.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include "csrc/graph/region.h"

namespace accel::aten {

using Tensors = c10::SmallVector<at::Tensor, 64>;

// What a capture became.
class CapturedCall {
 public:
  // inputs, outputs: the Tensors that the captured ops took and made.
  CapturedCall(int device, graph::RegionCapture& capture, c10::ArrayRef<at::Tensor> inputs,
               c10::ArrayRef<at::Tensor> outputs);

  // Whether the Tensors can stand for those of the capture: device, dtypes, sizes, strides, and
  // which of them share memory.
  bool accepts(c10::ArrayRef<at::Tensor> inputs) const;
  // Records one run on the current stream. inputs: as accepted; they are dropped before memory for
  // the outputs is taken, and the memory of those that nobody else holds is donated to the run.
  std::vector<at::Tensor> run(Tensors inputs) const;

  const graph::Region& region() const { return *region_; }

 private:
  struct Layout {
    c10::ScalarType dtype;
    c10::SmallVector<int64_t, 5> sizes, strides;
  };
  struct Input {
    Layout layout;
    size_t given;           // the Block, among those that a run gives
    int64_t position;       // bytes into the Block
    bool returned = false;  // as the storage of an output
  };
  struct Storage {
    size_t bytes, memory;  // a storage that was made smaller has more memory than bytes
  };
  struct Output {
    bool defined = false;
    int32_t input = -1;    // whose storage it shares
    int32_t storage = -1;  // else: among the fresh ones
    Layout layout;
    int64_t offset = 0;  // elements into the storage, or from where the input's elements begin
  };

  const int device_;
  std::vector<Input> inputs_;
  std::vector<Output> outputs_;
  size_t input_blocks_ = 0;
  std::vector<Storage> storages_;  // the fresh ones
  std::shared_ptr<const graph::Region> region_;
};

// While one is active, the calling thread's ops on the device are collected instead of run, on a
// stream that is not the program's. One at a time on a device.
class Capture {
 public:
  explicit Capture(int device);
  ~Capture() { end(); }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  std::shared_ptr<const CapturedCall> finish(c10::ArrayRef<at::Tensor> inputs,
                                             c10::ArrayRef<at::Tensor> outputs);
  // Without finish(), as if nothing had been recorded.
  void end();

 private:
  const int device_;
  runtime::Stream& before_;
  std::optional<graph::RegionCapture> capture_;
};

}  // namespace accel::aten
