// Y (rows, N) = (X (rows, K) · Bᵀ) ⊙ scale (N), with B as packed signs: dispatch, tiling and element types.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace dbf {

struct BinaryMatMulCall {
  const void* x;         // (rows, K), row-major
  const uint32_t* signs; // [ceil(N/16)][ceil(K/32)][16], 4-byte aligned
  const void* scale;     // (N)
  void* y;               // (rows, N), row-major
  size_t rows, n, k;
  bool half;             // x, scale and y are IEEE half precision instead of f32
  bool fast;             // activations as sums of int8, see KernelSet::fastTable
};

// Runs body(data, i) for i < tasks, in any order, on any threads, and returns when all are done.
struct Parallel {
  void (*run)(void* context, void (*body)(void*, size_t), size_t tasks, void* data);
  void* context;
};

// The kernels that this machine (CPUID) and the environment variable DBF_ISA choose; decided once.
const KernelSet& kernels();
// Kernels by name; nullptr when this machine or this build has none of that name.
const KernelSet* kernelsNamed(const char* isa);
// Names of all that this machine can run, comma-separated, best last.
const char* kernelNames();

// Throws std::bad_alloc when there is no memory for tables. The result does not depend on the number of threads.
void binaryMatMul(const KernelSet& kernels, const BinaryMatMulCall& call, const Parallel& parallel);

}  // namespace dbf
