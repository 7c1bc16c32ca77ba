// The arithmetic of BinaryMatMul, once per instruction set.
//
// Signs are stored as 64-byte blocks of 16 rows x 32 columns (kernels/layout.ts): `words` blocks follow each other along K,
// then come the next 16 rows. All kernels go through a table of the 16 signed sums of every 4 activations:
// entry e of group g is  Σ_{j<4} (bit j of e ? +1 : −1) · x[4g+j],  so a row's sum is one lookup and one addition per 4 columns.
#pragma once
#include <cstddef>
#include <cstdint>

namespace dbf {

constexpr size_t kBlockRows = 16;
constexpr size_t kWordColumns = 32;
// Entries of the table for the 32 columns of a word: 8 groups of 16 sums.
constexpr size_t kTableEntries = 128;

// Functions of one instruction set. Activations are padded with zeros to `words` · 32; `sums` is 16 floats a block, overwritten.
// `ahead` says that the signs come from memory: the kernel then fetches the ones after those that it works on.
struct KernelSet {
  const char* isa;

  // Exact: sums and accumulation in f32. `table` has kTableEntries floats a word, 64-byte aligned.
  void (*exactTable)(const float* x, size_t words, float* table);
  void (*exactSums)(const uint32_t* signs, size_t words, size_t blocks, const float* table, float* sums, bool ahead);

  // Fast: the table as int8 with one scale per word of 32 columns, s = max_g Σ_{j<4} |x[4g+j]| / 127, so that a lookup is
  // off by at most s/2 and a row's sum by at most 4 · Σ_words s. `table` has kTableEntries bytes a word in an order of the
  // kernel's own, 64-byte aligned; `scales` one float a word. False when an activation is not finite or its sums would not
  // be: such rows take the exact kernel.
  bool (*fastTable)(const float* x, size_t words, int8_t* table, float* scales);
  void (*fastSums)(const uint32_t* signs, size_t words, size_t blocks, const int8_t* table, const float* scales, float* sums,
                   bool ahead);

  // IEEE half precision, rounded to nearest even.
  void (*fromHalf)(const uint16_t* in, size_t count, float* out);
  void (*toHalf)(const float* in, size_t count, uint16_t* out);

  const struct FactorizerKernels* factorizer;
};

// Activations whose largest group sum is smaller count as zero in the fast kernels: 127/s must be finite.
constexpr float kFastSmallest = 1e-30f;
// Larger group sums take the exact kernel, so that no product overflows before the exact one would.
constexpr float kFastLargest = 1e30f;

// Address of the signs that come after `step` blocks from `block` in a panel of `count` words from `word`: the panel's next
// blocks, else the next panel, else what lies behind the strip, which may be outside of the matrix.
inline uintptr_t signsAfter(const uint32_t* signs, size_t words, size_t blocks, size_t block, size_t step, size_t word, size_t count) {
  size_t at = blocks * words;
  if (block + step < blocks) {
    at = (block + step) * words + word;
  } else if (word + count < words) {
    at = word + count;
  }
  return reinterpret_cast<uintptr_t>(signs) + at * kBlockRows * sizeof(uint32_t);
}

// Starts to bring the cache line at an address to the second-level cache; any address is harmless.
inline void fetch(uintptr_t address) { __builtin_prefetch(reinterpret_cast<const void*>(address), 0, 2); }

extern const KernelSet kScalarKernels;
#if defined(__x86_64__) || defined(_M_X64)
extern const KernelSet kAvx2Kernels;
extern const KernelSet kAvx512Kernels;
extern const KernelSet kAvx512VnniKernels;
#elif defined(__aarch64__)
extern const KernelSet kNeonKernels;
#endif

}  // namespace dbf
