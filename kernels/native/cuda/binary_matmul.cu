// Chooses the kernel, and cuts very many rows into pieces that fit a launch.
#include "binary_matmul.h"

#include <algorithm>
#include <mutex>

namespace dbf::cuda {
namespace {

constexpr int kMaxDevices = 64;
// blockIdx.y of the prefill kernels counts 64 tokens and ends at 65,535; rows of three planes stay below 2^31.
constexpr int64_t kMaxRows = int64_t{1} << 21;

bool aligned(const void* pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

Path choose(const Problem& p, Path path) {
  if (path != Path::kAutomatic) return path;
  if (p.M <= kDecodeRows && aligned(p.signs, 16)) return Path::kDecode;
  const bool hopper = currentDevice().major == 9;
  const bool rows = p.dtype == Dtype::kFloat32 || (p.K % 8 == 0 && aligned(p.x, 16));
  return hopper && rows && aligned(p.signs, 16) && aligned(p.y, 16) ? Path::kPrefillWgmma : Path::kPrefillMma;
}

Problem piece(const Problem& p, int64_t first) {
  const size_t size = p.dtype == Dtype::kFloat16 ? 2 : 4;
  Problem out = p;
  out.M = std::min(kMaxRows, p.M - first);
  out.x = static_cast<const uint8_t*>(p.x) + size * size_t(first) * size_t(p.K);
  out.y = static_cast<uint8_t*>(p.y) + size * size_t(first) * size_t(p.N);
  return out;
}

}  // namespace

Device currentDevice() {
  static std::mutex mutex;
  static Device known[kMaxDevices] = {};
  int id = 0;
  if (cudaGetDevice(&id) != cudaSuccess || id < 0 || id >= kMaxDevices) return {8, 1};
  std::lock_guard<std::mutex> lock(mutex);
  Device& device = known[id];
  if (device.major == 0) {
    if (cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, id) != cudaSuccess ||
        cudaDeviceGetAttribute(&device.major, cudaDevAttrComputeCapabilityMajor, id) != cudaSuccess) {
      device = {};
      return {8, 1};
    }
  }
  return device;
}

size_t scratchBytes(const Problem& problem, Path path) {
  if (problem.M == 0) return 0;
  const Problem first = piece(problem, 0);
  switch (choose(first, path)) {
    case Path::kDecode:
      if (takesDecodeBitsShort(first)) return 0;
      return first.M == 1 ? decodeBitsLongScratchBytes(first) : decodeBytesScratchBytes(first.M, first.K);
    case Path::kPrefillWgmma:
      return prefillWgmmaScratchBytes(first);
    default:
      return 0;
  }
}

cudaError_t run(const Problem& problem, void* scratch, cudaStream_t stream, Path path) {
  if (problem.N < 1 || problem.K < 1 || problem.N > kMaxSize || problem.K > kMaxSize || problem.M < 0) return cudaErrorInvalidValue;
  for (int64_t first = 0; first < problem.M; first += kMaxRows) {
    const Problem part = piece(problem, first);
    cudaError_t error;
    switch (choose(part, path)) {
      case Path::kDecode:
        error = takesDecodeBitsShort(part) ? runDecodeBitsShort(part, stream)
                : part.M == 1              ? runDecodeBitsLong(part, scratch, stream)
                                           : runDecodeBytes(part, scratch, stream);
        break;
      case Path::kPrefillWgmma:
        error = runPrefillWgmma(part, scratch, stream);
        break;
      default:
        error = runPrefillMma(part, stream);
    }
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace dbf::cuda

// For tests and benchmarks without ONNX Runtime: 0, or a cudaError_t. `scratch` as scratchBytes says.
#if defined(_WIN32)
#define DBF_C extern "C" __declspec(dllexport)
#else
#define DBF_C extern "C" __attribute__((visibility("default")))
#endif

DBF_C int dbf_cuda_binary_matmul(int dtype, const void* x, const void* signs, const void* scale, void* y, int64_t M, int64_t N, int64_t K,
                                 void* scratch, void* stream, int path) {
  using namespace dbf::cuda;
  const Problem problem{static_cast<Dtype>(dtype), x, static_cast<const uint8_t*>(signs), scale, y, M, N, K};
  return static_cast<int>(run(problem, scratch, static_cast<cudaStream_t>(stream), static_cast<Path>(path)));
}

DBF_C int64_t dbf_cuda_scratch_bytes(int dtype, const void* x, const void* signs, const void* y, int64_t M, int64_t N, int64_t K, int path) {
  using namespace dbf::cuda;
  const Problem problem{static_cast<Dtype>(dtype), x, static_cast<const uint8_t*>(signs), nullptr, const_cast<void*>(y), M, N, K};
  return static_cast<int64_t>(scratchBytes(problem, static_cast<Path>(path)));
}
