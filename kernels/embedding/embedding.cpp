// Embeddings and their gradients. The gradient sorts positions by row with a counting sort, so that
// every row of the table is summed by one thread in ascending order of position.
#include "kernels/embedding/embedding.h"

#include <algorithm>
#include <cstring>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/embedding/rows.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, sum_embedding_row,
               (const EmbeddingBackward& args, int64_t row, const int32_t* positions,
                int64_t count),
               (args, row, positions, count))

namespace {

// Memory one chunk of rows writes: about 10 µs.
constexpr int64_t kChunkBytes = 128 * 1024;

int64_t index_at(const void* indices, DType dtype, int64_t i) {
  return dtype == DType::Int32 ? static_cast<const int32_t*>(indices)[i]
                               : static_cast<const int64_t*>(indices)[i];
}

// Rows of the given width in bytes, in chunks on the team.
template <class Body>
void for_each_row(int64_t rows, int64_t row_bytes, const Body& body) {
  const int64_t per_chunk = std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(1, row_bytes));
  parallel_for((rows + per_chunk - 1) / per_chunk, [&](int64_t chunk) {
    const int64_t end = std::min(rows, (chunk + 1) * per_chunk);
    for (int64_t row = chunk * per_chunk; row < end; ++row) body(row);
  });
}

}  // namespace

void embedding(const Embedding& args, Fault* fault) {
  const int64_t element = size_of(args.dtype);
  const int64_t bytes = args.width * element;
  const char* table = static_cast<const char*>(args.table);
  for_each_row(args.count, bytes, [&](int64_t i) {
    const int64_t row = index_at(args.indices, args.index_dtype, i * args.index_stride);
    if (row < 0 || row >= args.rows) return fault->report(row, args.rows);
    const char* from = table + row * args.table_row_stride * element;
    char* to = static_cast<char*>(args.out) + i * bytes;
    if (args.table_column_stride == 1) {
      std::memcpy(to, from, static_cast<size_t>(bytes));
      return;
    }
    for (int64_t j = 0; j < args.width; ++j) {
      std::memcpy(to + j * element, from + j * args.table_column_stride * element,
                  static_cast<size_t>(element));
    }
  });
}

void embedding_backward(const EmbeddingBackward& args, Fault* fault) {
  // starts[r]: where the positions of row r begin in `positions`.
  int32_t* starts = static_cast<int32_t*>(
      scratch(ScratchSlot::B, static_cast<size_t>(args.rows + 2 + args.count) * sizeof(int32_t)));
  int32_t* positions = starts + args.rows + 2;
  std::memset(starts, 0, static_cast<size_t>(args.rows + 2) * sizeof(int32_t));
  auto row_of = [&](int64_t i) {
    const int64_t row = index_at(args.indices, args.index_dtype, i * args.index_stride);
    return row >= 0 && row < args.rows && row != args.padding_index ? row : -1;
  };
  // Counted two places ahead: filling then moves starts[r + 1] from the beginning of row r to its
  // end.
  for (int64_t i = 0; i < args.count; ++i) {
    const int64_t row = row_of(i);
    if (row >= 0) {
      ++starts[row + 2];
      continue;
    }
    const int64_t value = index_at(args.indices, args.index_dtype, i * args.index_stride);
    if (value < 0 || value >= args.rows) fault->report(value, args.rows);
  }
  for (int64_t row = 0; row < args.rows; ++row) starts[row + 2] += starts[row + 1];
  for (int64_t i = 0; i < args.count; ++i) {
    const int64_t row = row_of(i);
    if (row >= 0) positions[starts[row + 1]++] = static_cast<int32_t>(i);
  }
  const int64_t bytes = args.width * size_of(args.dtype);
  for_each_row(args.rows, bytes, [&](int64_t row) {
    const int64_t count = starts[row + 1] - starts[row];
    if (count == 0) {
      std::memset(static_cast<char*>(args.grad_table) + row * bytes, 0, static_cast<size_t>(bytes));
    } else {
      sum_embedding_row(args, row, positions + starts[row], count);
    }
  });
}

}  // namespace accel::kernels
