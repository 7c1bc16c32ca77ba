// Chooses the kernels of this machine.
#include <cstdlib>
#include <cstring>
#include <string>

#include "binary_matmul.h"

namespace dbf {
namespace {

struct Candidate {
  const KernelSet* kernels;
  bool runs;
};

// Slowest first.
const Candidate* candidates(size_t& count) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
  static const Candidate all[] = {
      {&kScalarKernels, true}, {&kAvx2Kernels, avx2}, {&kAvx512Kernels, avx512}, {&kAvx512VnniKernels, vnni}};
#elif defined(__aarch64__)
  static const Candidate all[] = {{&kScalarKernels, true}, {&kNeonKernels, true}};
#else
  static const Candidate all[] = {{&kScalarKernels, true}};
#endif
  count = sizeof all / sizeof *all;
  return all;
}

const KernelSet& choose() {
  const char* wanted = std::getenv("DBF_ISA");
  if (const KernelSet* named = wanted ? kernelsNamed(wanted) : nullptr) return *named;
  size_t count;
  const Candidate* all = candidates(count);
  while (!all[count - 1].runs) count--;
  return *all[count - 1].kernels;
}

std::string joinNames() {
  size_t count;
  const Candidate* all = candidates(count);
  std::string names;
  for (size_t i = 0; i < count; i++) {
    if (all[i].runs) names += (names.empty() ? "" : ",") + std::string(all[i].kernels->isa);
  }
  return names;
}

}  // namespace

const KernelSet* kernelsNamed(const char* isa) {
  size_t count;
  const Candidate* all = candidates(count);
  for (size_t i = 0; i < count; i++) {
    if (all[i].runs && std::strcmp(all[i].kernels->isa, isa) == 0) return all[i].kernels;
  }
  return nullptr;
}

const KernelSet& kernels() {
  static const KernelSet& chosen = choose();
  return chosen;
}

const char* kernelNames() {
  static const std::string names = joinNames();
  return names.c_str();
}

}  // namespace dbf
