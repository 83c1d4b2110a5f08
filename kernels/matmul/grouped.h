// Products of groups: one matrix product a group, whose extent in one dimension is read when it
// runs. What a mixture of experts computes once tokens are sorted by expert.
#pragma once

#include "kernels/common/fault.h"
#include "kernels/matmul/matmul.h"

namespace accel::kernels {

// Which dimension of (m, n, k) the groups divide among them. The operands that have it are one
// matrix; the others have a matrix a group, batch_stride apart.
enum class GroupedDimension : uint8_t { Rows, Columns, Inner };

// Group g ends at ends[g], where g + 1 begins. Ends that descend or leave the dimension are a
// fault, and that group is not computed. Rows or columns of the output behind the last group become
// 0.
struct GroupedMatmul {
  Matmul
      matmul;  // batch: how many groups; m, n, k: whole extents; a plain output, dense in columns
  GroupedDimension grouped = GroupedDimension::Rows;
  const int32_t* ends = nullptr;  // [batch]
};
void grouped_matmul(const GroupedMatmul& args, Fault* fault);

}  // namespace accel::kernels
