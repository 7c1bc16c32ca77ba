// Y[M,N] = (X[M,K] . B^T) * out_scale[N], signs packed as kernels/layout.ts says, on one CUDA device.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace dbf::cuda {

// Type of X, out_scale and Y.
enum class Dtype : int { kFloat32 = 0, kFloat16 = 1 };

// Which kernel runs: by the number of rows and the device, or one that a test or a benchmark names.
enum class Path : int { kAutomatic = 0, kDecode = 1, kPrefillWgmma = 2, kPrefillMma = 3 };

struct Problem {
  Dtype dtype;
  const void* x;         // (M, K) row-major
  const uint8_t* signs;  // (ceil(N/16), ceil(K/32), 16, 4)
  const void* scale;     // (N)
  void* y;               // (M, N) row-major
  int64_t M, N, K;
};

// Rows up to which the decode kernels run; above, the signs are expanded into tensor-core fragments.
constexpr int64_t kDecodeRows = 16;
// Longer rows would leave the exact integer range of the decode kernels' sums and 32-bit offsets.
constexpr int64_t kMaxSize = int64_t{1} << 20;

// Bytes of device scratch memory that run() needs for this problem; 0 is possible.
size_t scratchBytes(const Problem& problem, Path path = Path::kAutomatic);

// Enqueues the product on `stream`; `scratch` is 256-byte aligned and belongs to the call until the stream has passed it.
cudaError_t run(const Problem& problem, void* scratch, cudaStream_t stream, Path path = Path::kAutomatic);

// One file each; called by run() only.
bool takesDecodeBitsShort(const Problem& problem);
cudaError_t runDecodeBitsShort(const Problem& problem, cudaStream_t stream);
size_t decodeBitsLongScratchBytes(const Problem& problem);  // M = 1
cudaError_t runDecodeBitsLong(const Problem& problem, void* scratch, cudaStream_t stream);
size_t decodeBytesScratchBytes(int64_t M, int64_t K);
cudaError_t runDecodeBytes(const Problem& problem, void* scratch, cudaStream_t stream);
size_t prefillWgmmaScratchBytes(const Problem& problem);
cudaError_t runPrefillWgmma(const Problem& problem, void* scratch, cudaStream_t stream);
cudaError_t runPrefillMma(const Problem& problem, cudaStream_t stream);

struct Device {
  int major;            // compute capability
  int multiprocessors;
};
// Of the current device, asked once per device.
Device currentDevice();

}  // namespace dbf::cuda
