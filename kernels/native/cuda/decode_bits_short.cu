// One row, or two, of few columns: the signs are read once, at the rate of the memory, and multiplied as they are, by tensor-core
// instructions for bits.
//
// y_n = scale_n · Σ_k ±x_k = scale_n · (2·Σ_k bit_nk·x_k − Σ_k x_k)
//
// Activations become fixed point, and their bits planes (fixed_point.cuh): Σ_k bit_nk·x_k is the sum over planes p of 2^p times the
// number of columns where both have a 1, which is what m16n8k256 counts for 16 rows and 8 planes at a time. Counts are exact whatever
// their order; they are put together in integers and float64, and rounded once.
//
// Against float32 accumulation: each of its K additions rounds to 2^-24 of the partial sum; here the only errors are the fixed
// point's. Rows with infinities or NaN are summed by plain additions instead, so that they behave as in float arithmetic.
//
// Such a product is less than what the memory has to be asked for to be busy, so several must run at the same time: those of layers
// that do not depend on each other, or in a chain the next one, whose signs do not depend on the one before and are on their way to
// registers before it waits. Every block makes the planes of all of X itself, which is most of its instructions: few
// blocks with many rows each leave room for other products.
#include <algorithm>
#include <type_traits>

#include "binary_matmul.h"
#include "fixed_point.cuh"
#include "launch.h"

namespace dbf::cuda {
namespace {

constexpr int kWarps = 16, kThreads = 32 * kWarps;
constexpr int kSteps = 2;        // of a warp: their signs are in its registers
constexpr int kPairRows = 32;    // rows of the signs of a warp at a time: two blocks of 16
constexpr int kMaxTurns = 8;     // of a block's warps, each with a pair: what their sums take of shared memory
constexpr int kMaxTokens = 2;
constexpr int kMaxColumns = kWarps * kSteps * kStepColumns;  // of all rows of X together

// Of threads, on a multiprocessor: registers decide.
template <int kTokens>
constexpr int kResidentBlocks = kTokens == 1 ? 2 : 1;

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

struct Shape {
  int N, K;
  int words, steps;             // of one row: 32-bit words, steps of 256 columns
  int splitsLog2, atOnceLog2;   // splits: warps that divide the columns of a row; pairs that the warps of a block do at a time
  int stepsPerSplit;            // at most kSteps
  int rowBlocks, pairsOfBlock;  // of the signs: blocks of 16 rows, pairs of them for a block of threads
};

// What the warps of a split find of X, [split][row of X].
struct Found {
  unsigned largest[kWarps][kMaxTokens];
  int low[kWarps][kMaxTokens], high[kWarps][kMaxTokens];  // of the integers' sum: low + 2^16·high
};

// 2^-2t times what lane 4g + t counted in row 2g + row mod 2 of block row / 2 of a pair: planes 8j + 2t and 8j + 2t + 1; plane 23 is the
// sign's. Counts are 256·kSteps at most, so that the sum of two lanes fits 32 bits.
__device__ __forceinline__ int countsOfLane(const int (&counts)[3][2][4], int row, int t) {
  int sum = 0;
#pragma unroll
  for (int j = 2; j >= 0; --j) {
    const int(&c)[4] = counts[j][row >> 1];
    const int upper = 2 * c[2 * (row & 1) + 1];
    sum = sum * 256 + c[2 * (row & 1)] + (j == 2 && t == 3 ? -upper : upper);
  }
  return sum;
}

// Σ_p 2^p·count_p of row 2g + t mod 2 of block t / 2 of a pair.
__device__ __forceinline__ long long countsOfRow(const int (&counts)[3][2][4], int t) {
  const bool odd = t & 1, second = t & 2;
  int two[2];  // of row t mod 2 of block i, by two lanes
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int even = countsOfLane(counts, 2 * i, t), uneven = countsOfLane(counts, 2 * i + 1, t);
    const int mine = odd ? uneven : even, other = __shfl_xor_sync(~0u, odd ? even : uneven, 1);
    two[i] = odd ? other + 4 * mine : mine + 4 * other;
  }
  const int mine = second ? two[1] : two[0], other = __shfl_xor_sync(~0u, second ? two[0] : two[1], 2);
  return second ? other + 16ll * mine : mine + 16ll * other;
}

// kMade: steps that a warp makes into planes, at most kSteps.
//
// A lane 4g + t reads rows 2g and 2g + 1 of both blocks of a pair, words t and t + 4: rows g and g + 8 of two products, columns in their
// order.
template <typename T, int kTokens, int kMade>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<kTokens>)
    multiplyShort(const T* x, const uint8_t* signs, const T* scale, T* y, Shape shape) {
  constexpr int kPlanesOfStep = kTokens * kRowBytes;
  static_assert(256 * kSteps * 3ll * 5 * 65793 < 1ll << 31);  // countsOfLane
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
  const int splits = 1 << shape.splitsLog2, atOnce = 1 << shape.atOnceLog2, split = warp >> shape.atOnceLog2, place = warp & (atOnce - 1);
  const int pairStart = int(blockIdx.x) * shape.pairsOfBlock, blockEnd = min(shape.rowBlocks, 2 * (pairStart + shape.pairsOfBlock));
  const int firstStep = split * shape.stepsPerSplit, steps = max(0, min(shape.steps - firstStep, shape.stepsPerSplit));

  uint2 held[kSteps][2][2];  // [step][block of the pair][word t or t + 4]
  const int wordsLeft = min(shape.words, (firstStep + steps) * 8) - firstStep * 8 - t;
  int block = 2 * (pairStart + place);
  const unsigned blockBytes = unsigned(shape.words) * 64;
  // At most 2^31 bytes: kMaxSize rows of kMaxColumns bits.
  const uint8_t* from = signs + (block * blockBytes + unsigned((firstStep * 8 + t) * 64 + g * 8));
  auto load = [&](int step) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        held[step][r][half] = loadPairOnce(from + r * blockBytes + step * 512 + half * 256,
                                           block + r < blockEnd && step * 8 + half * 4 < wordsLeft);
      }
    }
  };
#pragma unroll
  for (int step = 0; step < kSteps; ++step) load(step);
  const int firstRow = pairStart * kPairRows, rowsOfBlock = shape.pairsOfBlock * kPairRows, rows = min(shape.N - firstRow, rowsOfBlock);

  // Shared memory: what is found of X, sums [split][row of X][row of the signs], planes [step][row of X].
  uint8_t* base = dynamicShared();
  Found& found = *reinterpret_cast<Found*>(base);
  double* meeting = reinterpret_cast<double*>(base + sizeof(Found));
  uint8_t* planes = reinterpret_cast<uint8_t*>(meeting + splits * kTokens * rowsOfBlock);
  static_assert(sizeof(Found) / 4 <= kThreads);
  if (tid < sizeof(Found) / 4) reinterpret_cast<unsigned*>(base)[tid] = 0;
  __syncthreads();
  waitForPreviousKernel();
  allowNextKernel();  // not before: kernels that only wait would take the place of others
  T factor = tid < rows ? scale[firstRow + tid] : fromFloat<T>(0.f);

  // Sixteen splits are a warp each: there is no barrier 16.
  auto meetSplit = [&] {
    if (atOnce == 1) __syncwarp();
    else barrierAmong(1 + split, 32 * atOnce);
  };
  const bool aligned = (reinterpret_cast<uintptr_t>(x) & 15) == 0 && (kTokens == 1 || shape.K * sizeof(T) % 16 == 0);
  float unit[kTokens];
#pragma unroll
  for (int token = 0; token < kTokens; ++token) {
    float value[kMade][8] = {};
    unsigned most = 0;
#pragma unroll
    for (int i = 0; i < kMade; ++i) {
      const int step = place + i * atOnce, k = (firstStep + step) * kStepColumns + lane * 8;
      if (step < steps) loadEight(value[i], x + int64_t(token) * shape.K + k, shape.K - k, aligned);
    }
#pragma unroll
    for (int i = 0; i < kMade; ++i) most = max(most, largestOf(value[i]));
    most = __reduce_max_sync(~0u, most);
    if (lane == 0) atomicMax(&found.largest[split][token], most);
    meetSplit();
    const FixedPoint fixed = fixedPoint(found.largest[split][token]);
    unit[token] = fixed.step;
    int mine = 0;
#pragma unroll
    for (int i = 0; i < kMade; ++i) {
      const int step = place + i * atOnce;
      if (step < steps) mine += writePlanes(value[i], fixed.inverse, lane, planes + (firstStep + step) * kPlanesOfStep + token * kRowBytes);
    }
    const int low = __reduce_add_sync(~0u, mine & 0xffff), high = __reduce_add_sync(~0u, mine >> 16);
    if (lane == 0) {
      atomicAdd(&found.low[split][token], low);
      atomicAdd(&found.high[split][token], high);
    }
  }
  meetSplit();

  const uint8_t* myPlanes = planes + firstStep * kPlanesOfStep + lane * 8;
#pragma unroll 1
  for (int row = place * kPairRows; row < rows; row += atOnce * kPairRows) {
    int counts[kTokens][3][2][4] = {};
    block += 2 * atOnce, from += 2 * atOnce * blockBytes;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step < steps) {
        const auto& v = held[step];
#pragma unroll
        for (int p = 0; p < 3 * kTokens; ++p) {
          const uint2 b = *reinterpret_cast<const uint2*>(myPlanes + step * kPlanesOfStep + p * 8 * kPlaneBytes);
#pragma unroll
          for (int r = 0; r < 2; ++r) mmaBits(counts[p / 3][p % 3][r], v[r][0].x, v[r][0].y, v[r][1].x, v[r][1].y, b.x, b.y);
        }
      }
      load(step);  // of the next pair
    }
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      const long long sum = found.low[split][token] + found.high[split][token] * 65536ll;
      meeting[(split * kTokens + token) * rowsOfBlock + row + (t >> 1) * kBlockRows + 2 * g + (t & 1)] =
          double(2 * countsOfRow(counts[token], t) - sum) * double(unit[token]);
    }
  }
  __syncthreads();
  for (int row = tid; row < rows; row += kThreads) {
    const int n = firstRow + row;
    if (row != tid) factor = scale[n];
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      double half[2] = {};
#pragma unroll
      for (int i = 0; i < kWarps; ++i) {
        if (i < splits) half[i & 1] += meeting[(i * kTokens + token) * rowsOfBlock + row];
      }
      const double total = half[0] + half[1];
      // NaN: the activations are not finite.
      const float value = total == total ? static_cast<float>(total * double(toFloat(factor)))
                                         : plainSum(x + int64_t(token) * shape.K, signs, shape.words, shape.K, n) * toFloat(factor);
      y[int64_t(token) * shape.N + n] = fromFloat<T>(value);
    }
  }
}

template <typename T, int kTokens>
cudaError_t runTyped(const Problem& p, cudaStream_t stream) {
  Shape shape{};
  shape.N = int(p.N), shape.K = int(p.K);
  shape.words = int(ceilDiv(p.K, kWordColumns)), shape.steps = int(ceilDiv(p.K, kStepColumns));
  // By K alone, so that results are the same bits on every device.
  while ((kSteps << shape.splitsLog2) < shape.steps) ++shape.splitsLog2;
  const int splits = 1 << shape.splitsLog2, atOnce = kWarps / splits;
  while ((2 << shape.atOnceLog2) <= atOnce) ++shape.atOnceLog2;
  shape.stepsPerSplit = int(ceilDiv(shape.steps, splits));
  shape.rowBlocks = int(ceilDiv(p.N, kBlockRows));
  // All blocks fit on the device at the same time, if they have it for themselves and there are not very many rows.
  const int64_t pairs = ceilDiv(p.N, kPairRows), room = int64_t(currentDevice().multiprocessors) * kResidentBlocks<kTokens>;
  const int64_t turns = std::clamp<int64_t>(ceilDiv(pairs, atOnce * room), 1, kMaxTurns);
  shape.pairsOfBlock = int(ceilDiv(pairs, ceilDiv(pairs, atOnce * turns)));
  const int64_t grid = ceilDiv(pairs, shape.pairsOfBlock);
  const int bytes = int(sizeof(Found)) + splits * kTokens * shape.pairsOfBlock * kPairRows * 8 + shape.steps * kTokens * kRowBytes;
  // The same limit for every shape: threads of the host may launch a kernel at the same time.
  constexpr int kMostBytes = int(sizeof(Found)) + kTokens * (kWarps * kMaxTurns * kPairRows * 8 + kWarps * kSteps * kRowBytes);
  auto makes = [&](auto made) {
    auto* kernel = multiplyShort<T, kTokens, decltype(made)::value>;
    const cudaError_t error = takeSharedMemory(kernel, kMostBytes);
    if (error != cudaSuccess) return error;
    return launch(kernel, dim3(unsigned(grid)), kThreads, bytes, stream, kernelsOverlap(), static_cast<const T*>(p.x), p.signs,
                  static_cast<const T*>(p.scale), static_cast<T*>(p.y), shape);
  };
  return ceilDiv(shape.stepsPerSplit, atOnce) == 1 ? makes(Constant<1>{}) : makes(Constant<kSteps>{});
}

template <typename T>
cudaError_t withTokens(const Problem& p, cudaStream_t stream) {
  return p.M == 1 ? runTyped<T, 1>(p, stream) : runTyped<T, 2>(p, stream);
}

}  // namespace

bool takesDecodeBitsShort(const Problem& p) { return p.M <= kMaxTokens && p.M * p.K <= kMaxColumns; }

cudaError_t runDecodeBitsShort(const Problem& p, cudaStream_t stream) {
  return p.dtype == Dtype::kFloat16 ? withTokens<__half>(p, stream) : withTokens<float>(p, stream);
}

}  // namespace dbf::cuda
