// PyTorch's profilers. torch.profiler gets every Launch and every collective of the time it
// observes, as kernels of the device, each linked to the op of the host that it began with (Kineto
// calls what provides them a session). torch.autograd.profiler without Kineto gets Events in front
// of and behind each op, which keep ops from being fused.
#include <chrono>
#include <mutex>
#include <set>

#define FMT_HEADER_ONLY  // Kineto's headers use it, and LibTorch does not export it
#include <kineto/libkineto.h>
#include <torch/csrc/profiler/standalone/privateuse1_profiler.h>
#include <torch/csrc/profiler/stubs/base.h>

#include "csrc/runtime/event.h"
#include "csrc/runtime/trace.h"

namespace accel::runtime {

namespace {

// Outlives static destruction: workers may still run.
struct Trace {
  std::mutex mutex;
  std::vector<Traced> entries;
};
Trace& the_trace() {
  static auto* trace = new Trace;
  return *trace;
}

// The ops that run on a thread, innermost last. One that a session did not see end is forgotten by
// the next.
struct Operations {
  int64_t session = 0;
  std::vector<int64_t> open;
};
thread_local Operations operations;
std::atomic<int64_t> sessions{0};

// ---- torch.profiler ----

class Session final : public libkineto::IActivityProfilerSession {
 public:
  void start() override {
    begin_ = trace_clock();
    sessions.fetch_add(1);
    std::lock_guard lock(the_trace().mutex);
    the_trace().entries.clear();
    g_is_tracing.store(true);
    status_ = libkineto::TraceStatus::RECORDING;
  }

  void stop() override {
    g_is_tracing.store(false);
    std::lock_guard lock(the_trace().mutex);
    entries_.swap(the_trace().entries);
    buffer_->span = libkineto::TraceSpan(begin_, trace_clock(), "__accel_profiler__");
    status_ = libkineto::TraceStatus::PROCESSING;
  }

  std::vector<std::string> errors() override { return {}; }

  void processTrace(libkineto::ActivityLogger& logger) override {
    processTrace(
        logger, [](int32_t) { return nullptr; }, 0, INT64_MAX);
  }
  void processTrace(libkineto::ActivityLogger& logger, libkineto::getLinkedActivityCallback linked,
                    int64_t start, int64_t end) override {
    for (const Traced& entry : entries_) {
      if (entry.begin < start || entry.end > end) continue;
      buffer_->emplace_activity(buffer_->span, libkineto::ActivityType::CONCURRENT_KERNEL,
                                entry.name);
      libkineto::GenericTraceActivity& activity = *buffer_->activities.back();
      activity.startTime = entry.begin;
      activity.endTime = entry.end;
      activity.device = entry.device;
      activity.resource = static_cast<int32_t>(entry.stream);
      activity.threadId = libkineto::threadId();
      activity.id = static_cast<int32_t>(entry.operation);
      activity.linked = linked(activity.id);
      activity.addMetadata("stream", entry.stream);
      activity.log(logger);
    }
    buffer_->gpuOpCount = static_cast<int>(buffer_->activities.size());
  }

  std::unique_ptr<libkineto::DeviceInfo> getDeviceInfo() override { return nullptr; }

  std::vector<libkineto::ResourceInfo> getResourceInfos() override {
    std::set<std::pair<int, int64_t>> streams;
    for (const Traced& entry : entries_) streams.insert({entry.device, entry.stream});
    std::vector<libkineto::ResourceInfo> infos;
    for (const auto& [device, stream] : streams) {
      infos.push_back({stream, stream, device, "stream " + std::to_string(stream)});
    }
    return infos;
  }

  std::unique_ptr<libkineto::CpuTraceBuffer> getTraceBuffer() override {
    return std::move(buffer_);
  }

  // The ops of the thread, as they begin and end.
  void pushCorrelationId(uint64_t id) override {
    if (operations.session != sessions.load()) operations = {sessions.load(), {}};
    operations.open.push_back(static_cast<int64_t>(id));
  }
  void popCorrelationId() override {
    if (!operations.open.empty()) operations.open.pop_back();
  }

 private:
  int64_t begin_ = 0;
  std::vector<Traced> entries_;
  std::unique_ptr<libkineto::CpuTraceBuffer> buffer_ =
      std::make_unique<libkineto::CpuTraceBuffer>();
};

class ActivityProfiler final : public libkineto::IActivityProfiler {
 public:
  const std::string& name() const override { return name_; }
  const std::set<libkineto::ActivityType>& availableActivities() const override { return types_; }
  std::unique_ptr<libkineto::IActivityProfilerSession> configure(
      const std::set<libkineto::ActivityType>& types, const libkineto::Config&) override {
    if (!types.contains(libkineto::ActivityType::CONCURRENT_KERNEL)) return nullptr;
    return std::make_unique<Session>();
  }
  std::unique_ptr<libkineto::IActivityProfilerSession> configure(
      int64_t, int64_t, const std::set<libkineto::ActivityType>& types,
      const libkineto::Config& config) override {
    return configure(types, config);
  }

 private:
  const std::string name_ = "accel";
  const std::set<libkineto::ActivityType> types_{libkineto::ActivityType::CONCURRENT_KERNEL};
};

REGISTER_PRIVATEUSE1_PROFILER(ActivityProfiler);

// ---- torch.autograd.profiler ----

class OpTimer final : public torch::profiler::impl::ProfilerStubs {
 public:
  using Mark = torch::profiler::impl::ProfilerVoidEventStub;

  void record(c10::DeviceIndex* device, Mark* mark, int64_t* nanoseconds) const override {
    if (device) *device = static_cast<c10::DeviceIndex>(current_device());
    auto event = std::make_shared<Event>();
    // What is captured does not run: it takes no time.
    Stream& stream = current_stream(current_device());
    if (!stream.tail()->is_capturing()) event->record(stream);
    *mark = std::move(event);
    if (nanoseconds) *nanoseconds = trace_clock();
  }

  // In microseconds.
  float elapsed(const Mark* begin, const Mark* end) const override {
    const auto& first = *static_cast<const Event*>(begin->get());
    const auto& last = *static_cast<const Event*>(end->get());
    if (!first.is_recorded() || !last.is_recorded()) return 0;
    first.synchronize();
    last.synchronize();
    return static_cast<float>(first.elapsed_milliseconds(last) * 1e3);
  }

  // There is no tool of the device that would show ranges.
  void mark(const char*) const override {}
  void rangePush(const char*) const override {}
  void rangePop() const override {}

  bool enabled() const override { return true; }
  void onEachDevice(std::function<void(int)> visit) const override {
    for (int device = 0; device < device_count(); ++device) visit(device);
  }
  void synchronize() const override { current_stream(current_device()).synchronize(); }
};

[[maybe_unused]] const bool g_registered = [] {
  static OpTimer timer;
  torch::profiler::impl::registerPrivateUse1Methods(&timer);
  return true;
}();

}  // namespace

int64_t trace_clock() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

void trace(const Stream& stream, std::string name, int64_t begin, int64_t operation) {
  const int64_t end = trace_clock();
  std::lock_guard lock(the_trace().mutex);
  // What ends after the profiler has stopped is nobody's.
  if (!is_tracing()) return;
  the_trace().entries.push_back(
      {std::move(name), stream.device(), stream.id(), begin, end, operation});
}

int64_t traced_operation() { return operations.open.empty() ? 0 : operations.open.back(); }

}  // namespace accel::runtime
