// The interpreter's loops. Each instruction is one indirect call over a whole tile.
#include "kernels/vector/kernel.h"

namespace accel::kernels::ACCEL_ISA {

using vector::Step;

// Runs a step whose result the next one stores, straight into the operand. False, with nothing
// done, where the operand is not contiguous or padding would be written.
static bool execute_into_operand(const Step& step, Frame& frame) {
  const TileOperand& operand = frame.operands[step.aim];
  constexpr int64_t kSize = sizeof(float);
  if (frame.count != frame.padded || operand.column_stride != kSize || frame.columns == 1 ||
      (frame.rows != 1 && operand.row_stride != frame.columns * kSize)) {
    return false;
  }
  // An operand that this step is the last to read may be what it overwrites.
  const Step& store = *(&step + 1);
  frame.borrowed &= store.live;
  keep_borrowed(frame, operand.data, frame.count * kSize);
  char*& place = frame.place[step.instruction.dst];
  char* const home = place;
  place = operand.data;
  step.kernel(step.instruction, frame);
  place = home;
  frame.borrowed |= 1u << step.instruction.dst;
  return true;
}

static void execute(const Step* begin, const Step* end, Frame& frame) {
  for (const Step* step = begin; step != end; ++step) {
    if (step->aim >= 0 && execute_into_operand(*step, frame)) {
      ++step;
      continue;
    }
    step->kernel(step->instruction, frame);
  }
}

void add_interpreter(Engine& engine) { engine.execute = execute; }

}  // namespace accel::kernels::ACCEL_ISA
