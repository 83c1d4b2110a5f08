// ProgramBuilder: collects what the Nodes of one group compute as values, and writes the vector
// program that computes them, phase by phase.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "csrc/graph/graph.h"
#include "csrc/runtime/launch.h"
#include "kernels/vector/program.h"

namespace accel::graph {

namespace vec = kernels::vector;

// A value of the group: an instruction whose operands are earlier values.
using Value = int32_t;

// Which index a value or an operand is defined over: every element of the iteration space, or, in
// groups that reduce, the kept dimensions alone.
enum class Domain : uint8_t { Elements, Kept };

class ProgramBuilder {
 public:
  explicit ProgramBuilder(vec::Kind kind) : kind_(kind) {}

  // --- values ---------------------------------------------------------------------------------
  Value load(const View& view, Domain domain);
  Value tile(DType dtype);  // what the engine made, rounded to this dtype
  Value constant(double value, vec::Lane lane);
  Value scalar(int32_t segment_scalar, vec::Lane lane);
  Value linear_index();
  Value column_index();
  // Scalars first, first + 1 of the Segment are rows and columns of the matrices.
  Value diagonal_index(int32_t first);
  // Scalars first, first + 1 of the Segment are seed and offset.
  Value uniform(int32_t first, vec::Lane lane);
  Value apply(vec::Op op, vec::Lane lane, Value a, Value b = -1, Value c = -1);
  Value convert(Value value, vec::Lane lane);
  Value round(Value value, DType dtype);
  // As a cast to that dtype does.
  Value cast(Value value, DType dtype);
  // Over the reduced dimensions; the result is defined over the kept ones.
  Value reduce(vec::Op op, vec::Lane lane, Value value);
  // The sum along rows of so many columns, where `value` is plainly zero in all of a row's columns
  // but one at most; none where that cannot be told.
  std::optional<Value> sum_of_one_hot(Value value, double columns);

  vec::Lane lane(Value value) const { return values_[value].result; }
  bool kept(Value value) const { return values_[value].kept; }

  // --- memory ---------------------------------------------------------------------------------
  // The value of a View: what an earlier Node of the group wrote there, else a load.
  Value input(const View& view, Domain domain);
  // A Node's output: cast to the View's dtype. Written to memory only if store() is asked for it.
  void output(const View& view, Domain domain, Value value);
  // Stores the last value that was output to this View.
  void store(const View& view);

  struct Operand {
    View view;
    Domain domain;
  };
  const std::vector<Operand>& operands() const { return operands_; }
  const std::vector<runtime::ScalarSource>& scalars() const { return scalars_; }

  // The program, or none where it needs more registers, operands, slots or scalars than there are,
  // or reads a reduction's result where the kind has no phase left for it.
  std::optional<vec::Program> build() const;

 private:
  struct Entry {
    vec::Instruction instruction;
    vec::Lane result;
    Value a = -1, b = -1, c = -1;
    bool kept = true;     // the same for all elements of a kept index
    int level = 0;        // how many reductions in a row it depends on
    uint32_t dtypes = 0;  // a bit for each dtype whose values are all that it can be
    bool operator==(const Entry& other) const;
  };
  struct Output {
    View view;
    Domain domain;
    Value value;
    bool stored = false;
    int16_t operand = -1;
  };
  struct Reduction {
    vec::Op op;
    vec::Lane lane;
    Value value;
  };

  Value add(Entry entry);
  // Of an op that reads two scalars in a row.
  Value add_positional(vec::Op op, int32_t first, vec::Lane lane);
  uint32_t dtypes_of(const Entry& entry) const;
  int16_t operand(const View& view, Domain domain);
  int16_t add_scalar(runtime::ScalarSource source);
  // Values over kept indices that phases over elements read: computed once a row and passed in a
  // slot, instead of once an element. Slot of each value, or -1.
  std::vector<int16_t> hoist() const;
  bool emit_phase(vec::Program& program, vec::Over over, int level,
                  const std::vector<int16_t>& hoisted) const;

  vec::Kind kind_;
  std::vector<Entry> values_;
  std::vector<Operand> operands_;
  std::vector<runtime::ScalarSource> scalars_;
  std::vector<Output> outputs_;
  std::vector<Reduction> reductions_;
};

// Adds what a Node computes. first_scalar of the Node indexes the Segment's scalars.
void lower(const Node& node, Domain domain, ProgramBuilder& builder);

}  // namespace accel::graph
