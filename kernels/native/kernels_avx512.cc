// AVX-512 F, BW, DQ, VL without byte permutations: exact by f32 permutations, the rest as with AVX2.
#include "factorizer_kernels.h"
#include "kernels.h"
#if defined(__x86_64__)
#include "kernels_avx512.h"

namespace dbf {
namespace {

bool fastTable(const float* x, size_t words, int8_t* table, float* scales) {
  return kAvx2Kernels.fastTable(x, words, table, scales);
}
void fastSums(const uint32_t* signs, size_t words, size_t blocks, const int8_t* table, const float* scales, float* sums, bool ahead) {
  kAvx2Kernels.fastSums(signs, words, blocks, table, scales, sums, ahead);
}
void fromHalf(const uint16_t* in, size_t count, float* out) { kAvx2Kernels.fromHalf(in, count, out); }
void toHalf(const float* in, size_t count, uint16_t* out) { kAvx2Kernels.toHalf(in, count, out); }

}  // namespace

const KernelSet kAvx512Kernels = {"avx512", exactTable, exactSums, fastTable, fastSums, fromHalf, toHalf, &kAvx512Factorizer};

}  // namespace dbf
#endif
