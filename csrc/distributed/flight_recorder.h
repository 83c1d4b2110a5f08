// The last operations of this process' groups and how far they came: what to read when ranks wait
// for each other. Kept always; written to the file that ACCEL_FLIGHT_RECORD names when one fails.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "csrc/distributed/operation.h"

namespace accel::distributed {

enum class Stage : uint8_t { Queued, Running, Done, Failed };

struct FlightEntry {
  std::string group;
  int rank = 0;
  Kind kind = Kind::Barrier;
  uint64_t sequence = 0;
  int root = 0;
  c10::ScalarType dtype = c10::ScalarType::Byte;
  int64_t input_elements = 0, output_elements = 0;
  // Seconds since the epoch, 0 for what has not happened.
  double queued = 0, started = 0, ended = 0;
  Stage stage = Stage::Queued;
  std::string error;
};

const char* name_of(Stage stage);

// Returns a number by which the entry is updated; what has been overwritten since is left alone.
uint64_t note_queued(const std::string& group, int rank, const Operation& operation);
void note_started(uint64_t entry);
void note_ended(uint64_t entry);
void note_failed(uint64_t entry, const std::string& error);

// The last operations, oldest first.
std::vector<FlightEntry> flight_record();
std::string flight_record_as_json();

}  // namespace accel::distributed
