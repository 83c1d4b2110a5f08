// all_reduce of sparse COO tensors: every rank gets the elements of all, in the order of the ranks,
// and adds up those of one place. c10d registers its operator for the sparse tensors of the CPU and
// of CUDA; that of accel is registered here.
#include <ATen/ops/_sparse_coo_tensor_unsafe.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/tensor.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "csrc/distributed/process_group.h"

namespace accel::distributed {

namespace {

using at::Tensor;

// How many elements a tensor has, then its shape: what the ranks have to agree on but for the
// first.
std::vector<int64_t> describe(const Tensor& tensor) {
  std::vector<int64_t> description{tensor._nnz(), tensor.sparse_dim()};
  description.insert(description.end(), tensor.sizes().begin(), tensor.sizes().end());
  return description;
}

}  // namespace

// The host waits for the numbers of elements, as coalesce() does.
ProcessGroup::WorkPointer ProcessGroup::allreduce_sparse(Tensors& tensors,
                                                         const c10d::AllreduceOptions& options) {
  TORCH_CHECK_VALUE(tensors.size() == 1, "accl: all_reduce takes one tensor a rank, got ",
                    tensors.size());
  TORCH_CHECK_VALUE(options.reduceOp == c10d::ReduceOp::SUM,
                    "accl: unsupported reduction operation (allreduce of sparse tensors only works "
                    "with ReduceOp.SUM)");
  TORCH_CHECK_VALUE(tensors[0].layout() == at::kSparse, "accl: allreduce of sparse tensors only ",
                    "works with layout torch.sparse_coo, got ", tensors[0].layout());
  // As in other reductions, 16 bits are added up in float32.
  const at::ScalarType dtype = tensors[0].scalar_type();
  const bool is_narrow = dtype == at::kHalf || dtype == at::kBFloat16;
  const Tensor own = (is_narrow ? tensors[0].to(at::kFloat) : tensors[0]).coalesce();
  const auto gather = [&](const Tensor& part, Tensors parts) {
    TensorLists lists{std::move(parts)};
    Tensors inputs{part};
    c10d::AllgatherOptions settings;
    settings.timeout = options.timeout;
    allgather(lists, inputs, settings)->synchronize();
    return std::move(lists[0]);
  };

  const std::vector<int64_t> described = describe(own);
  const Tensor description = at::tensor(described, at::kLong).to(own.device());
  Tensors room;
  for (int rank = 0; rank < getSize(); ++rank) room.push_back(at::empty_like(description));
  Tensors all_indices, all_values;
  for (const Tensor& other : gather(description, std::move(room))) {
    const Tensor read = other.cpu();
    const at::ArrayRef<int64_t> shape(read.const_data_ptr<int64_t>(), described.size());
    TORCH_CHECK_VALUE(shape.slice(1) == at::ArrayRef<int64_t>(described).slice(1),
                      "accl: all_reduce got sparse tensors of different shapes");
    std::vector<int64_t> sizes = own._values().sizes().vec();
    sizes[0] = shape[0];
    all_indices.push_back(at::empty({own.sparse_dim(), shape[0]}, own._indices().options()));
    all_values.push_back(at::empty(sizes, own._values().options()));
  }
  const Tensor indices = at::cat(gather(own._indices(), std::move(all_indices)), 1);
  const Tensor values = at::cat(gather(own._values(), std::move(all_values)), 0);
  const Tensor sum = at::_sparse_coo_tensor_unsafe(indices, values, own.sizes()).coalesce();
  tensors[0].copy_(sum.to(dtype));

  const runtime::Stream& current = runtime::current_stream(own.device().index());
  return c10::make_intrusive<Work>(getRank(), c10d::OpType::_ALLREDUCE_SPARSE,
                                   getSequenceNumberForGroup(), std::vector<Work::Part>(), tensors,
                                   own.device(), runtime::to_c10(current), Work::Waits::Stream,
                                   options_->timeout);
}

namespace {

std::tuple<std::vector<Tensor>, c10::intrusive_ptr<c10d::Work>> all_reduce(
    at::TensorList tensors, const c10::intrusive_ptr<c10d::ProcessGroup>& group,
    const c10::intrusive_ptr<c10d::ReduceOp>& reduce_op,
    const std::optional<Tensor>& /*sparse_indices*/, bool async_op, int64_t timeout) {
  std::vector<Tensor> list = tensors.vec();
  c10d::AllreduceOptions options;
  options.reduceOp = *reduce_op;
  options.timeout = std::chrono::milliseconds(timeout);
  options.asyncOp = async_op;
  auto work = group->getBackend(c10::kPrivateUse1)->allreduce_sparse(list, options);
  return {std::move(list), std::move(work)};
}

TORCH_LIBRARY_IMPL(c10d, SparsePrivateUse1, m) { m.impl("allreduce_", all_reduce); }

}  // namespace

}  // namespace accel::distributed
