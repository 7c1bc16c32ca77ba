// AVX2, FMA and F16C: 8 rows a register, table lookups of f32 by two permutations, of int8 by byte shuffles.
#include "factorizer_kernels.h"
#include "kernels.h"
#if defined(__x86_64__)
#include <immintrin.h>

namespace dbf {
namespace {

// Columns of a panel: its table (16 KiB) stays in the first-level cache while all rows pass.
constexpr size_t kPanelWords = 32;

// The sums of 4 activations: entries 0..7 in `low`, 8..15 in `high`; bit j of the entry is the sign of x[j].
inline void groupSums(const float* x, __m256& low, __m256& high) {
  const __m256 negative = _mm256_set1_ps(-0.0f);
  const __m256 s0 = _mm256_setr_ps(-0.0f, 0, -0.0f, 0, -0.0f, 0, -0.0f, 0);
  const __m256 s1 = _mm256_setr_ps(-0.0f, -0.0f, 0, 0, -0.0f, -0.0f, 0, 0);
  const __m256 s2 = _mm256_setr_ps(-0.0f, -0.0f, -0.0f, -0.0f, 0, 0, 0, 0);
  const __m256 sum = _mm256_add_ps(_mm256_add_ps(_mm256_xor_ps(_mm256_broadcast_ss(x), s0), _mm256_xor_ps(_mm256_broadcast_ss(x + 1), s1)),
                                   _mm256_xor_ps(_mm256_broadcast_ss(x + 2), s2));
  const __m256 last = _mm256_broadcast_ss(x + 3);
  low = _mm256_add_ps(sum, _mm256_xor_ps(last, negative));
  high = _mm256_add_ps(sum, last);
}

void exactTable(const float* x, size_t words, float* table) {
  for (size_t group = 0; group < 8 * words; group++, x += 4, table += 16) {
    __m256 low, high;
    groupSums(x, low, high);
    _mm256_store_ps(table, low);
    _mm256_store_ps(table + 8, high);
  }
}

// Adds `words` words of kBlocks blocks, which are `stride` words apart, to `sums`, and with kAhead fetches as many from `next`.
template <int kBlocks, bool kAhead>
inline void exactPanel(const uint32_t* signs, size_t stride, size_t words, const float* table, float* sums, uintptr_t next) {
  constexpr int kHalves = 2 * kBlocks;
  __m256 accumulators[kHalves];
  for (int i = 0; i < kHalves; i++) accumulators[i] = _mm256_setzero_ps();
  for (size_t word = 0; word < words; word++, table += kTableEntries) {
    for (int i = 0; kAhead && i < kBlocks; i++) fetch(next + (i * stride + word) * kBlockRows * sizeof(uint32_t));
    __m256i bits[kHalves];
    for (int i = 0; i < kHalves; i++) {
      const uint32_t* at = signs + ((i / 2) * stride + word) * kBlockRows + (i % 2) * 8;
      bits[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    }
#pragma GCC unroll 8
    for (int group = 0; group < 8; group++) {
      const __m256 low = _mm256_load_ps(table + 16 * group), high = _mm256_load_ps(table + 16 * group + 8);
#pragma GCC unroll 8
      for (int i = 0; i < kHalves; i++) {
        // bits 0..2 of the nibble choose inside a half of the table, bit 3, moved to the sign, chooses the half
        const __m256i index = group == 0 ? bits[i] : _mm256_srli_epi32(bits[i], 4 * group);
        const __m256i half = group == 7 ? bits[i] : _mm256_slli_epi32(bits[i], 28 - 4 * group);
        accumulators[i] = _mm256_add_ps(accumulators[i], _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index),
                                                                          _mm256_permutevar8x32_ps(high, index),
                                                                          _mm256_castsi256_ps(half)));
      }
    }
  }
  for (int i = 0; i < kHalves; i++) {
    _mm256_storeu_ps(sums + 8 * i, _mm256_add_ps(_mm256_loadu_ps(sums + 8 * i), accumulators[i]));
  }
}

template <bool kAhead>
void exactStrip(const uint32_t* signs, size_t words, size_t blocks, const float* table, float* sums) {
  for (size_t i = 0; i < blocks * kBlockRows; i++) sums[i] = 0;
  for (size_t word = 0; word < words; word += kPanelWords) {
    const size_t count = words - word < kPanelWords ? words - word : kPanelWords;
    const auto panel = [&](size_t block, size_t step, auto run) {
      run(signs + (block * words + word) * kBlockRows, words, count, table + word * kTableEntries, sums + block * kBlockRows,
          signsAfter(signs, words, blocks, block, step, word, count));
    };
    size_t block = 0;
    for (; block + 2 <= blocks; block += 2) panel(block, 2, exactPanel<2, kAhead>);
    if (block < blocks) panel(block, 1, exactPanel<1, kAhead>);
  }
}

void exactSums(const uint32_t* signs, size_t words, size_t blocks, const float* table, float* sums, bool ahead) {
  (ahead ? exactStrip<true> : exactStrip<false>)(signs, words, blocks, table, sums);
}

inline float largestOf(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

// Table order: [word][low or high nibble][byte of the word][entry], biased by 128 to be unsigned.
bool fastTable(const float* x, size_t words, int8_t* table, float* scales) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  for (size_t word = 0; word < words; word++, x += kWordColumns, table += kTableEntries) {
    __m256 largest = _mm256_setzero_ps(), finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    for (int i = 0; i < 4; i++) {
      __m256 sum = _mm256_and_ps(_mm256_loadu_ps(x + 8 * i), magnitude);
      sum = _mm256_add_ps(sum, _mm256_permute_ps(sum, 0xB1));
      sum = _mm256_add_ps(sum, _mm256_permute_ps(sum, 0x4E));
      finite = _mm256_and_ps(finite, _mm256_cmp_ps(sum, _mm256_set1_ps(kFastLargest), _CMP_LE_OQ));
      largest = _mm256_max_ps(largest, sum);
    }
    if (_mm256_movemask_ps(finite) != 0xff) return false;
    const float most = largestOf(largest);
    const bool zero = most < kFastSmallest;
    scales[word] = zero ? 0 : most / 127;
    const __m256 inverse = _mm256_set1_ps(zero ? 0 : 127 / most);
    for (int group = 0; group < 8; group++) {
      __m256 low, high;
      groupSums(x + 4 * group, low, high);
      const __m256i packed = _mm256_permute4x64_epi64(
          _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(low, inverse)), _mm256_cvtps_epi32(_mm256_mul_ps(high, inverse))), 0xD8);
      const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1));
      _mm_store_si128(reinterpret_cast<__m128i*>(table + (group & 1) * 64 + (group >> 1) * 16), _mm_xor_si128(bytes, _mm_set1_epi8(-128)));
    }
  }
  return true;
}

void fastSums(const uint32_t* signs, size_t words, size_t blocks, const int8_t* table, const float* scales, float* sums, bool) {
  // One stream through the signs: the processor fetches it by itself.
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i transpose = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                             0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m256i bias = _mm256_set1_epi32(128 * 8);
  for (size_t block = 0; block < blocks; block++, sums += kBlockRows) {
    __m256 even = _mm256_setzero_ps(), odd = even;  // rows 0, 2, 8, 10, 4, 6, 12, 14 and the ones after them
    const int8_t* t = table;
    for (size_t word = 0; word < words; word++, t += kTableEntries, signs += kBlockRows) {
      __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(signs));
      __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(signs + 8));
      // words of rows to bytes of columns: a = byte 0 of 16 rows, byte 1 of 16 rows; b = bytes 2 and 3;
      // the rows in the order 0..3, 8..11, 4..7, 12..15
      a = _mm256_shuffle_epi8(a, transpose);
      b = _mm256_shuffle_epi8(b, transpose);
      const __m256i u = _mm256_unpacklo_epi32(a, b), v = _mm256_unpackhi_epi32(a, b);
      a = _mm256_permute4x64_epi64(u, 0xD8);
      b = _mm256_permute4x64_epi64(v, 0xD8);
      const auto look = [&](size_t at, __m256i index) {
        return _mm256_shuffle_epi8(_mm256_load_si256(reinterpret_cast<const __m256i*>(t + at)), _mm256_and_si256(index, nibble));
      };
      const __m256i found[4] = {look(0, a), look(32, b), look(64, _mm256_srli_epi16(a, 4)), look(96, _mm256_srli_epi16(b, 4))};
      // 16-bit sums of odd rows, and of both with the odd ones 256-fold
      __m256i both = found[0], odds = _mm256_srli_epi16(found[0], 8);
      for (int i = 1; i < 4; i++) {
        both = _mm256_add_epi16(both, found[i]);
        odds = _mm256_add_epi16(odds, _mm256_srli_epi16(found[i], 8));
      }
      const __m256i evens = _mm256_sub_epi16(both, _mm256_slli_epi16(odds, 8));
      const __m128i e = _mm_add_epi16(_mm256_castsi256_si128(evens), _mm256_extracti128_si256(evens, 1));
      const __m128i o = _mm_add_epi16(_mm256_castsi256_si128(odds), _mm256_extracti128_si256(odds, 1));
      const __m256 scale = _mm256_set1_ps(scales[word]);
      even = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu16_epi32(e), bias)), even);
      odd = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu16_epi32(o), bias)), odd);
    }
    _mm256_storeu_ps(sums, _mm256_unpacklo_ps(even, odd));
    _mm256_storeu_ps(sums + 8, _mm256_unpackhi_ps(even, odd));
  }
}

void fromHalf(const uint16_t* in, size_t count, float* out) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
  }
  for (; i < count; i++) out[i] = _cvtsh_ss(in[i]);
}

void toHalf(const float* in, size_t count, uint16_t* out) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
  }
  for (; i < count; i++) out[i] = static_cast<uint16_t>(_cvtss_sh(in[i], _MM_FROUND_TO_NEAREST_INT));
}

}  // namespace

const KernelSet kAvx2Kernels = {"avx2", exactTable, exactSums, fastTable, fastSums, fromHalf, toHalf, &kAvx2Factorizer};

}  // namespace dbf
#endif
