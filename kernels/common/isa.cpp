#include "kernels/common/isa.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace accel::kernels {

namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};

#if defined(__x86_64__)
// AMX tiles exist and the kernel lets this process use them (Linux: arch_prctl, XFEATURE 18).
bool amx_usable() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool tile = d & (1u << 24), bf16 = d & (1u << 22);
  constexpr int kArchReqXcompPerm = 0x1023, kXfeatureTileData = 18;
  return tile && bf16 && syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
}
#endif

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // What CMakeLists.txt lets the compiler use in each variant.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) {
    return amx_usable() ? Isa::Amx : Isa::Avx512Bf16;
  }
  if (avx512) return Isa::Avx512;
  if (avx2) return Isa::Avx2;
#endif
  return Isa::Portable;
}

// Intel's cores that have AVX512-FP16 begin a VDPBF16PS every other cycle, but two fp32
// multiply-adds a cycle: 88 and 180 GFLOP/s on one core of an Emerald Rapids, whose AMX the machine
// did not offer. AMD's Zen 4 begins one a cycle. From what the processor is rather
// than from a measurement, since bits follow from it.
Isa fastest_isa() {
  const Isa highest = highest_isa();
#if defined(__x86_64__)
  if (highest == Isa::Avx512Bf16 && __builtin_cpu_is("intel") &&
      __builtin_cpu_supports("avx512fp16")) {
    return Isa::Avx512;
  }
#endif
  return highest;
}

Isa choose() {
  const Isa best = fastest_isa();
  const char* wanted = std::getenv("ACCEL_ISA");
  if (!wanted || !*wanted) return best;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (std::strcmp(wanted, kNames[i]) != 0) continue;
    if (static_cast<Isa>(i) <= highest_isa()) return static_cast<Isa>(i);
    std::fprintf(stderr, "accel: ACCEL_ISA=%s is not supported by this machine; using %s\n", wanted,
                 isa_name(best));
    return best;
  }
  std::fprintf(
      stderr,
      "accel: ACCEL_ISA=%s is not one of portable, avx2, avx512, avx512_bf16, amx; using %s\n",
      wanted, isa_name(best));
  return best;
}

}  // namespace

Isa highest_isa() {
  static const Isa isa = detect();
  return isa;
}

Isa current_isa() {
  static const Isa isa = choose();
  return isa;
}

const char* isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

}  // namespace accel::kernels
