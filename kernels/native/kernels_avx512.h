// AVX-512: 16 rows a register, one permutation looks 16 f32 sums up. Included by translation units with AVX-512 enabled.
#pragma once
#include <immintrin.h>

#include "kernels.h"

namespace dbf {
namespace {

// Columns of a panel: its table (16 KiB) stays in the first-level cache while all rows pass.
constexpr size_t kPanelWords = 32;

// The 16 sums of 4 activations; bit j of the lane is the sign of x[j].
inline __m512 groupSums(const float* x) {
  const __m512i negative = _mm512_set1_epi32(INT32_MIN);
  const auto term = [&](int j, __mmask16 minus) {
    const __m512i v = _mm512_castps_si512(_mm512_set1_ps(x[j]));
    return _mm512_castsi512_ps(_mm512_mask_xor_epi32(v, minus, v, negative));
  };
  return _mm512_add_ps(_mm512_add_ps(term(0, 0x5555), term(1, 0x3333)), _mm512_add_ps(term(2, 0x0f0f), term(3, 0x00ff)));
}

void exactTable(const float* x, size_t words, float* table) {
  for (size_t group = 0; group < 8 * words; group++) _mm512_store_ps(table + 16 * group, groupSums(x + 4 * group));
}

// Adds `words` words of kBlocks blocks, which are `stride` words apart, to `sums`, and with kAhead fetches as many from `next`.
template <int kBlocks, bool kAhead>
inline void exactPanel(const uint32_t* signs, size_t stride, size_t words, const float* table, float* sums, uintptr_t next) {
  __m512 accumulators[kBlocks];
  for (int i = 0; i < kBlocks; i++) accumulators[i] = _mm512_setzero_ps();
  for (size_t word = 0; word < words; word++, table += kTableEntries) {
    __m512i bits[kBlocks];
    for (int i = 0; i < kBlocks; i++) {
      if (kAhead) fetch(next + (i * stride + word) * kBlockRows * sizeof(uint32_t));
      bits[i] = _mm512_loadu_si512(signs + (i * stride + word) * kBlockRows);
    }
#pragma GCC unroll 8
    for (int group = 0; group < 8; group++) {
      const __m512 sums4 = _mm512_load_ps(table + 16 * group);
#pragma GCC unroll 8
      for (int i = 0; i < kBlocks; i++) {
        accumulators[i] = _mm512_add_ps(accumulators[i], _mm512_permutexvar_ps(bits[i], sums4));
        if (group < 7) bits[i] = _mm512_srli_epi32(bits[i], 4);
      }
    }
  }
  for (int i = 0; i < kBlocks; i++) {
    _mm512_storeu_ps(sums + 16 * i, _mm512_add_ps(_mm512_loadu_ps(sums + 16 * i), accumulators[i]));
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
    for (; block + 8 <= blocks; block += 8) panel(block, 8, exactPanel<8, kAhead>);
    for (; block + 2 <= blocks; block += 2) panel(block, 2, exactPanel<2, kAhead>);
    if (block < blocks) panel(block, 1, exactPanel<1, kAhead>);
  }
}

void exactSums(const uint32_t* signs, size_t words, size_t blocks, const float* table, float* sums, bool ahead) {
  (ahead ? exactStrip<true> : exactStrip<false>)(signs, words, blocks, table, sums);
}

}  // namespace
}  // namespace dbf
