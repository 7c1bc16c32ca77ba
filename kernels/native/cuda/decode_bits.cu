// One row, or two short ones: the signs are read once, at the rate of the memory, and multiplied as they are, by tensor-core
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
// The signs do not depend on the kernel before: they are on their way to shared memory before `multiply` waits for it. Where rows
// are short, every block makes the planes itself; otherwise a kernel before it does.
#include <algorithm>
#include <type_traits>

#include "binary_matmul.h"
#include "fixed_point.cuh"
#include "launch.h"

namespace dbf::cuda {
namespace {

constexpr int kWarps = 16, kThreads = 32 * kWarps;
constexpr int kQuantizeThreads = 512;
constexpr int kStepBytes = kBlockRows * kStepColumns / 8;  // of signs
constexpr int kFusedSteps = 2;                             // of a row that a warp of `multiply` makes into planes
constexpr int kSharedBytes = 40 * 1024;                    // of a block that does not ask for more
constexpr int64_t kAlignment = 256;

// Steps whose signs are in shared memory or on their way: at most 96 KiB, so that two blocks fit on a multiprocessor.
template <bool kFused, int kBlocks>
constexpr int kStagesOf = kFused ? kFusedSteps : kBlocks == 1 ? 5 : 4;

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

struct Shape {
  int M, N, K;
  int words, steps;  // of one row: 32-bit words, steps of 256 columns
  int pieces, stepsPerPiece;
};

// How a product is divided.
struct Plan {
  bool fused;    // `multiply` makes the planes
  int blocks;    // of 16 rows of the signs for a warp, at most: 1, 2 or 4
  int rowWarps;  // warps that share columns and have different rows of the signs
  int64_t grid;
  int64_t rows() const { return int64_t(blocks) * kBlockRows * rowWarps; }  // of the signs, of a block of threads, at most
};
bool isFused(const Problem& p) { return p.M <= 2 && ceilDiv(p.K, kStepColumns) * p.M <= kFusedSteps * kWarps; }
Plan planOf(const Problem& p, Shape& shape) {
  shape = {int(p.M), int(p.N), int(p.K), int(ceilDiv(p.K, kWordColumns)), int(ceilDiv(p.K, kStepColumns)), 0, 0};
  Plan plan{};
  plan.fused = isFused(p);
  plan.rowWarps = plan.fused ? 1 : 2;
  shape.pieces = plan.fused ? kWarps : kWarps / 2;
  shape.stepsPerPiece = int(ceilDiv(shape.steps, shape.pieces));
  // Every multiprocessor gets the same number of blocks, and they as equal numbers of rows as there can be.
  const int most = plan.fused && p.M == 1 ? 4 : 2;
  const int64_t rowBlocks = ceilDiv(p.N, kBlockRows), processors = currentDevice().multiprocessors;
  plan.grid = std::min(rowBlocks, processors * ceilDiv(rowBlocks, processors * most * plan.rowWarps));
  const int64_t perWarp = ceilDiv(ceilDiv(rowBlocks, plan.grid), plan.rowWarps);
  plan.blocks = perWarp > 2 ? 4 : int(perWarp);
  return plan;
}

// What `quantize` makes.
struct Quantized {
  uint8_t* planes;   // [steps]: see fixed_point.cuh
  float* stepOf;     // [pieces]
  long long* sumOf;  // [pieces]
};

template <typename T>
__device__ bool rowsAreAligned(const T* x, const Shape& shape) {
  return (reinterpret_cast<uintptr_t>(x) & 15) == 0 && (shape.M == 1 || shape.K * sizeof(T) % 16 == 0);
}

// Of one row.
template <typename T>
__global__ void __launch_bounds__(kQuantizeThreads) quantize(const T* x, Quantized out, Shape shape) {
  allowNextKernel();
  const int piece = blockIdx.x, tid = threadIdx.x, lane = tid & 31;
  __shared__ unsigned largest;
  __shared__ unsigned long long sum;
  if (tid == 0) largest = 0, sum = 0;
  __syncthreads();
  waitForPreviousKernel();
  const bool aligned = rowsAreAligned(x, shape);
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

// A team of rowWarps warps has one piece of the columns and up to rowWarps · 16·kBlocks rows of the signs; a block's teams have its
// rows and different pieces. kSteps: of a row that a warp makes into planes; 0: `quantize` does.
//
// A lane 4g + t reads rows 2g and 2g + 1 of words t and t + 4: rows g and g + 8 of the product, columns in their order.
template <typename T, int kSteps, int kTokens, int kBlocks>
__global__ void __launch_bounds__(kThreads, kTokens * kBlocks > 2 ? 1 : 2)
    multiply(const T* x, const uint8_t* signs, const T* scale, T* y, Quantized given, Shape shape) {
  constexpr bool kFused = kSteps > 0;
  constexpr int kStages = kStagesOf<kFused, kBlocks>, kTiles = 3 * kTokens;
  constexpr int rowWarps = kFused ? 1 : 2, teams = kWarps / rowWarps;
  allowNextKernel();
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
  const int team = warp / rowWarps, rowWarp = warp % rowWarps, firstStep = team * shape.stepsPerPiece;
  const int steps = max(0, min(shape.steps - firstStep, shape.stepsPerPiece));
  const int64_t rowBlocks = (shape.N + kBlockRows - 1) / kBlockRows;
  const int blockStart = int(blockIdx.x * rowBlocks / gridDim.x), blockEnd = int((blockIdx.x + 1) * rowBlocks / gridDim.x);
  const int myStart = blockStart + rowWarp * kBlocks, existing = blockEnd - myStart;  // 0 and less: none
  constexpr int rows = kBlocks * kBlockRows * rowWarps, planeBytes = kTokens * kRowBytes;  // planes of a step

  // Fused: planes of the pieces, then the stages; otherwise a stage has both.
  uint8_t* base = dynamicShared();
  constexpr int signBytes = kWarps * kBlocks * kStepBytes;
  const int stageBytes = signBytes + (kFused ? 0 : teams * planeBytes);
  uint8_t* stages = base + (kFused ? kWarps * shape.stepsPerPiece * planeBytes : 0);
  uint8_t* mySigns = stages + warp * kBlocks * kStepBytes;
  uint8_t* myPlanes = kFused ? base + team * shape.stepsPerPiece * planeBytes : stages + signBytes + team * planeBytes;

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
  constexpr int apart = rowWarps * 512;
  const int inStep = rowWarp * 512 + lane * 16;
  static_assert(kFused || planeBytes <= apart);  // 16 bytes for each thread, at most
  const uint8_t* planesFrom = kFused ? nullptr : given.planes + int64_t(firstStep) * planeBytes + inStep;
  unsigned planesTo = sharedAddress(myPlanes) + inStep;
  int planeSteps = inStep < planeBytes ? steps : 0;
  auto copyPlanes = [&](unsigned stage) {
    if (planeSteps-- > 0) copyAhead(planesTo + stage, planesFrom);
    planesFrom += planeBytes;
  };

  float stepOf[kTokens];
  long long sumOf[kTokens];
  if constexpr (kFused) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) copySigns(step * stageBytes);
    copyGroupEnds();
    waitForPreviousKernel();
    const bool aligned = rowsAreAligned(x, shape);
    float value[kTokens][kSteps][8] = {};
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const int k = (firstStep + step) * kStepColumns + lane * 8;
        if (step < steps) loadEight(value[token][step], x + int64_t(token) * shape.K + k, shape.K - k, aligned);
      }
    }
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      unsigned most = 0;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) most = max(most, largestOf(value[token][step]));
      const FixedPoint fixed = fixedPoint(__reduce_max_sync(~0u, most));
      int mine = 0;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        if (step < steps) {
          mine += writePlanes(value[token][step], fixed.inverse, lane, myPlanes + step * planeBytes + token * kRowBytes);
        }
      }
      stepOf[token] = fixed.step;
      sumOf[token] = sumOfWarp(mine);
    }
    waitForCopies<0>();
    __syncwarp();
  } else {
    for (int i = 0; i < kStages - 1; ++i) copySigns(i * stageBytes);
    waitForPreviousKernel();
    for (int i = 0; i < kStages - 1; ++i) {
      copyPlanes(i * stageBytes);
      copyGroupEnds();
    }
  }

  // From here on positions are counted from `base`.
  unsigned signsAt = unsigned(mySigns - base) + t * 64 + (((g >> 1) ^ (t & 2)) * 16) + (g & 1) * 8;
  unsigned planesAt = unsigned(myPlanes - base) + lane * 8;
  keepInRegister(signsAt);
  if (!kFused) keepInRegister(signsTo), keepInRegister(planesTo);
  keepInRegister(planesAt);
  int counts[kBlocks][kTiles][4] = {};
  const unsigned stageEnd = kStages * stageBytes;
  unsigned stage = 0, free = stageEnd - stageBytes;  // offsets: of the step's, of the one that the step before has left
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    if constexpr (!kFused) {
      waitForCopies<kStages - 2>();
      barrierAmong(1 + team, 32 * rowWarps);
      copySigns(free);
      copyPlanes(free);
      copyGroupEnds();
      free = stage;
    }
    uint2 v[kBlocks][2];
#pragma unroll
    for (int r = 0; r < kBlocks; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        v[r][half] = *reinterpret_cast<const uint2*>(base + (signsAt + stage) + r * kStepBytes + half * 256);
      }
    }
    const uint8_t* planes = base + (planesAt + (kFused ? step * planeBytes : stage));
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

  // Pieces meet in shared memory: [piece][row of X][row of the signs]
  double* meeting = reinterpret_cast<double*>(base);
#pragma unroll
  for (int r = 0; r < kBlocks; ++r) {
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        // Planes 8j + 2t and 8j + 2t + 1; plane 23 is the sign's.
        long long ones = 0;
#pragma unroll
        for (int j = 0; j < 3; ++j) {
          const int(&c)[4] = counts[r][3 * token + j];
          const int upper = 2 * c[2 * h + 1];
          ones += static_cast<long long>(c[2 * h] + (j == 2 && t == 3 ? -upper : upper)) * (1 << (8 * j));
        }
        ones *= 1 << (2 * t);
        ones += __shfl_xor_sync(~0u, ones, 1);
        ones += __shfl_xor_sync(~0u, ones, 2);
        if (t == 0) {
          const long long sum = kFused ? sumOf[token] : given.sumOf[team];
          const float step = kFused ? stepOf[token] : given.stepOf[team];
          meeting[(team * kTokens + token) * rows + (rowWarp * kBlocks + r) * kBlockRows + 2 * g + h] =
              double(2 * ones - sum) * double(step);
        }
      }
    }
  }
  __syncthreads();
  constexpr int outputs = rows * kTokens;
  for (int at = tid; at < outputs; at += kThreads) {
    const int row = at % rows, token = at / rows, n = blockStart * kBlockRows + row;
    if (n >= min(shape.N, blockEnd * kBlockRows)) continue;
    double half[2] = {};
#pragma unroll
    for (int i = 0; i < teams; ++i) half[i & 1] += meeting[i * outputs + at];
    const double total = half[0] + half[1];
    float value = static_cast<float>(total * double(toFloat(scale[n])));
    if (total != total) {  // the activations are not finite
      const unsigned* words = reinterpret_cast<const unsigned*>(signs) + int64_t(n / kBlockRows) * shape.words * kBlockRows;
      float plain = 0;
      for (int k = 0; k < shape.K; ++k) {
        const float v = toFloat(x[int64_t(token) * shape.K + k]);
        plain += words[(k >> 5) * kBlockRows + n % kBlockRows] >> (k & 31) & 1 ? v : -v;
      }
      value = plain * toFloat(scale[n]);
    }
    y[int64_t(token) * shape.N + n] = fromFloat<T>(value);
  }
}

struct Scratch {
  int64_t steps, sums, bytes;  // offsets; the planes come first
};
Scratch scratchLayout(const Shape& shape, const Plan& plan) {
  Scratch s{};
  if (plan.fused) return s;
  auto after = [](int64_t bytes) { return ceilDiv(bytes, kAlignment) * kAlignment; };
  s.steps = after(int64_t(shape.steps) * kRowBytes);
  s.sums = s.steps + after(shape.pieces * 4);
  s.bytes = s.sums + shape.pieces * 8;
  return s;
}

// A multiprocessor changes the division of its memory only when it is idle: with one division for all, kernels can overlap.
template <typename Kernel>
cudaError_t takeSharedMemory(Kernel* kernel, int bytes) {
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess || bytes <= kSharedBytes) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

template <typename T, int kSteps, int kTokens, int kBlocks>
cudaError_t launchMultiply(const Problem& p, const Shape& shape, const Plan& plan, const Quantized& given, cudaStream_t stream, bool overlap) {
  constexpr bool kFused = kSteps > 0;
  constexpr int planeBytes = kTokens * kRowBytes;
  const int teams = kWarps / plan.rowWarps, stageBytes = kWarps * kBlocks * kStepBytes + (kFused ? 0 : teams * planeBytes);
  const int stages = std::min(kStagesOf<kFused, kBlocks>, shape.stepsPerPiece);
  const int ring = stages * stageBytes + (kFused ? kWarps * shape.stepsPerPiece * planeBytes : 0);
  const int bytes = std::max(ring, int(teams * plan.rows() * kTokens * 8));
  auto* kernel = multiply<T, kSteps, kTokens, kBlocks>;
  const cudaError_t error = takeSharedMemory(kernel, bytes);
  if (error != cudaSuccess) return error;
  return launch(kernel, dim3(unsigned(plan.grid)), kThreads, bytes, stream, overlap, static_cast<const T*>(p.x), p.signs,
                static_cast<const T*>(p.scale), static_cast<T*>(p.y), given, shape);
}

template <typename T>
cudaError_t runTyped(const Problem& p, void* scratch, cudaStream_t stream) {
  Shape shape{};
  const Plan plan = planOf(p, shape);
  const Scratch layout = scratchLayout(shape, plan);
  // Compiled for 9.0 the kernels wait for the one before them; compiled for 8.0 (also what newer devices run) they cannot.
  const bool overlap = currentDevice().major == 9;
  Quantized quantized{};
  if (!plan.fused) {
    auto* base = static_cast<uint8_t*>(scratch);
    quantized = {base, reinterpret_cast<float*>(base + layout.steps), reinterpret_cast<long long*>(base + layout.sums)};
    cudaError_t error = takeSharedMemory(quantize<T>, 0);
    if (error != cudaSuccess) return error;
    error = launch(quantize<T>, dim3(unsigned(shape.pieces)), kQuantizeThreads, 0, stream, overlap,
                   static_cast<const T*>(p.x), quantized, shape);
    if (error != cudaSuccess) return error;
  }
  auto multiplyBy = [&](auto steps, auto tokens, auto blocks) {
    return launchMultiply<T, decltype(steps)::value, decltype(tokens)::value, decltype(blocks)::value>(p, shape, plan, quantized, stream,
                                                                                                      overlap);
  };
  auto withTokens = [&](auto steps, auto tokens) {
    if constexpr (decltype(steps)::value > 0 && decltype(tokens)::value == 1) {
      if (plan.blocks == 4) return multiplyBy(steps, tokens, Constant<4>{});
    }
    return plan.blocks == 1 ? multiplyBy(steps, tokens, Constant<1>{}) : multiplyBy(steps, tokens, Constant<2>{});
  };
  if (!plan.fused) return withTokens(Constant<0>{}, Constant<1>{});
  if (p.M == 2) return withTokens(Constant<1>{}, Constant<2>{});
  return shape.stepsPerPiece == 1 ? withTokens(Constant<1>{}, Constant<1>{}) : withTokens(Constant<kFusedSteps>{}, Constant<1>{});
}

}  // namespace

bool takesDecodeBits(const Problem& p) { return p.M == 1 || isFused(p); }

size_t decodeBitsScratchBytes(const Problem& p) {
  Shape shape{};
  const Plan plan = planOf(p, shape);
  return size_t(scratchLayout(shape, plan).bytes);
}

cudaError_t runDecodeBits(const Problem& p, void* scratch, cudaStream_t stream) {
  return p.dtype == Dtype::kFloat16 ? runTyped<__half>(p, scratch, stream) : runTyped<float>(p, scratch, stream);
}

}  // namespace dbf::cuda
