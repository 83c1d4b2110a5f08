// Turns programs into steps; see prepare.h. Plain C++: it runs once per program.
#include "kernels/vector/prepare.h"

#include <cstddef>
#include <utility>

namespace accel::kernels::vector {

namespace {

// Which registers an instruction reads, one bit each of a, b and c.
enum Reads : uint8_t { kNone = 0, kA = 1, kAB = 3, kABC = 7 };

Reads reads(Op op) {
  if (op <= Op::DiagonalIndex) return op == Op::Store ? kA : kNone;
  if (op == Op::Uniform || op == Op::RandomBits) return kNone;
  if (op == Op::MulAdd || op == Op::Select) return kABC;
  const bool binary = (op >= Op::Add && op <= Op::Fmax) || (op >= Op::BitAnd && op <= Op::BitXor) ||
                      op == Op::ShiftLeft || op == Op::ShiftRight ||
                      (op >= Op::Zeta && op <= Op::CopySign) || (op >= Op::Eq && op <= Op::Ge);
  return binary ? kAB : kA;
}

bool writes(Op op) { return op != Op::Store && !is_reduction(op); }

// Whether a kernel writes its F32 result element by element, each from operands at the same place:
// then the result may be an operand's memory, even that of its own operands.
bool is_elementwise_f32(const Instruction& instruction) {
  return instruction.lane == Lane::F32 &&
         ((instruction.op >= Op::Add && instruction.op <= Op::RoundEven) ||
          instruction.op == Op::Round || instruction.op == Op::Select ||
          instruction.op == Op::Uniform);
}

bool is_f32(const Instruction& instruction, Op op) {
  return instruction.op == op && instruction.lane == Lane::F32;
}

// A step with what the search for pairs asks of it.
struct Node {
  Step step;
  uint32_t reads;  // a bit for each register
  int writes;      // register, or -1
  bool is_pair = false, is_gone = false, is_row_constant = false;
};

class Preparation {
 public:
  Preparation(const Engine& engine, const Program& program, uint64_t row_constants)
      : engine_(engine), program_(program), row_constants_(row_constants) {
    uint32_t used = 0;
    for (const Instruction& instruction : program.code) {
      if (writes(instruction.op)) used |= 1u << instruction.dst;
    }
    free_ = ~used;
    prepared_.engine = &engine;
    nodes_.reserve(program.code.size());
    prepared_.steps.reserve(program.code.size());
  }

  Prepared run() {
    if (program_.phases.empty()) {
      add_phase({Over::Elements, 0, static_cast<int>(program_.code.size())});
    }
    for (const Phase& phase : program_.phases) add_phase(phase);
    return std::move(prepared_);
  }

 private:
  // How far back a pair's first instruction is looked for.
  static constexpr int kWindow = 8;

  void add_phase(const Phase& phase) {
    nodes_.clear();
    // Registers that hold the same for all elements of a row: hoisted scalars, slots, operands that
    // are constant along it, and what is computed from those alone.
    const bool along_rows = program_.kind == Kind::RowReduce && phase.over == Over::Elements;
    uint32_t constant = 0;
    size_t homes = 0;  // of `row_homes_` that the phase has taken
    for (const Step& step : prepared_.prologue) constant |= 1u << step.instruction.dst;
    uint8_t name[kMaxRegisters];  // where a register's present value lies
    for (int r = 0; r < kMaxRegisters; ++r) name[r] = static_cast<uint8_t>(r);
    for (int i = phase.begin; i < phase.end; ++i) {
      Instruction instruction = program_.code[i];
      const Reads read = reads(instruction.op);
      if (read & 1) instruction.a = name[instruction.a];
      if (read & 2) instruction.b = name[instruction.b];
      if (read & 4) instruction.c = name[instruction.c];
      if (instruction.op == Op::Scalar) {
        const int home = hoist(instruction);
        if (home >= 0) {
          name[instruction.dst] = static_cast<uint8_t>(home);
          constant |= 1u << home;
          continue;
        }
      }
      const uint32_t mask = (read & 1 ? 1u << instruction.a : 0) |
                            (read & 2 ? 1u << instruction.b : 0) |
                            (read & 4 ? 1u << instruction.c : 0);
      bool is_row_constant = false;
      if (writes(instruction.op)) {
        const uint8_t target = instruction.dst;
        if (along_rows && is_constant(instruction, mask, constant)) {
          if (homes == row_homes_.size() && free_ != 0) row_homes_.push_back(take_free());
          is_row_constant = homes < row_homes_.size();
          if (is_row_constant) instruction.dst = row_homes_[homes++];
        }
        name[target] = instruction.dst;
        if (is_row_constant) constant |= 1u << instruction.dst;
      }
      Node node{{kernel_of(instruction), instruction},
                mask,
                writes(instruction.op) ? instruction.dst : -1};
      node.is_row_constant = is_row_constant;
      nodes_.push_back(node);
    }
    for (int j = 1; j < static_cast<int>(nodes_.size()); ++j) make_pair_of(j);
    for (int j = 1; j < static_cast<int>(nodes_.size()); ++j) round_in_store(j);
    const int first = prepared_.ends.empty() ? 0 : prepared_.ends.back();
    uint32_t row_constants = 0;
    for (const Node& node : nodes_) {
      if (!node.is_row_constant || node.is_gone) continue;
      prepared_.steps.push_back(node.step);
      row_constants |= 1u << node.writes;
    }
    find_live(row_constants);
    prepared_.tile_begins.push_back(static_cast<int>(prepared_.steps.size()));
    for (const Node& node : nodes_) {
      if (!node.is_row_constant && !node.is_gone) prepared_.steps.push_back(node.step);
    }
    aim_stores(first);
    prepared_.ends.push_back(static_cast<int>(prepared_.steps.size()));
  }

  // Gives a scalar a register that nothing else uses; equal ones share. -1 where none is left.
  int hoist(const Instruction& instruction) {
    for (const Step& step : prepared_.prologue) {
      if (step.instruction.index == instruction.index &&
          step.instruction.lane == instruction.lane) {
        return step.instruction.dst;
      }
    }
    if (free_ == 0) return -1;
    Instruction hoisted = instruction;
    hoisted.dst = take_free();
    prepared_.prologue.push_back({kernel_of(hoisted), hoisted});
    return hoisted.dst;
  }

  // A register that nothing else uses; there must be one.
  uint8_t take_free() {
    const auto taken = static_cast<uint8_t>(__builtin_ctz(free_));
    free_ &= free_ - 1;
    return taken;
  }

  // Whether it gives the same for all elements of a row, with `constant` registers that do.
  bool is_constant(const Instruction& instruction, uint32_t reads, uint32_t constant) const {
    if (instruction.op == Op::Slot) return true;
    if (instruction.op == Op::Load) return row_constants_ >> instruction.index & 1;
    return instruction.op >= Op::Convert && instruction.op <= Op::Select &&
           (reads & ~constant) == 0;
  }

  Kernel kernel_of(const Instruction& instruction) const {
    return vector::kernel_of(engine_, program_, instruction);
  }

  // Joins node j with the one that makes one of its operands, if nobody else needs that.
  void make_pair_of(int j) {
    const Instruction second = nodes_[j].step.instruction;
    if (second.lane != Lane::F32) return;
    switch (second.op) {
      case Op::Add:
        if (!join(j, second.a, Second::Add, second.b, 0)) {
          join(j, second.b, Second::Add, second.a, 0);
        }
        return;
      case Op::Sub:
        if (!join(j, second.a, Second::Sub, second.b, 0)) {
          join(j, second.b, Second::SubFrom, second.a, 0);
        }
        return;
      case Op::Square:
        join(j, second.a, Second::Square, second.a, 0);
        return;
      case Op::Mul:
        if (second.a == second.b) {
          join(j, second.a, Second::Square, second.a, 0);
          return;
        }
        if (!join(j, second.a, Second::Mul, second.b, 0)) {
          join(j, second.b, Second::Mul, second.a, 0);
        }
        return;
      case Op::MulAdd:
        if (!join(j, second.a, Second::MulAdd, second.b, second.c) &&
            !join(j, second.b, Second::MulAdd, second.a, second.c)) {
          join(j, second.c, Second::AddTo, second.a, second.b);
        }
        return;
      case Op::Round:
        if (second.dtype == DType::BFloat16) join(j, second.a, Second::RoundBF16, second.a, 0);
        if (second.dtype == DType::Float16) join(j, second.a, Second::RoundF16, second.a, 0);
        return;
      default:
        return;
    }
  }

  // Makes node j compute `second` of the value t in register `t` and of x and y, with the
  // instruction that makes t, if that is possible.
  bool join(int j, uint8_t t, Second second, uint8_t x, uint8_t y) {
    const bool uses_x = second < Second::Square;
    const bool uses_y = second == Second::MulAdd || second == Second::AddTo;
    if (uses_x && (x == t || (uses_y && y == t))) return false;
    const int i = maker_for(j, t);
    if (i < 0) return false;
    Instruction joined = nodes_[i].step.instruction;
    const bool squares = is_f32(joined, Op::Square);
    First first;
    if (squares || is_f32(joined, Op::Mul)) {
      first = First::Mul;
    } else if (is_f32(joined, Op::Add)) {
      first = First::Add;
    } else if (is_f32(joined, Op::Sub)) {
      first = First::Sub;
    } else if (is_f32(joined, Op::MulAdd) && !uses_y) {
      first = First::MulAdd;
    } else {
      return false;
    }
    if (squares) joined.b = joined.a;
    if (uses_y) joined.c = y;
    joined.index = uses_x ? x : 0;
    joined.op = nodes_[j].step.instruction.op;
    joined.dst = nodes_[j].step.instruction.dst;
    Node& node = nodes_[j];
    node.reads = nodes_[i].reads | (uses_x ? 1u << x : 0) | (uses_y ? 1u << y : 0);
    node.step = {engine_.pairs[static_cast<int>(first)][static_cast<int>(second)], joined};
    node.is_pair = true;
    remove(nodes_[i]);
    return true;
  }

  // Lets node j, a Store that rounds, take the value that was rounded for it alone.
  void round_in_store(int j) {
    Instruction& store = nodes_[j].step.instruction;
    if (!is_f32(store, Op::Store)) return;
    const int i = maker_for(j, store.a);
    if (i < 0) return;
    const Instruction& round = nodes_[i].step.instruction;
    if (!is_f32(round, Op::Round) || round.dtype != program_.operands[store.index]) return;
    store.a = round.a;
    store.dtype = DType::Float32;
    nodes_[j].step.kernel = kernel_of(store);
    nodes_[j].reads = nodes_[i].reads;
    remove(nodes_[i]);
  }

  // The node that makes register t for node j alone, if j may do its work too: both once a row or
  // neither, and its own operands still there. -1 where there is none.
  int maker_for(int j, uint8_t t) const {
    const int i = writer_before(j, t);
    if (i < 0 || !has_one_reader(i, j, t)) return -1;
    if (nodes_[i].is_row_constant != nodes_[j].is_row_constant) return -1;
    for (int k = i + 1; k < j; ++k) {
      if (nodes_[k].writes >= 0 && (nodes_[i].reads >> nodes_[k].writes & 1)) return -1;
    }
    return i;
  }

  static void remove(Node& node) {
    node.is_gone = true;
    node.reads = 0;
    node.writes = -1;
  }

  // The unpaired node that wrote register t last, not far before j; -1 where there is none.
  int writer_before(int j, uint8_t t) const {
    for (int i = j - 1; i >= 0 && i >= j - kWindow; --i) {
      if (nodes_[i].writes == t) return nodes_[i].is_pair ? -1 : i;
    }
    return -1;
  }

  // Whether only node j reads what node i writes into t.
  bool has_one_reader(int i, int j, uint8_t t) const {
    for (int k = i + 1; k < static_cast<int>(nodes_.size()); ++k) {
      if (k != j && (nodes_[k].reads >> t & 1)) return false;
      if (nodes_[k].writes == t) return true;
    }
    return true;
  }

  // Notes in each step of a tile which registers are read behind it. Those that are filled once a
  // row are read by the next tile too.
  void find_live(uint32_t row_constants) {
    uint32_t live = row_constants;
    for (auto node = nodes_.rbegin(); node != nodes_.rend(); ++node) {
      if (node->is_row_constant) continue;
      node->step.live = live;
      live |= node->reads;
    }
  }

  void aim_stores(int first) {
    auto& steps = prepared_.steps;
    for (std::size_t i = static_cast<std::size_t>(first); i + 1 < steps.size(); ++i) {
      const Instruction& store = steps[i + 1].instruction;
      if (is_f32(store, Op::Store) && store.a == steps[i].instruction.dst &&
          program_.operands[store.index] == DType::Float32 &&
          is_elementwise_f32(steps[i].instruction)) {
        steps[i].aim = store.index;
      }
    }
  }

  const Engine& engine_;
  const Program& program_;
  Prepared prepared_;
  std::vector<Node> nodes_;
  const uint64_t row_constants_;
  uint32_t free_ = 0;               // registers that neither program nor prologue uses
  std::vector<uint8_t> row_homes_;  // of row constants: one each in a phase, the same in the next
};

}  // namespace

Kernel kernel_of(const Engine& engine, const Program& program, const Instruction& instruction) {
  const int lane = static_cast<int>(instruction.lane);
  if (instruction.op == Op::Load || instruction.op == Op::Store) {
    const int dtype = static_cast<int>(program.operands[instruction.index]);
    if (is_f32(instruction, Op::Store) && instruction.dtype == DType::BFloat16 &&
        program.operands[instruction.index] == DType::BFloat16) {
      return engine.store_rounded_bf16;
    }
    return (instruction.op == Op::Load ? engine.loads : engine.stores)[dtype][lane];
  }
  return engine.kernels[static_cast<int>(instruction.op)][lane];
}

Prepared prepare_on(const Engine& engine, const Program& program, uint64_t row_constants) {
  return Preparation(engine, program, row_constants).run();
}

Prepared prepare_on(const Engine& engine, const Program& program, const Space& space,
                    const Operand* operands) {
  uint64_t row_constants = 0;
  for (size_t o = 0; o < program.operands.size() && program.kind == Kind::RowReduce; ++o) {
    bool moves = false;
    for (int d = space.kept; d < space.dims; ++d) {
      moves |= space.sizes[d] != 1 && operands[o].strides[d] != 0;
    }
    if (!moves) row_constants |= uint64_t{1} << o;
  }
  return prepare_on(engine, program, row_constants);
}

std::shared_ptr<const Prepared> prepare(const Program& program, const Space& space,
                                        const Operand* operands) {
  return std::make_shared<const Prepared>(
      prepare_on(engine_of(current_isa()), program, space, operands));
}

std::shared_ptr<const Prepared> prepare(const Program& program) {
  return std::make_shared<const Prepared>(prepare_on(engine_of(current_isa()), program));
}

}  // namespace accel::kernels::vector
