// Bags and weights in chunks on the team.
#include "kernels/embedding_bag/embedding_bag.h"

#include <algorithm>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/embedding_bag/bags.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, reduce_bags,
               (const EmbeddingBag& args, int64_t begin, int64_t end, BadIndex* bad),
               (args, begin, end, bad))
ACCEL_DISPATCH(void, weight_gradients,
               (const BagWeightGradient& args, int64_t begin, int64_t end, BadIndex* bad),
               (args, begin, end, bad))

namespace {

// A thread reads about this many elements of the table at a time.
constexpr int64_t kChunkElements = 32 * 1024;

template <class Body>
void in_chunks(int64_t items, int64_t elements, Fault* fault, const Body& body) {
  if (items == 0) return;
  const int64_t per_item = std::max<int64_t>(1, elements / items);
  const int64_t each = std::max<int64_t>(1, kChunkElements / per_item);
  parallel_for((items + each - 1) / each, [&](int64_t chunk) {
    BadIndex bad;
    body(chunk * each, std::min(items, (chunk + 1) * each), &bad);
    if (bad.found) fault->report(bad.index, bad.bound);
  });
}

}  // namespace

void embedding_bag(const EmbeddingBag& args, Fault* fault) {
  in_chunks(args.bags, (args.count + args.bags) * args.width, fault,
            [&](int64_t begin, int64_t end, BadIndex* bad) { reduce_bags(args, begin, end, bad); });
}

void bag_weight_gradient(const BagWeightGradient& args, Fault* fault) {
  in_chunks(
      args.forward.count, args.forward.count * args.forward.width, fault,
      [&](int64_t begin, int64_t end, BadIndex* bad) { weight_gradients(args, begin, end, bad); });
}

}  // namespace accel::kernels
