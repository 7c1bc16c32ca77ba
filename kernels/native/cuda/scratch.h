// Device memory that a product needs between its kernels, by stream.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>
#include <mutex>
#include <utility>

namespace dbf::cuda {

// What is small (decoding: a few hundred KiB) is kept by its stream, since an allocation between two kernels would keep them from
// overlapping; larger pieces (prefill of float32) are asked for and given back in stream order by every call.
class Scratch {
 public:
  // Calls enqueue(scratch) -> cudaError_t. Work of one stream is enqueued by one thread at a time: it shares the memory.
  template <typename Enqueue>
  cudaError_t with(size_t bytes, cudaStream_t stream, Enqueue enqueue) {
    if (bytes == 0) return enqueue(nullptr);
    std::lock_guard<std::mutex> lock(mutex_);
    void* memory = nullptr;
    if (bytes <= kKeptBytes) {
      if (const cudaError_t error = kept(stream, &memory); error != cudaSuccess) return error;
      if (memory) return enqueue(memory);
    }
    if (const cudaError_t error = cudaMallocAsync(&memory, bytes, stream); error != cudaSuccess) return error;
    const cudaError_t error = enqueue(memory);
    const cudaError_t freed = cudaFreeAsync(memory, stream);
    return error != cudaSuccess ? error : freed;
  }

  // One more, or one less, kernel of a session; with the last one the memory goes.
  void retain() {
    std::lock_guard<std::mutex> lock(mutex_);
    ++users_;
  }
  void release() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (--users_ > 0) return;
    for (const auto& entry : kept_) cudaFree(entry.second);  // waits for the device; a failure has no one to hear it
    kept_.clear();
  }

 private:
  // Digits of 16 rows of 2^17 columns; longer ones are not kept.
  static constexpr size_t kKeptBytes = size_t{8} << 20;

  // Leaves nullptr while a graph is being captured for a stream seen first: memory made there would be the graph's.
  cudaError_t kept(cudaStream_t stream, void** memory) {
    int device = 0;
    if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
    const auto key = std::make_pair(device, stream);
    const auto found = kept_.find(key);
    if (found != kept_.end()) {
      *memory = found->second;
      return cudaSuccess;
    }
    cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
    if (const cudaError_t error = cudaStreamIsCapturing(stream, &capturing); error != cudaSuccess) return error;
    if (capturing != cudaStreamCaptureStatusNone) return cudaSuccess;
    if (const cudaError_t error = cudaMalloc(memory, kKeptBytes); error != cudaSuccess) return error;
    kept_.emplace(key, *memory);
    return cudaSuccess;
  }

  std::mutex mutex_;
  std::map<std::pair<int, cudaStream_t>, void*> kept_;
  long users_ = 0;
};

}  // namespace dbf::cuda
