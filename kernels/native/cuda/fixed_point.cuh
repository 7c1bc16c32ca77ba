// Activations as 24-bit fixed point in bit planes, in the order in which the products read them.
//
// Every row of X is cut into pieces of columns, each with a step of its own: a power of two, so that the largest magnitude of the
// piece is at least 2^22 steps and less than 2^23. float16 activations within 2^-12 of the largest are exact, and no error exceeds
// half a step, 2^-23 of the largest magnitude of the piece.
#pragma once
#include "device_code.cuh"

namespace dbf::cuda {

constexpr int kStepColumns = 256;                 // columns of one step of the product's loop: 8 words of 32
constexpr int kPlanes = 24;                       // bits of two's complement
constexpr int kPlaneBytes = kStepColumns / 8;     // of a step
constexpr int kRowBytes = kPlanes * kPlaneBytes;  // of a step and a row of X: [plane][word mod 4][word / 4]

struct FixedPoint {
  float inverse, step;  // powers of two; the step is NaN when the activations are not finite
};
// `largest`: bits of the largest magnitude, which are ordered as the magnitudes, infinity and NaN above all.
__device__ __forceinline__ FixedPoint fixedPoint(unsigned largest) {
  if (largest >= 0x7f800000u) return {0.f, __uint_as_float(0x7fffffffu)};
  // In [2^E, 2^(E+1)) · 2^e is in [2^22, 2^23), also after rounding; what is smaller than 2^-104 has the step 2^-126.
  const int exponent = int((largest + 1) >> 23) - 127, e = min(126, 22 - exponent);
  return {__uint_as_float(unsigned(e + 127) << 23), __uint_as_float(unsigned(127 - e) << 23)};
}

// Eight consecutive numbers; those behind the end are 0.
template <typename T>
__device__ __forceinline__ void loadEight(float (&value)[8], const T* from, int left, bool aligned) {
  if (aligned && left >= 8) {
    constexpr int kVectors = sizeof(T) / 2;
    union {
      uint4 vector[kVectors];
      T number[8];
    } read;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) read.vector[i] = reinterpret_cast<const uint4*>(from)[i];
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] = toFloat(read.number[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] = i < left ? toFloat(from[i]) : 0.f;
  }
}

// Transposes the bits of eight numbers, byte by byte: bit j of byte b of the result's i-th is bit i of byte b of the j-th.
__device__ __forceinline__ void transposeBits(unsigned (&q)[8]) {
#pragma unroll
  for (int apart = 1; apart < 8; apart *= 2) {
    const unsigned kept = apart == 1 ? 0x55555555u : apart == 2 ? 0x33333333u : 0x0f0f0f0fu;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i & apart) continue;
      const unsigned low = q[i], high = q[i + apart];
      q[i] = selectBits(kept, low, high << apart);
      q[i + apart] = selectBits(kept, low >> apart, high);
    }
  }
}

// Bits of columns 8·lane to 8·lane + 7 of a step into their planes; `out`: kRowBytes. Returns the sum of the integers.
__device__ __forceinline__ int writePlanes(const float (&value)[8], float inverse, int lane, uint8_t* out) {
  unsigned q[8];
  int sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int integer = __float2int_rn(value[i] * inverse);
    sum += integer;
    q[i] = unsigned(integer);
  }
  transposeBits(q);
  uint8_t* to = out + (lane >> 2 & 3) * 8 + (lane >> 4) * 4 + (lane & 3);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int byte = 0; byte < 3; ++byte) to[(byte * 8 + i) * kPlaneBytes] = static_cast<uint8_t>(q[i] >> (8 * byte));
  }
  return sum;
}

// Of a warp's numbers.
__device__ __forceinline__ unsigned largestOf(const float (&value)[8]) {
  unsigned most = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) most = max(most, __float_as_uint(value[i]) & 0x7fffffffu);
  return most;
}
__device__ __forceinline__ long long sumOfWarp(int mine) {
  return __reduce_add_sync(~0u, mine & 0xffff) + static_cast<long long>(__reduce_add_sync(~0u, mine >> 16)) * 65536;
}

}  // namespace dbf::cuda
