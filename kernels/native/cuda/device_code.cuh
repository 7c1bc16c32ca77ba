// Small pieces of device code that the kernels share.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "instructions.cuh"

namespace dbf::cuda {

constexpr int kBlockRows = 16;  // rows side by side in the stored layout
constexpr int kWordColumns = 32;

__host__ __device__ constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

__device__ __forceinline__ float toFloat(float x) { return x; }
__device__ __forceinline__ float toFloat(__half x) { return __half2float(x); }
template <typename T>
__device__ __forceinline__ T fromFloat(float x);
template <>
__device__ __forceinline__ float fromFloat<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half fromFloat<__half>(float x) {
  return __float2half_rn(x);
}

// Σ_k ±x_k of row n as float arithmetic adds it up: for activations that are not finite.
template <typename T>
__device__ __forceinline__ float plainSum(const T* x, const uint8_t* signs, int words, int K, int n) {
  const unsigned* from = reinterpret_cast<const unsigned*>(signs) + int64_t(n / kBlockRows) * words * kBlockRows;
  float sum = 0;
#pragma unroll 1
  for (int k = 0; k < K; ++k) {
    const float v = toFloat(x[k]);
    sum += from[(k >> 5) * kBlockRows + n % kBlockRows] >> (k & 31) & 1 ? v : -v;
  }
  return sum;
}

// Three bf16 that sum to x exactly (8 bits of the significand each, cut off, never rounded up): float32's range, no scaling.
// What is not finite stays whole in the first.
__device__ __forceinline__ void splitBf16(float x, unsigned short (&part)[3]) {
  const unsigned bits = __float_as_uint(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) {
    // A NaN whose payload is only in the low half would become an infinity.
    part[0] = static_cast<unsigned short>((bits >> 16) | ((bits & 0x7fffffu) ? 0x40u : 0u));
    part[1] = part[2] = 0;
    return;
  }
  const float first = __uint_as_float(bits & 0xffff0000u);
  const unsigned rest = __float_as_uint(x - first);
  const float second = __uint_as_float(rest & 0xffff0000u);
  part[0] = static_cast<unsigned short>(bits >> 16);
  part[1] = static_cast<unsigned short>(rest >> 16);
  part[2] = static_cast<unsigned short>(__float_as_uint(__uint_as_float(rest) - second) >> 16);
}

// Expands one row's 32-column word into ±1 of a tensor-core fragment (m16n8k16 and wgmma have the same): thread t of four
// holds columns 2t, 2t+1 of every 8, as two 16-bit numbers. `one` is 1.0 twice; the sign bit is set where the bit is 0.
// out[b] holds columns 8b + 2t and 8b + 2t + 1.
__device__ __forceinline__ void expandWord(unsigned word, int t, unsigned one, unsigned (&out)[4]) {
  const unsigned even = ~word << (7 - 2 * t), odd = ~word << (6 - 2 * t);  // bits 8b+2t and 8b+2t+1 at the top of byte b
  out[0] = (__byte_perm(even, odd, 0x4400) & 0x80008000u) | one;
  out[1] = (__byte_perm(even, odd, 0x5511) & 0x80008000u) | one;
  out[2] = (__byte_perm(even, odd, 0x6622) & 0x80008000u) | one;
  out[3] = (__byte_perm(even, odd, 0x7733) & 0x80008000u) | one;
}

}  // namespace dbf::cuda
