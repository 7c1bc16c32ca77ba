// One row of more than 8,192 columns: the signs are read once, at the rate of the memory, and multiplied as they are, by tensor-core
// instructions for bits (decode_bits_short.cu says how). `quantize` makes the planes of X; the signs do not depend on it: they are on
// their way to shared memory before `multiply` waits for it.
#include <algorithm>

#include "binary_matmul.h"
#include "fixed_point.cuh"
#include "launch.h"

namespace dbf::cuda {
namespace {

constexpr int kWarps = 16, kThreads = 32 * kWarps;
constexpr int kQuantizeThreads = 512;
constexpr int kStepBytes = kBlockRows * kStepColumns / 8;  // of signs
constexpr int kRowWarps = 2;  // that share columns and have different rows of the signs
constexpr int kTeams = kWarps / kRowWarps;
constexpr int64_t kAlignment = 256;

// Steps whose signs are in shared memory or on their way: at most 96 KiB, so that two blocks fit on a multiprocessor.
template <int kBlocks>
constexpr int kStagesOf = kBlocks == 1 ? 5 : 4;

struct Shape {
  int N, K;
  int words, steps;   // of one row: 32-bit words, steps of 256 columns
  int stepsPerPiece;  // of kTeams pieces
};

// How a product is divided.
struct Plan {
  int blocks;    // of 16 rows of the signs for a warp, at most: 1 or 2
  int64_t grid;
};
Shape shapeOf(const Problem& p) {
  Shape shape{int(p.N), int(p.K), int(ceilDiv(p.K, kWordColumns)), int(ceilDiv(p.K, kStepColumns)), 0};
  shape.stepsPerPiece = int(ceilDiv(shape.steps, kTeams));
  return shape;
}
Plan planOf(const Problem& p) {
  // Every multiprocessor gets the same number of blocks, and they as equal numbers of rows as there can be.
  const int64_t rowBlocks = ceilDiv(p.N, kBlockRows), processors = currentDevice().multiprocessors;
  const int64_t grid = std::min(rowBlocks, processors * ceilDiv(rowBlocks, processors * 2 * kRowWarps));
  return {int(ceilDiv(ceilDiv(rowBlocks, grid), kRowWarps)), grid};
}

// What `quantize` makes.
struct Quantized {
  uint8_t* planes;   // [steps]: see fixed_point.cuh
  float* stepOf;     // [pieces]
  long long* sumOf;  // [pieces]
};

template <typename T>
__global__ void __launch_bounds__(kQuantizeThreads) quantize(const T* x, Quantized out, Shape shape) {
  allowNextKernel();
  const int piece = blockIdx.x, tid = threadIdx.x, lane = tid & 31;
  __shared__ unsigned largest;
  __shared__ unsigned long long sum;
  if (tid == 0) largest = 0, sum = 0;
  __syncthreads();
  waitForPreviousKernel();
  const bool aligned = (reinterpret_cast<uintptr_t>(x) & 15) == 0;
  const int firstStep = piece * shape.stepsPerPiece + tid / 32, lastStep = min(shape.steps, (piece + 1) * shape.stepsPerPiece);
  constexpr int kApart = kQuantizeThreads / 32;
  auto load = [&](float(&value)[8], int step) {
    const int k = step * kStepColumns + lane * 8;
    loadEight(value, x + k, shape.K - k, aligned);
  };
  float first[8], value[8];
  unsigned most = 0;
  if (firstStep < lastStep) {
    load(first, firstStep);
    most = largestOf(first);
  }
  for (int step = firstStep + kApart; step < lastStep; step += kApart) {
    load(value, step);
    most = max(most, largestOf(value));
  }
  most = __reduce_max_sync(~0u, most);
  if (lane == 0) atomicMax(&largest, most);
  __syncthreads();
  const FixedPoint fixed = fixedPoint(largest);
  uint8_t* planes = out.planes + int64_t(firstStep) * kRowBytes;
  int mine = firstStep < lastStep ? writePlanes(first, fixed.inverse, lane, planes) : 0;
  long long ofWarp = sumOfWarp(mine);
  for (int step = firstStep + kApart; step < lastStep; step += kApart) {
    load(value, step);
    planes += kApart * kRowBytes;
    ofWarp += sumOfWarp(writePlanes(value, fixed.inverse, lane, planes));
  }
  if (lane == 0) atomicAdd(&sum, static_cast<unsigned long long>(ofWarp));
  __syncthreads();
  if (tid == 0) {
    out.stepOf[piece] = fixed.step;
    out.sumOf[piece] = static_cast<long long>(sum);
  }
}

// A team of kRowWarps warps has one piece of the columns and up to kRowWarps · 16·kBlocks rows of the signs; a block's teams have its
// rows and different pieces.
//
// A lane 4g + t reads rows 2g and 2g + 1 of words t and t + 4: rows g and g + 8 of the product, columns in their order.
template <typename T, int kBlocks>
__global__ void __launch_bounds__(kThreads, 2)
    multiply(const T* x, const uint8_t* signs, const T* scale, T* y, Quantized given, Shape shape) {
  constexpr int kStages = kStagesOf<kBlocks>, kTiles = 3;
  allowNextKernel();
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
  const int team = warp / kRowWarps, rowWarp = warp % kRowWarps, firstStep = team * shape.stepsPerPiece;
  const int steps = max(0, min(shape.steps - firstStep, shape.stepsPerPiece));
  const int64_t rowBlocks = (shape.N + kBlockRows - 1) / kBlockRows;
  const int blockStart = int(blockIdx.x * rowBlocks / gridDim.x), blockEnd = int((blockIdx.x + 1) * rowBlocks / gridDim.x);
  const int myStart = blockStart + rowWarp * kBlocks, existing = blockEnd - myStart;  // 0 and less: none
  constexpr int rows = kBlocks * kBlockRows * kRowWarps;

  // A stage: signs, planes.
  uint8_t* base = dynamicShared();
  constexpr int signBytes = kWarps * kBlocks * kStepBytes, stageBytes = signBytes + kTeams * kRowBytes;
  uint8_t* mySigns = base + warp * kBlocks * kStepBytes;
  uint8_t* myPlanes = base + signBytes + team * kRowBytes;

  // 16 bytes: 4 rows of a word; their place keeps the reads of half a warp in different banks.
  const uint8_t* signsFrom = signs + (int64_t(myStart) * shape.words + firstStep * 8 + g) * 64 + t * 16;
  unsigned signsTo = sharedAddress(mySigns) + g * 64 + ((t ^ (g & 2)) * 16);
  const int rowStride = shape.words * 64;
  int signSteps = min(steps, (shape.words - firstStep * 8 - g + 7) / 8);  // still to copy
  auto copySigns = [&](unsigned stage) {
    if (signSteps-- > 0) {
#pragma unroll
      for (int r = 0; r < kBlocks; ++r) {
        if (r < existing) copyAhead(signsTo + stage + r * kStepBytes, signsFrom + int64_t(r) * rowStride);
      }
    }
    signsFrom += 512;
  };
  constexpr int apart = kRowWarps * 512;
  const int inStep = rowWarp * 512 + lane * 16;
  static_assert(kRowBytes <= apart);  // 16 bytes for each thread, at most
  const uint8_t* planesFrom = given.planes + int64_t(firstStep) * kRowBytes + inStep;
  unsigned planesTo = sharedAddress(myPlanes) + inStep;
  int planeSteps = inStep < kRowBytes ? steps : 0;
  auto copyPlanes = [&](unsigned stage) {
    if (planeSteps-- > 0) copyAhead(planesTo + stage, planesFrom);
    planesFrom += kRowBytes;
  };
  for (int i = 0; i < kStages - 1; ++i) copySigns(i * stageBytes);
  waitForPreviousKernel();
  for (int i = 0; i < kStages - 1; ++i) {
    copyPlanes(i * stageBytes);
    copyGroupEnds();
  }

  // From here on positions are counted from `base`.
  unsigned signsAt = unsigned(mySigns - base) + t * 64 + (((g >> 1) ^ (t & 2)) * 16) + (g & 1) * 8;
  unsigned planesAt = unsigned(myPlanes - base) + lane * 8;
  keepInRegister(signsAt);
  keepInRegister(signsTo), keepInRegister(planesTo);
  keepInRegister(planesAt);
  int counts[kBlocks][kTiles][4] = {};
  constexpr unsigned stageEnd = kStages * stageBytes;
  unsigned stage = 0, free = stageEnd - stageBytes;  // offsets: of the step's, of the one that the step before has left
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    waitForCopies<kStages - 2>();
    barrierAmong(1 + team, 32 * kRowWarps);
    copySigns(free);
    copyPlanes(free);
    copyGroupEnds();
    free = stage;
    uint2 v[kBlocks][2];
#pragma unroll
    for (int r = 0; r < kBlocks; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        v[r][half] = *reinterpret_cast<const uint2*>(base + (signsAt + stage) + r * kStepBytes + half * 256);
      }
    }
    const uint8_t* planes = base + (planesAt + stage);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint2 b = *reinterpret_cast<const uint2*>(planes + tile * 8 * kPlaneBytes);
#pragma unroll
      for (int r = 0; r < kBlocks; ++r) mmaBits(counts[r][tile], v[r][0].x, v[r][0].y, v[r][1].x, v[r][1].y, b.x, b.y);
    }
    stage += stageBytes;
    if (stage == stageEnd) stage = 0;
  }
  waitForCopies<0>();
  __syncthreads();

  // Pieces meet in shared memory: [piece][row of the signs]
  double* meeting = reinterpret_cast<double*>(base);
#pragma unroll
  for (int r = 0; r < kBlocks; ++r) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      // Planes 8j + 2t and 8j + 2t + 1; plane 23 is the sign's.
      long long ones = 0;
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        const int(&c)[4] = counts[r][j];
        const int upper = 2 * c[2 * h + 1];
        ones += static_cast<long long>(c[2 * h] + (j == 2 && t == 3 ? -upper : upper)) * (1 << (8 * j));
      }
      ones *= 1 << (2 * t);
      ones += __shfl_xor_sync(~0u, ones, 1);
      ones += __shfl_xor_sync(~0u, ones, 2);
      if (t == 0) {
        meeting[team * rows + (rowWarp * kBlocks + r) * kBlockRows + 2 * g + h] =
            double(2 * ones - given.sumOf[team]) * double(given.stepOf[team]);
      }
    }
  }
  __syncthreads();
  for (int row = tid; row < rows; row += kThreads) {
    const int n = blockStart * kBlockRows + row;
    if (n >= min(shape.N, blockEnd * kBlockRows)) continue;
    double half[2] = {};
#pragma unroll
    for (int i = 0; i < kTeams; ++i) half[i & 1] += meeting[i * rows + row];
    const double total = half[0] + half[1];
    const float factor = toFloat(scale[n]);
    // NaN: the activations are not finite.
    y[n] = fromFloat<T>(total == total ? static_cast<float>(total * double(factor))
                                       : plainSum(x, signs, shape.words, shape.K, n) * factor);
  }
}

struct Scratch {
  int64_t steps, sums, bytes;  // offsets; the planes come first
};
Scratch scratchLayout(const Shape& shape) {
  auto after = [](int64_t bytes) { return ceilDiv(bytes, kAlignment) * kAlignment; };
  Scratch s{};
  s.steps = after(int64_t(shape.steps) * kRowBytes);
  s.sums = s.steps + after(kTeams * 4);
  s.bytes = s.sums + kTeams * 8;
  return s;
}

template <typename T, int kBlocks>
cudaError_t launchMultiply(const Problem& p, const Shape& shape, int64_t grid, const Quantized& given, cudaStream_t stream) {
  constexpr int ring = kStagesOf<kBlocks> * (kWarps * kBlocks * kStepBytes + kTeams * kRowBytes);
  static_assert(ring >= kTeams * kBlocks * kBlockRows * kRowWarps * 8);  // the meeting fits
  auto* kernel = multiply<T, kBlocks>;
  const cudaError_t error = takeSharedMemory(kernel, ring);
  if (error != cudaSuccess) return error;
  return launch(kernel, dim3(unsigned(grid)), kThreads, ring, stream, kernelsOverlap(), static_cast<const T*>(p.x), p.signs,
                static_cast<const T*>(p.scale), static_cast<T*>(p.y), given, shape);
}

template <typename T>
cudaError_t runTyped(const Problem& p, void* scratch, cudaStream_t stream) {
  const Shape shape = shapeOf(p);
  const Plan plan = planOf(p);
  const Scratch layout = scratchLayout(shape);
  auto* base = static_cast<uint8_t*>(scratch);
  const Quantized quantized{base, reinterpret_cast<float*>(base + layout.steps), reinterpret_cast<long long*>(base + layout.sums)};
  cudaError_t error = takeSharedMemory(quantize<T>, 0);
  if (error != cudaSuccess) return error;
  error = launch(quantize<T>, dim3(kTeams), kQuantizeThreads, 0, stream, kernelsOverlap(), static_cast<const T*>(p.x), quantized, shape);
  if (error != cudaSuccess) return error;
  return plan.blocks == 1 ? launchMultiply<T, 1>(p, shape, plan.grid, quantized, stream)
                          : launchMultiply<T, 2>(p, shape, plan.grid, quantized, stream);
}

}  // namespace

size_t decodeBitsLongScratchBytes(const Problem& p) { return size_t(scratchLayout(shapeOf(p)).bytes); }

cudaError_t runDecodeBitsLong(const Problem& p, void* scratch, cudaStream_t stream) {
  return p.dtype == Dtype::kFloat16 ? runTyped<__half>(p, scratch, stream) : runTyped<float>(p, scratch, stream);
}

}  // namespace dbf::cuda
