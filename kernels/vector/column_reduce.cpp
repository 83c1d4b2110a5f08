// Traversal of ColumnReduce programs: bias gradients, the weight gradients of norms, sums over the
// first dimensions. Called by run() only. reduce.h states the order of the sums.
#include <algorithm>
#include <cstdlib>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/vector/space.h"

namespace accel::kernels::vector {

namespace {

// Columns side by side in memory are taken a tile wide, four tiles next to each other, so that a
// task reads up to 4 KiB of F32 in a row.
constexpr int kGroup = 4;
// Width where rows, not columns, lie side by side: tiles are square then.
constexpr int kBlockSide = 16;
// Groups of columns a task of the phases over kept indices takes.
constexpr int64_t kTaskSlabs = 16;

struct ColumnProgram {
  const Program& program;
  const Prepared& prepared;
  const Scalar* scalars;
  Dims reduced, kept;
  int64_t rows, columns;  // reduced and kept elements
  int64_t width;          // of a slab: columns along the last kept dimension
  char* base[kMaxOperands];
  Op reductions[kMaxSlots];

  int operands() const { return kept.operands; }
  int slots() const { return static_cast<int>(program.slots.size()); }
  const Reducer& reducer(int slot) const {
    return prepared.engine->reducer(reductions[slot], program.slots[slot]);
  }
  int64_t slabs_per_run() const { return (kept.last_size() + width - 1) / width; }
  int64_t slabs() const { return columns == 0 ? 0 : columns / kept.last_size() * slabs_per_run(); }
};

// A stretch of columns along the last kept dimension.
struct Slab {
  int64_t first = 0;   // column
  int64_t column = 0;  // index along the last kept dimension
  int columns = 0;
  char* address[kMaxOperands];  // of its first column in row 0
};

void find_slab(const ColumnProgram& column_program, int64_t number, Slab& slab) {
  const Dims& kept = column_program.kept;
  const int64_t per_run = column_program.slabs_per_run();
  slab.column = number % per_run * column_program.width;
  slab.first = number / per_run * kept.last_size() + slab.column;
  slab.columns = static_cast<int>(std::min(column_program.width, kept.last_size() - slab.column));
  int64_t index[kMaxDims];
  unravel(kept, slab.first, index);
  locate(kept, index, column_program.base, slab.address);
}

bool rows_side_by_side(const ColumnProgram& column_program) {
  for (int o = 0; o < column_program.operands(); ++o) {
    const int64_t along = std::abs(column_program.kept.last_stride(o));
    const int64_t across = std::abs(column_program.reduced.last_stride(o));
    if (along > size_of(column_program.program.operands[o]) && across != 0 && across < along) {
      return true;
    }
  }
  return false;
}

struct ColumnWorkspace : Workspace {
  ColumnState states[kMaxSlots][kGroup];

  explicit ColumnWorkspace(const ColumnProgram& column_program)
      : Workspace(column_program.program, column_program.prepared, column_program.scalars) {}
};

// The phase over elements for rows [begin, end) of some slabs; totals of slot s go to
// partials[s * columns + column].
void reduce_rows(const ColumnProgram& column_program, int phase, int64_t begin, int64_t end,
                 const Slab* slabs, int slab_count, Total* partials) {
  ColumnWorkspace work(column_program);
  const Dims& reduced = column_program.reduced;
  int widest = 1;
  for (int g = 0; g < slab_count; ++g) {
    widest = std::max(widest, slabs[g].columns);
    for (int s = 0; s < column_program.slots(); ++s) {
      column_program.reducer(s).start_columns(work.states[s][g]);
    }
  }
  for (int o = 0; o < column_program.operands(); ++o) {
    work.operands[o].row_stride = reduced.last_stride(o);
    work.operands[o].column_stride = column_program.kept.last_stride(o);
  }
  work.frame.reduce_into = ReduceInto::ColumnState;
  work.frame.linear_stride = column_program.columns;
  int64_t index[kMaxDims];
  unravel(reduced, begin, index);
  const int last = reduced.count - 1;
  for (int64_t row = begin; row < end;) {
    const int64_t run = last >= 0 ? reduced.sizes[last] - index[last] : 1;
    const int rows = static_cast<int>(std::min<int64_t>({kTileElements / widest, end - row, run}));
    for (int g = 0; g < slab_count; ++g) {
      const Slab& slab = slabs[g];
      char* address[kMaxOperands];
      locate(reduced, index, slab.address, address);
      for (int o = 0; o < column_program.operands(); ++o) work.operands[o].data = address[o];
      for (int s = 0; s < column_program.slots(); ++s) {
        work.frame.column_states[s] = &work.states[s][g];
      }
      work.frame.set_shape(rows, slab.columns);
      work.frame.row_length = slab.columns;
      work.frame.linear_index = row * column_program.columns + slab.first;
      work.frame.column_index = slab.column;
      work.run_steps(column_program.prepared.begin(phase), column_program.prepared.end(phase));
    }
    row += rows;
    if (last < 0) continue;
    index[last] += rows;
    for (int d = last; d > 0 && index[d] == reduced.sizes[d]; --d) {
      index[d] = 0;
      ++index[d - 1];
    }
  }
  for (int g = 0; g < slab_count; ++g) {
    for (int s = 0; s < column_program.slots(); ++s) {
      Total* totals = partials + s * column_program.columns + slabs[g].first;
      column_program.reducer(s).finish_columns(work.states[s][g], slabs[g].columns, totals);
    }
  }
}

}  // namespace

void run_column_reduce(const Program& program, const Prepared& prepared, const Space& space,
                       const Operand* operands, const Scalar* scalars) {
  const int count = static_cast<int>(program.operands.size());
  const int reduced_dims = space.dims - space.kept;
  // The innermost dimension is a kept one, in both kinds of phases.
  const bool stays = last_dim(program, Over::Elements) == LastDim::Stays ||
                     last_dim(program, Over::Kept) == LastDim::Stays;
  ColumnProgram column_program{program,
                               prepared,
                               scalars,
                               make_dims(space, operands, count, 0, reduced_dims, LastDim::Merges),
                               make_dims(space, operands, count, reduced_dims, space.dims,
                                         stays ? LastDim::Stays : LastDim::Merges),
                               0,
                               0,
                               0,
                               {},
                               {}};
  column_program.rows = column_program.reduced.elements();
  column_program.columns = column_program.kept.elements();
  column_program.width = rows_side_by_side(column_program) ? kBlockSide : kTileElements;
  for (int o = 0; o < count; ++o) column_program.base[o] = operands[o].data;
  find_reductions(program, column_program.reductions);

  const int64_t group_rows = block_group(column_program.columns) * kBlockRows;
  const int64_t row_groups = (column_program.rows + group_rows - 1) / group_rows;
  const int64_t slabs = column_program.slabs();
  const int64_t slab_groups = (slabs + kGroup - 1) / kGroup;
  const int64_t partial_stride = column_program.columns * column_program.slots();
  Total* partials = static_cast<Total*>(
      scratch(ScratchSlot::A, sizeof(Total) * std::max<int64_t>(1, row_groups * partial_stride)));

  const int phases = static_cast<int>(program.phases.size());
  for (int phase = 0; phase < phases; ++phase) {
    if (program.phases[phase].over == Over::Kept) continue;
    parallel_for(row_groups * slab_groups, [&](int64_t task) {
      const int64_t row_group = task / slab_groups, first_slab = task % slab_groups * kGroup;
      const int slab_count = static_cast<int>(std::min<int64_t>(kGroup, slabs - first_slab));
      Slab group[kGroup];
      for (int g = 0; g < slab_count; ++g) find_slab(column_program, first_slab + g, group[g]);
      const int64_t begin = row_group * group_rows;
      reduce_rows(column_program, phase, begin, std::min(column_program.rows, begin + group_rows),
                  group, slab_count, partials + row_group * partial_stride);
    });
  }

  parallel_for((slabs + kTaskSlabs - 1) / kTaskSlabs, [&](int64_t task) {
    Workspace work(program, prepared, scalars);
    alignas(64) char slots[kMaxSlots][kRegisterBytes];
    const int64_t end = std::min(slabs, (task + 1) * kTaskSlabs);
    for (int64_t number = task * kTaskSlabs; number < end; ++number) {
      Slab slab;
      find_slab(column_program, number, slab);
      for (int s = 0; s < column_program.slots(); ++s) {
        work.frame.slots[s] = slots[s];
        column_program.reducer(s).combine(partials + s * column_program.columns + slab.first,
                                          row_groups, partial_stride, 1, slab.columns, slots[s]);
      }
      for (int o = 0; o < count; ++o) {
        work.operands[o] = {slab.address[o], 0, column_program.kept.last_stride(o)};
      }
      work.frame.set_shape(1, slab.columns);
      work.frame.row_length = 1;
      work.frame.linear_index = slab.first;
      work.frame.linear_stride = slab.columns;
      work.frame.column_index = slab.column;
      for (int phase = 0; phase < phases; ++phase) {
        if (program.phases[phase].over != Over::Kept) continue;
        work.run_steps(column_program.prepared.begin(phase), column_program.prepared.end(phase));
      }
    }
  });
}

}  // namespace accel::kernels::vector
