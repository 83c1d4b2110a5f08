#include "csrc/graph/region.h"

#include <algorithm>

#include "csrc/graph/counters.h"
#include "csrc/graph/executor.h"
#include "csrc/graph/recorder.h"
#include "csrc/runtime/address.h"
#include "csrc/runtime/allocator.h"
#include "csrc/runtime/generator.h"

namespace accel::graph {

namespace {

// Places in the workspace begin at cache lines of their own.
constexpr size_t kAlignment = 64;

Recorder& recorder_of(runtime::Stream& stream) { return *static_cast<Recorder*>(stream.tail()); }

}  // namespace

// One run on its way through the stream. Its Blocks are its own until it has run.
class Region::Run final : public runtime::Command {
 public:
  Run(std::shared_ptr<const Region> region, runtime::Stream& stream, std::span<const Given> given)
      : region_(std::move(region)), stream_(stream), scalars_(region_->scalars_) {
    for (const Given& entry : given) blocks_.emplace_back(entry.block);
    if (region_->workspace_ > 0) {
      Block* block = runtime::allocate_block(region_->workspace_, region_->device_);
      workspace_ = runtime::BlockReference(block);
      runtime::delete_block(block);  // nothing that the user has allocated
    }
    for (const Buffer& buffer : region_->buffers_) {
      const auto place = static_cast<size_t>(buffer.place);
      char* address = nullptr;
      if (buffer.home == Home::Given && given[place].block) {
        address = given[place].block->address + given[place].shift;
      } else if (buffer.home == Home::Kept) {
        address = region_->kept_[place]->address;
      } else if (buffer.home == Home::Workspace) {
        address = workspace_->address + place;
      }
      addresses_.push_back(address ? static_cast<char*>(runtime::host_pointer(address)) : nullptr);
    }
    draw();
  }

  void run() override {
    run_plan(stream_, region_->plan_,
             {addresses_.data(), region_->offsets_.data(), scalars_.data(),
              region_->host_calls_.data(), nullptr});
  }

  size_t bytes() const override { return region_->workspace_; }

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
  runtime::BlockReference workspace_;
  std::vector<char*> addresses_;
  std::vector<Scalar> scalars_;
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
  for (size_t i = 0; i < buffers_.size(); ++i) {
    Block* block = segment.block(i);
    Buffer& buffer = buffers_[i];
    const auto found = std::find(given.begin(), given.end(), block);
    if (found != given.end()) {
      buffer = {Home::Given, found - given.begin()};
    } else if (segment.is_made_here(i) && !segment.live(static_cast<int>(i))) {
      sizes[i] = block->size;
    } else {
      buffer = {Home::Kept, static_cast<int64_t>(kept_.size())};
      kept_.emplace_back(block);
    }
    graph.live[i] = buffer.home != Home::Nowhere;
  }
  for (const Node& node : graph.nodes) {
    for (const View& view : node.outputs) {
      if (!view.absent()) buffers_[view.buffer].written = true;
    }
  }
  plan_ = make_plan(std::move(graph), fusion_enabled() ? Planning::Together : Planning::Separately);
  place_in_workspace(sizes);
}

// Largest first, each at the lowest place that is free from its first Launch to its last.
void Region::place_in_workspace(const std::vector<size_t>& sizes) {
  struct Temporary {
    int32_t buffer;
    size_t bytes;
    size_t first, last;  // Launches
    size_t begin = 0;
    size_t end() const { return begin + bytes; }
  };
  std::vector<int32_t> index(buffers_.size(), -1);
  std::vector<Temporary> temporaries;
  for (size_t launch = 0; launch < plan_.launches.size(); ++launch) {
    for (const runtime::Touched& touched : plan_.launches[launch].touched) {
      const int32_t buffer = touched.buffer;
      if (buffers_[buffer].home != Home::Nowhere) continue;
      if (index[buffer] < 0) {
        index[buffer] = static_cast<int32_t>(temporaries.size());
        const size_t bytes = (sizes[buffer] + kAlignment - 1) / kAlignment * kAlignment;
        temporaries.push_back({buffer, bytes, launch, launch});
      }
      temporaries[index[buffer]].last = launch;
    }
  }
  std::stable_sort(temporaries.begin(), temporaries.end(),
                   [](const Temporary& a, const Temporary& b) { return a.bytes > b.bytes; });
  std::vector<const Temporary*> placed;  // by where they begin
  for (Temporary& temporary : temporaries) {
    for (const Temporary* other : placed) {
      if (other->last < temporary.first || other->first > temporary.last) continue;
      if (other->begin >= temporary.end()) break;
      temporary.begin = std::max(temporary.begin, other->end());
    }
    const auto where =
        std::upper_bound(placed.begin(), placed.end(), temporary.begin,
                         [](size_t begin, const Temporary* other) { return begin < other->begin; });
    placed.insert(where, &temporary);
    buffers_[temporary.buffer].home = Home::Workspace;
    buffers_[temporary.buffer].place = static_cast<int64_t>(temporary.begin);
    workspace_ = std::max(workspace_, temporary.end());
  }
}

void Region::run(runtime::Stream& stream, std::span<const Given> given) const {
  std::vector<Block*> written;
  for (const Buffer& buffer : buffers_) {
    if (!buffer.written) continue;
    const auto place = static_cast<size_t>(buffer.place);
    if (buffer.home == Home::Given && given[place].block) written.push_back(given[place].block);
    if (buffer.home == Home::Kept) written.push_back(kept_[place].get());
  }
  count(Counter::Regions);
  recorder_of(stream).submit(std::make_unique<Run>(shared_from_this(), stream, given), written);
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
