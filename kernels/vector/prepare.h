// A program made ready to run over many tiles. Made once per run(); run_tile() does without.
#pragma once

#include <vector>

#include "kernels/vector/interpreter.h"

namespace accel::kernels::vector {

struct Prepared {
  // What fills registers with scalars, once per thread: they survive tiles and phases.
  std::vector<Step> prologue;
  std::vector<Step> steps;
  // Phase p of the program (a Pointwise program without phases has one) is steps
  // [ends[p - 1], ends[p]).
  std::vector<int> ends;

  const Step* begin(int phase) const { return steps.data() + (phase == 0 ? 0 : ends[phase - 1]); }
  const Step* end(int phase) const { return steps.data() + ends[phase]; }
};

// Finds each instruction's kernel, moves scalars out of the loop over tiles where registers are
// left, makes pairs, and lets results be written where the next instruction stores them. None of it
// changes a bit.
Prepared prepare(const Engine& engine, const Program& program);

}  // namespace accel::kernels::vector
