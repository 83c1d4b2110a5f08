// The interpreter's loop. Each instruction is one indirect call over a whole tile.
#include "kernels/vector/kernel.h"

namespace accel::kernels::ACCEL_ISA {

static void interpret(const Instruction* begin, const Instruction* end, Frame& frame) {
  const Engine& engine = *frame.engine;
  for (const Instruction* next = begin; next != end; ++next) {
    engine.kernels[static_cast<int>(next->op)][static_cast<int>(next->lane)](*next, frame);
  }
}

void add_interpreter(Engine& engine) { engine.interpret = interpret; }

}  // namespace accel::kernels::ACCEL_ISA
