// Plain C++: every machine, and the reference of the other instruction sets.
#include <cmath>
#include <cstring>

#include "factorizer_kernels.h"
#include "kernels.h"

namespace dbf {
namespace {

// Σ_{j<4} ±x[j] by the bits of `entry`.
float signedSum(const float* x, size_t entry) {
  float sum = 0;
  for (size_t j = 0; j < 4; j++) sum += (entry >> j & 1) ? x[j] : -x[j];
  return sum;
}

void exactTable(const float* x, size_t words, float* table) {
  for (size_t group = 0; group < 8 * words; group++) {
    for (size_t entry = 0; entry < 16; entry++) table[16 * group + entry] = signedSum(x + 4 * group, entry);
  }
}

void exactSums(const uint32_t* signs, size_t words, size_t blocks, const float* table, float* sums, bool) {
  for (size_t block = 0; block < blocks; block++, sums += kBlockRows) {
    for (size_t row = 0; row < kBlockRows; row++) sums[row] = 0;
    for (size_t word = 0; word < words; word++, signs += kBlockRows) {
      const float* t = table + kTableEntries * word;
      for (size_t row = 0; row < kBlockRows; row++) {
        float sum = 0;
        for (size_t group = 0; group < 8; group++) sum += t[16 * group + (signs[row] >> 4 * group & 15)];
        sums[row] += sum;
      }
    }
  }
}

// Table order: [word][group][entry].
bool fastTable(const float* x, size_t words, int8_t* table, float* scales) {
  for (size_t word = 0; word < words; word++, x += kWordColumns, table += kTableEntries) {
    float largest = 0;
    for (size_t group = 0; group < 8; group++) {
      float sum = 0;
      for (size_t j = 0; j < 4; j++) sum += std::fabs(x[4 * group + j]);
      if (!(sum <= kFastLargest)) return false;
      if (sum > largest) largest = sum;
    }
    const bool zero = largest < kFastSmallest;
    scales[word] = zero ? 0 : largest / 127;
    const float inverse = zero ? 0 : 127 / largest;
    for (size_t group = 0; group < 8; group++) {
      for (size_t entry = 0; entry < 16; entry++) {
        table[16 * group + entry] = static_cast<int8_t>(std::nearbyint(signedSum(x + 4 * group, entry) * inverse));
      }
    }
  }
  return true;
}

void fastSums(const uint32_t* signs, size_t words, size_t blocks, const int8_t* table, const float* scales, float* sums, bool) {
  for (size_t block = 0; block < blocks; block++, sums += kBlockRows) {
    for (size_t row = 0; row < kBlockRows; row++) sums[row] = 0;
    for (size_t word = 0; word < words; word++, signs += kBlockRows) {
      const int8_t* t = table + kTableEntries * word;
      for (size_t row = 0; row < kBlockRows; row++) {
        int sum = 0;
        for (size_t group = 0; group < 8; group++) sum += t[16 * group + (signs[row] >> 4 * group & 15)];
        sums[row] += scales[word] * static_cast<float>(sum);
      }
    }
  }
}

float floatFromHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 31, mantissa = half & 1023;
  if (exponent == 0) {  // zero or subnormal: mantissa · 2^-24
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign ? -value : value;
  }
  const uint32_t bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | mantissa << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint16_t halfFromFloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (bits >> 13 & 0x3ff));  // NaN stays one
  if (bits >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);                       // 65520 and above
  if (bits < 0x38800000) {  // below 2^-14: a multiple of 2^-24
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof magnitude);
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 24))));
  }
  const uint32_t rounded = bits + 0xfff + (bits >> 13 & 1);
  return static_cast<uint16_t>(sign | (rounded - 0x38000000) >> 13);
}

void fromHalf(const uint16_t* in, size_t count, float* out) {
  for (size_t i = 0; i < count; i++) out[i] = floatFromHalf(in[i]);
}

void toHalf(const float* in, size_t count, uint16_t* out) {
  for (size_t i = 0; i < count; i++) out[i] = halfFromFloat(in[i]);
}

}  // namespace

const KernelSet kScalarKernels = {"scalar", exactTable, exactSums, fastTable, fastSums, fromHalf, toHalf, &kScalarFactorizer};

}  // namespace dbf
