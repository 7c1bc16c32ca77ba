// Up to 16 rows: the signs are read as often as there are groups of five, and multiplied by int8 tensor-core instructions. (One row:
// decode_bits_short.cu.)
//
// y_n = scale_n · Σ_k ±x_k = scale_n · (2·Σ_k bit_nk·x_k − Σ_k x_k)
//
// 1. quantize: every row of X, in 8 ranges of columns, becomes 24-bit fixed point relative to the range's largest magnitude,
//    written as three signed bytes: three columns of an m16n8k32 product. Its step is a power of two, so float16 activations
//    within 2^-12 of the largest are exact, and no error exceeds half a step, 2^-22.9 of the largest magnitude of the range.
// 2. multiply: a 32-bit word AND 0x01010101·2^i is four weights {0, 2^i} of unsigned bytes: one instruction for four weights.
//    Sums are integers, so exact whatever their order; they are put together in float64, and rounded once.
//
// Against float32 accumulation: each of its K additions rounds to 2^-24 of the partial sum; here the only errors are the fixed
// point's. Rows with infinities or NaN are summed by plain additions instead, so that they behave as in float arithmetic.
//
// The signs do not depend on the kernel before, so the quantizing kernel, whose launch may overlap it, asks for them into L2.
#include "binary_matmul.h"
#include "device_code.cuh"
#include "launch.h"

namespace dbf::cuda {
namespace {

constexpr int kRanges = 8;         // of columns: one warp each in `multiply`
constexpr int kStepColumns = 256;  // columns of one step: two words for each of four threads
constexpr int kThreads = 32 * kRanges;
constexpr int kTileRows = 32;                      // rows of one thread block in `multiply`
constexpr int kLargestDigits = 127 * 0x010101;     // of three signed bytes
constexpr int64_t kPrefetchBytes = 4096;           // of one thread of a prefetching warp
constexpr int64_t kMaxPrefetchBytes = 24 << 20;    // half of an H100's L2
constexpr int64_t kAlignment = 256;

// Tokens that share one pass over the signs: three columns each of 8 or 16.
int tokensPerGroup(int64_t M) { return M == 1 ? 1 : M == 2 ? 2 : 5; }

struct Scratch {
  int64_t digits, steps, sums, bytes;  // offsets
};
Scratch scratchLayout(int64_t M, int64_t K) {
  const int64_t tokens = tokensPerGroup(M), groups = ceilDiv(M, tokens);
  Scratch s{};
  const int64_t digitBytes = groups * ceilDiv(K, kStepColumns) * kStepColumns * 3 * tokens;
  s.steps = ceilDiv(digitBytes, kAlignment) * kAlignment;
  s.sums = s.steps + ceilDiv(M * kRanges * 4, kAlignment) * kAlignment;
  s.bytes = s.sums + M * kRanges * 8;
  return s;
}

struct Shape {
  int M, N, K;
  int words, steps, stepsPerRange;  // of one row: 32-bit words, steps of 256 columns
};

template <typename T>
__global__ void __launch_bounds__(kThreads) quantize(const T* x, const uint8_t* signs, int64_t signBytes, uint8_t* digits,
                                                     float* stepOf, long long* sumOf, Shape shape, int tokens) {
  allowNextKernel();
  const int range = blockIdx.x, row = blockIdx.y, tid = threadIdx.x;
  if (row >= shape.M) {  // blocks beyond the rows: signs into L2
    const int64_t at = ((int64_t(row - shape.M) * kRanges + range) * 32 + tid) * kPrefetchBytes;
    if (tid < 32 && at < signBytes) {
      prefetchToL2(signs + at, static_cast<unsigned>(signBytes - at < kPrefetchBytes ? signBytes - at : kPrefetchBytes));
    }
    return;
  }
  waitForPreviousKernel();
  __shared__ unsigned largest;
  __shared__ unsigned long long sum;
  if (tid == 0) largest = 0, sum = 0;
  __syncthreads();
  const T* from = x + int64_t(row) * shape.K;
  const int firstStep = range * shape.stepsPerRange;
  const int lastStep = min(shape.steps, firstStep + shape.stepsPerRange);
  const int end = min(shape.K, lastStep * kStepColumns);
  unsigned most = 0;  // magnitudes are ordered as their bits, infinity and NaN above all
  for (int k = firstStep * kStepColumns + tid; k < end; k += kThreads) {
    most = max(most, __float_as_uint(toFloat(from[k])) & 0x7fffffffu);
  }
  most = __reduce_max_sync(~0u, most);
  if ((tid & 31) == 0) atomicMax(&largest, most);
  __syncthreads();
  most = largest;
  const bool finite = most < 0x7f800000u;
  // step = 2^-e with largest · 2^e in [2^21.9, kLargestDigits]
  int e = 0;
  if (finite && most != 0) {
    int exponent;
    const float significand = frexpf(__uint_as_float(most), &exponent);
    e = min(126, (significand * 8388608.f > float(kLargestDigits) ? 22 : 23) - exponent);
  }
  const float inverse = finite ? ldexpf(1.f, e) : 0.f;

  // Four columns 8 apart make one register of B; see `multiply` for the order.
  const int group = row / tokens, token = row - group * tokens, columns = 3 * tokens;
  uint8_t* out = digits + int64_t(group) * shape.steps * kStepColumns * columns;
  long long mine = 0;
  for (int unit = tid; unit < (lastStep - firstStep) * 64; unit += kThreads) {
    const int step = firstStep + (unit >> 6), word = (unit >> 3) & 7, p = unit & 7;
    const int k = step * kStepColumns + word * kWordColumns + p;
    unsigned part[3] = {0, 0, 0};
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const float value = k + 8 * b < shape.K && finite ? toFloat(from[k + 8 * b]) : 0.f;
      const int q = __float2int_rn(value * inverse);
      mine += q;
      const int low = static_cast<int8_t>(q), rest = (q - low) >> 8;
      const int middle = static_cast<int8_t>(rest), high = (rest - middle) >> 8;
      part[0] |= unsigned(low & 0xff) << (8 * b);
      part[1] |= unsigned(middle & 0xff) << (8 * b);
      part[2] |= unsigned(high & 0xff) << (8 * b);
    }
    const int t = word & 3, place = (p & 1) * 8 + (word >> 2) * 4;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      const int64_t piece = (int64_t(step * 4 + (p >> 1)) * columns + 3 * token + d) * 4 + t;
      *reinterpret_cast<unsigned*>(out + piece * 16 + place) = part[d];
    }
  }
  for (int lane = 16; lane; lane >>= 1) mine += __shfl_xor_sync(~0u, mine, lane);
  if ((tid & 31) == 0) atomicAdd(&sum, static_cast<unsigned long long>(mine));
  __syncthreads();
  if (tid == 0) {
    stepOf[row * kRanges + range] = finite ? ldexpf(1.f, -e) : __int_as_float(0x7fffffff);
    sumOf[row * kRanges + range] = static_cast<long long>(sum);
  }
}

// One thread block: 32 rows of the signs, all columns, warp w the columns of range w; blockIdx.y: a group of tokens.
//
// Lane 4g + t loads 16 bytes at a time: one word of rows 4(g mod 4) … +3 of the 16-row block g / 4; t chooses the word. So a
// lane has rows for both halves (g, g+8) of two products of 16 rows: their real row is 4g + 2·product + half. The columns of a
// product, in order: thread t's k = 4t + b is bit p + 8b of word t of the step, and k = 16 + 4t + b of word t + 4.
template <typename T, int kTokens>
__global__ void __launch_bounds__(kThreads, 2)
    multiply(const T* x, const uint8_t* signs, const T* scale, T* y, const uint8_t* digits, const float* stepOf,
             const long long* sumOf, Shape shape) {
  constexpr int kColumns = 3 * kTokens, kTiles = (kColumns + 7) / 8, kAhead = 2;
  constexpr int kDigitsAhead = kTiles == 1 ? 1 : 0;  // two tiles leave no registers for it
  __shared__ int partial[kRanges][kTileRows][8 * kTiles];
  allowNextKernel();
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
  const int firstStep = warp * shape.stepsPerRange, lastStep = min(shape.steps, firstStep + shape.stepsPerRange);
  const int rowBlock = blockIdx.x * 2 + (g >> 2);
  const bool rowExists = rowBlock * kBlockRows < shape.N;
  const uint8_t* mySigns = signs + (int64_t(rowBlock) * shape.words) * 64 + (g & 3) * 16;

  uint4 ahead[kAhead][2];
  auto load = [&](uint4(&into)[2], int step) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int word = step * 8 + half * 4 + t;
      into[half] = make_uint4(0, 0, 0, 0);
      if (rowExists && step < lastStep && word < shape.words) into[half] = loadOnce(mySigns + int64_t(word) * 64);
    }
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) load(ahead[i], firstStep + i);
  waitForPreviousKernel();

  const uint8_t* myDigits = digits + int64_t(blockIdx.y) * shape.steps * kStepColumns * kColumns + (g * 4 + t) * 16;
  uint4 digit[kDigitsAhead + 1][kTiles][4];
  auto loadDigits = [&](uint4(&into)[kTiles][4], int step) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int piece = 0; piece < 4; ++piece) {
        into[tile][piece] = make_uint4(0, 0, 0, 0);
        if (tile * 8 + g < kColumns && step < lastStep) {
          into[tile][piece] = *reinterpret_cast<const uint4*>(myDigits + (int64_t(step * 4 + piece) * kColumns + tile * 8) * 64);
        }
      }
    }
  };
  if (kDigitsAhead) loadDigits(digit[0], firstStep);
  int sums[4][2][kTiles][4] = {};  // by bit i of a nibble, product of 16 rows, tile of 8 columns
  for (int step = firstStep; step < lastStep; step += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (step + i >= lastStep) break;
      loadDigits(digit[(i + 1) * kDigitsAhead & 1], step + i + kDigitsAhead);
      const uint4(&b)[kTiles][4] = digit[i * kDigitsAhead & 1];
      uint4 v0 = ahead[i][0], v1 = ahead[i][1];
      load(ahead[i], step + i + kAhead);
#pragma unroll
      for (int nibble = 0; nibble < 2; ++nibble) {
        if (nibble) {
          v0 = make_uint4(v0.x >> 4, v0.y >> 4, v0.z >> 4, v0.w >> 4);
          v1 = make_uint4(v1.x >> 4, v1.y >> 4, v1.z >> 4, v1.w >> 4);
        }
#pragma unroll
        for (int bit = 0; bit < 4; ++bit) {
          const unsigned mask = 0x01010101u << bit;
          const int p = nibble * 4 + bit;
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) {
            const uint4 four = b[tile][p >> 1];
            const unsigned b0 = p & 1 ? four.z : four.x, b1 = p & 1 ? four.w : four.y;
            mmaBytes(sums[bit][0][tile], v0.x & mask, v0.y & mask, v1.x & mask, v1.y & mask, b0, b1);
            mmaBytes(sums[bit][1][tile], v0.z & mask, v0.w & mask, v1.z & mask, v1.w & mask, b0, b1);
          }
        }
      }
    }
  }
#pragma unroll
  for (int product = 0; product < 2; ++product) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        int whole = 0;
#pragma unroll
        for (int bit = 0; bit < 4; ++bit) whole += sums[bit][product][tile][c] >> bit;  // a multiple of 2^bit
        partial[warp][4 * g + 2 * product + (c >> 1)][tile * 8 + 2 * t + (c & 1)] = whole;
      }
    }
  }
  __syncthreads();
  for (int at = tid; at < kTileRows * kTokens; at += kThreads) {
    const int inTile = at % kTileRows, token = at / kTileRows;
    const int n = blockIdx.x * kTileRows + inTile, m = blockIdx.y * kTokens + token;
    if (n >= shape.N || m >= shape.M) continue;
    double total = 0;
    bool finite = true;
#pragma unroll
    for (int range = 0; range < kRanges; ++range) {
      const int* digit = &partial[range][inTile][3 * token];
      const long long ones = digit[0] + 256ll * digit[1] + 65536ll * digit[2];
      const float step = stepOf[m * kRanges + range];
      finite = finite && step == step;
      total += double(2 * ones - sumOf[m * kRanges + range]) * double(step);
    }
    float value = static_cast<float>(total * double(toFloat(scale[n])));
    if (!finite) value = plainSum(x + int64_t(m) * shape.K, signs, shape.words, shape.K, n) * toFloat(scale[n]);
    y[int64_t(m) * shape.N + n] = fromFloat<T>(value);
  }
}

template <typename T>
cudaError_t runTyped(const Problem& p, void* scratch, cudaStream_t stream) {
  const Scratch layout = scratchLayout(p.M, p.K);
  auto* base = static_cast<uint8_t*>(scratch);
  uint8_t* digits = base;
  auto* steps = reinterpret_cast<float*>(base + layout.steps);
  auto* sums = reinterpret_cast<long long*>(base + layout.sums);
  Shape shape{int(p.M), int(p.N), int(p.K), int(ceilDiv(p.K, kWordColumns)), int(ceilDiv(p.K, kStepColumns)), 0};
  shape.stepsPerRange = int(ceilDiv(shape.steps, kRanges));
  const int tokens = tokensPerGroup(p.M);
  int64_t prefetch = kernelsOverlap() ? ceilDiv(p.N, kBlockRows) * shape.words * 64 : 0;
  if (prefetch > kMaxPrefetchBytes) prefetch = kMaxPrefetchBytes;
  const unsigned extra = unsigned(ceilDiv(prefetch, kPrefetchBytes * 32 * kRanges));
  const auto* x = static_cast<const T*>(p.x);
  const auto* scale = static_cast<const T*>(p.scale);
  auto* y = static_cast<T*>(p.y);
  cudaError_t error = launch(quantize<T>, dim3(kRanges, unsigned(p.M) + extra), kThreads, 0, stream, kernelsOverlap(), x, p.signs, prefetch, digits,
                             steps, sums, shape, tokens);
  if (error != cudaSuccess) return error;
  const dim3 grid(unsigned(ceilDiv(p.N, kTileRows)), unsigned(ceilDiv(p.M, tokens)));
  const uint8_t* readDigits = digits;
  const float* readSteps = steps;
  const long long* readSums = sums;
  auto* kernel = tokens == 1 ? multiply<T, 1> : tokens == 2 ? multiply<T, 2> : multiply<T, 5>;
  return launch(kernel, grid, kThreads, 0, stream, kernelsOverlap(), x, p.signs, scale, y, readDigits, readSteps, readSums, shape);
}

}  // namespace

size_t decodeBytesScratchBytes(int64_t M, int64_t K) { return size_t(scratchLayout(M, K).bytes); }

cudaError_t runDecodeBytes(const Problem& problem, void* scratch, cudaStream_t stream) {
  return problem.dtype == Dtype::kFloat16 ? runTyped<__half>(problem, scratch, stream)
                                          : runTyped<float>(problem, scratch, stream);
}

}  // namespace dbf::cuda
