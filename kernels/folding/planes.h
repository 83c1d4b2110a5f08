// One plane of a Folding, compiled for each instruction set.
#pragma once

#include "kernels/folding/folding.h"

namespace accel::kernels {

// The window rows of one plane and kernel row.
void unfold_rows(const Folding& args, int64_t plane, int64_t kernel_row);

// sums: where elements have 16 bits, room for a plane.
void fold_plane(const Folding& args, int64_t plane, float* sums);

}  // namespace accel::kernels
