// Many rows on compute capability 9.0: Yᵀ = W · Xᵀ by warpgroup products. W, 1 bit a number, is expanded to ±1 in registers
// (the left operand may come from there), X is brought to shared memory by the tensor copy engine.
//
// One thread block: 128 or 256 rows of W × 64 or 128 tokens; one warp copies, two warpgroups multiply. A stage is 64 columns.
// float32 activations become three bf16 planes that sum to them exactly; the signs are expanded once for the three. Tensor cores
// cut off what lies below the last bit of a sum, so every stage begins a new sum, with the smallest of the planes, and ordinary
// additions, which round, put the stages together.
#include <algorithm>

#include "binary_matmul.h"
#include "device_code.cuh"
#include "launch.h"

namespace dbf::cuda {
namespace {

constexpr int kStageColumns = 64;  // 128 bytes of 16-bit numbers: one swizzle row
constexpr int kThreads = 384;      // a warpgroup for the copies, two for the products
constexpr int kSharedBytes = 227 * 1024;

template <int kTiles, int kTokens, int kPlanes>
struct Geometry {
  static constexpr int rows = 128 * kTiles;
  static constexpr int planeBytes = kTokens * kStageColumns * 2;
  // 2 KiB: alignment to the swizzle's 1024 bytes, and the barriers.
  static constexpr int stages = std::min(8, (kSharedBytes - 2048) / (kPlanes * planeBytes + 2048));
  static constexpr int bytes = stages * (kPlanes * planeBytes + 2048) + 2048;
};

// Output of one warpgroup, 64 rows of W × tokens, turned round in shared memory so that stores are whole sectors.
constexpr int kTurnPitch = 72;

template <typename T, int kTiles, int kTokens, int kPlanes>
__global__ void __launch_bounds__(kThreads, 1)
    prefill(const __grid_constant__ CUtensorMap activations, const __grid_constant__ CUtensorMap signs, const T* scale, T* y, int M,
            int N, int K) {
#if defined(DBF_HOPPER)
  using G = Geometry<kTiles, kTokens, kPlanes>;
  constexpr bool kBf16 = kPlanes == 3;
  static_assert(!kBf16 || kTiles == 1);
  uint8_t* base = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(dynamicShared()) + 1023) & ~uintptr_t(1023));
  uint8_t* signBase = base + G::stages * kPlanes * G::planeBytes;
  const unsigned tiles = sharedAddress(base), signTiles = sharedAddress(signBase);
  const unsigned full = signTiles + G::stages * 2048, empty = full + 8 * G::stages;
  const int group = threadIdx.x >> 7, stagesOfK = (K + kStageColumns - 1) / kStageColumns;
  const int firstRow = blockIdx.x * G::rows, firstToken = blockIdx.y * kTokens;

  if (threadIdx.x == 0) {
    for (int s = 0; s < G::stages; ++s) {
      barrierInit(full + 8 * s, 1);
      barrierInit(empty + 8 * s, 8);  // the warps that multiply
    }
    barrierInitDone();
  }
  __syncthreads();

  if (group == 0) {
    registersDown<40>();
    if (threadIdx.x == 0) {
      for (int stage = 0, s = 0, parity = 1; stage < stagesOfK; ++stage) {
        barrierWait(empty + 8 * s, parity);
        barrierExpect(full + 8 * s, kPlanes * G::planeBytes + G::rows * kStageColumns / 8);
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
          copyBox(tiles + (s * kPlanes + plane) * G::planeBytes, &activations, stage * kStageColumns, plane * M + firstToken,
                  full + 8 * s);
        }
        copyBox(signTiles + s * 2048, &signs, stage * 2 * kBlockRows, firstRow / kBlockRows, full + 8 * s);
        if (++s == G::stages) s = 0, parity ^= 1;
      }
    }
  } else {
    registersUp<232>();
    const int consumer = group - 1, warp = (threadIdx.x >> 5) & 3, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const unsigned one = kBf16 ? 0x3f803f80u : 0x3c003c00u;
    float sums[kTiles][kTokens / 2];
    float totals[kBf16 ? kTokens / 2 : 1];  // of the stages before
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) sums[tile][i] = 0.f;
      if constexpr (kBf16) totals[i] = 0.f;
    }
    unsigned left[2][kTiles][2][4];  // by word, 64 rows, 16 columns: the fragment
    auto expand = [&](int w, int s) {
      // [rows / 16][2 words][16 rows]
      const unsigned* words = reinterpret_cast<const unsigned*>(signBase + s * 2048) + (consumer * kTiles * 4 + warp) * 32 + g;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        unsigned upper[4], lower[4];
        expandWord(words[tile * 128 + w * 16], t, one, upper);
        expandWord(words[tile * 128 + w * 16 + 8], t, one, lower);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          left[w][tile][half][0] = upper[2 * half];
          left[w][tile][half][1] = lower[2 * half];
          left[w][tile][half][2] = upper[2 * half + 1];
          left[w][tile][half][3] = lower[2 * half + 1];
        }
      }
    };
    int previous = -1;
    for (int stage = 0, s = 0, parity = 0; stage < stagesOfK; ++stage) {
      barrierWait(full + 8 * s, parity);
      if constexpr (kBf16) {
        expand(0, s);
        expand(1, s);
        productFence();
        // Unrolled, three planes make ptxas wait for every product (its note C7515).
#pragma unroll 1
        for (int plane = kPlanes - 1; plane >= 0; --plane) {
#pragma unroll
          for (int piece = 0; piece < 4; ++piece) {
            product<kTokens, kBf16>(sums[0], left[piece >> 1][0][piece & 1],
                                    tileDescriptor(tiles + (s * kPlanes + plane) * G::planeBytes + piece * 32));
          }
        }
        productCommit();
        productWait<0>();
        if (lane == 0) barrierArrive(empty + 8 * s);
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) {
          sumIsComplete(sums[0][i]);
          totals[i] += sums[0][i];
          sums[0][i] = 0.f;
        }
      } else {
#pragma unroll
        for (int w = 0; w < 2; ++w) {
          expand(w, s);
          productFence();
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const uint64_t right = tileDescriptor(tiles + s * G::planeBytes + (w * 2 + half) * 32);
#pragma unroll
            for (int tile = 0; tile < kTiles; ++tile) product<kTokens, kBf16>(sums[tile], left[w][tile][half], right);
          }
          productCommit();
          productWait<1>();
          if (w == 0 && previous >= 0 && lane == 0) barrierArrive(empty + 8 * previous);
        }
        previous = s;
      }
      if (++s == G::stages) s = 0, parity ^= 1;
    }
    if constexpr (kBf16) {
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) sums[0][i] = totals[i];
    } else {
      productWait<0>();
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) sumIsComplete(sums[tile][i]);
      }
    }

    const int groupRow = firstRow + consumer * 64 * kTiles;
    if constexpr (sizeof(T) == 2) {
      // Both warpgroups have read their last tile when both are here; each then turns its output round in its own half.
      barrierAmong(1, 256);
      T* turn = reinterpret_cast<T*>(base) + consumer * kTokens * kTurnPitch;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int row = groupRow + tile * 64;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int inTile = warp * 16 + g + 8 * h, n = row + inTile;
          const float factor = n < N ? toFloat(scale[n]) : 0.f;
#pragma unroll
          for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              turn[(j * 8 + 2 * t + c) * kTurnPitch + inTile] = fromFloat<T>(sums[tile][4 * j + 2 * h + c] * factor);
            }
          }
        }
        barrierAmong(2 + consumer, 128);
        const int thread = threadIdx.x & 127, piece = (thread & 7) * 8;
        for (int token = thread >> 3; token < kTokens && firstToken + token < M; token += 16) {
          const T* from = turn + token * kTurnPitch + piece;
          T* to = y + int64_t(firstToken + token) * N + row + piece;
          if (row + piece + 8 <= N && N % 8 == 0) {
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
          } else {
            for (int i = 0; i < 8 && row + piece + i < N; ++i) to[i] = from[i];
          }
        }
        barrierAmong(2 + consumer, 128);
      }
    } else {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int n = groupRow + tile * 64 + warp * 16 + g + 8 * h;
          if (n >= N) continue;
          const float factor = toFloat(scale[n]);
#pragma unroll
          for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const int m = firstToken + j * 8 + 2 * t + c;
              if (m < M) y[int64_t(m) * N + n] = fromFloat<T>(sums[tile][4 * j + 2 * h + c] * factor);
            }
          }
        }
      }
    }
  }
#endif
}

// planes[3][M][pitch] of bf16 from x[M][K].
__global__ void splitPlanes(const float* x, unsigned short* planes, int M, int K, int pitch) {
  const int m = blockIdx.y;
  for (int k = blockIdx.x * blockDim.x + threadIdx.x; k < K; k += gridDim.x * blockDim.x) {
    unsigned short part[3];
    splitBf16(x[int64_t(m) * K + k], part);
    for (int plane = 0; plane < 3; ++plane) planes[(int64_t(plane) * M + m) * pitch + k] = part[plane];
  }
}

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                            CUtensorMapFloatOOBfill);

// Of the driver, asked for by name: nothing is linked against it.
Encode encodeFunction() {
  static const Encode function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    if (error != cudaSuccess || result != cudaDriverEntryPointSuccess) found = nullptr;
    return reinterpret_cast<Encode>(found);
  }();
  return function;
}

bool encode(CUtensorMap* map, CUtensorMapDataType type, const void* data, int64_t inner, int64_t outer, int64_t pitchBytes, int boxInner,
            int boxOuter, CUtensorMapSwizzle swizzle) {
  const Encode function = encodeFunction();
  if (!function) return false;
  const cuuint64_t sizes[2] = {cuuint64_t(inner), cuuint64_t(outer)}, pitch[1] = {cuuint64_t(pitchBytes)};
  const cuuint32_t box[2] = {cuuint32_t(boxInner), cuuint32_t(boxOuter)}, stride[2] = {1, 1};
  return function(map, type, 2, const_cast<void*>(data), sizes, pitch, box, stride, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <typename T, int kTiles, int kTokens>
cudaError_t launchTiles(const Problem& p, const void* planes, int64_t pitch, cudaStream_t stream) {
  constexpr int kPlanes = sizeof(T) == 4 ? 3 : 1;
  using G = Geometry<kTiles, kTokens, kPlanes>;
  static_assert(G::stages >= 2 && G::bytes <= kSharedBytes);
  static_assert(sizeof(T) == 4 || 2 * kTokens * kTurnPitch * 2 <= G::stages * G::planeBytes);
  CUtensorMap activations, signs;
  const int64_t words = ceilDiv(p.K, kWordColumns);
  if (!encode(&activations, kPlanes == 3 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, planes, p.K,
              kPlanes * p.M, pitch * 2, kStageColumns, kTokens, CU_TENSOR_MAP_SWIZZLE_128B) ||
      !encode(&signs, CU_TENSOR_MAP_DATA_TYPE_UINT32, p.signs, words * kBlockRows, ceilDiv(p.N, kBlockRows), words * 64,
              2 * kBlockRows, G::rows / kBlockRows, CU_TENSOR_MAP_SWIZZLE_NONE)) {
    return cudaErrorInvalidValue;
  }
  auto* kernel = prefill<T, kTiles, kTokens, kPlanes>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, G::bytes);
  if (error != cudaSuccess) return error;
  const dim3 grid(unsigned(ceilDiv(p.N, G::rows)), unsigned(ceilDiv(p.M, kTokens)));
  return launch(kernel, grid, kThreads, G::bytes, stream, false, activations, signs, static_cast<const T*>(p.scale),
                static_cast<T*>(p.y), int(p.M), int(p.N), int(p.K));
}

// Waves of thread blocks × work of one: 256 × 128 needs the fewest bytes for its products, small ones fill the device.
template <typename T>
cudaError_t dispatch(const Problem& p, const void* planes, int64_t pitch, cudaStream_t stream) {
  const int processors = currentDevice().multiprocessors;
  auto cost = [&](int64_t rows, int64_t tokens, double perProduct) {
    return double(ceilDiv(ceilDiv(p.N, rows) * ceilDiv(p.M, tokens), processors)) * (double(rows * tokens) * perProduct + 1500);
  };
  const double large = cost(256, 128, 1.0), middle = cost(128, 128, 1.1), small = cost(128, 64, 1.3);
  // float32 needs its registers for the totals.
  if constexpr (sizeof(T) == 2) {
    if (large <= middle && large <= small) return launchTiles<T, 2, 128>(p, planes, pitch, stream);
  }
  if (middle <= small) return launchTiles<T, 1, 128>(p, planes, pitch, stream);
  return launchTiles<T, 1, 64>(p, planes, pitch, stream);
}

int64_t planePitch(int64_t K) { return ceilDiv(K, 8) * 8; }

}  // namespace

size_t prefillWgmmaScratchBytes(const Problem& p) {
  return p.dtype == Dtype::kFloat32 ? size_t(3 * p.M * planePitch(p.K) * 2) : 0;
}

cudaError_t runPrefillWgmma(const Problem& p, void* scratch, cudaStream_t stream) {
  if (p.dtype == Dtype::kFloat16) return dispatch<__half>(p, p.x, p.K, stream);
  const int64_t pitch = planePitch(p.K);
  const dim3 grid(unsigned(std::min<int64_t>(8, ceilDiv(p.K, 256))), unsigned(p.M));
  const cudaError_t error = launch(splitPlanes, grid, 256, 0, stream, false, static_cast<const float*>(p.x),
                                   static_cast<unsigned short*>(scratch), int(p.M), int(p.K), int(pitch));
  return error != cudaSuccess ? error : dispatch<float>(p, scratch, pitch, stream);
}

}  // namespace dbf::cuda
