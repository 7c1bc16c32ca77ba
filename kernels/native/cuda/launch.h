// Enqueues a kernel.
#pragma once
#include <cuda_runtime.h>

#include "binary_matmul.h"

namespace dbf::cuda {

// Whether decode kernels may begin while the one before them still runs. Compiled for 9.0 they wait for it; compiled for 8.0 (also what
// newer devices run) they cannot.
inline bool kernelsOverlap() { return currentDevice().major == 9; }

// With `overlap` the kernel may start while the one before it in the stream still runs; it must call waitForPreviousKernel().
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, int sharedBytes, cudaStream_t stream, bool overlap,
                   Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = size_t(sharedBytes);
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// A multiprocessor changes the division of its memory only when it is idle: with one division for all, kernels can overlap. `bytes`:
// dynamic shared memory of a block.
template <typename Kernel>
cudaError_t takeSharedMemory(Kernel* kernel, int bytes) {
  constexpr int kWithoutAsking = 40 * 1024;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess || bytes <= kWithoutAsking) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

}  // namespace dbf::cuda
