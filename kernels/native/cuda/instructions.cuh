// The machine instructions that the kernels use, as functions: the only file with PTX. tests/kernels/native/cuda/emulated has the
// same functions for a CPU, so that the kernels' index arithmetic is tested without a GPU.
#ifndef DBF_CUDA_INSTRUCTIONS
#define DBF_CUDA_INSTRUCTIONS
#include <cuda.h>

#include <cstdint>

// Warpgroup products, the tensor copy engine and its barriers exist in code for 9.0a only.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DBF_HOPPER 1
#endif

namespace dbf::cuda {

// Programmatic dependent launch: the next kernel of the stream may start; wait for what the one before it wrote.
__device__ __forceinline__ void allowNextKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void waitForPreviousKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Asks for bytes (16-byte aligned, a multiple of 16) into L2.
__device__ __forceinline__ void prefetchToL2(const uint8_t* from, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}

// 16 bytes that are read once and never written while kernels run.
__device__ __forceinline__ uint4 loadOnce(const uint8_t* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}
// The same of 8 bytes, or zeros.
__device__ __forceinline__ uint2 loadPairOnce(const uint8_t* from, bool exists) {
  uint2 v;
  asm volatile(
      "{\n.reg .pred exists;\n"
      "setp.ne.u32 exists, %3, 0;\n"
      "mov.u32 %0, 0;\n"
      "mov.u32 %1, 0;\n"
      "@exists ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];\n}\n"
      : "=&r"(v.x), "=&r"(v.y)
      : "l"(from), "r"(unsigned(exists)));
  return v;
}

// Bits of `a` where the mask has ones, of `b` elsewhere.
__device__ __forceinline__ unsigned selectBits(unsigned mask, unsigned a, unsigned b) {
  unsigned v;
  asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(v) : "r"(mask), "r"(a), "r"(b));
  return v;
}

// Copies of 16 bytes from global to shared memory that go on while the thread does, in groups that end in their order.
__device__ __forceinline__ void copyAhead(unsigned to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copyGroupEnds() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most kPending groups of this thread are under way.
template <int kPending>
__device__ __forceinline__ void waitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// c (16 × 8, s32) += a (16 × 32, u8) · b (32 × 8, s8), by a warp.
__device__ __forceinline__ void mmaBytes(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// c (16 × 8, s32) += number of ones that a row of a (16 × 256 bits) and a column of b (256 × 8 bits) share, by a warp.
__device__ __forceinline__ void mmaBits(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// c (16 × 8, f32) += a (16 × 16) · b (16 × 8), bf16 or f16, by a warp.
template <bool kBf16>
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  if constexpr (kBf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// Shared memory whose size the launch gives.
__device__ __forceinline__ uint8_t* dynamicShared() {
  extern __shared__ uint8_t bytes[];
  return bytes;
}
__device__ __forceinline__ unsigned sharedAddress(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}
// Keeps a number in its register: the compiler would compute it again in every turn of a loop.
__device__ __forceinline__ void keepInRegister(unsigned& value) { asm volatile("" : "+r"(value)); }
// Waits for `threads` threads of the block that name the same barrier (1 to 15).
__device__ __forceinline__ void barrierAmong(unsigned barrier, unsigned threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

#if defined(DBF_HOPPER)

__device__ __forceinline__ void barrierInit(unsigned barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrierInitDone() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void barrierArrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrierExpect(unsigned barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrierWait(unsigned barrier, unsigned parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// A box of a two-dimensional tensor into shared memory; what lies outside of the tensor becomes zero.
__device__ __forceinline__ void copyBox(unsigned to, const CUtensorMap* map, int inner, int outer, unsigned barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
               "l"(map), "r"(inner), "r"(outer), "r"(barrier)
               : "memory");
}

__device__ __forceinline__ void productFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void productCommit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void productWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving arithmetic on a sum above the wait for its products.
__device__ __forceinline__ void sumIsComplete(float& sum) { asm volatile("" : "+f"(sum)::"memory"); }

// Describes a tile of 64 columns (128 bytes a row, swizzled), rows 8 by 8 in 1024 bytes.
__device__ __forceinline__ uint64_t tileDescriptor(unsigned address) {
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

#define DBF_D8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define DBF_D32(d, i) DBF_D8(d, i), DBF_D8(d, i + 8), DBF_D8(d, i + 16), DBF_D8(d, i + 24)
#define DBF_P32                                                                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                         \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define DBF_P64                                                                                                    \
  DBF_P32                                                                                                          \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                             \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// d (64 × kColumns) += a (64 × 16, registers) · tile (kColumns × 16)ᵀ
template <int kColumns, bool kBf16>
__device__ __forceinline__ void product(float (&d)[kColumns / 2], const unsigned (&a)[4], uint64_t tile) {
  if constexpr (kColumns == 64 && kBf16) {
    asm volatile("{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" DBF_P32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}\n"
                 : DBF_D32(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(tile));
  } else if constexpr (kColumns == 64) {
    asm volatile("{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" DBF_P32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}\n"
                 : DBF_D32(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(tile));
  } else if constexpr (kBf16) {
    asm volatile("{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DBF_P64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}\n"
                 : DBF_D32(d, 0), DBF_D32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(tile));
  } else {
    asm volatile("{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" DBF_P64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}\n"
                 : DBF_D32(d, 0), DBF_D32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(tile));
  }
}

template <int kRegisters>
__device__ __forceinline__ void registersUp() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void registersDown() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

#endif

}  // namespace dbf::cuda

#endif  // DBF_CUDA_INSTRUCTIONS
