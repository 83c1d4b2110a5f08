// Instruction sets: one binary holds every variant and chooses at start.
//
// A file named *.simd.cpp is compiled once per instruction set, with ACCEL_ISA defined to the
// namespace of the variant (portable, avx2, avx512), and puts all it defines into
// `namespace accel::kernels::ACCEL_ISA`. It includes only headers whose inline functions live in
// that namespace too, or are trivially inlined: a std:: template instantiated there with AVX-512
// code could otherwise be the copy that the linker keeps for everyone (`make check-isa` looks).
#pragma once

namespace accel::kernels {

// In rising order: a machine that runs one runs those before it. Avx512Bf16 adds VDPBF16PS, which
// multiplies pairs of bf16, to Avx512; Amx adds tiles.
enum class Isa { Portable, Avx2, Avx512, Avx512Bf16, Amx };

// The last that this machine can run.
Isa highest_isa();
// What kernels use: the fastest of this machine, or what ACCEL_ISA asks for by name (portable,
// avx2, avx512, avx512_bf16, amx). A name that is unknown, or that this machine cannot run, is
// reported once on stderr and ignored.
Isa current_isa();
const char* isa_name(Isa isa);

}  // namespace accel::kernels

// Defines, in namespace accel::kernels, a function that calls the variant of current_isa():
//   ACCEL_DISPATCH(void, scale, (float* x, int64_t n), (x, n))
#define ACCEL_DISPATCH(Result, name, parameters, arguments) \
  namespace portable {                                      \
  Result name parameters;                                   \
  }                                                         \
  namespace avx2 {                                          \
  Result name parameters;                                   \
  }                                                         \
  namespace avx512 {                                        \
  Result name parameters;                                   \
  }                                                         \
  Result name parameters {                                  \
    switch (current_isa()) {                                \
      case Isa::Portable:                                   \
        return portable::name arguments;                    \
      case Isa::Avx2:                                       \
        return avx2::name arguments;                        \
      default:                                              \
        return avx512::name arguments;                      \
    }                                                       \
  }
