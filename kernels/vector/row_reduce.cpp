// Traversal of RowReduce programs: softmax, norms, losses, sums over the last dimensions. Called by
// run() only. reduce.h states the order of the sums; nothing here changes it.
//
// Where rows are many, each task takes a block of rows through all phases, small enough that what
// one phase loads the next finds in the cache. Where they are few and long, each phase in turn is
// spread over all rows' chunks; where they are long and lie side by side (the channels of an image,
// channels last), each phase in turn is spread over the chunks of a band of rows.
#include <algorithm>
#include <cstdlib>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/vector/space.h"

namespace accel::kernels::vector {

namespace {

// Elements of the rows that go through the phases together: 16 KiB of F32 an operand, and enough
// rows that phases over kept indices cost little.
constexpr int64_t kBlockElements = 4096;
// Elements a task takes.
constexpr int64_t kTaskElements = 32768;
// At most this many rows, each of at least kTaskElements, are spread over tasks by chunks.
constexpr int64_t kFewRows = 64;
// Tiles of operands whose rows, not columns, lie side by side.
constexpr int kBlockSide = 16;
// Rows side by side that are walked together: 256 B of F32 in a row from memory, and 74 KiB of
// states for two reductions, of which a step along the rows touches 16 KiB.
constexpr int kBandRows = 64;

struct RowProgram {
  const Program& program;
  const Prepared& prepared;
  const Scalar* scalars;
  Dims kept, reduced;
  int64_t rows, length;  // kept and reduced elements
  char* base[kMaxOperands];
  Op reductions[kMaxSlots];

  int operands() const { return kept.operands; }
  int phases() const { return static_cast<int>(program.phases.size()); }
  int slots() const { return static_cast<int>(program.slots.size()); }
  const Reducer& reducer(int slot) const {
    return prepared.engine->reducer(reductions[slot], program.slots[slot]);
  }
};

// A bit for each slot that the phase reduces into.
uint32_t reduced_slots(const Program& program, const Phase& phase) {
  uint32_t slots = 0;
  for (int i = phase.begin; i < phase.end; ++i) {
    if (is_reduction(program.code[i].op)) slots |= 1u << program.code[i].index;
  }
  return slots;
}

// Whether rows lie closer together than a row's own elements: then a tile takes 16 of each.
bool rows_side_by_side(const RowProgram& row_program) {
  if (row_program.reduced.count != 1 || row_program.kept.count == 0) return false;
  for (int o = 0; o < row_program.operands(); ++o) {
    const int64_t along = std::abs(row_program.reduced.last_stride(o));
    const int64_t across = std::abs(row_program.kept.last_stride(o));
    if (along > size_of(row_program.program.operands[o]) && across != 0 && across < along) {
      return true;
    }
  }
  return false;
}

// What a thread works in: registers, and the slots and states of a block of rows.
struct RowWorkspace : Workspace {
  alignas(64) char slots[kMaxSlots][kRegisterBytes];
  RowState states[kMaxSlots][kBlockSide];

  explicit RowWorkspace(const RowProgram& row_program)
      : Workspace(row_program.program, row_program.prepared, row_program.scalars) {
    for (int s = 0; s < kMaxSlots; ++s) {
      frame.slots[s] = slots[s];
      frame.row_states[s] = states[s];
    }
  }
};

// What a phase needs once a row: what it computes from that row's slots and constants alone.
void start_row(const RowProgram& row_program, Workspace& work, int phase, char* const* address,
               int slot_row) {
  const Step* begin = row_program.prepared.begin(phase);
  const Step* end = row_program.prepared.tile_begin(phase);
  if (begin == end) return;
  for (int o = 0; o < row_program.operands(); ++o) work.operands[o] = {address[o], 0, 0};
  work.frame.set_shape(1, kTileElements);
  work.frame.row_length = kTileElements;
  work.frame.slot_row = slot_row;
  work.run_steps(begin, end);
}

// A phase over kept indices, for `count` of them that lie along the last kept dimension.
void run_kept_phase(const RowProgram& row_program, Workspace& work, int phase, char* const* address,
                    int64_t first_row, int64_t column, int slot_row, int count) {
  for (int o = 0; o < row_program.operands(); ++o) {
    work.operands[o] = {address[o], 0, row_program.kept.last_stride(o)};
  }
  work.frame.set_shape(1, count);
  work.frame.row_length = 1;
  work.frame.reduce_into = ReduceInto::Slots;
  work.frame.slot_row = slot_row;
  work.frame.linear_index = first_row;
  work.frame.linear_stride = count;
  work.frame.column_index = column;
  work.run_steps(row_program.prepared.begin(phase), row_program.prepared.end(phase));
}

// A phase over elements, for `count` whole rows that fit into tiles: no state between tiles.
void run_short_rows(const RowProgram& row_program, Workspace& work, int phase, char* const* address,
                    int64_t first_row, int count) {
  const int length = static_cast<int>(row_program.length);
  const int rows_per_tile = kTileElements / length;
  work.frame.reduce_into = ReduceInto::Slots;
  work.frame.row_length = length;
  work.frame.column_index = 0;
  work.frame.linear_stride = length;
  for (int o = 0; o < row_program.operands(); ++o) {
    work.operands[o] = {address[o], row_program.kept.last_stride(o),
                        row_program.reduced.last_stride(o)};
  }
  for (int row = 0; row < count; row += rows_per_tile) {
    work.frame.set_shape(std::min(rows_per_tile, count - row), length);
    work.frame.slot_row = row;
    work.frame.linear_index = (first_row + row) * length;
    work.run_steps(row_program.prepared.begin(phase), row_program.prepared.end(phase));
    for (int o = 0; o < row_program.operands(); ++o) {
      work.operands[o].data += work.operands[o].row_stride * rows_per_tile;
    }
  }
}

// The same for rows that take several tiles, `group` rows at a time.
void run_long_rows(const RowProgram& row_program, RowWorkspace& work, int phase,
                   char* const* address, int64_t first_row, int count, int group) {
  // In tiles of several rows, what is constant along a row is computed with the rest.
  const Step* begin =
      group == 1 ? row_program.prepared.tile_begin(phase) : row_program.prepared.begin(phase);
  const Step* end = row_program.prepared.end(phase);
  const uint32_t slots = reduced_slots(row_program.program, row_program.program.phases[phase]);
  work.frame.reduce_into = ReduceInto::RowStates;
  for (int row = 0; row < count; row += group) {
    const int rows = std::min(group, count - row);
    work.frame.slot_row = row;
    for (int s = 0; s < row_program.slots(); ++s) {
      if (slots >> s & 1) row_program.reducer(s).start_rows(work.states[s], rows, nullptr, 0);
    }
    char* row_address[kMaxOperands];
    for (int o = 0; o < row_program.operands(); ++o) {
      row_address[o] = address[o] + row * row_program.kept.last_stride(o);
    }
    const int64_t linear = (first_row + row) * row_program.length;
    if (group == 1) {
      start_row(row_program, work, phase, row_address, row);
      work.run_elements(begin, end, row_program.reduced, row_address, 0, row_program.length,
                        linear);
    } else {
      work.frame.linear_stride = row_program.length;
      for (int64_t column = 0; column < row_program.length; column += kBlockSide) {
        const int columns =
            static_cast<int>(std::min<int64_t>(kBlockSide, row_program.length - column));
        for (int o = 0; o < row_program.operands(); ++o) {
          const int64_t stride = row_program.reduced.last_stride(o);
          work.operands[o] = {row_address[o] + column * stride, row_program.kept.last_stride(o),
                              stride};
        }
        work.frame.set_shape(rows, columns);
        work.frame.row_length = columns;
        work.frame.linear_index = linear + column;
        work.frame.column_index = column;
        work.run_steps(begin, end);
      }
    }
    for (int s = 0; s < row_program.slots(); ++s) {
      if (slots >> s & 1) {
        char* slot = work.slots[s] + row * bytes_of(row_program.program.slots[s]);
        row_program.reducer(s).finish_rows(work.states[s], rows, slot);
      }
    }
  }
}

// Rows [begin, end) through all phases, block by block.
void run_rows(const RowProgram& row_program, RowWorkspace& work, int64_t begin, int64_t end) {
  const int64_t length = row_program.length;
  const int group = rows_side_by_side(row_program) ? kBlockSide : 1;
  const bool is_short =
      length <= (group == 1 ? kTileElements : kBlockSide) && row_program.reduced.count <= 1;
  const int64_t block =
      std::clamp<int64_t>(kBlockElements / std::max<int64_t>(length, 1), group, kTileElements);
  while (begin < end) {
    // As many rows as lie along the last kept dimension.
    int64_t index[kMaxDims];
    unravel(row_program.kept, begin, index);
    const int last = row_program.kept.count - 1;
    const int64_t column = last >= 0 ? index[last] : 0;
    const int count =
        static_cast<int>(std::min({block, end - begin, row_program.kept.last_size() - column}));
    char* address[kMaxOperands];
    locate(row_program.kept, index, row_program.base, address);
    for (int s = 0; s < row_program.slots(); ++s) {
      row_program.reducer(s).fill_identity(work.slots[s], count);
    }
    for (int phase = 0; phase < row_program.phases(); ++phase) {
      if (row_program.program.phases[phase].over == Over::Kept) {
        run_kept_phase(row_program, work, phase, address, begin, column, 0, count);
      } else if (length == 0) {
        continue;
      } else if (is_short) {
        run_short_rows(row_program, work, phase, address, begin, count);
      } else {
        run_long_rows(row_program, work, phase, address, begin, count, group);
      }
    }
    begin += count;
  }
}

// Few long rows: phase by phase, each over tasks of some chunks of one row.
void run_by_chunks(const RowProgram& row_program) {
  const Program& program = row_program.program;
  const int64_t rows = row_program.rows, length = row_program.length;
  const int64_t chunks = (length + kChunkElements - 1) / kChunkElements;
  const int64_t tasks_per_row = (length + kTaskElements - 1) / kTaskElements;
  constexpr int64_t kChunksPerTask = kTaskElements / kChunkElements;
  RowWorkspace main_work(row_program);
  Total* partials = static_cast<Total*>(
      scratch(ScratchSlot::A, sizeof(Total) * rows * chunks * std::max(1, row_program.slots())));
  for (int s = 0; s < row_program.slots(); ++s) {
    row_program.reducer(s).fill_identity(main_work.slots[s], static_cast<int>(rows));
  }
  for (int phase = 0; phase < row_program.phases(); ++phase) {
    if (program.phases[phase].over == Over::Kept) {
      for_each_piece(row_program.kept, 0, rows, [&](const Piece& piece) {
        // Pieces of several rows are taken row by row: a phase's registers follow one dimension.
        Piece run = piece;
        const int last = row_program.kept.count - 1;
        for (int r = 0; r < piece.rows; ++r) {
          char* address[kMaxOperands];
          locate(row_program.kept, run.index, row_program.base, address);
          const int64_t first = piece.first + static_cast<int64_t>(r) * piece.columns;
          run_kept_phase(row_program, main_work, phase, address, first, piece.column,
                         static_cast<int>(first), piece.columns);
          if (last > 0) ++run.index[last - 1];
        }
      });
      continue;
    }
    parallel_for(rows * tasks_per_row, [&](int64_t task) {
      const int64_t row = task / tasks_per_row, first_chunk = task % tasks_per_row * kChunksPerTask;
      RowWorkspace work(row_program);
      for (int s = 0; s < row_program.slots(); ++s) {
        work.frame.slots[s] = main_work.slots[s];
        Total* place = partials + (s * rows + row) * chunks + first_chunk;
        row_program.reducer(s).start_rows(work.states[s], 1, place, 0);
      }
      int64_t index[kMaxDims];
      unravel(row_program.kept, row, index);
      char* address[kMaxOperands];
      locate(row_program.kept, index, row_program.base, address);
      start_row(row_program, work, phase, address, static_cast<int>(row));
      work.frame.reduce_into = ReduceInto::RowStates;
      work.frame.slot_row = static_cast<int>(row);
      const int64_t begin = first_chunk * kChunkElements;
      work.run_elements(row_program.prepared.tile_begin(phase), row_program.prepared.end(phase),
                        row_program.reduced, address, begin,
                        std::min(length, begin + kTaskElements), row * length);
      for (int s = 0; s < row_program.slots(); ++s) {
        if (work.states[s][0].position != 0) row_program.reducer(s).flush_row(work.states[s][0]);
      }
    });
    const uint32_t slots = reduced_slots(program, program.phases[phase]);
    for (int s = 0; s < row_program.slots(); ++s) {
      if (slots >> s & 1) {
        row_program.reducer(s).combine(partials + s * rows * chunks, chunks, 1, chunks,
                                       static_cast<int>(rows), main_work.slots[s]);
      }
    }
  }
}

// A piece of a band, from `column` to `end`, through a phase over elements. `states` of slot s
// begin at s * kBandRows.
void run_band_piece(const RowProgram& row_program, RowWorkspace& work, int phase,
                    char* const* address, int64_t first_row, int rows, int64_t column, int64_t end,
                    RowState* states) {
  const Dims &kept = row_program.kept, &reduced = row_program.reduced;
  work.frame.reduce_into = ReduceInto::RowStates;
  work.frame.linear_stride = row_program.length;
  for (int o = 0; o < row_program.operands(); ++o) {
    work.operands[o].row_stride = kept.last_stride(o);
    work.operands[o].column_stride = reduced.last_stride(o);
  }
  for (; column < end; column += kBlockSide) {
    const int columns = static_cast<int>(std::min<int64_t>(kBlockSide, end - column));
    for (int row = 0; row < rows; row += kBlockSide) {
      for (int o = 0; o < row_program.operands(); ++o) {
        work.operands[o].data =
            address[o] + row * kept.last_stride(o) + column * reduced.last_stride(o);
      }
      for (int s = 0; s < row_program.slots(); ++s) {
        work.frame.row_states[s] = states + s * kBandRows + row;
      }
      work.frame.set_shape(std::min(kBlockSide, rows - row), columns);
      work.frame.row_length = columns;
      work.frame.slot_row = row;
      work.frame.linear_index = (first_row + row) * row_program.length + column;
      work.frame.column_index = column;
      work.run_steps(row_program.prepared.begin(phase), row_program.prepared.end(phase));
    }
  }
}

// Long rows side by side: band by band, phase by phase, each over tasks of one chunk of all rows.
void run_by_bands(const RowProgram& row_program) {
  const Program& program = row_program.program;
  const int64_t length = row_program.length;
  const int64_t chunks = (length + kChunkElements - 1) / kChunkElements;
  RowWorkspace main_work(row_program);
  Total* partials = static_cast<Total*>(scratch(
      ScratchSlot::A, sizeof(Total) * kBandRows * chunks * std::max(1, row_program.slots())));
  for (int64_t first = 0; first < row_program.rows;) {
    int64_t index[kMaxDims];
    unravel(row_program.kept, first, index);
    const int64_t place = index[row_program.kept.count - 1];
    const int rows =
        static_cast<int>(std::min<int64_t>(kBandRows, row_program.kept.last_size() - place));
    char* address[kMaxOperands];
    locate(row_program.kept, index, row_program.base, address);
    for (int s = 0; s < row_program.slots(); ++s) {
      row_program.reducer(s).fill_identity(main_work.slots[s], rows);
    }
    for (int phase = 0; phase < row_program.phases(); ++phase) {
      if (program.phases[phase].over == Over::Kept) {
        run_kept_phase(row_program, main_work, phase, address, first, place, 0, rows);
        continue;
      }
      const uint32_t slots = reduced_slots(program, program.phases[phase]);
      parallel_for(chunks, [&](int64_t chunk) {
        RowWorkspace work(row_program);
        auto* states = static_cast<RowState*>(
            scratch(ScratchSlot::B, sizeof(RowState) * kBandRows * kMaxSlots));
        for (int s = 0; s < row_program.slots(); ++s) {
          work.frame.slots[s] = main_work.slots[s];
          if (!(slots >> s & 1)) continue;
          row_program.reducer(s).start_rows(states + s * kBandRows, rows,
                                            partials + s * kBandRows * chunks + chunk, chunks);
        }
        const int64_t begin = chunk * kChunkElements;
        run_band_piece(row_program, work, phase, address, first, rows, begin,
                       std::min(length, begin + kChunkElements), states);
        for (int s = 0; s < row_program.slots(); ++s) {
          for (int r = 0; r < rows && (slots >> s & 1); ++r) {
            RowState& state = states[s * kBandRows + r];
            if (state.position != 0) row_program.reducer(s).flush_row(state);
          }
        }
      });
      for (int s = 0; s < row_program.slots(); ++s) {
        if (!(slots >> s & 1)) continue;
        row_program.reducer(s).combine(partials + s * kBandRows * chunks, chunks, 1, chunks, rows,
                                       main_work.slots[s]);
      }
    }
    first += rows;
  }
}

}  // namespace

void run_row_reduce(const Program& program, const Prepared& prepared, const Space& space,
                    const Operand* operands, const Scalar* scalars) {
  const int count = static_cast<int>(program.operands.size());
  const Dims kept = make_dims(space, operands, count, 0, space.kept, last_dim(program, Over::Kept));
  const Dims reduced =
      make_dims(space, operands, count, space.kept, space.dims, last_dim(program, Over::Elements));
  RowProgram row_program{program, prepared, scalars, kept, reduced, 0, 0, {}, {}};
  row_program.rows = row_program.kept.elements();
  row_program.length = row_program.reduced.elements();
  for (int o = 0; o < count; ++o) row_program.base[o] = operands[o].data;
  find_reductions(program, row_program.reductions);

  if (rows_side_by_side(row_program) && row_program.length > kChunkElements &&
      row_program.kept.last_size() >= kBlockSide) {
    return run_by_bands(row_program);
  }
  if (row_program.rows <= kFewRows && row_program.length >= kTaskElements) {
    return run_by_chunks(row_program);
  }
  const int64_t task_rows =
      std::max<int64_t>(rows_side_by_side(row_program) ? kBlockSide : 1,
                        kTaskElements / std::max<int64_t>(row_program.length, 1));
  parallel_for((row_program.rows + task_rows - 1) / task_rows, [&](int64_t task) {
    RowWorkspace work(row_program);
    run_rows(row_program, work, task * task_rows,
             std::min(row_program.rows, (task + 1) * task_rows));
  });
}

}  // namespace accel::kernels::vector
