// As much of CUDA as the kernels use, on one CPU thread: the threads of a block are coroutines that run in turn until they wait for
// others. It stands in for CUDA's own headers (this folder comes first in the include path) and for
// kernels/native/cuda/instructions.cuh, so that the kernels' index arithmetic, memory accesses (under the address sanitizer) and
// results are tested where there is no GPU. What it cannot show: races, asynchrony, speed, and whether the instructions do what
// NVIDIA's documents say, which is what it was written from (PTX ISA 8.5, "Warp-level matrix instructions", "Asynchronous
// warpgroup-level matrix instructions", "Tensor tiled mode: swizzling").
#ifndef DBF_CUDA_INSTRUCTIONS
#define DBF_CUDA_INSTRUCTIONS
#define DBF_HOPPER 1

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

// Values and conversions
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
struct __half {
  _Float16 value;
};
inline float __half2float(__half h) { return float(h.value); }
inline __half __float2half_rn(float f) { return {_Float16(f)}; }
inline __half __float2half(float f) { return {_Float16(f)}; }
template <typename To, typename From>
inline To emulatedBits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline unsigned short __half_as_ushort(__half h) { return emulatedBits<unsigned short>(h); }
inline unsigned __float_as_uint(float f) { return emulatedBits<unsigned>(f); }
inline float __uint_as_float(unsigned u) { return emulatedBits<float>(u); }
inline float __int_as_float(int i) { return emulatedBits<float>(i); }
inline long long __double_as_longlong(double d) { return emulatedBits<long long>(d); }
inline int __float2int_rn(float f) { return int(std::lrintf(f)); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t both = uint64_t(b) << 32 | a;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) out |= unsigned(both >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  return out;
}
using std::isinf;
using std::isnan;
using std::max;
using std::min;

// Threads: defined in emulated.cc
namespace emulated {
// Lets the other threads of the block run until `ready`; aborts when all wait.
void waitUntil(const std::function<bool()>& ready);
// Gathers one number array of every thread of the group (32 or 128) and returns them all, by thread.
const void* exchange(const void* mine, size_t bytes, unsigned groupSize);
void barrier(unsigned id, unsigned threads);
uint8_t* shared();
void runGrid(dim3 grid, dim3 block, size_t sharedBytes, const std::function<void()>& body);
}  // namespace emulated
// Of the thread that runs.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { emulated::barrier(0, blockDim.x); }
inline void __syncwarp() { emulated::exchange("", 1, 32); }
inline unsigned __reduce_max_sync(unsigned, unsigned value) {
  const auto* all = static_cast<const unsigned*>(emulated::exchange(&value, sizeof value, 32));
  return *std::max_element(all, all + 32);
}
inline int __reduce_add_sync(unsigned, int value) {
  const auto* all = static_cast<const int*>(emulated::exchange(&value, sizeof value, 32));
  return std::accumulate(all, all + 32, 0);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return static_cast<const T*>(emulated::exchange(&value, sizeof value, 32))[(threadIdx.x & 31) ^ unsigned(mask)];
}
template <typename T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}
template <typename T>
T atomicMax(T* at, T value) {
  const T before = *at;
  *at = std::max(before, value);
  return before;
}

// The runtime's interface
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
using cudaStream_t = void*;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrComputeCapabilityMajor };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaFuncAttributePreferredSharedMemoryCarveout };
constexpr int cudaSharedmemCarveoutMaxShared = 100;
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};
// Streams run their kernels when they are enqueued.
inline cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "invalid value"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* id) {
  *id = 0;
  return cudaSuccess;
}
// DBF_EMULATED_PROCESSORS makes it a larger device, so that larger tiles are chosen.
inline cudaError_t cudaDeviceGetAttribute(int* out, cudaDeviceAttr attribute, int) {
  const char* processors = std::getenv("DBF_EMULATED_PROCESSORS");
  *out = attribute == cudaDevAttrMultiProcessorCount ? (processors ? std::atoi(processors) : 132) : 9;
  return cudaSuccess;
}
template <typename T>
cudaError_t cudaMalloc(T** out, size_t bytes) {
  *out = static_cast<T*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
  return *out ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (bytes) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  if (bytes) std::memset(to, value, bytes);
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return bytes <= 227 * 1024 ? cudaSuccess : cudaErrorInvalidValue;
}
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments... arguments) {
  emulated::runGrid(config->gridDim, config->blockDim, config->dynamicSmemBytes, [=] { kernel(arguments...); });
  return cudaSuccess;
}

// The driver's tensor maps
using CUresult = int;
constexpr CUresult CUDA_SUCCESS = 0;
using cuuint32_t = uint32_t;
using cuuint64_t = uint64_t;
enum CUtensorMapDataType { CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 2, CU_TENSOR_MAP_DATA_TYPE_FLOAT16 = 2, CU_TENSOR_MAP_DATA_TYPE_UINT32 = 4 };
enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE };
enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_128B };
enum CUtensorMapL2promotion { CU_TENSOR_MAP_L2_PROMOTION_L2_256B };
enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE };
struct CUtensorMap {
  const uint8_t* data;
  int64_t inner, outer, pitch, elementBytes, boxInner, boxOuter;
  bool swizzled;
};
CUresult emulatedEncode(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data, const cuuint64_t* sizes,
                        const cuuint64_t* pitch, const cuuint32_t* box, const cuuint32_t* stride, CUtensorMapInterleave,
                        CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess };
constexpr int cudaEnableDefault = 0;
#define CUDART_VERSION 12080
inline cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** found, unsigned, int, cudaDriverEntryPointQueryResult* result) {
  *found = reinterpret_cast<void*>(&emulatedEncode);
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

// kernels/native/cuda/instructions.cuh
namespace dbf::cuda {
inline void allowNextKernel() {}
inline void waitForPreviousKernel() {}
inline void prefetchToL2(const uint8_t* from, unsigned bytes) {
  if (reinterpret_cast<uintptr_t>(from) % 16 || bytes % 16) std::abort();
  volatile uint8_t first = from[0], last = from[bytes - 1];  // both must exist
  (void)first, (void)last;
}
inline uint4 loadOnce(const uint8_t* from) {
  if (reinterpret_cast<uintptr_t>(from) % 16) std::abort();
  uint4 v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline uint2 loadPairOnce(const uint8_t* from, bool exists) {
  uint2 v{0, 0};
  if (!exists) return v;
  if (reinterpret_cast<uintptr_t>(from) % 8) std::abort();
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline unsigned selectBits(unsigned mask, unsigned a, unsigned b) { return (a & mask) | (b & ~mask); }
// What is copied arrives as late as it may.
void copyAhead(unsigned to, const void* from);
void copyGroupEnds();
void waitForCopies(unsigned pending);
template <int kPending>
void waitForCopies() {
  waitForCopies(kPending);
}
void mmaBytes(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1);
void mmaBits(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1);
void mma16(bool bf16, float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
template <bool kBf16>
void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  mma16(kBf16, c, a, b0, b1);
}
inline uint8_t* dynamicShared() { return emulated::shared(); }
inline unsigned sharedAddress(const void* pointer) { return unsigned(static_cast<const uint8_t*>(pointer) - emulated::shared()); }
inline void keepInRegister(unsigned&) {}
// A block has sixteen barriers, 0 for __syncthreads; a GPU takes a number modulo 16.
inline void barrierAmong(unsigned barrier, unsigned threads) {
  if (barrier < 1 || barrier > 15 || threads % 32) std::abort();
  emulated::barrier(barrier, threads);
}
void barrierInit(unsigned barrier, unsigned arrivals);
inline void barrierInitDone() {}
void barrierArrive(unsigned barrier);
void barrierExpect(unsigned barrier, unsigned bytes);
void barrierWait(unsigned barrier, unsigned parity);
void copyBox(unsigned to, const CUtensorMap* map, int inner, int outer, unsigned barrier);
inline void productFence() {}
inline void productCommit() {}
template <int>
void productWait() {}
inline void sumIsComplete(float&) {}
inline uint64_t tileDescriptor(unsigned address) { return address; }
void product16(int columns, bool bf16, float* d, const unsigned (&a)[4], uint64_t tile);
template <int kColumns, bool kBf16>
void product(float (&d)[kColumns / 2], const unsigned (&a)[4], uint64_t tile) {
  product16(kColumns, kBf16, d, a, tile);
}
template <int>
void registersUp() {}
template <int>
void registersDown() {}
}  // namespace dbf::cuda

#endif
