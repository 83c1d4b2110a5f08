// From groups of Nodes to Launches.
#include <algorithm>
#include <cstdio>
#include <optional>

#include <c10/util/Exception.h>

#include "csrc/graph/engine_launch.h"
#include "csrc/graph/passes.h"
#include "csrc/graph/plan.h"
#include "csrc/graph/program_builder.h"
#include "csrc/runtime/driver.h"
#include "csrc/runtime/process.h"

namespace accel::graph {

namespace {

using runtime::Launch;

class GroupPlanner {
 public:
  GroupPlanner(const Graph& graph, const Group& group, const std::vector<int>& last_users)
      : graph_(graph), group_(group), last_users_(last_users) {}

  // The group's Launch, or none where its program does not fit.
  std::optional<Launch> plan() {
    const Node& first = graph_.nodes[group_.nodes[0]];
    std::optional<Launch> launch;
    if (group_.nodes.size() == 1 && first.opcode == Opcode::Copy &&
        first.outputs[0].dtype == first.inputs[0].dtype) {
      launch = copy_launch(first);
    } else if (group_.family == Family::Opaque) {
      launch = engine_launch(first);
    } else if (group_.family == Family::Matmul && group_.nodes.size() == 1) {
      launch = plain_matmul(first);
    } else {
      return program_launch(first);
    }
    for (const View& view : first.outputs) touch(*launch, view, /*written=*/true);
    for (const View& view : first.inputs) touch(*launch, view, /*written=*/false);
    launch->flops = flops_of(first);
    return launch;
  }

 private:
  static void touch(Launch& launch, const View& view, bool written) {
    if (view.absent()) return;
    int64_t bytes = kernels::size_of(view.dtype);
    for (size_t i = 0; i < view.sizes.size(); ++i) {
      if (view.strides[i] != 0) bytes *= view.sizes[i];
    }
    launch.touched.push_back({view.buffer, bytes, written});
  }

  std::optional<Launch> program_launch(const Node& first) {
    ProgramBuilder builder(kind());
    for (int index : group_.nodes) {
      const Node& node = graph_.nodes[index];
      if (node.opcode == Opcode::Matmul) {
        builder.output(node.outputs[0], Domain::Elements, builder.tile(node.outputs[0].dtype));
      } else {
        lower(node, domain_of(node, group_), builder);
      }
    }
    for (int index : group_.nodes) {
      for (const View& view : graph_.nodes[index].outputs) {
        if (!view.absent() && outlives_group(view)) builder.store(view);
      }
    }
    std::optional<vec::Program> program = builder.build();
    if (!program) return std::nullopt;
    for (const vec::Instruction& instruction : program->code) {
      TORCH_INTERNAL_ASSERT(vec::is_supported(instruction.op, instruction.lane), name(),
                            " has no kernel for one of its dtypes");
    }
    std::vector<bool> written(builder.operands().size());
    for (const vec::Instruction& instruction : program->code) {
      if (instruction.op == vec::Op::Store) written[instruction.index] = true;
    }
    std::optional<Launch> launch;
    if (group_.family == Family::Matmul) {
      launch = fused_matmul(first, builder, std::move(*program));
      for (const View& view : first.inputs) touch(*launch, view, /*written=*/false);
      launch->flops = flops_of(first);
    } else {
      launch = vector_launch(builder, std::move(*program));
    }
    if (!launch) return std::nullopt;
    for (size_t i = 0; i < written.size(); ++i) {
      touch(*launch, builder.operands()[i].view, written[i]);
    }
    return launch;
  }

  vec::Kind kind() const {
    if (group_.family == Family::RowReduce) return vec::Kind::RowReduce;
    return group_.family == Family::ColumnReduce ? vec::Kind::ColumnReduce : vec::Kind::Pointwise;
  }

  bool outlives_group(const View& view) const {
    return graph_.live[view.buffer] || last_users_[view.buffer] > group_.nodes.back() ||
           used_outside(view.buffer);
  }

  // By Nodes between the group's own.
  bool used_outside(int32_t buffer) const {
    for (size_t i = group_.nodes[0] + 1; i < static_cast<size_t>(group_.nodes.back()); ++i) {
      const Node& node = graph_.nodes[i];
      if (node.dead ||
          std::binary_search(group_.nodes.begin(), group_.nodes.end(), static_cast<int>(i))) {
        continue;
      }
      for (const auto* views : {&node.inputs, &node.outputs}) {
        for (const View& view : *views) {
          if (view.buffer == buffer) return true;
        }
      }
    }
    return false;
  }

  std::string name() const {
    std::string name;
    for (int index : group_.nodes) {
      if (!name.empty()) name += '+';
      name += name_of(graph_.nodes[index].opcode);
    }
    return name;
  }

  Launch plain_matmul(const Node& node) const {
    runtime::MatmulLaunch launch = matmul_launch(node);
    const View& out = node.outputs[0];
    launch.out = out.reference();
    launch.matmul.out = {nullptr, out.strides[0], out.strides[1], out.strides[2]};
    return {launch, name(), {}};
  }

  Launch fused_matmul(const Node& node, const ProgramBuilder& builder, vec::Program program) const {
    runtime::MatmulLaunch launch = matmul_launch(node);
    kernels::Matmul& matmul = launch.matmul;
    const std::vector<int64_t> sizes{matmul.batch, matmul.m, matmul.n};
    const int stored = take_store_of_product(program, builder, sizes);
    for (int i = 0; i < static_cast<int>(builder.operands().size()); ++i) {
      const View& view = builder.operands()[i].view;
      const std::vector<int64_t> strides = strides_over(view.layout(), sizes);
      if (i == stored) {
        launch.out = view.reference();
        matmul.out = {nullptr, strides[0], strides[1], strides[2]};
        matmul.widened = true;
        continue;
      }
      const int64_t size = kernels::size_of(view.dtype);
      launch.references.push_back(view.reference());
      launch.operands.push_back({nullptr, strides[0] * size, strides[1] * size, strides[2] * size});
    }
    if (program.code.size() > 1) {  // more than LoadTile
      launch.program = std::move(program);
      launch.scalars = builder.scalars();
    }
    return {launch, name(), {}};
  }

  // Where an epilogue stores the product as it is, in fp32 (the gradient of a weight under
  // autocast), the product itself can do that. Takes the Store and its operand out of the program
  // and returns the operand's index in the builder, or -1.
  static int take_store_of_product(vec::Program& program, const ProgramBuilder& builder,
                                   const std::vector<int64_t>& sizes) {
    int tile = -1;
    for (size_t i = 0; i < program.code.size(); ++i) {
      const vec::Instruction& instruction = program.code[i];
      if (instruction.op == vec::Op::LoadTile) {
        tile = instruction.dst;
      } else if (instruction.op != vec::Op::Store) {
        if (instruction.dst == tile) return -1;
      } else if (instruction.a == tile) {
        const int operand = instruction.index;
        const View& out = builder.operands()[operand].view;
        if (out.dtype != DType::Float32 || strides_over(out.layout(), sizes)[2] != 1) continue;
        // What is loaded from there holds the value of before, what else is stored comes after.
        for (int other = 0; other < static_cast<int>(builder.operands().size()); ++other) {
          if (other != operand && builder.operands()[other].view.buffer == out.buffer) return -1;
        }
        program.code.erase(program.code.begin() + static_cast<std::ptrdiff_t>(i));
        program.operands.erase(program.operands.begin() + operand);
        for (vec::Instruction& rest : program.code) {
          const bool is_access = rest.op == vec::Op::Load || rest.op == vec::Op::Store;
          if (is_access && rest.index > operand) --rest.index;
        }
        for (vec::Phase& phase : program.phases) phase.end = static_cast<int>(program.code.size());
        return operand;
      }
    }
    return -1;
  }

  std::optional<Launch> vector_launch(const ProgramBuilder& builder, vec::Program program) const {
    const bool row = group_.family == Family::RowReduce;
    const bool reduces = row || group_.family == Family::ColumnReduce;
    const int64_t reduced = reduces && group_.kept ? group_.elements / group_.kept : 1;
    // Layouts over the full space; those of kept operands repeat over the reduced part.
    std::vector<Layout> layouts;
    for (const ProgramBuilder::Operand& operand : builder.operands()) {
      Layout layout = operand.view.layout();
      if (reduces && operand.domain == Domain::Kept) {
        if (row) {
          layout.sizes.push_back(reduced);
          layout.strides.push_back(0);
        } else {
          layout.sizes.insert(layout.sizes.begin(), reduced);
          layout.strides.insert(layout.strides.begin(), 0);
        }
      }
      layouts.push_back(std::move(layout));
    }
    std::vector<const Layout*> pointers;
    for (const Layout& layout : layouts) pointers.push_back(&layout);
    std::vector<int64_t> cuts;
    if (reduces) cuts = group_.cuts;
    std::optional<std::vector<int64_t>> space;
    if (group_.elements == 0) {
      // An empty reduction: its kept operands still have an address each.
      return empty_reduction(builder, std::move(program));
    }
    space = common_space(pointers, group_.elements, cuts);
    if (!space || space->size() > vec::kMaxDims) return std::nullopt;
    runtime::VectorLaunch launch;
    launch.program = std::move(program);
    launch.scalars = builder.scalars();
    vec::Space& target = launch.space;
    target.dims = static_cast<int>(space->size());
    std::copy(space->begin(), space->end(), target.sizes);
    if (reduces) {
      // How many dimensions make up the kept part.
      int64_t product = 1;
      if (row) {
        while (target.kept < target.dims && product < group_.kept) {
          product *= target.sizes[target.kept++];
        }
      } else {
        while (target.kept < target.dims && product < group_.kept) {
          product *= target.sizes[target.dims - 1 - target.kept++];
        }
      }
    }
    for (size_t i = 0; i < layouts.size(); ++i) {
      const ProgramBuilder::Operand& operand = builder.operands()[i];
      const std::vector<int64_t> strides = strides_over(layouts[i], *space);
      vec::Operand entry;
      for (size_t d = 0; d < strides.size(); ++d) {
        entry.strides[d] = strides[d] * kernels::size_of(operand.view.dtype);
      }
      launch.operands.push_back(entry);
      launch.references.push_back(operand.view.reference());
    }
    return Launch{launch, name(), {}};
  }

  // kept > 0 and nothing to reduce: the space keeps its sizes, a 0 among the reduced ones.
  std::optional<Launch> empty_reduction(const ProgramBuilder& builder, vec::Program program) const {
    const Node& node = graph_.nodes[group_.nodes[0]];
    runtime::VectorLaunch launch;
    launch.program = std::move(program);
    launch.scalars = builder.scalars();
    const View& input = node.inputs[0];
    const bool row = group_.family == Family::RowReduce;
    const auto kept = static_cast<int>(node.attributes.at(1));
    launch.space.dims = static_cast<int>(input.sizes.size());
    launch.space.kept = kept;
    if (launch.space.dims > vec::kMaxDims) return std::nullopt;
    std::copy(input.sizes.begin(), input.sizes.end(), launch.space.sizes);
    for (const ProgramBuilder::Operand& operand : builder.operands()) {
      vec::Operand entry;
      const size_t first = row || operand.domain != Domain::Kept ? 0 : launch.space.dims - kept;
      for (size_t d = 0; d < operand.view.strides.size(); ++d) {
        entry.strides[first + d] = operand.view.strides[d] * kernels::size_of(operand.view.dtype);
      }
      launch.operands.push_back(entry);
      launch.references.push_back(operand.view.reference());
    }
    return Launch{launch, name(), {}};
  }

  const Graph& graph_;
  const Group& group_;
  const std::vector<int>& last_users_;
};

// One Launch, or where the group is too large for one program, those of its parts, with everything
// that the others read in memory: halves of a pointwise group, each Node of another.
void add_launches(const Graph& graph, const Group& group, const std::vector<int>& last_users,
                  Plan& plan) {
  if (auto launch = GroupPlanner(graph, group, last_users).plan()) {
    launch->node = group.nodes[0];
    plan.launches.push_back(std::move(*launch));
    return;
  }
  const size_t count = group.nodes.size();
  TORCH_INTERNAL_ASSERT(count > 1, "[plan] no program for ",
                        name_of(graph.nodes[group.nodes[0]].opcode));
  Graph separate = graph;
  for (int index : group.nodes) {
    for (const View& view : graph.nodes[index].outputs) {
      if (!view.absent()) separate.live[view.buffer] = true;
    }
  }
  if (group.family == Family::Pointwise) {
    const auto middle = group.nodes.begin() + static_cast<std::ptrdiff_t>(count / 2);
    Group first = group, second = group;
    first.nodes.assign(group.nodes.begin(), middle);
    second.nodes.assign(middle, group.nodes.end());
    add_launches(separate, first, last_users, plan);
    add_launches(separate, second, last_users, plan);
    return;
  }
  for (int index : group.nodes) {
    add_launches(separate, group_of(graph.nodes[index], index), last_users, plan);
  }
}

}  // namespace

Plan make_plan(Graph graph, Planning planning) {
  const bool logs = runtime::logs(runtime::LogTopic::Graph);
  if (logs) std::fprintf(stderr, "[accel graph] recorded\n%s", to_string(graph).c_str());
  std::vector<Group> groups;
  if (planning == Planning::Together) {
    read_through_casts(graph);
    remove_dead_stores(graph);
    if (logs)
      std::fprintf(stderr, "[accel graph] without dead stores\n%s", to_string(graph).c_str());
    groups = fuse(graph);
  } else {
    graph.live.assign(graph.live.size(), true);
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      groups.push_back(group_of(graph.nodes[i], static_cast<int>(i)));
    }
  }
  std::vector<int> last_users(graph.live.size(), -1);
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (node.dead) continue;
    // Outputs too: what a Node writes in part, or goes on from (an optimizer's state), it needs.
    for (const auto* views : {&node.inputs, &node.outputs}) {
      for (const View& view : *views) {
        if (!view.absent()) last_users[view.buffer] = static_cast<int>(i);
      }
    }
  }
  Plan plan;
  for (const Group& group : groups) add_launches(graph, group, last_users, plan);
  for (Launch& launch : plan.launches) runtime::driver().load(launch);
  if (logs) {
    std::fprintf(stderr, "[accel graph] fused into %zu launches\n", plan.launches.size());
    for (const Launch& launch : plan.launches) {
      std::fprintf(stderr, "  %s\n", launch.name.c_str());
    }
  }
  return plan;
}

}  // namespace accel::graph
