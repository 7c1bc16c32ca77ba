// libdbf_ops_cuda: ai.dbf::BinaryMatMul for ONNX Runtime's CUDA provider, on the provider's stream.
#include <cuda_runtime_api.h>

#include <string>

#include "../binary_matmul_op.h"
#include "binary_matmul.h"
#include "scratch.h"

namespace dbf {
namespace {

cuda::Scratch& scratch() {
  // Never destroyed: sessions may outlive the statics of a library.
  static auto* shared = new cuda::Scratch;
  return *shared;
}

class CudaKernel {
 public:
  static const char* provider() { return "CUDAExecutionProvider"; }

  CudaKernel(const ort::Api& api, const ort::KernelInfo*) : api_(api) { scratch().retain(); }
  ~CudaKernel() { scratch().release(); }
  CudaKernel(const CudaKernel&) = delete;
  CudaKernel& operator=(const CudaKernel&) = delete;

  ort::Status* run(ort::KernelContext* context, const BinaryMatMulTensors& t) {
    void* handle = nullptr;
    if (ort::Status* status = api_.gpuComputeStream(context, &handle)) return status;
    if (t.n > cuda::kMaxSize || t.k > cuda::kMaxSize) {
      return api_.createStatus(ort::kInvalidArgument, ("Cannot run ai.dbf::BinaryMatMul on CUDA as N and K may be " +
                                                       std::to_string(cuda::kMaxSize) + " at most: current values are " +
                                                       std::to_string(t.n) + " and " + std::to_string(t.k))
                                                          .c_str());
    }
    const auto stream = static_cast<cudaStream_t>(handle);
    const cuda::Problem problem{t.half ? cuda::Dtype::kFloat16 : cuda::Dtype::kFloat32,
                                t.x,
                                static_cast<const uint8_t*>(t.signs),
                                t.scale,
                                t.y,
                                t.rows,
                                t.n,
                                t.k};
    const cudaError_t error = scratch().with(cuda::scratchBytes(problem), stream,
                                             [&](void* memory) { return cuda::run(problem, memory, stream); });
    if (error == cudaSuccess) return nullptr;
    return api_.createStatus(ort::kFail, (std::string("Cannot run ai.dbf::BinaryMatMul on CUDA (rows ") + std::to_string(t.rows) +
                                          ", N " + std::to_string(t.n) + ", K " + std::to_string(t.k) +
                                          ") as CUDA says: " + cudaGetErrorString(error))
                                             .c_str());
  }

 private:
  const ort::Api api_;
};

}  // namespace
}  // namespace dbf

DBF_EXPORT dbf::ort::Status* DBF_ORT_CALL RegisterCustomOps(dbf::ort::SessionOptions* options, const dbf::ort::ApiBase* base) {
  return dbf::registerBinaryMatMul<dbf::CudaKernel>(options, base);
}

// Which of the library's machine codes the current device runs; nullptr where there is no device.
DBF_EXPORT const char* dbf_isa() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return nullptr;
  const int major = dbf::cuda::currentDevice().major;
  return major == 9 ? "sm_90a" : major == 8 ? "sm_80" : "compute_80";
}
