// Messages between ranks of one host: a ring of bytes for each direction between two ranks. A
// message that no one has asked for yet is set aside, so that a receive can choose by tag, and a
// sender gets on whenever its receiver waits for any message of this group.
#pragma once

#include <deque>
#include <mutex>
#include <vector>

#include "csrc/distributed/shared_region.h"

namespace accel::distributed {

class Mailbox {
 public:
  explicit Mailbox(SharedRegion& region);

  // Returns once the message is in the ring, or taken out of it but for the last kBytes. One
  // thread at a time for each receiver.
  void send(const Operation& operation, int64_t deadline);
  // Waits for a message of this tag from operation.root, or any rank, and returns the rank. Any
  // thread.
  int receive(const Operation& operation, int64_t deadline);

 private:
  struct Envelope {
    int64_t elements = 0;
    int64_t bytes = 0;
    int32_t tag = 0;
    int32_t dtype = 0;
  };
  struct Message {
    Envelope envelope;
    std::vector<char> data;
  };
  // What comes from one rank.
  struct Source {
    std::mutex mutex;
    uint32_t drained = 0;
    std::deque<Message> set_aside;
  };

  // Takes the message from this rank if it is there. Under the source's mutex.
  bool take(int place, const Operation& operation, int64_t deadline);
  bool take_set_aside(Source& source, const Operation& operation);
  void read(int place, void* data, int64_t bytes, const Operation& operation, int64_t deadline);
  void check_envelope(const Envelope& envelope, int place, const Operation& operation) const;

  SharedRegion& region_;
  std::vector<uint32_t> filled_;  // of the channels to each rank
  std::vector<Source> sources_;
};

}  // namespace accel::distributed
