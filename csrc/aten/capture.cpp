#include "csrc/aten/capture.h"

#include <algorithm>

#include <c10/core/DeviceGuard.h>

#include "csrc/aten/alias.h"
#include "csrc/aten/recording.h"
#include "csrc/runtime/allocator.h"
#include "csrc/runtime/stream.h"

namespace accel::aten {

namespace {

// What queued work may hold of memory that the user has let go of, when a run takes memory for
// itself. A run takes at once what eager code takes op by op, so a host that runs ahead (of a
// backward with all activations, of an optimizer with all gradients) would hold it twice; and
// while one long Command is in flight, there is nothing to be gained by queueing the next.
constexpr int64_t kHeldBytes = int64_t{16} << 20;

void wait_for_memory(runtime::Stream& stream) {
  for (uint64_t done; (done = stream.completed()) < stream.submitted();) {
    const auto stats = runtime::memory_stats(stream.device());
    if (stats.active_bytes[0].current - stats.allocated_bytes[0].current <= kHeldBytes) return;
    stream.wait(done + 1);
  }
}

}  // namespace

CapturedCall::CapturedCall(int device, graph::RegionCapture& capture, c10::ArrayRef<Tensor> inputs,
                           c10::ArrayRef<Tensor> outputs)
    : device_(device) {
  std::vector<runtime::Block*> given;
  auto slot_of = [&](runtime::Block* block) {
    const auto slot =
        static_cast<size_t>(std::find(given.begin(), given.end(), block) - given.begin());
    if (slot == given.size()) given.push_back(block);
    return slot;
  };
  auto layout_of = [](const Tensor& tensor) {
    Layout layout{tensor.scalar_type(), {}, {}};
    layout.sizes.assign(tensor.sizes().begin(), tensor.sizes().end());
    layout.strides.assign(tensor.strides().begin(), tensor.strides().end());
    return layout;
  };
  for (const Tensor& tensor : inputs) {
    TORCH_CHECK(is_plain(tensor) && tensor.device().index() == device,
                "a captured call takes strided tensors of one accel device");
    runtime::Block* block = block_of(tensor);
    const size_t slot = slot_of(block);
    inputs_.push_back({layout_of(tensor), slot, offset_in(*block, tensor)});
  }
  input_blocks_ = given.size();
  for (const Tensor& tensor : outputs) {
    Output& output = outputs_.emplace_back();
    if (!tensor.defined()) continue;
    TORCH_CHECK(is_plain(tensor) && tensor.device().index() == device,
                "a captured call makes strided tensors of one accel device");
    output.defined = true;
    output.layout = layout_of(tensor);
    runtime::Block* block = block_of(tensor);
    const size_t slot = slot_of(block);
    if (slot < input_blocks_) {
      const auto owner = std::find_if(inputs_.begin(), inputs_.end(),
                                      [&](const Input& input) { return input.given == slot; });
      TORCH_CHECK(owner->layout.dtype == output.layout.dtype,
                  "a captured call returns an input as another dtype");
      output.input = static_cast<int32_t>(owner - inputs_.begin());
      owner->returned = true;
      output.offset =
          tensor.storage_offset() - inputs[static_cast<size_t>(output.input)].storage_offset();
      continue;
    }
    TORCH_CHECK(!block->writer.load() && !block->filled_by_host.load(),
                "a captured call returns memory that it did not make");
    output.storage = static_cast<int32_t>(slot - input_blocks_);
    output.offset = tensor.storage_offset();
    storages_.resize(given.size() - input_blocks_);
    storages_[static_cast<size_t>(output.storage)] = {tensor.storage().nbytes(), block->requested};
  }
  region_ = capture.finish(given);
}

bool CapturedCall::accepts(c10::ArrayRef<Tensor> inputs) const {
  if (inputs.size() != inputs_.size()) return false;
  c10::SmallVector<runtime::Block*, 64> blocks(input_blocks_);
  c10::SmallVector<int64_t, 64> shifts(input_blocks_);
  size_t seen = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& tensor = inputs[i];
    const Input& input = inputs_[i];
    if (tensor.scalar_type() != input.layout.dtype || !is_plain(tensor) ||
        tensor.device().index() != device_ || tensor.sizes() != input.layout.sizes ||
        tensor.strides() != input.layout.strides) {
      return false;
    }
    runtime::Block* block = block_of(tensor);
    const int64_t shift = offset_in(*block, tensor) - input.position;
    if (input.given < seen) {
      if (blocks[input.given] != block || shifts[input.given] != shift) return false;
    } else {
      if (std::find(blocks.begin(), blocks.begin() + seen, block) != blocks.begin() + seen) {
        return false;
      }
      blocks[seen] = block;
      shifts[seen++] = shift;
    }
  }
  return true;
}

std::vector<Tensor> CapturedCall::run(Tensors inputs) const {
  const c10::DeviceGuard guard(
      c10::Device(c10::kPrivateUse1, static_cast<c10::DeviceIndex>(device_)));
  runtime::Stream& stream = runtime::current_stream(device_);
  std::vector<graph::Region::Given> given(input_blocks_);
  c10::SmallVector<runtime::BlockReference, 64> held(input_blocks_);
  for (size_t i = 0; i < inputs.size(); ++i) {
    runtime::Block* block = block_of(inputs[i]);
    const size_t slot = inputs_[i].given;
    if (!given[slot].block) held[slot] = runtime::BlockReference(block, stream.tail());
    given[slot] = {block, offset_in(*block, inputs[i]) - inputs_[i].position};
  }
  // While they are alive: what writes the memory of a dead Tensor is never run.
  stream.tail()->hand_over();
  // Only those that outputs are views of are needed any more.
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs_[i].returned) inputs[i].reset();
  }
  wait_for_memory(stream);
  for (const Storage& storage : storages_) given.push_back({nullptr, 0, storage.memory});
  region_->run(stream, given);
  c10::SmallVector<c10::Storage, 16> storages;
  for (size_t i = 0; i < storages_.size(); ++i) {
    storages.emplace_back(c10::Storage::use_byte_size_t(), storages_[i].bytes,
                          runtime::to_data_ptr(given[input_blocks_ + i].block, device_),
                          c10::GetAllocator(c10::kPrivateUse1), /*resizable=*/true);
  }
  std::vector<Tensor> results;
  results.reserve(outputs_.size());
  for (const Output& output : outputs_) {
    if (!output.defined) {
      results.emplace_back();
    } else if (output.input >= 0) {
      const Tensor& source = inputs[static_cast<size_t>(output.input)];
      results.push_back(alias_of(source, output.layout.dtype, output.layout.sizes,
                                 output.layout.strides, source.storage_offset() + output.offset));
    } else {
      Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
          c10::Storage(storages[static_cast<size_t>(output.storage)]),
          c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
          c10::scalarTypeToTypeMeta(output.layout.dtype));
      tensor.unsafeGetTensorImpl()->set_sizes_and_strides(output.layout.sizes,
                                                          output.layout.strides, output.offset);
      results.push_back(std::move(tensor));
    }
  }
  return results;
}

Capture::Capture(int device) : device_(device), before_(runtime::current_stream(device)) {
  runtime::Stream& stream = runtime::capture_stream(device);
  capture_.emplace(stream);
  runtime::set_current_stream(stream);
}

std::shared_ptr<const CapturedCall> Capture::finish(c10::ArrayRef<Tensor> inputs,
                                                    c10::ArrayRef<Tensor> outputs) {
  auto call = std::make_shared<const CapturedCall>(device_, *capture_, inputs, outputs);
  end();
  return call;
}

void Capture::end() {
  if (!capture_) return;
  capture_.reset();
  runtime::set_current_stream(before_);
}

}  // namespace accel::aten
