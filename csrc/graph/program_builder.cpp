#include "csrc/graph/program_builder.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <optional>
#include <utility>

namespace accel::graph {

using kernels::DType;
using vec::Instruction;
using vec::Lane;
using vec::Op;

namespace {

constexpr uint32_t bit(DType dtype) { return 1u << static_cast<int>(dtype); }

// What has been given back rests for some instructions where there is another: two instructions
// become a pair (kernels/vector/prepare.cpp) only if nothing between them writes over an operand of
// the first. What is taken is the one used last, which is in the cache.
class FreeRegisters {
 public:
  FreeRegisters() {
    for (int i = vec::kMaxRegisters; i-- > 0;) ready_.push_back(static_cast<uint8_t>(i));
  }

  std::optional<uint8_t> take(size_t position) {
    while (!resting_.empty() && (ready_.empty() || resting_.front().second + kRest <= position)) {
      ready_.push_back(resting_.front().first);
      resting_.pop_front();
    }
    if (ready_.empty()) return std::nullopt;
    const uint8_t taken = ready_.back();
    ready_.pop_back();
    return taken;
  }
  void give_back(uint8_t freed, size_t position) { resting_.emplace_back(freed, position); }

 private:
  static constexpr size_t kRest = 8;  // instructions

  std::vector<uint8_t> ready_;
  std::deque<std::pair<uint8_t, size_t>> resting_;  // and since when
};

}  // namespace

bool ProgramBuilder::Entry::operator==(const Entry& other) const {
  const Instruction &x = instruction, &y = other.instruction;
  return x.op == y.op && x.lane == y.lane && x.lane2 == y.lane2 && x.dtype == y.dtype &&
         x.index == y.index && a == other.a && b == other.b && c == other.c;
}

Value ProgramBuilder::add(Entry entry) {
  for (Value operand : {entry.a, entry.b, entry.c}) {
    if (operand < 0) continue;
    entry.kept &= values_[operand].kept;
    entry.level = std::max(entry.level, values_[operand].level);
  }
  entry.dtypes = dtypes_of(entry);
  // The same instruction on the same values is the same value.
  for (size_t i = 0; i < values_.size(); ++i) {
    if (values_[i] == entry) return static_cast<Value>(i);
  }
  values_.push_back(entry);
  return static_cast<Value>(values_.size()) - 1;
}

uint32_t ProgramBuilder::dtypes_of(const Entry& entry) const {
  constexpr uint32_t kFloating = bit(DType::BFloat16) | bit(DType::Float16) |
                                 bit(DType::Float8E5M2) | bit(DType::Float8E4M3FN);
  const auto of = [&](Value operand) { return values_[operand].dtypes; };
  switch (entry.instruction.op) {
    case Op::Load:
      return bit(operands_[entry.instruction.index].view.dtype);
    case Op::Round:
    case Op::LoadTile:
      return bit(entry.instruction.dtype);
    case Op::Scalar: {
      const runtime::ScalarSource& scalar = scalars_[entry.instruction.index];
      const bool is_zero = scalar.index < 0 && scalar.constant.d == 0;
      return is_zero && entry.result == Lane::F32 ? kFloating : 0;
    }
    case Op::Neg:
    case Op::Abs:
    case Op::Floor:
    case Op::Ceil:
    case Op::Trunc:
      return of(entry.a) & kFloating;
    case Op::Minimum:
    case Op::Maximum:
    case Op::Fmin:
    case Op::Fmax:
      return of(entry.a) & of(entry.b);
    case Op::Select:
      return of(entry.b) & of(entry.c);
    default:
      return 0;
  }
}

int16_t ProgramBuilder::operand(const View& view, Domain domain) {
  for (size_t i = 0; i < operands_.size(); ++i) {
    if (operands_[i].domain == domain && same_elements(operands_[i].view, view)) {
      return static_cast<int16_t>(i);
    }
  }
  operands_.push_back({view, domain});
  return static_cast<int16_t>(operands_.size()) - 1;
}

int16_t ProgramBuilder::add_scalar(runtime::ScalarSource source) {
  for (size_t i = 0; i < scalars_.size(); ++i) {
    const bool same = source.index >= 0
                          ? scalars_[i].index == source.index
                          : scalars_[i].index < 0 && scalars_[i].constant.i == source.constant.i;
    if (same) return static_cast<int16_t>(i);
  }
  scalars_.push_back(source);
  return static_cast<int16_t>(scalars_.size()) - 1;
}

Value ProgramBuilder::load(const View& view, Domain domain) {
  Entry entry;
  entry.instruction.op = Op::Load;
  entry.instruction.index = operand(view, domain);
  entry.instruction.lane = entry.result = vec::lane_of(view.dtype);
  entry.kept = domain == Domain::Kept;
  return add(entry);
}

Value ProgramBuilder::tile(DType dtype) {
  Entry entry;
  entry.instruction.op = Op::LoadTile;
  entry.instruction.dtype = dtype;
  entry.result = Lane::F32;
  entry.kept = false;
  return add(entry);
}

Value ProgramBuilder::constant(double value, Lane lane) {
  Entry entry;
  entry.instruction.op = Op::Scalar;
  entry.instruction.lane = entry.result = lane;
  runtime::ScalarSource source;
  if (lane == Lane::F32 || lane == Lane::F64) {
    source.constant.d = value;
  } else {
    source.constant.i = static_cast<int64_t>(value);
  }
  entry.instruction.index = add_scalar(source);
  return add(entry);
}

Value ProgramBuilder::scalar(int32_t segment_scalar, Lane lane) {
  Entry entry;
  entry.instruction.op = Op::Scalar;
  entry.instruction.lane = entry.result = lane;
  entry.instruction.index = add_scalar({segment_scalar, {}});
  return add(entry);
}

Value ProgramBuilder::linear_index() {
  Entry entry;
  entry.instruction.op = Op::LinearIndex;
  entry.instruction.lane = entry.result = Lane::I64;
  entry.kept = false;
  return add(entry);
}

Value ProgramBuilder::column_index() {
  Entry entry;
  entry.instruction.op = Op::ColumnIndex;
  entry.instruction.lane = entry.result = Lane::I64;
  entry.kept = false;
  return add(entry);
}

Value ProgramBuilder::add_positional(Op op, int32_t first, Lane lane) {
  Entry entry;
  entry.instruction.op = op;
  entry.instruction.lane = entry.result = lane;
  // The two are read one after the other, so they are never shared with others.
  entry.instruction.index = static_cast<int16_t>(scalars_.size());
  scalars_.push_back({first, {}});
  scalars_.push_back({first + 1, {}});
  entry.kept = false;
  return add(entry);
}

Value ProgramBuilder::diagonal_index(int32_t first) {
  return add_positional(Op::DiagonalIndex, first, Lane::I64);
}

Value ProgramBuilder::uniform(int32_t first, Lane lane) {
  return add_positional(Op::Uniform, first, lane);
}

Value ProgramBuilder::apply(Op op, Lane lane, Value a, Value b, Value c) {
  Entry entry;
  entry.instruction.op = op;
  entry.instruction.lane = lane;
  const bool to_bool =
      (op >= Op::Eq && op <= Op::IsInf) || op == Op::ReduceAny || op == Op::ReduceAll;
  entry.result = to_bool ? Lane::Bool : lane;
  entry.a = a;
  entry.b = b;
  entry.c = c;
  return add(entry);
}

Value ProgramBuilder::convert(Value value, Lane to) {
  if (lane(value) == to) return value;
  Entry entry;
  entry.instruction.op = Op::Convert;
  entry.instruction.lane = entry.result = to;
  entry.instruction.lane2 = lane(value);
  entry.a = value;
  return add(entry);
}

Value ProgramBuilder::round(Value value, DType dtype) {
  if (dtype == DType::Float32 || dtype == DType::Float64 || dtype == DType::Int64 ||
      dtype == DType::Bool) {
    return value;
  }
  if (values_[value].dtypes & bit(dtype)) return value;
  Entry entry;
  entry.instruction.op = Op::Round;
  entry.instruction.lane = entry.result = lane(value);
  entry.instruction.dtype = dtype;
  entry.a = value;
  return add(entry);
}

Value ProgramBuilder::cast(Value value, DType dtype) {
  return round(convert(value, vec::lane_of(dtype)), dtype);
}

Value ProgramBuilder::reduce(Op op, Lane lane, Value value) {
  int16_t slot = -1;
  for (size_t i = 0; i < reductions_.size(); ++i) {
    const Reduction& other = reductions_[i];
    if (other.op == op && other.lane == lane && other.value == value) {
      slot = static_cast<int16_t>(i);
    }
  }
  if (slot < 0) {
    slot = static_cast<int16_t>(reductions_.size());
    reductions_.push_back({op, lane, value});
  }
  Entry entry;
  entry.instruction.op = Op::Slot;
  entry.instruction.index = slot;
  entry.instruction.lane = entry.result = lane;
  entry.kept = true;
  entry.level = values_[value].level + 1;
  return add(entry);
}

std::optional<Value> ProgramBuilder::sum_of_one_hot(Value value, double columns) {
  const Entry choice = values_[value];
  if (choice.instruction.op == Op::Round) {
    const auto sum = sum_of_one_hot(choice.a, columns);
    return sum ? std::optional(round(*sum, choice.instruction.dtype)) : std::nullopt;
  }
  if (choice.instruction.op != Op::Select || !values_[choice.b].kept) return std::nullopt;
  const Entry place = values_[choice.a], other = values_[choice.c];
  const bool one_column = place.instruction.op == Op::Eq && place.instruction.lane == Lane::I64 &&
                          values_[place.a].instruction.op == Op::ColumnIndex &&
                          values_[place.b].kept;
  if (!one_column || other.instruction.op != Op::Scalar) return std::nullopt;
  const runtime::ScalarSource& rest = scalars_[other.instruction.index];
  if (rest.index >= 0 || rest.constant.d != 0) return std::nullopt;
  const Value inside =
      apply(Op::BitAnd, Lane::Bool, apply(Op::Ge, Lane::I64, place.b, constant(0, Lane::I64)),
            apply(Op::Lt, Lane::I64, place.b, constant(columns, Lane::I64)));
  return apply(Op::Select, choice.instruction.lane, inside, choice.b, choice.c);
}

Value ProgramBuilder::input(const View& view, Domain domain) {
  for (size_t i = outputs_.size(); i-- > 0;) {
    if (same_elements(outputs_[i].view, view)) return outputs_[i].value;
  }
  return load(view, domain);
}

void ProgramBuilder::output(const View& view, Domain domain, Value value) {
  if (view.absent()) return;
  outputs_.push_back({view, domain, cast(value, view.dtype), false, -1});
}

void ProgramBuilder::store(const View& view) {
  for (size_t i = outputs_.size(); i-- > 0;) {
    Output& output = outputs_[i];
    if (!same_elements(output.view, view)) continue;
    if (!output.stored) {
      output.stored = true;
      output.operand = operand(view, output.domain);
    }
    return;
  }
}

std::vector<int16_t> ProgramBuilder::hoist() const {
  std::vector<int16_t> slots(values_.size(), -1);
  if (kind_ != vec::Kind::RowReduce) return slots;
  auto next = static_cast<int16_t>(reductions_.size());
  auto consider = [&](Value value) {
    if (value < 0 || slots[value] >= 0 || next >= vec::kMaxSlots) return;
    const Entry& entry = values_[value];
    const bool computed = entry.a >= 0;
    if (entry.kept && computed && entry.result != Lane::Bool) slots[value] = next++;
  };
  for (const Entry& entry : values_) {
    if (entry.kept) continue;
    for (Value operand : {entry.a, entry.b, entry.c}) consider(operand);
  }
  return slots;
}

bool ProgramBuilder::emit_phase(vec::Program& program, vec::Over over, int level,
                                const std::vector<int16_t>& hoisted) const {
  const bool elements = over == vec::Over::Elements;
  // What this phase has to make: reductions whose input is complete, and stores.
  std::vector<bool> needed(values_.size());
  auto from_slot = [&](size_t value) { return elements && hoisted[value] >= 0; };
  std::vector<int16_t> reload(values_.size(), -1);
  for (const Output& output : outputs_) {
    // A value that an earlier phase stored is loaded back instead of computed again. A value over
    // kept indices has to be: it may have been stored over what it was computed from.
    const bool readable = elements || output.domain == Domain::Kept;
    if (readable && output.stored && !from_slot(output.value) &&
        values_[output.value].level < level && values_[output.value].instruction.op != Op::Load) {
      reload[output.value] = output.operand;
    }
  }
  auto is_root = [&](const Output& output) {
    if (!output.stored) return false;
    if ((output.domain == Domain::Elements) != elements) return false;
    return values_[output.value].level == level;
  };
  std::vector<Value> pending;
  if (elements) {
    for (const Reduction& reduction : reductions_) {
      if (values_[reduction.value].level == level) pending.push_back(reduction.value);
    }
  } else {
    for (size_t i = 0; i < values_.size(); ++i) {
      if (hoisted[i] >= 0 && values_[i].level == level) pending.push_back(static_cast<Value>(i));
    }
  }
  for (const Output& output : outputs_) {
    if (is_root(output)) pending.push_back(output.value);
  }
  if (pending.empty()) return true;
  while (!pending.empty()) {
    const Value value = pending.back();
    pending.pop_back();
    if (needed[value]) continue;
    needed[value] = true;
    if (reload[value] >= 0 || from_slot(value)) continue;
    const Entry& entry = values_[value];
    for (Value operand : {entry.a, entry.b, entry.c}) {
      if (operand >= 0) pending.push_back(operand);
    }
  }
  // Where each store goes: behind its value, and behind every load of what it overwrites. (A value
  // may be stored where another, loaded later, still has to come from.)
  std::vector<Value> store_after(outputs_.size(), -1);
  for (size_t o = 0; o < outputs_.size(); ++o) {
    const Output& output = outputs_[o];
    if (!is_root(output)) continue;
    store_after[o] = output.value;
    for (size_t i = output.value + 1; i < values_.size(); ++i) {
      const Instruction& instruction = values_[i].instruction;
      if (needed[i] && instruction.op == Op::Load &&
          same_elements(operands_[instruction.index].view, output.view)) {
        store_after[o] = static_cast<Value>(i);
      }
    }
  }
  // Last use of each value, in the order of values, in which they are emitted.
  std::vector<Value> last(values_.size(), -1);
  for (size_t i = 0; i < values_.size(); ++i) {
    if (!needed[i]) continue;
    last[i] = std::max(last[i], static_cast<Value>(i));
    if (reload[i] >= 0 || from_slot(i)) continue;
    for (Value operand : {values_[i].a, values_[i].b, values_[i].c}) {
      if (operand >= 0) last[operand] = std::max(last[operand], static_cast<Value>(i));
    }
  }
  for (size_t o = 0; o < outputs_.size(); ++o) {
    if (store_after[o] >= 0) {
      last[outputs_[o].value] = std::max(last[outputs_[o].value], store_after[o]);
    }
  }
  std::vector<uint8_t> registers(values_.size());
  FreeRegisters free_registers;
  std::vector<std::vector<Value>> ends(values_.size());
  for (size_t i = 0; i < values_.size(); ++i) {
    if (needed[i]) ends[last[i]].push_back(static_cast<Value>(i));
  }
  vec::Phase phase{over, static_cast<int>(program.code.size()), 0};
  for (size_t i = 0; i < values_.size(); ++i) {
    if (!needed[i]) continue;
    const Entry& entry = values_[i];
    Instruction instruction = entry.instruction;
    if (reload[i] >= 0) {
      instruction = {};
      instruction.op = Op::Load;
      instruction.lane = entry.result;
      instruction.index = reload[i];
    } else if (from_slot(i)) {
      instruction = {};
      instruction.op = Op::Slot;
      instruction.lane = entry.result;
      instruction.index = hoisted[i];
    } else {
      if (entry.a >= 0) instruction.a = registers[entry.a];
      if (entry.b >= 0) instruction.b = registers[entry.b];
      if (entry.c >= 0) instruction.c = registers[entry.c];
    }
    const auto free_register = free_registers.take(program.code.size());
    if (!free_register) return false;
    registers[i] = instruction.dst = *free_register;
    // Operands that end here are freed after the result has its register: an instruction whose
    // lanes differ in width must not write over what it still reads.
    for (Value ending : ends[i]) {
      if (ending == static_cast<Value>(i)) continue;
      free_registers.give_back(registers[ending], program.code.size());
    }
    program.code.push_back(instruction);
    if (!elements && hoisted[i] >= 0 && entry.level == level) {
      // The maximum of one value is that value to the bit; a sum would turn -0 into +0.
      Instruction keep;
      keep.op = Op::ReduceMax;
      keep.lane = entry.result;
      keep.a = registers[i];
      keep.index = hoisted[i];
      program.code.push_back(keep);
    }
    if (elements) {
      for (size_t slot = 0; slot < reductions_.size(); ++slot) {
        const Reduction& reduction = reductions_[slot];
        if (reduction.value != static_cast<Value>(i) || entry.level != level) continue;
        Instruction reduce;
        reduce.op = reduction.op;
        reduce.lane = reduction.lane;
        reduce.a = registers[i];
        reduce.index = static_cast<int16_t>(slot);
        program.code.push_back(reduce);
      }
    }
    for (size_t o = 0; o < outputs_.size(); ++o) {
      if (store_after[o] != static_cast<Value>(i)) continue;
      const Output& output = outputs_[o];
      Instruction store;
      store.op = Op::Store;
      store.lane = values_[output.value].result;
      store.a = registers[output.value];
      store.index = output.operand;
      if (values_[output.value].dtypes & bit(output.view.dtype)) store.dtype = output.view.dtype;
      program.code.push_back(store);
    }
    if (last[i] == static_cast<Value>(i)) {
      free_registers.give_back(registers[i], program.code.size());
    }
  }
  phase.end = static_cast<int>(program.code.size());
  program.phases.push_back(phase);
  return true;
}

std::optional<vec::Program> ProgramBuilder::build() const {
  if (operands_.size() > vec::kMaxOperands || scalars_.size() > vec::kMaxScalars ||
      reductions_.size() > vec::kMaxSlots) {
    return std::nullopt;
  }
  vec::Program program;
  program.kind = kind_;
  program.scalars = static_cast<int>(scalars_.size());
  for (const Operand& operand : operands_) program.operands.push_back(operand.view.dtype);
  for (const Reduction& reduction : reductions_) program.slots.push_back(reduction.lane);
  const std::vector<int16_t> hoisted = hoist();
  for (size_t i = 0; i < values_.size(); ++i) {
    if (hoisted[i] >= 0)
      program.slots.resize(std::max<size_t>(program.slots.size(), hoisted[i] + 1));
  }
  for (size_t i = 0; i < values_.size(); ++i) {
    if (hoisted[i] >= 0) program.slots[hoisted[i]] = values_[i].result;
  }
  int levels = 0;
  for (const Entry& entry : values_) levels = std::max(levels, entry.level);
  for (int level = 0; level <= levels; ++level) {
    // The kept indices first: their stores may be what nobody waits for, but slots of the level
    // before are complete only now.
    if (kind_ != vec::Kind::Pointwise && !emit_phase(program, vec::Over::Kept, level, hoisted)) {
      return std::nullopt;
    }
    const size_t phases = program.phases.size();
    if (!emit_phase(program, vec::Over::Elements, level, hoisted)) return std::nullopt;
    // ColumnReduce has one phase over elements; a Pointwise program no reductions at all.
    if (level > 0 && kind_ != vec::Kind::RowReduce && program.phases.size() != phases) {
      return std::nullopt;
    }
  }
  return program;
}

}  // namespace accel::graph
