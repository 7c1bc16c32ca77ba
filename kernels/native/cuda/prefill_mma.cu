// Many rows on any device from compute capability 8.0, and whatever the others cannot take (rows of X or signs that are not
// aligned to 16 bytes): Yᵀ = W · Xᵀ by mma.m16n8k16, W expanded to ±1 in registers.
//
// One thread block: 128 rows of W × 64 tokens, a warp has 16 rows; 64 columns of X at a time in shared memory. float32
// activations are split into three bf16 that sum to them exactly; see prefill_wgmma.cu for how their products are summed.
#include "binary_matmul.h"
#include "device_code.cuh"
#include "launch.h"

namespace dbf::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kTokens = 64, kColumns = 64;
constexpr int kPitch = kColumns + 8;  // 144 bytes: the 8 rows of a fragment lie in different banks
constexpr int kPerThread = kTokens * kColumns / kThreads;

template <typename T>
__global__ void __launch_bounds__(kThreads) prefill(const T* x, const unsigned* signs, const T* scale, T* y, int M, int N, int K) {
  constexpr int kPlanes = sizeof(T) == 4 ? 3 : 1;
  __shared__ __align__(16) unsigned short tile[kPlanes][kTokens][kPitch];
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
  const int firstToken = blockIdx.y * kTokens;
  const int rowBlock = blockIdx.x * kWarps + warp, words = (K + kWordColumns - 1) / kWordColumns;
  const bool rowExists = rowBlock * kBlockRows < N;
  const unsigned* mySigns = signs + int64_t(rowBlock) * words * kBlockRows + g;
  const unsigned one = kPlanes == 3 ? 0x3f803f80u : 0x3c003c00u;
  float sums[kTokens / 8][4] = {};
  // float32 only: sums of the columns before
  float totals[kPlanes == 3 ? kTokens / 8 : 1][4] = {};

  T ahead[kPerThread];
  auto load = [&](int k0) {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int at = tid + i * kThreads, m = firstToken + at / kColumns, k = k0 + at % kColumns;
      ahead[i] = m < M && k < K ? x[int64_t(m) * K + k] : fromFloat<T>(0.f);
    }
  };
  load(0);
  for (int k0 = 0; k0 < K; k0 += kColumns) {
    unsigned word[2][2] = {};
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      const int column = k0 / kWordColumns + w;
      if (rowExists && column < words) {
        word[w][0] = mySigns[int64_t(column) * kBlockRows];
        word[w][1] = mySigns[int64_t(column) * kBlockRows + 8];
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int at = tid + i * kThreads, m = at / kColumns, k = at % kColumns;
      if constexpr (kPlanes == 3) {
        unsigned short part[3];
        splitBf16(ahead[i], part);
#pragma unroll
        for (int plane = 0; plane < 3; ++plane) tile[plane][m][k] = part[plane];
      } else {
        tile[0][m][k] = __half_as_ushort(ahead[i]);
      }
    }
    __syncthreads();
    if (k0 + kColumns < K) load(k0 + kColumns);
    unsigned left[4][4];  // fragments of 16 columns
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      unsigned upper[4], lower[4];
      expandWord(word[w][0], t, one, upper);
      expandWord(word[w][1], t, one, lower);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        left[2 * w + half][0] = upper[2 * half];
        left[2 * w + half][1] = lower[2 * half];
        left[2 * w + half][2] = upper[2 * half + 1];
        left[2 * w + half][3] = lower[2 * half + 1];
      }
    }
#pragma unroll
    for (int plane = kPlanes - 1; plane >= 0; --plane) {
#pragma unroll
      for (int piece = 0; piece < 4; ++piece) {
#pragma unroll
        for (int j = 0; j < kTokens / 8; ++j) {
          const unsigned short* from = &tile[plane][j * 8 + g][piece * 16 + 2 * t];
          mma<kPlanes == 3>(sums[j], left[piece], *reinterpret_cast<const unsigned*>(from),
                            *reinterpret_cast<const unsigned*>(from + 8));
        }
      }
    }
    if constexpr (kPlanes == 3) {
#pragma unroll
      for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) totals[j][i] += sums[j][i], sums[j][i] = 0.f;
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int n = rowBlock * kBlockRows + g + 8 * h;
    if (n >= N) continue;
    const float factor = toFloat(scale[n]);
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int m = firstToken + j * 8 + 2 * t + c;
        if (m < M) y[int64_t(m) * N + n] = fromFloat<T>((kPlanes == 3 ? totals[kPlanes == 3 ? j : 0] : sums[j])[2 * h + c] * factor);
      }
    }
  }
}

template <typename T>
cudaError_t runTyped(const Problem& p, cudaStream_t stream) {
  const dim3 grid(unsigned(ceilDiv(p.N, kWarps * kBlockRows)), unsigned(ceilDiv(p.M, kTokens)));
  return launch(prefill<T>, grid, kThreads, 0, stream, false, static_cast<const T*>(p.x), reinterpret_cast<const unsigned*>(p.signs),
                static_cast<const T*>(p.scale), static_cast<T*>(p.y), int(p.M), int(p.N), int(p.K));
}

}  // namespace

cudaError_t runPrefillMma(const Problem& problem, cudaStream_t stream) {
  return problem.dtype == Dtype::kFloat16 ? runTyped<__half>(problem, stream) : runTyped<float>(problem, stream);
}

}  // namespace dbf::cuda
