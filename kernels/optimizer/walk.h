// How an optimizer step walks over its tensors: the elements of all of them, laid end to end, are
// cut into chunks of equal size. Included by adam.simd.cpp and sgd.simd.cpp only.
#pragma once

#include "kernels/common/elements.h"
#include "kernels/common/parallel.h"

namespace accel::kernels::ACCEL_ISA::optimizer {

// Elements of one chunk: Adam moves 28 bytes for each in fp32, so a chunk is 450 KB and about 20
// µs.
inline constexpr int64_t kChunk = 16384;

// A run of one array that a step reads and writes: vector by vector in place, its end in a buffer.
// Padding lanes hold ones, which no step turns into a floating-point trap or a slow denormal.
template <class Element>
class Run {
 public:
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(RealOf<Element>));

  Run(void* data, int64_t begin) : data_(data ? static_cast<Element*>(data) + begin : nullptr) {}
  Element* at(int64_t i) { return data_ + i; }
  Element* open_tail(int64_t i, int64_t count) {
    Vector<RealOf<Element>> ones = splat<Vector<RealOf<Element>>>(RealOf<Element>{1});
    store_narrow(tail_, ones);
    if (data_) std::memcpy(tail_, data_ + i, static_cast<size_t>(count) * sizeof(Element));
    return tail_;
  }
  void close_tail(int64_t i, int64_t count) {
    if (data_) std::memcpy(data_ + i, tail_, static_cast<size_t>(count) * sizeof(Element));
  }

 private:
  Element* data_;
  alignas(64) Element tail_[kLanes];
};

// Calls body(tensor, begin, end) for pieces that cover every element once, on the team. A piece
// ends where its chunk or its tensor does; steps are element-wise, so no bit depends on the cut.
template <class Tensor, class Body>
void for_each_piece(const Tensor* tensors, int64_t count, Body&& body) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += tensors[i].elements;
  parallel_for((total + kChunk - 1) / kChunk, [&](int64_t chunk) {
    const int64_t begin = chunk * kChunk, end = begin + kChunk;
    int64_t first = 0;  // of tensors[i], among all elements
    for (int64_t i = 0; i < count && first < end; ++i) {
      const int64_t last = first + tensors[i].elements;
      if (last > begin) {
        body(tensors[i], begin > first ? begin - first : 0, (last < end ? last : end) - first);
      }
      first = last;
    }
  });
}

}  // namespace accel::kernels::ACCEL_ISA::optimizer
