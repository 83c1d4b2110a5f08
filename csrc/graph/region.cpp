#include "csrc/graph/region.h"

#include <algorithm>

#include "csrc/graph/counters.h"
#include "csrc/graph/executor.h"
#include "csrc/graph/recorder.h"
#include "csrc/runtime/address.h"
#include "csrc/runtime/allocator.h"
#include "csrc/runtime/caching_allocator.h"
#include "csrc/runtime/generator.h"
#include "csrc/runtime/trace.h"

namespace accel::graph {

namespace {

// How many sets of donated Blocks are planned for. Beyond, one that donates less serves.
constexpr size_t kMostPlacements = 8;

Recorder& recorder_of(runtime::Stream& stream) { return *static_cast<Recorder*>(stream.tail()); }

}  // namespace

// One run on its way through the stream. Its Blocks are its own until it has run.
class Region::Run final : public runtime::Command {
 public:
  // rests: of the Blocks that outputs were cut out of. fresh: what gets its first content here;
  // overwritten: what gets all of its content here.
  Run(std::shared_ptr<const Region> region, std::shared_ptr<const Placement> placement,
      runtime::Stream& stream, std::span<const Given> given,
      std::vector<runtime::BlockReference> rests, std::vector<Block*> fresh,
      std::vector<Block*> overwritten)
      : region_(std::move(region)),
        stream_(stream),
        blocks_(std::move(rests)),
        fresh_(std::move(fresh)),
        overwritten_(std::move(overwritten)),
        bytes_(placement->workspace),
        scalars_(region_->scalars_) {
    blocks_.reserve(blocks_.size() + given.size());
    for (const Given& entry : given) blocks_.emplace_back(entry.block, &recorder_of(stream));
    for (const runtime::BlockReference& block : blocks_) {
      if (block && !block->user_alive.load()) bytes_ += block->size;
    }
    if (placement->workspace > 0) {
      Block* block = runtime::allocate_block(placement->workspace, region_->device_);
      workspace_ = runtime::BlockReference(block);
      runtime::delete_block(block);  // nothing that the user has allocated
    }
    addresses_.reserve(region_->buffers_.size());
    for (const Buffer& buffer : region_->buffers_) {
      const auto place = static_cast<size_t>(buffer.place);
      char* address = nullptr;
      if (buffer.home == Home::Given && given[place].block) {
        address = given[place].block->address + given[place].shift;
      } else if (buffer.home == Home::Kept) {
        address = region_->kept_[place]->address;
      } else if (buffer.home == Home::Temporary) {
        const Placement::Place& where = placement->temporaries[place];
        const Block* block = where.given < 0 ? workspace_.get() : given[where.given].block;
        address = block->address + where.offset;
      }
      addresses_.push_back(address ? static_cast<char*>(runtime::host_pointer(address)) : nullptr);
    }
    draw();
  }

  void run() override {
    size_t done = 0;
    try {
      run_plan(stream_, region_->plan_,
               {addresses_.data(), region_->offsets_.data(), scalars_.data(),
                region_->host_calls_.data(), nullptr},
               {&operation_, 1}, done);
    } catch (...) {
      skip();
      throw;
    }
    for (Block* block : overwritten_) regain(*block);
  }

  void skip() override {
    for (Block* block : fresh_) lose(*block);
  }

  // With what the user has let go of: a host that runs ahead of a backward must not make the next
  // forward's activations beside those of this one.
  size_t bytes() const override { return bytes_; }

 private:
  void draw() {
    for (const Random& random : region_->random_) {
      if (random.count == 0) continue;
      const auto [seed, first] = random.state->reserve(random.count);
      for (const RandomScalars& entry : region_->random_scalars_) {
        if (entry.from != random.state) continue;
        scalars_[entry.index].i = static_cast<int64_t>(seed);
        scalars_[entry.index + 1].i += static_cast<int64_t>(first - random.first);
      }
    }
  }

  const std::shared_ptr<const Region> region_;
  runtime::Stream& stream_;
  std::vector<runtime::BlockReference> blocks_;
  const std::vector<Block*> fresh_, overwritten_;  // which the Region keeps, or blocks_
  runtime::BlockReference workspace_;
  size_t bytes_;
  std::vector<char*> addresses_;
  std::vector<Scalar> scalars_;
  const int64_t operation_ = runtime::traced_operation();
};

Region::Region(int device, Segment& segment, std::span<Block* const> given,
               std::vector<Random> random)
    : device_(device),
      buffers_(segment.buffers()),
      offsets_(segment.offsets()),
      scalars_(segment.scalars()),
      random_scalars_(segment.random_scalars()),
      host_calls_(std::move(segment.host_calls())),
      random_(std::move(random)) {
  Graph graph = Graph::from(segment);
  std::vector<size_t> sizes(buffers_.size());
  for (const Block* block : given) given_.push_back({block->size});
  for (size_t i = 0; i < buffers_.size(); ++i) {
    Block* block = segment.block(i);
    Buffer& buffer = buffers_[i];
    const auto found = std::find(given.begin(), given.end(), block);
    if (found != given.end()) {
      buffer = {Home::Given, found - given.begin()};
      given_[static_cast<size_t>(buffer.place)].fresh =
          segment.is_made_here(i) && !block->held_elsewhere.load();
    } else if (segment.is_made_here(i) && !segment.live(static_cast<int>(i))) {
      sizes[i] = block->size;
    } else {
      buffer = {Home::Kept, static_cast<int64_t>(kept_.size())};
      kept_.emplace_back(block);
    }
    buffer.overwritten = segment.overwrites(i);
    graph.live[i] = buffer.home != Home::Nowhere;
  }
  for (const Node& node : graph.nodes) {
    for (const View& view : node.outputs) {
      if (!view.absent()) buffers_[view.buffer].written = true;
    }
  }
  plan_ = make_plan(std::move(graph), fusion_enabled() ? Planning::Together : Planning::Separately);
  find_temporaries(sizes);
  placements_.push_back(make_placement(std::vector<bool>(given_.size())));
}

void Region::find_temporaries(const std::vector<size_t>& sizes) {
  for (size_t launch = 0; launch < plan_.launches.size(); ++launch) {
    for (const runtime::Touched& touched : plan_.launches[launch].touched) {
      Buffer& buffer = buffers_[touched.buffer];
      if (buffer.home == Home::Nowhere) {
        buffer.home = Home::Temporary;
        buffer.place = static_cast<int64_t>(temporaries_.size());
        temporaries_.push_back({.bytes = sizes[touched.buffer], .first = launch, .last = launch});
      } else if (buffer.home == Home::Temporary) {
        temporaries_[static_cast<size_t>(buffer.place)].last = launch;
      } else if (buffer.home == Home::Given) {
        GivenBlock& given = given_[static_cast<size_t>(buffer.place)];
        if (given.end == 0) given.first = launch;
        given.end = launch + 1;
      }
    }
  }
}

auto Region::make_placement(std::vector<bool> donated) const -> std::shared_ptr<const Placement> {
  const size_t launches = plan_.launches.size();
  std::vector<Room> rooms;
  std::vector<size_t> given;  // of each room
  std::vector<Value> values = temporaries_;
  for (size_t i = 0; i < given_.size(); ++i) {
    const GivenBlock& block = given_[i];
    if (donated[i]) {
      rooms.push_back({block.bytes, block.end, launches});
    } else if (block.fresh) {
      // Smaller outputs have memory of their own: they would keep that of large tensors apart.
      if (block.bytes > runtime::kSmallBlock && block.end > 0) {
        values.push_back({.bytes = block.bytes,
                          .first = block.first,
                          .last = launches - 1,
                          .own_room = static_cast<int32_t>(rooms.size())});
      }
      rooms.push_back({block.bytes, 0, block.first});
    } else {
      continue;
    }
    given.push_back(i);
  }
  auto placement = std::make_shared<Placement>();
  placement->donated = std::move(donated);
  placement->workspace = place(values, rooms);
  for (const Value& value : values) {
    if (value.room == Value::kWorkspace) {
      placement->temporaries.push_back({-1, value.begin});
      continue;
    }
    const size_t where = given[static_cast<size_t>(value.room)];
    if (!value.is_output()) {
      placement->temporaries.push_back({static_cast<int32_t>(where), value.begin});
    } else if (value.room != value.own_room) {
      placement->pieces.push_back(
          {given[static_cast<size_t>(value.own_room)], where, value.begin, value.end()});
    }
  }
  std::sort(placement->pieces.begin(), placement->pieces.end(),
            [](const auto& a, const auto& b) { return a.begin > b.begin; });
  return placement;
}

auto Region::placement_for(const std::vector<bool>& donated) const
    -> std::shared_ptr<const Placement> {
  std::lock_guard lock(mutex_);
  for (const auto& placement : placements_) {
    if (placement->donated == donated) return placement;
  }
  if (placements_.size() < kMostPlacements) {
    return placements_.emplace_back(make_placement(donated));
  }
  // The one with the smallest workspace of those that may be used.
  auto donates_no_more = [&](const Placement& placement) {
    for (size_t i = 0; i < donated.size(); ++i) {
      if (placement.donated[i] && !donated[i]) return false;
    }
    return true;
  };
  std::shared_ptr<const Placement> best = placements_.front();
  for (const auto& placement : placements_) {
    if (placement->workspace < best->workspace && donates_no_more(*placement)) best = placement;
  }
  return best;
}

struct Region::Outputs {
  // With the user's references.
  std::vector<std::unique_ptr<Block, void (*)(void*)>> made;
  // What is left of the Blocks that they were cut out of.
  std::vector<runtime::BlockReference> rests;

  Block* add(Block* block) {
    made.emplace_back(block, runtime::delete_block);
    return block;
  }
};

auto Region::make_outputs(const Placement& placement, std::span<Given> given) const -> Outputs {
  Outputs outputs;
  std::vector<bool> to_make(given.size());
  for (size_t i = 0; i < given.size(); ++i) to_make[i] = !given[i].block && given[i].bytes > 0;
  for (const Placement::Piece& piece : placement.pieces) {
    Given& output = given[piece.output];
    if (!to_make[piece.output] || output.bytes > piece.end - piece.begin) continue;
    to_make[piece.output] = false;
    Block* from = given[piece.from].block;
    if (piece.end < from->size) {
      Block* rest = runtime::split_block(from, piece.end);
      outputs.rests.emplace_back(rest);
      rest->drop();  // the reference has its own
    }
    Block* block = runtime::split_block(from, piece.begin);
    runtime::give_to_user(block, output.bytes);
    output.block = outputs.add(block);
  }
  for (size_t i = 0; i < given.size(); ++i) {
    if (to_make[i]) given[i].block = outputs.add(runtime::allocate_block(given[i].bytes, device_));
  }
  return outputs;
}

void Region::run(runtime::Stream& stream, std::span<Given> given) const {
  std::vector<bool> donated(given_.size());
  std::vector<Block*> written;
  for (size_t i = 0; i < given.size(); ++i) {
    const Block* block = given[i].block;
    donated[i] = block && !block->user_alive.load(std::memory_order_acquire) &&
                 !block->held_elsewhere.load(std::memory_order_relaxed) &&
                 block->writer.load(std::memory_order_relaxed) == &recorder_of(stream) &&
                 block->size >= given_[i].bytes;
  }
  const std::shared_ptr<const Placement> placement = placement_for(donated);
  Outputs outputs = make_outputs(*placement, given);
  std::vector<Block*> fresh, overwritten;
  for (const Buffer& buffer : buffers_) {
    if (!buffer.written) continue;
    const auto place = static_cast<size_t>(buffer.place);
    Block* block = buffer.home == Home::Given  ? given[place].block
                   : buffer.home == Home::Kept ? kept_[place].get()
                                               : nullptr;
    if (block == nullptr) continue;
    written.push_back(block);
    if (buffer.overwritten) overwritten.push_back(block);
    if (!block->has_content()) fresh.push_back(block);
  }
  count(Counter::Regions);
  recorder_of(stream).submit(
      std::make_unique<Run>(shared_from_this(), placement, stream, given, std::move(outputs.rests),
                            std::move(fresh), std::move(overwritten)),
      written);
  for (auto& block : outputs.made) block.release();  // the caller's now
}

RegionCapture::RegionCapture(runtime::Stream& stream) : stream_(stream) {
  const auto& state =
      at::check_generator<runtime::Generator>(runtime::default_generator(stream.device()))
          ->random_state();
  random_.push_back({state, state->position().offset});
  recorder_of(stream_).begin_capture();
}

RegionCapture::~RegionCapture() {
  if (active_) end();
}

std::unique_ptr<Segment> RegionCapture::end() {
  active_ = false;
  std::unique_ptr<Segment> segment = recorder_of(stream_).end_capture();
  for (const RandomScalars& scalars : segment->random_scalars()) {
    const auto offset = static_cast<uint64_t>(segment->scalars()[scalars.index + 1].i);
    const auto known = std::find_if(random_.begin(), random_.end(), [&](const auto& random) {
      return random.state == scalars.from;
    });
    if (known == random_.end()) {
      random_.push_back({scalars.from, offset});
    } else {
      known->first = std::min(known->first, offset);
    }
  }
  for (Region::Random& random : random_) {
    random.count = random.state->position().offset - random.first;
    random.state->set_offset(random.first);
  }
  return segment;
}

std::shared_ptr<const Region> RegionCapture::finish(std::span<Block* const> given) {
  const std::unique_ptr<Segment> segment = end();
  return std::make_shared<const Region>(stream_.device(), *segment, given, random_);
}

}  // namespace accel::graph
