// Rendezvous, shared memory, collectives and messages, with ranks that are threads of this process.
#include <gtest/gtest.h>

#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "csrc/distributed/hierarchical_transport.h"
#include "csrc/distributed/shared_transport.h"
#include "csrc/runtime/driver.h"

namespace accel::distributed {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPatience{60'000};

// The ranks of each host.
using Hosts = std::vector<std::vector<int>>;

Hosts one_host(int size) {
  Hosts hosts(1, std::vector<int>(static_cast<size_t>(size)));
  std::iota(hosts[0].begin(), hosts[0].end(), 0);
  return hosts;
}

int ranks_of(const Hosts& hosts) {
  size_t ranks = 0;
  for (const auto& host : hosts) ranks += host.size();
  return static_cast<int>(ranks);
}

// Shared memory is between the hosts, too.
std::unique_ptr<Transport> connect(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                   const Hosts& hosts) {
  const Membership membership = meet(*store, rank, ranks_of(hosts), kPatience);
  const auto share = [&](const char* name, const std::vector<int>& ranks) {
    c10d::PrefixStore prefixed(name, store);
    return std::make_unique<SharedTransport>(
        std::make_unique<SharedRegion>(prefixed, membership, ranks, rank, kPatience));
  };
  if (hosts.size() == 1) return share("all", hosts[0]);
  std::vector<int> leaders;
  size_t own = 0;
  for (size_t host = 0; host < hosts.size(); ++host) {
    leaders.push_back(hosts[host][0]);
    if (std::find(hosts[host].begin(), hosts[host].end(), rank) != hosts[host].end()) own = host;
  }
  return std::make_unique<HierarchicalTransport>(
      hosts, rank, share("host", hosts[own]),
      hosts[own][0] == rank ? share("leaders", leaders) : nullptr,
      share("all", one_host(ranks_of(hosts))[0]));
}

// Runs body(rank, transport) on every rank; what a rank raises is its result.
std::vector<std::string> run_ranks(const Hosts& hosts,
                                   const std::function<void(int, Transport&)>& body) {
  const int size = ranks_of(hosts);
  auto store = c10::make_intrusive<c10d::HashStore>();
  std::vector<std::string> errors(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        const auto transport = connect(store, rank, hosts);
        body(rank, *transport);
      } catch (const c10::Error& error) {
        errors[static_cast<size_t>(rank)] = error.what_without_backtrace();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

std::vector<std::string> run_ranks(int size, const std::function<void(int, Transport&)>& body) {
  return run_ranks(one_host(size), body);
}

void expect_none(const std::vector<std::string>& errors) {
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

Operation make(Kind kind, uint64_t sequence, int64_t timeout_ms = kPatience.count()) {
  Operation operation;
  operation.kind = kind;
  operation.dtype = c10::ScalarType::Long;
  operation.element_size = 8;
  operation.reduction.dtype = kernels::DType::Int64;
  operation.sequence = sequence;
  operation.timeout_ms = timeout_ms;
  return operation;
}

using Numbers = std::vector<int64_t>;

Piece piece(Numbers& numbers) {
  if (numbers.empty()) return {};
  return {reinterpret_cast<char*>(numbers.data()), static_cast<int64_t>(numbers.size())};
}

// What a rank contributes at an index, in a collective.
int64_t number(int rank, int64_t index, uint64_t sequence) {
  return (rank + 1) * 1'000'003 + index * 17 + static_cast<int64_t>(sequence) * 31;
}

Numbers numbers_of(int rank, int64_t count, uint64_t sequence) {
  Numbers numbers(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) numbers[static_cast<size_t>(i)] = number(rank, i, sequence);
  return numbers;
}

TEST(Transport, AllReduceOfManySizes) {
  for (const int size : {1, 2, 3, 5}) {
    expect_none(run_ranks(size, [size](int rank, Transport& transport) {
      uint64_t sequence = 0;
      for (const int64_t count : {0, 1, 5, 2047, 2048, 2049, 30'000, 33'333, 400'000}) {
        for (int turn = 0; turn < 3; ++turn) {
          Operation operation = make(Kind::AllReduce, ++sequence);
          Numbers numbers = numbers_of(rank, count, sequence);
          operation.outputs = {piece(numbers)};
          transport.run(operation);
          for (int64_t i = 0; i < count; ++i) {
            int64_t expected = 0;
            for (int r = 0; r < size; ++r) expected += number(r, i, sequence);
            ASSERT_EQ(numbers[static_cast<size_t>(i)], expected) << count << " at " << i;
          }
        }
      }
    }));
  }
}

// Device memory of a rank.
class Arena {
 public:
  static constexpr size_t kBytes = size_t{16} << 20;
  ~Arena() { runtime::driver().release(0, data_, kBytes); }
  // Where host code finds it.
  char* at(size_t offset) const {
    return static_cast<char*>(runtime::driver().host_pointer(data_)) + offset;
  }

 private:
  void* data_ = runtime::driver().reserve(0, kBytes);
};

// Whether the page of an address is in the file that other processes can map.
bool is_shared(const char* address) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0, end = 0;
    char dash = 0;
    std::istringstream(line) >> std::hex >> begin >> dash >> end;
    const auto at = reinterpret_cast<uintptr_t>(address);
    if (begin <= at && at < end) return line.find("memfd:accel ") != std::string::npos;
  }
  return false;
}

// Tensors that are reduced again and again, some of them over parts of others, some at no page's
// beginning, of sizes that are no whole pages.
TEST(Transport, ReducesDeviceMemoryInPlace) {
  struct Place {
    size_t offset;
    int64_t count;
  };
  constexpr int64_t kMega = (1 << 20) / 8;
  for (const int size : {2, 3, 5}) {
    expect_none(run_ranks(size, [size](int rank, Transport& transport) {
      const Arena arena;
      const std::vector<Place> places = {
          {0, kMega},
          {4 << 20, 2 * kMega + 77},
          {size_t{5} << 20, kMega + 512},  // in the middle of the last
          {(8 << 20) + 4096, 4 * kMega - 1},
          {(13 << 20) + 64, kMega + 1},
          {size_t{14} << 20, kMega - 1},
      };
      std::mt19937 random(7);  // the same on all ranks
      for (uint64_t sequence = 1; sequence <= 60; ++sequence) {
        const size_t chosen = random() % places.size();
        const Place& place = places[chosen];
        char* const data = arena.at(place.offset);
        const Numbers numbers = numbers_of(rank, place.count, sequence);
        std::memcpy(data, numbers.data(), numbers.size() * sizeof(numbers[0]));
        Operation operation = make(Kind::AllReduce, sequence);
        operation.outputs = {Piece{data, place.count}};
        // Of one tensor the ranks disagree about its use.
        if (chosen == 0 && rank == 1) {
          Numbers elsewhere = numbers;
          operation.outputs = {piece(elsewhere)};
          transport.run(operation);
          std::memcpy(data, elsewhere.data(), numbers.size() * sizeof(numbers[0]));
        } else {
          transport.run(operation);
        }
        Numbers result(numbers.size());
        std::memcpy(result.data(), data, numbers.size() * sizeof(numbers[0]));
        for (int64_t i = 0; i < place.count; ++i) {
          int64_t expected = 0;
          for (int r = 0; r < size; ++r) expected += number(r, i, sequence);
          ASSERT_EQ(result[static_cast<size_t>(i)], expected) << place.count << " at " << i;
        }
      }
      EXPECT_FALSE(is_shared(arena.at(0)));
      EXPECT_EQ(is_shared(arena.at(size_t{9} << 20)), runtime::driver().can_share(arena.at(0)));
      EXPECT_FALSE(is_shared(arena.at(size_t{13} << 20)));
      EXPECT_FALSE(is_shared(arena.at(size_t{14} << 20)));
    }));
  }
}

TEST(Transport, ReducesInPlaceWithFactorsAndRoundsOnce) {
  expect_none(run_ranks(3, [](int rank, Transport& transport) {
    const Arena arena;
    const int64_t count = (1 << 20) + 3;
    auto* const values = reinterpret_cast<c10::BFloat16*>(arena.at(0));
    for (uint64_t sequence = 1; sequence <= 6; ++sequence) {
      std::fill(values, values + count, rank == 0 ? 256.0f : 0.5f);
      Operation operation = make(Kind::AllReduce, sequence);
      operation.dtype = c10::ScalarType::BFloat16;
      operation.element_size = 2;
      operation.reduction.dtype = kernels::DType::BFloat16;
      operation.reduction.weighted = true;
      operation.reduction.factor = rank == 0 ? 1 : 2;
      operation.outputs = {Piece{arena.at(0), count}};
      transport.run(operation);
      for (int64_t i = 0; i < count; ++i) ASSERT_EQ(static_cast<float>(values[i]), 258) << i;
    }
    EXPECT_EQ(is_shared(arena.at(0)), runtime::driver().can_share(arena.at(0)));
  }));
}

TEST(Transport, EveryCollectiveInRandomOrder) {
  for (const Hosts& hosts : {one_host(2), one_host(3), one_host(4), Hosts{{0, 1}, {2, 3}},
                             Hosts{{0, 2}, {1}}, Hosts{{0}, {1, 3, 4}, {2, 5}}}) {
    const int size = ranks_of(hosts);
    expect_none(run_ranks(hosts, [size](int rank, Transport& transport) {
      std::mt19937 random(11);  // the same on all ranks
      for (uint64_t sequence = 1; sequence <= 300; ++sequence) {
        const auto kind = static_cast<Kind>(random() % 9);
        const auto count =
            static_cast<int64_t>(random() % 5 == 0 ? random() % 200'000 : random() % 50);
        const int root = static_cast<int>(random() % static_cast<unsigned>(size));
        Operation operation = make(kind, sequence);
        operation.root = root;
        // What a rank has for another is what it has for all, but shifted by the other's rank.
        std::vector<Numbers> inputs, outputs;
        const auto input = [&](int to) { return numbers_of(rank, count, sequence + 100 * to); };
        const bool personal = kind == Kind::ReduceScatter || kind == Kind::AllToAll ||
                              (kind == Kind::Scatter && rank == root);
        if (kind == Kind::AllReduce || kind == Kind::Broadcast) {
          outputs.push_back(input(0));
        } else if (personal) {
          for (int to = 0; to < size; ++to) inputs.push_back(input(to));
        } else if (kind == Kind::AllGather || kind == Kind::Gather || kind == Kind::Reduce) {
          inputs.push_back(input(0));
        }
        const size_t expected = kind == Kind::AllGather || kind == Kind::AllToAll ||
                                        (kind == Kind::Gather && rank == root)
                                    ? static_cast<size_t>(size)
                                : kind == Kind::ReduceScatter || kind == Kind::Scatter ||
                                        (kind == Kind::Reduce && rank == root)
                                    ? 1
                                    : 0;
        if (expected > 0) outputs.resize(expected, Numbers(static_cast<size_t>(count)));
        for (Numbers& numbers : inputs) operation.inputs.push_back(piece(numbers));
        for (Numbers& numbers : outputs) operation.outputs.push_back(piece(numbers));
        transport.run(operation);
        for (size_t o = 0; o < outputs.size(); ++o) {
          for (int64_t i = 0; i < count; ++i) {
            int64_t wanted = 0;
            switch (kind) {
              case Kind::AllReduce:
              case Kind::Reduce:
                for (int r = 0; r < size; ++r) wanted += number(r, i, sequence);
                break;
              case Kind::ReduceScatter:
                for (int r = 0; r < size; ++r) {
                  wanted += number(r, i, sequence + 100 * static_cast<uint64_t>(rank));
                }
                break;
              case Kind::Broadcast:
                wanted = number(root, i, sequence);
                break;
              case Kind::Scatter:
                wanted = number(root, i, sequence + 100 * static_cast<uint64_t>(rank));
                break;
              case Kind::AllToAll:
                wanted =
                    number(static_cast<int>(o), i, sequence + 100 * static_cast<uint64_t>(rank));
                break;
              default:
                wanted = number(static_cast<int>(o), i, sequence);
            }
            ASSERT_EQ(outputs[o][static_cast<size_t>(i)], wanted)
                << name_of(kind) << " of " << count << " at " << i;
          }
        }
      }
    }));
  }
}

TEST(Transport, MessagesAreChosenByTag) {
  // Rank 1 asks for the last first; the others, larger than the ring, are set aside.
  expect_none(run_ranks(2, [](int rank, Transport& transport) {
    constexpr int kTags = 4;
    constexpr int64_t kCount = 100'000;
    for (int turn = 0; turn < kTags; ++turn) {
      const int tag = rank == 0 ? turn : kTags - 1 - turn;
      Operation operation = make(rank == 0 ? Kind::Send : Kind::Receive, 1);
      operation.root = 1 - rank;
      operation.tag = tag;
      Numbers numbers = rank == 0 ? numbers_of(0, kCount, static_cast<uint64_t>(tag))
                                  : Numbers(static_cast<size_t>(kCount));
      (rank == 0 ? operation.inputs : operation.outputs) = {piece(numbers)};
      EXPECT_EQ(transport.run_message(operation), 1 - rank);
      EXPECT_EQ(numbers, numbers_of(0, kCount, static_cast<uint64_t>(tag)));
    }
  }));
}

TEST(Transport, MessagesFromAnyRank) {
  expect_none(run_ranks(4, [](int rank, Transport& transport) {
    for (int turn = 0; turn < (rank == 0 ? 30 : 10); ++turn) {
      Operation operation = make(rank == 0 ? Kind::Receive : Kind::Send, 1);
      operation.root = rank == 0 ? kAnySource : 0;
      Numbers numbers = rank == 0 ? Numbers(50) : numbers_of(rank, 50, 0);
      (rank == 0 ? operation.outputs : operation.inputs) = {piece(numbers)};
      const int source = transport.run_message(operation);
      if (rank == 0) {
        EXPECT_EQ(numbers, numbers_of(source, 50, 0));
      }
    }
  }));
}

TEST(Transport, RanksThatDisagreeAreNamed) {
  const auto errors = run_ranks(2, [](int rank, Transport& transport) {
    Numbers numbers(rank == 0 ? 100 : 200);
    Operation operation = make(Kind::AllReduce, 1, 5000);
    operation.outputs = {piece(numbers)};
    transport.run(operation);
  });
  for (const std::string& error : errors) {
    EXPECT_NE(error.find("all_reduce, sequence number 1"), std::string::npos) << error;
    EXPECT_NE(error.find("all_reduce(100 elements of Long, SUM)"), std::string::npos) << error;
    EXPECT_NE(error.find("all_reduce(200 elements of Long, SUM)"), std::string::npos) << error;
  }
}

TEST(Transport, AnEarlierDisagreementIsFound) {
  // Each is the root of its own broadcast, so that neither reads the other's slot.
  const auto errors = run_ranks(2, [](int rank, Transport& transport) {
    Numbers numbers(10);
    Operation operation = make(Kind::Broadcast, 1, 5000);
    operation.root = rank;
    operation.outputs = {piece(numbers)};
    transport.run(operation);
    transport.run(make(Kind::Barrier, 2, 5000));
  });
  for (const std::string& error : errors) {
    EXPECT_NE(error.find("an earlier collective was not the same"), std::string::npos) << error;
  }
}

TEST(Transport, AMissingRankIsNamed) {
  const auto errors = run_ranks(3, [](int rank, Transport& transport) {
    transport.run(make(Kind::Barrier, 1));
    if (rank == 2) return;  // present, but it does not take part
    transport.run(make(Kind::Barrier, 2, 300));
  });
  for (int rank = 0; rank < 2; ++rank) {
    const std::string& error = errors[static_cast<size_t>(rank)];
    EXPECT_NE(error.find("barrier, sequence number 2"), std::string::npos) << error;
    EXPECT_NE(error.find("rank 2 is missing"), std::string::npos) << error;
  }
}

TEST(Transport, ARankThatLeavesIsNamed) {
  const auto errors = run_ranks(2, [](int rank, Transport& transport) {
    if (rank == 1) return transport.leave();
    transport.run(make(Kind::Barrier, 1));
  });
  EXPECT_NE(errors[0].find("rank 1 has left the group"), std::string::npos) << errors[0];
}

TEST(Transport, AFailureReachesTheOthers) {
  const auto errors = run_ranks(2, [](int rank, Transport& transport) {
    if (rank == 1) return transport.fail("rank 1 had enough");
    transport.run(make(Kind::Barrier, 1));
  });
  EXPECT_NE(errors[0].find("rank 1 had enough"), std::string::npos) << errors[0];
}

TEST(Transport, SixteenBitsAreRoundedOnceAcrossHosts) {
  // 256 and three halves: with a host's sum rounded first, the halves would be lost.
  expect_none(run_ranks(Hosts{{0, 1}, {2, 3}}, [](int rank, Transport& transport) {
    std::vector<c10::BFloat16> values(1000, rank == 0 ? 256.0f : 0.5f);
    Operation operation = make(Kind::AllReduce, 1);
    operation.dtype = c10::ScalarType::BFloat16;
    operation.element_size = 2;
    operation.reduction.dtype = kernels::DType::BFloat16;
    operation.outputs = {{reinterpret_cast<char*>(values.data()), 1000}};
    transport.run(operation);
    for (const c10::BFloat16 value : values) ASSERT_EQ(static_cast<float>(value), 258.0f);
  }));
}

TEST(Transport, UnevenPiecesAcrossHosts) {
  const Hosts hosts{{0, 2}, {1, 3, 4}};
  expect_none(run_ranks(hosts, [](int rank, Transport& transport) {
    constexpr int kRanks = 5;
    const auto count = [](int of) { return static_cast<int64_t>(of * 700); };
    Operation gather = make(Kind::AllGather, 1), scatter = make(Kind::ReduceScatter, 2);
    Numbers own = numbers_of(rank, count(rank), 1), sum(static_cast<size_t>(count(rank)));
    std::vector<Numbers> gathered, given;
    for (int other = 0; other < kRanks; ++other) {
      gathered.emplace_back(static_cast<size_t>(count(other)));
      given.push_back(numbers_of(rank, count(other), 2));
    }
    gather.inputs = {piece(own)};
    scatter.outputs = {piece(sum)};
    for (Numbers& numbers : gathered) gather.outputs.push_back(piece(numbers));
    for (Numbers& numbers : given) scatter.inputs.push_back(piece(numbers));
    transport.run(gather);
    transport.run(scatter);
    for (int other = 0; other < kRanks; ++other) {
      EXPECT_EQ(gathered[static_cast<size_t>(other)], numbers_of(other, count(other), 1));
    }
    for (int64_t i = 0; i < count(rank); ++i) {
      int64_t expected = 0;
      for (int other = 0; other < kRanks; ++other) expected += number(other, i, 2);
      ASSERT_EQ(sum[static_cast<size_t>(i)], expected);
    }
  }));
}

TEST(Transport, AMissingRankOfAnotherHostEndsTheWaitOfAll) {
  const auto errors = run_ranks(Hosts{{0, 1}, {2, 3}}, [](int rank, Transport& transport) {
    transport.run(make(Kind::Barrier, 1));
    if (rank == 3) return;
    Numbers numbers(10);
    Operation operation = make(Kind::AllReduce, 2, 300);
    operation.outputs = {piece(numbers)};
    transport.run(operation);
  });
  for (int rank = 0; rank < 3; ++rank) {
    const std::string& error = errors[static_cast<size_t>(rank)];
    EXPECT_NE(error.find("all_reduce, sequence number 2"), std::string::npos) << error;
  }
  EXPECT_NE(errors[2].find("rank 3 is missing"), std::string::npos) << errors[2];
  // The leader, and through it the other rank of its host, know whose leader has not come.
  for (const int rank : {0, 1}) {
    EXPECT_NE(errors[static_cast<size_t>(rank)].find("rank 2"), std::string::npos)
        << errors[static_cast<size_t>(rank)];
  }
}

TEST(Transport, RoundsWrapAround) {
  // More rounds than slots, many times; counters that begin near their end would be the same.
  expect_none(run_ranks(2, [](int rank, Transport& transport) {
    for (uint64_t sequence = 1; sequence <= 3000; ++sequence) {
      Operation operation = make(Kind::AllReduce, sequence);
      Numbers numbers{rank + static_cast<int64_t>(sequence)};
      operation.outputs = {piece(numbers)};
      transport.run(operation);
      ASSERT_EQ(numbers[0], 2 * static_cast<int64_t>(sequence) + 1);
    }
  }));
}

TEST(Rendezvous, WhatAnEarlierStartLeftIsNotBelieved) {
  auto store = c10::make_intrusive<c10d::HashStore>();
  std::vector<std::string> tokens(2);
  const auto meet_all = [&] {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < 2; ++rank) {
      threads.emplace_back([&, rank] {
        tokens[static_cast<size_t>(rank)] = meet(*store, rank, 2, kPatience).token;
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(tokens[0], tokens[1]);
    return tokens[0];
  };
  const std::string first = meet_all(), second = meet_all();
  EXPECT_NE(first, second);
  // One rank alone does not meet the ghost of the other.
  EXPECT_THROW(meet(*store, 0, 2, milliseconds(200)), c10::DistBackendError);
}

TEST(Rendezvous, AbsentRanksAreNamed) {
  auto store = c10::make_intrusive<c10d::HashStore>();
  try {
    meet(*store, 0, 3, milliseconds(100));
    FAIL();
  } catch (const c10::DistBackendError& error) {
    EXPECT_NE(std::string(error.what()).find("nothing was heard of rank(s) 1 2"), std::string::npos)
        << error.what();
  }
}

TEST(Rendezvous, SizesThatDoNotMatchAreNamed) {
  auto store = c10::make_intrusive<c10d::HashStore>();
  std::thread other(
      [&] { EXPECT_THROW(meet(*store, 1, 3, milliseconds(2000)), c10::DistBackendError); });
  try {
    meet(*store, 0, 2, kPatience);
    ADD_FAILURE();
  } catch (const c10::DistBackendError& error) {
    EXPECT_NE(std::string(error.what()).find("rank 1 expects 3"), std::string::npos)
        << error.what();
  }
  other.join();
}

}  // namespace
}  // namespace accel::distributed
