// A program made ready to run over many tiles, on any number of threads and as often as one likes.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/vector/interpreter.h"

namespace accel::kernels::vector {

struct Prepared {
  const Engine* engine;
  // What fills registers with scalars, once per thread: they survive tiles and phases.
  std::vector<Step> prologue;
  std::vector<Step> steps;
  // Phase p of the program (a Pointwise program without phases has one) is steps
  // [ends[p - 1], ends[p]). Those in front of tile_begins[p] give the same for all tiles of a row:
  // a traversal may run them once a row, on a whole tile.
  std::vector<int> tile_begins, ends;

  const Step* begin(int phase) const { return steps.data() + (phase == 0 ? 0 : ends[phase - 1]); }
  const Step* tile_begin(int phase) const { return steps.data() + tile_begins[phase]; }
  const Step* end(int phase) const { return steps.data() + ends[phase]; }
};

// What runs one instruction of a program.
Kernel kernel_of(const Engine& engine, const Program& program, const Instruction& instruction);

// Finds each instruction's kernel, moves scalars out of the loop over tiles where registers are
// left, puts what is constant along a row in front, makes pairs, and lets results be written where
// the next instruction stores them. None of it changes a bit. `row_constants` has a bit for each
// operand of a RowReduce that is broadcast over the reduced dimensions.
Prepared prepare_on(const Engine& engine, const Program& program, uint64_t row_constants = 0);
// As run() over the space asks for.
Prepared prepare_on(const Engine& engine, const Program& program, const Space& space,
                    const Operand* operands);

}  // namespace accel::kernels::vector
