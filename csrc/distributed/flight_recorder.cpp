#include "csrc/distributed/flight_recorder.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>

#include <c10/util/StringUtil.h>

namespace accel::distributed {

namespace {

constexpr size_t kRemembered = 512;

struct Recorder {
  std::mutex mutex;
  std::array<FlightEntry, kRemembered> entries;
  uint64_t count = 0;

  FlightEntry* find(uint64_t entry) {
    return entry + kRemembered >= count && entry < count ? &entries[entry % kRemembered] : nullptr;
  }
};

Recorder& recorder() {
  static auto* recorder = new Recorder;  // outlives static destruction
  return *recorder;
}

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

int64_t total(const std::vector<Piece>& pieces) {
  int64_t elements = 0;
  for (const Piece& piece : pieces) elements += piece.elements;
  return elements;
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return result + "\"";
}

// The file of this process: %p in the name is its id, without which every rank writes one beside
// the others.
void write_to_file() {
  const char* name = std::getenv("ACCEL_FLIGHT_RECORD");
  if (name == nullptr || *name == '\0') return;
  std::string path = name;
  const std::string process = std::to_string(getpid());
  const size_t mark = path.find("%p");
  mark == std::string::npos ? path += "." + process : path.replace(mark, 2, process);
  std::ofstream file(path);
  file << flight_record_as_json() << "\n";
}

template <class Change>
void update(uint64_t entry, Change change) {
  Recorder& all = recorder();
  std::lock_guard lock(all.mutex);
  if (FlightEntry* found = all.find(entry)) change(*found);
}

}  // namespace

const char* name_of(Stage stage) {
  switch (stage) {
    case Stage::Queued:
      return "queued";
    case Stage::Running:
      return "running";
    case Stage::Done:
      return "done";
    case Stage::Failed:
      return "failed";
  }
  return "";
}

uint64_t note_queued(const std::string& group, int rank, const Operation& operation) {
  Recorder& all = recorder();
  std::lock_guard lock(all.mutex);
  FlightEntry& entry = all.entries[all.count % kRemembered];
  entry = FlightEntry();
  entry.group = group;
  entry.rank = rank;
  entry.kind = operation.kind;
  entry.sequence = operation.sequence;
  entry.root = operation.root;
  entry.dtype = operation.dtype;
  entry.input_elements = total(operation.inputs);
  entry.output_elements = total(operation.outputs);
  entry.queued = now();
  return all.count++;
}

void note_started(uint64_t entry) {
  update(entry, [](FlightEntry& e) {
    e.started = now();
    e.stage = Stage::Running;
  });
}

void note_ended(uint64_t entry) {
  update(entry, [](FlightEntry& e) {
    e.ended = now();
    e.stage = Stage::Done;
  });
}

void note_failed(uint64_t entry, const std::string& error) {
  update(entry, [&](FlightEntry& e) {
    e.ended = now();
    e.stage = Stage::Failed;
    e.error = error;
  });
  write_to_file();
}

std::vector<FlightEntry> flight_record() {
  Recorder& all = recorder();
  std::lock_guard lock(all.mutex);
  std::vector<FlightEntry> entries;
  const uint64_t first = all.count < kRemembered ? 0 : all.count - kRemembered;
  for (uint64_t i = first; i < all.count; ++i) entries.push_back(all.entries[i % kRemembered]);
  return entries;
}

std::string flight_record_as_json() {
  std::string text = "[";
  for (const FlightEntry& e : flight_record()) {
    char times[128];
    std::snprintf(times, sizeof(times), "\"queued\": %.6f, \"started\": %.6f, \"ended\": %.6f",
                  e.queued, e.started, e.ended);
    text += c10::str(text.size() > 1 ? ",\n " : "", "{\"group\": ", quoted(e.group),
                     ", \"rank\": ", e.rank, ", \"operation\": \"", name_of(e.kind),
                     "\", \"sequence\": ", e.sequence, ", \"root\": ", e.root, ", \"dtype\": \"",
                     e.dtype, "\", \"input_elements\": ", e.input_elements,
                     ", \"output_elements\": ", e.output_elements, ", \"state\": \"",
                     name_of(e.stage), "\", ", times, ", \"error\": ", quoted(e.error), "}");
  }
  return text + "]";
}

}  // namespace accel::distributed
