// NEON (64-bit ARM): de-interleaving loads turn words of 16 rows into bytes of columns; int8 sums are looked up by byte tables.
#include "factorizer_kernels.h"
#include "kernels.h"
#if defined(__aarch64__)
#include <arm_neon.h>

namespace dbf {
namespace {

// The 16 sums of 4 activations, entries 4i .. 4i+3 in out[i]; bit j of the entry is the sign of x[j].
inline void groupSums(const float* x, float32x4_t out[4]) {
  const float low[4] = {-x[0] - x[1], x[0] - x[1], x[1] - x[0], x[0] + x[1]};
  const float32x4_t v = vld1q_f32(low);
  out[0] = vaddq_f32(v, vdupq_n_f32(-x[2] - x[3]));
  out[1] = vaddq_f32(v, vdupq_n_f32(x[2] - x[3]));
  out[2] = vaddq_f32(v, vdupq_n_f32(x[3] - x[2]));
  out[3] = vaddq_f32(v, vdupq_n_f32(x[2] + x[3]));
}

// No table: the activations themselves, as there is no lookup of f32.
void exactTable(const float* x, size_t words, float* table) {
  for (size_t i = 0; i < words * kWordColumns; i++) table[i] = x[i];
}

void exactSums(const uint32_t* signs, size_t words, size_t blocks, const float* table, float* sums, bool) {
  const uint32x4_t signBit = vdupq_n_u32(0x80000000u);
  for (size_t block = 0; block < blocks; block++, sums += kBlockRows) {
    float32x4_t accumulators[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    for (size_t word = 0; word < words; word++, signs += kBlockRows) {
      uint32x4_t bits[4];  // inverted, as a set sign bit is −1
      for (int i = 0; i < 4; i++) bits[i] = vmvnq_u32(vld1q_u32(signs + 4 * i));
      const float* x = table + word * kWordColumns + kWordColumns;
      for (size_t column = 0; column < kWordColumns; column++) {
        const uint32x4_t value = vreinterpretq_u32_f32(vdupq_n_f32(*--x));  // from the last column, whose bit is on top
        for (int i = 0; i < 4; i++) {
          accumulators[i] = vaddq_f32(accumulators[i], vreinterpretq_f32_u32(veorq_u32(value, vandq_u32(bits[i], signBit))));
          bits[i] = vshlq_n_u32(bits[i], 1);
        }
      }
    }
    for (int i = 0; i < 4; i++) vst1q_f32(sums + 4 * i, accumulators[i]);
  }
}

// Table order: [word][group][entry].
bool fastTable(const float* x, size_t words, int8_t* table, float* scales) {
  for (size_t word = 0; word < words; word++, x += kWordColumns, table += kTableEntries) {
    float largest = 0;
    for (size_t group = 0; group < 8; group++) {
      const float sum = vaddvq_f32(vabsq_f32(vld1q_f32(x + 4 * group)));
      if (!(sum <= kFastLargest)) return false;
      if (sum > largest) largest = sum;
    }
    const bool zero = largest < kFastSmallest;
    scales[word] = zero ? 0 : largest / 127;
    const float inverse = zero ? 0 : 127 / largest;
    for (size_t group = 0; group < 8; group++) {
      float32x4_t sums[4];
      groupSums(x + 4 * group, sums);
      int16x4_t narrow[4];
      for (int i = 0; i < 4; i++) narrow[i] = vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(sums[i], inverse)));
      vst1q_s8(table + 16 * group, vcombine_s8(vqmovn_s16(vcombine_s16(narrow[0], narrow[1])),
                                               vqmovn_s16(vcombine_s16(narrow[2], narrow[3]))));
    }
  }
  return true;
}

void fastSums(const uint32_t* signs, size_t words, size_t blocks, const int8_t* table, const float* scales, float* sums, bool) {
  const uint8x16_t nibble = vdupq_n_u8(15);
  for (size_t block = 0; block < blocks; block++, sums += kBlockRows) {
    float32x4_t accumulators[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    const int8_t* t = table;
    for (size_t word = 0; word < words; word++, t += kTableEntries, signs += kBlockRows) {
      const uint8x16x4_t bytes = vld4q_u8(reinterpret_cast<const uint8_t*>(signs));  // val[b]: byte b of 16 rows
      int16x8_t low = vdupq_n_s16(0), high = low;
      for (int byte = 0; byte < 4; byte++) {
        const int8x16_t first = vqtbl1q_s8(vld1q_s8(t + 32 * byte), vandq_u8(bytes.val[byte], nibble));
        const int8x16_t second = vqtbl1q_s8(vld1q_s8(t + 32 * byte + 16), vshrq_n_u8(bytes.val[byte], 4));
        low = vaddq_s16(low, vaddl_s8(vget_low_s8(first), vget_low_s8(second)));
        high = vaddq_s16(high, vaddl_high_s8(first, second));
      }
      const float32x4_t scale = vdupq_n_f32(scales[word]);
      accumulators[0] = vfmaq_f32(accumulators[0], vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), scale);
      accumulators[1] = vfmaq_f32(accumulators[1], vcvtq_f32_s32(vmovl_high_s16(low)), scale);
      accumulators[2] = vfmaq_f32(accumulators[2], vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), scale);
      accumulators[3] = vfmaq_f32(accumulators[3], vcvtq_f32_s32(vmovl_high_s16(high)), scale);
    }
    for (int i = 0; i < 4; i++) vst1q_f32(sums + 4 * i, accumulators[i]);
  }
}

void fromHalf(const uint16_t* in, size_t count, float* out) {
  for (size_t i = 0; i < count; i++) {
    __fp16 half;
    __builtin_memcpy(&half, in + i, sizeof half);
    out[i] = half;
  }
}

void toHalf(const float* in, size_t count, uint16_t* out) {
  for (size_t i = 0; i < count; i++) {
    const __fp16 half = static_cast<__fp16>(in[i]);
    __builtin_memcpy(out + i, &half, sizeof half);
  }
}

}  // namespace

const KernelSet kNeonKernels = {"neon", exactTable, exactSums, fastTable, fastSums, fromHalf, toHalf, &kScalarFactorizer};

}  // namespace dbf
#endif
