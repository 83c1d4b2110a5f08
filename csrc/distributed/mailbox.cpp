#include "csrc/distributed/mailbox.h"

#include <algorithm>
#include <cstring>

#include <c10/util/Exception.h>

#include "csrc/runtime/worker_stream.h"

namespace accel::distributed {

namespace {
// While no message has come, how long one source of several is waited for.
constexpr int64_t kTurn = 200'000;  // ns
}  // namespace

Mailbox::Mailbox(SharedRegion& region)
    : region_(region),
      filled_(static_cast<size_t>(region.size())),
      sources_(static_cast<size_t>(region.size())) {}

void Mailbox::send(const Operation& operation, int64_t deadline) {
  const int to = operation.root;
  Channel& channel = region_.channel(region_.place(), to);
  uint32_t& filled = filled_[static_cast<size_t>(to)];
  const auto write = [&](const char* data, int64_t bytes) {
    while (bytes > 0) {
      const uint32_t at = filled % Channel::kBytes;
      // A quarter of the ring at a time: the receiver drains one while the next is filled.
      const auto step = static_cast<uint32_t>(
          std::min<int64_t>({bytes, Channel::kBytes - at, Channel::kBytes / 4}));
      region_.wait(channel.drained, filled + step - Channel::kBytes, to, operation, deadline);
      std::memcpy(channel.data + at, data, step);
      channel.filled.raise_to(filled += step);
      data += step;
      bytes -= step;
    }
  };
  const Piece& piece = operation.inputs[0];
  const Envelope envelope{piece.elements, operation.bytes(piece), operation.tag,
                          static_cast<int32_t>(operation.dtype)};
  write(reinterpret_cast<const char*>(&envelope), sizeof(envelope));
  write(piece.data, envelope.bytes);
}

void Mailbox::read(int place, void* data, int64_t bytes, const Operation& operation,
                   int64_t deadline) {
  Channel& channel = region_.channel(place, region_.place());
  uint32_t& drained = sources_[static_cast<size_t>(place)].drained;
  auto* to = static_cast<char*>(data);
  while (bytes > 0) {
    const uint32_t at = drained % Channel::kBytes;
    region_.wait(channel.filled, drained + 1, place, operation, deadline);
    const uint32_t there = channel.filled.load() - drained;
    const auto step =
        static_cast<uint32_t>(std::min<int64_t>({bytes, Channel::kBytes - at, there}));
    std::memcpy(to, channel.data + at, step);
    channel.drained.raise_to(drained += step);
    to += step;
    bytes -= step;
  }
}

void Mailbox::check_envelope(const Envelope& envelope, int place,
                             const Operation& operation) const {
  const Piece& piece = operation.outputs[0];
  TORCH_CHECK_WITH(DistBackendError,
                   envelope.elements == piece.elements &&
                       envelope.dtype == static_cast<int32_t>(operation.dtype),
                   "accl: ", describe(operation), ", on rank ", region_.rank_at(region_.place()),
                   ": rank ", region_.rank_at(place), " sent ", envelope.elements, " elements of ",
                   static_cast<c10::ScalarType>(envelope.dtype), ", expected ", piece.elements,
                   " of ", operation.dtype);
}

bool Mailbox::take_set_aside(Source& source, const Operation& operation) {
  for (auto it = source.set_aside.begin(); it != source.set_aside.end(); ++it) {
    if (it->envelope.tag != operation.tag) continue;
    const Message message = std::move(*it);
    source.set_aside.erase(it);
    check_envelope(message.envelope, static_cast<int>(&source - sources_.data()), operation);
    if (!message.data.empty()) {
      std::memcpy(operation.outputs[0].data, message.data.data(), message.data.size());
    }
    return true;
  }
  return false;
}

bool Mailbox::take(int place, const Operation& operation, int64_t deadline) {
  Source& source = sources_[static_cast<size_t>(place)];
  if (take_set_aside(source, operation)) return true;
  Channel& channel = region_.channel(place, region_.place());
  while (channel.filled.load() != source.drained) {
    Envelope envelope;
    read(place, &envelope, sizeof(envelope), operation, deadline);
    const bool fits = envelope.tag == operation.tag &&
                      envelope.elements == operation.outputs[0].elements &&
                      envelope.dtype == static_cast<int32_t>(operation.dtype);
    if (fits) {
      read(place, operation.outputs[0].data, envelope.bytes, operation, deadline);
      return true;
    }
    Message message{envelope, std::vector<char>(static_cast<size_t>(envelope.bytes))};
    read(place, message.data.data(), envelope.bytes, operation, deadline);
    source.set_aside.push_back(std::move(message));
    if (take_set_aside(source, operation)) return true;  // which raises: it did not fit
  }
  return false;
}

int Mailbox::receive(const Operation& operation, int64_t deadline) {
  std::vector<int> places;
  for (int place = 0; place < region_.size(); ++place) {
    if (operation.root == kAnySource ? place != region_.place() : place == operation.root) {
      places.push_back(place);
    }
  }
  for (;;) {
    // A rank that has gone may have sent its message before: it is missed only when one is looked
    // for after that. And another's can still come.
    const auto stays = std::find_if(places.begin(), places.end(),
                                    [&](int place) { return !region_.has_gone(place); });
    for (const int place : places) {
      Source& source = sources_[static_cast<size_t>(place)];
      uint32_t next;
      {
        std::lock_guard lock(source.mutex);
        if (take(place, operation, deadline)) return place;
        next = source.drained + 1;
      }
      SharedCounter& filled = region_.channel(place, region_.place()).filled;
      const bool came = filled.wait_for(next, places.size() == 1 ? SharedRegion::kSlice : kTurn);
      if (!came && place == places.back()) {
        region_.check(filled, next, stays == places.end() ? place : *stays, operation, deadline);
      }
    }
  }
}

}  // namespace accel::distributed
