// AVX-512 with VBMI and VNNI: one permutation looks 64 bytes up in 4 tables of 16 int8 sums, one dot product adds the 4 of a row.
#include "factorizer_kernels.h"
#include "kernels.h"
#if defined(__x86_64__)
#include "kernels_avx512.h"

namespace dbf {
namespace {

// Columns of a panel: its table (16 KiB) stays in the first-level cache while all rows pass.
constexpr size_t kFastPanelWords = 128;

// Table order: [word][low or high nibble][byte of the word][entry].
bool fastTable(const float* x, size_t words, int8_t* table, float* scales) {
  for (size_t word = 0; word < words; word++, x += kWordColumns, table += kTableEntries) {
    __m512 a = _mm512_abs_ps(_mm512_loadu_ps(x)), b = _mm512_abs_ps(_mm512_loadu_ps(x + 16));
    a = _mm512_add_ps(a, _mm512_permute_ps(a, 0xB1));
    b = _mm512_add_ps(b, _mm512_permute_ps(b, 0xB1));
    a = _mm512_add_ps(a, _mm512_permute_ps(a, 0x4E));
    b = _mm512_add_ps(b, _mm512_permute_ps(b, 0x4E));
    const __m512 limit = _mm512_set1_ps(kFastLargest);
    if ((_mm512_cmp_ps_mask(a, limit, _CMP_LE_OQ) & _mm512_cmp_ps_mask(b, limit, _CMP_LE_OQ)) != 0xffff) return false;
    const float most = _mm512_reduce_max_ps(_mm512_max_ps(a, b));
    const bool zero = most < kFastSmallest;
    scales[word] = zero ? 0 : most / 127;
    const __m512 inverse = _mm512_set1_ps(zero ? 0 : 127 / most);
    for (int group = 0; group < 8; group++) {
      const __m512i sums = _mm512_cvtps_epi32(_mm512_mul_ps(groupSums(x + 4 * group), inverse));
      _mm_store_si128(reinterpret_cast<__m128i*>(table + (group & 1) * 64 + (group >> 1) * 16), _mm512_cvtsepi32_epi8(sums));
    }
  }
  return true;
}

// Adds `words` words of kBlocks blocks, which are `stride` words apart, to `sums`, and with kAhead fetches as many from
// `next`.
template <int kBlocks, bool kAhead>
inline void fastPanel(const uint32_t* signs, size_t stride, size_t words, const int8_t* table, const float* scales, float* sums,
                      uintptr_t next) {
  const __m512i nibble = _mm512_set1_epi8(15), byteOffset = _mm512_set1_epi32(0x30201000), ones = _mm512_set1_epi8(1);
  __m512 accumulators[kBlocks];
  for (int i = 0; i < kBlocks; i++) accumulators[i] = _mm512_loadu_ps(sums + 16 * i);
  for (size_t word = 0; word < words; word++, table += kTableEntries) {
    const __m512i low = _mm512_load_si512(table), high = _mm512_load_si512(table + 64);
    const __m512 scale = _mm512_set1_ps(scales[word]);
#pragma GCC unroll 8
    for (int i = 0; i < kBlocks; i++) {
      if (kAhead) fetch(next + (i * stride + word) * kBlockRows * sizeof(uint32_t));
      const __m512i bits = _mm512_loadu_si512(signs + (i * stride + word) * kBlockRows);
      // (bits & 15) | offset of the byte's table
      const __m512i lowIndex = _mm512_ternarylogic_epi32(bits, nibble, byteOffset, 0xEA);
      const __m512i highIndex = _mm512_ternarylogic_epi32(_mm512_srli_epi32(bits, 4), nibble, byteOffset, 0xEA);
      __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, _mm512_permutexvar_epi8(lowIndex, low));
      sum = _mm512_dpbusd_epi32(sum, ones, _mm512_permutexvar_epi8(highIndex, high));
      accumulators[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, accumulators[i]);
    }
  }
  for (int i = 0; i < kBlocks; i++) _mm512_storeu_ps(sums + 16 * i, accumulators[i]);
}

template <bool kAhead>
void fastStrip(const uint32_t* signs, size_t words, size_t blocks, const int8_t* table, const float* scales, float* sums) {
  for (size_t i = 0; i < blocks * kBlockRows; i++) sums[i] = 0;
  for (size_t word = 0; word < words; word += kFastPanelWords) {
    const size_t count = words - word < kFastPanelWords ? words - word : kFastPanelWords;
    const auto panel = [&](size_t block, size_t step, auto run) {
      run(signs + (block * words + word) * kBlockRows, words, count, table + word * kTableEntries, scales + word,
          sums + block * kBlockRows, signsAfter(signs, words, blocks, block, step, word, count));
    };
    size_t block = 0;
    for (; block + 4 <= blocks; block += 4) panel(block, 4, fastPanel<4, kAhead>);
    for (; block < blocks; block++) panel(block, 1, fastPanel<1, kAhead>);
  }
}

void fastSums(const uint32_t* signs, size_t words, size_t blocks, const int8_t* table, const float* scales, float* sums, bool ahead) {
  (ahead ? fastStrip<true> : fastStrip<false>)(signs, words, blocks, table, scales, sums);
}

void fromHalf(const uint16_t* in, size_t count, float* out) { kAvx2Kernels.fromHalf(in, count, out); }
void toHalf(const float* in, size_t count, uint16_t* out) { kAvx2Kernels.toHalf(in, count, out); }

}  // namespace

const KernelSet kAvx512VnniKernels = {"avx512-vnni", exactTable, exactSums, fastTable, fastSums, fromHalf, toHalf, &kAvx512Factorizer};

}  // namespace dbf
#endif
