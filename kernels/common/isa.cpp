#include "kernels/common/isa.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace accel::kernels {

namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "amx"};

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
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512) return amx_usable() ? Isa::Amx : Isa::Avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::Avx2;
#endif
  return Isa::Portable;
}

Isa choose() {
  const Isa best = detect();
  const char* wanted = std::getenv("ACCEL_ISA");
  if (!wanted || !*wanted) return best;
  for (int i = 0; i < 4; ++i) {
    if (std::strcmp(wanted, kNames[i]) != 0) continue;
    if (static_cast<Isa>(i) <= best) return static_cast<Isa>(i);
    std::fprintf(stderr, "accel: ACCEL_ISA=%s is not supported by this machine; using %s\n", wanted,
                 isa_name(best));
    return best;
  }
  std::fprintf(stderr, "accel: ACCEL_ISA=%s is not one of portable, avx2, avx512, amx; using %s\n",
               wanted, isa_name(best));
  return best;
}

}  // namespace

Isa current_isa() {
  static const Isa isa = choose();
  return isa;
}

const char* isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

}  // namespace accel::kernels
