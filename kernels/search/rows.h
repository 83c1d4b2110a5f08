// A run of values in one row, compiled per instruction set (rows.simd.cpp).
#pragma once

#include "kernels/search/search.h"

namespace accel::kernels {

void search_row(const Search& args, int64_t row, int64_t begin, int64_t end);

}  // namespace accel::kernels
