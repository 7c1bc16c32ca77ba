// Activations as 24-bit fixed point in bit planes, in the order in which `multiply` (decode.cu) reads them.
//
// Every row of X is cut into 8 or 16 pieces of columns, each with a step of its own: a power of two, so that the largest magnitude of the
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

// Byte i of the result's eight has bit i of each of the eight bytes; low, high: bytes 0 to 3, 4 to 7.
__device__ __forceinline__ void transposeBits(unsigned& low, unsigned& high) {
  auto within = [](unsigned v) {
    unsigned t = (v ^ (v >> 7)) & 0x00aa00aau;
    v ^= t ^ (t << 7);
    t = (v ^ (v >> 14)) & 0x0000ccccu;
    return v ^ t ^ (t << 14);
  };
  low = within(low), high = within(high);
  const unsigned t = (low ^ (high << 4)) & 0xf0f0f0f0u;
  low ^= t, high ^= t >> 4;
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
  uint8_t* to = out + (lane >> 2 & 3) * 8 + (lane >> 4) * 4 + (lane & 3);
#pragma unroll
  for (int byte = 0; byte < 3; ++byte) {
    const unsigned select = byte | (byte + 4) << 4;
    unsigned low = __byte_perm(__byte_perm(q[0], q[1], select), __byte_perm(q[2], q[3], select), 0x5410);
    unsigned high = __byte_perm(__byte_perm(q[4], q[5], select), __byte_perm(q[6], q[7], select), 0x5410);
    transposeBits(low, high);
#pragma unroll
    for (int bit = 0; bit < 4; ++bit) {
      to[(byte * 8 + bit) * kPlaneBytes] = static_cast<uint8_t>(low >> (8 * bit));
      to[(byte * 8 + 4 + bit) * kPlaneBytes] = static_cast<uint8_t>(high >> (8 * bit));
    }
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
