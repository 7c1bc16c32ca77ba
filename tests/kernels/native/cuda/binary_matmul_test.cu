// The CUDA kernels against a float64 twin that reads unpacked signs: random shapes, both types, every path, NaN and infinities,
// garbage in padding bits, poisoned outputs with guards behind them, no rows at all.
//
//   binary_matmul_test [shapes = 10000] [seed = 1] [--exact] [--layers]
//
// After the shapes, layers of one row on several streams, both products of each in turn; --layers: nothing but those.
// --exact gives every array an allocation of its own and leaves the largest shapes out, for compute-sanitizer and for the emulation in
// emulated/. Exit code 0: everything agreed.
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../../../../kernels/native/cuda/binary_matmul.h"
#include "../../../../kernels/native/cuda/launch.h"

using namespace dbf::cuda;

#define CHECK(call)                                                                                \
  do {                                                                                             \
    const cudaError_t checked = (call);                                                            \
    if (checked != cudaSuccess) {                                                                  \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(checked));      \
      std::exit(2);                                                                                \
    }                                                                                              \
  } while (0)

namespace {

constexpr size_t kGuard = 256;
constexpr double kTolerance = 1.0 / (1 << 20);  // of Σ|x| · |scale|: what float32 accumulation may lose
// Decoding loses up to 2^-23 of the largest activation for each, evenly distributed: six deviations of a sum of K are √K times this.
constexpr double kFixedPointTolerance = 3.5 / (1 << 23);

struct Worst {
  double ratio;  // largest error / allowed error
  unsigned wrong;
};

__device__ double read(const float* p, int64_t i) { return p[i]; }
__device__ double read(const __half* p, int64_t i) { return double(__half2float(p[i])); }

template <typename T>
__global__ void compare(const T* x, const uint8_t* plain, const T* scale, const T* y, int M, int N, int K, bool fixedPoint, Worst* worst) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= int64_t(M) * N) return;
  const int64_t m = at / N, n = at % N;
  double sum = 0, magnitude = 0, most = 0;
  for (int64_t k = 0; k < K; ++k) {
    const double v = read(x, m * K + k);
    sum += plain[n * K + k] ? v : -v;
    magnitude += fabs(v);
    most = fmax(most, fabs(v));
  }
  const double s = read(scale, n), expected = sum * s, got = read(y, at);
  const double largest = sizeof(T) == 2 ? 65504. : 3.4028234e38;
  if (isnan(expected) || isinf(expected) || fabs(expected) > largest * 0.999) {
    const bool same = isnan(expected) ? isnan(got) : fabs(got) > largest * 0.99 && (got > 0) == (expected > 0);
    if (!same) atomicAdd(&worst->wrong, 1u);
    return;
  }
  const double rounding = sizeof(T) == 2 ? fabs(expected) / 2048 + 3.1e-8 : fabs(expected) / 8388608 + 1e-37;
  const double lost = kTolerance * magnitude + (fixedPoint ? kFixedPointTolerance * sqrt(double(K)) * most : 0);
  const double ratio = fabs(got - expected) / (lost * fabs(s) + rounding * 1.01);
  if (!(ratio <= 1)) atomicAdd(&worst->wrong, 1u);
  // Ratios are not negative, so their bits are ordered.
  if (ratio == ratio) {
    atomicMax(reinterpret_cast<unsigned long long*>(&worst->ratio), static_cast<unsigned long long>(__double_as_longlong(ratio)));
  }
}

__global__ void unpack(const unsigned* packed, uint8_t* plain, int N, int K) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, n = at / K, k = at % K;
  if (n < N) plain[at] = packed[(n / 16 * ((K + 31) / 32) + k / 32) * 16 + n % 16] >> (k % 32) & 1;
}

// Device memory: one large piece given out in aligned parts, or an allocation each.
class Pool {
 public:
  explicit Pool(bool exact) : exact_(exact) {
    if (!exact) CHECK(cudaMalloc(&base_, kBytes));
  }
  void* take(size_t bytes) {
    void* out = nullptr;
    if (exact_) {
      CHECK(cudaMalloc(&out, std::max<size_t>(bytes, 1)));
      taken_.push_back(out);
      return out;
    }
    out = static_cast<uint8_t*>(base_) + used_;
    used_ += (bytes + kGuard + 255) / 256 * 256;
    if (used_ > kBytes) std::abort();
    return out;
  }
  void reset() {
    for (void* p : taken_) CHECK(cudaFree(p));
    taken_.clear();
    used_ = 0;
  }

 private:
  static constexpr size_t kBytes = size_t{1} << 30;
  bool exact_;
  void* base_ = nullptr;
  size_t used_ = 0;
  std::vector<void*> taken_;
};

struct Totals {
  double ratio[4] = {};
  long runs[4] = {};
  long wrong = 0;
};

template <typename T>
T number(double v);
template <>
float number<float>(double v) {
  return float(v);
}
template <>
__half number<__half>(double v) {
  return __float2half(float(v));
}

template <typename T>
void testShape(int M, int N, int K, int special, std::mt19937& random, Pool& pool, Totals& totals, bool exact) {
  const Dtype dtype = sizeof(T) == 2 ? Dtype::kFloat16 : Dtype::kFloat32;
  std::normal_distribution<double> normal;
  const int range = sizeof(T) == 2 ? 8 : 60;
  std::vector<T> x(size_t(M) * K), scale(N);
  for (int m = 0; m < M; ++m) {
    const double size = std::ldexp(1.0, int(random() % (2 * range)) - range);
    for (int k = 0; k < K; ++k) x[size_t(m) * K + k] = number<T>(size * normal(random) * (random() % 64 == 0 ? 30 : 1));
  }
  for (int i = 0; special && i < 3 && M; ++i) {
    const double values[] = {INFINITY, -INFINITY, NAN};
    x[random() % x.size()] = number<T>(values[special == 1 ? random() % 2 : random() % 3]);
  }
  for (auto& s : scale) s = number<T>(normal(random) * 0.1);
  // Garbage everywhere first: padding rows and bits must not count.
  const int words = (K + 31) / 32, blocks = (N + 15) / 16;
  std::vector<uint32_t> packed(size_t(blocks) * words * 16);
  for (auto& w : packed) w = random();
  std::vector<uint8_t> plain(size_t(N) * K);
  for (int n = 0; n < N; ++n) {
    for (int k = 0; k < K; ++k) plain[size_t(n) * K + k] = packed[(size_t(n / 16) * words + k / 32) * 16 + n % 16] >> (k % 32) & 1;
  }

  const size_t yBytes = size_t(M) * N * sizeof(T);
  auto* dx = pool.take(x.size() * sizeof(T));
  auto* ds = static_cast<uint8_t*>(pool.take(packed.size() * 4));
  auto* dplain = static_cast<uint8_t*>(pool.take(plain.size()));
  auto* dscale = pool.take(N * sizeof(T));
  auto* dy = static_cast<uint8_t*>(pool.take(yBytes));
  auto* worst = static_cast<Worst*>(pool.take(sizeof(Worst)));
  CHECK(cudaMemcpy(dx, x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice));
  CHECK(cudaMemcpy(ds, packed.data(), packed.size() * 4, cudaMemcpyHostToDevice));
  CHECK(cudaMemcpy(dplain, plain.data(), plain.size(), cudaMemcpyHostToDevice));
  CHECK(cudaMemcpy(dscale, scale.data(), N * sizeof(T), cudaMemcpyHostToDevice));

  const Problem problem{dtype, dx, ds, dscale, dy, M, N, K};
  for (const Path path : {Path::kAutomatic, Path::kDecode, Path::kPrefillWgmma, Path::kPrefillMma}) {
    if (path == Path::kDecode && M > 40) continue;
    if (path == Path::kPrefillWgmma && (currentDevice().major != 9 || (sizeof(T) == 2 && K % 8) || M == 0)) continue;
    const size_t scratchSize = scratchBytes(problem, path);
    auto* scratch = pool.take(scratchSize);
    CHECK(cudaMemset(dy, 0xff, yBytes + (exact ? 0 : kGuard)));
    CHECK(cudaMemset(scratch, 0xff, scratchSize));
    CHECK(cudaMemset(worst, 0, sizeof(Worst)));
    CHECK(run(problem, scratch, nullptr, path));
    if (M) {
      const unsigned grid = unsigned((int64_t(M) * N + 127) / 128);
      CHECK(launch(compare<T>, dim3(grid), 128, 0, nullptr, false, static_cast<const T*>(dx), static_cast<const uint8_t*>(dplain),
                   static_cast<const T*>(dscale), reinterpret_cast<const T*>(dy), M, N, K,
                   path == Path::kDecode || (path == Path::kAutomatic && M <= kDecodeRows), worst));
    }
    Worst found{};
    CHECK(cudaMemcpy(&found, worst, sizeof found, cudaMemcpyDeviceToHost));
    long bad = found.wrong;
    if (!exact) {
      uint8_t guard[kGuard];
      CHECK(cudaMemcpy(guard, dy + yBytes, kGuard, cudaMemcpyDeviceToHost));
      for (const uint8_t byte : guard) bad += byte != 0xff;
    }
    const int p = int(path);
    ++totals.runs[p];
    totals.ratio[p] = std::max(totals.ratio[p], found.ratio);
    if (bad) {
      totals.wrong += bad;
      std::printf("wrong: %ld of M=%d N=%d K=%d %s path %d special %d, ratio %.3g\n", bad, M, N, K, sizeof(T) == 2 ? "f16" : "f32", p,
                  special, found.ratio);
    }
  }
  pool.reset();
}

// Layers n × m of rank k on streams of their own, with the same signs: H = X·Bᵀ, Y = H·Aᵀ for two X in turn, many times over. What the
// last turn left is compared. `apart`: no two at the same time, which racecheck takes for one.
template <typename T>
void testLayers(int n, int m, int k, int streams, int turns, bool apart, std::mt19937& random, Pool& pool, Totals& totals) {
  const Dtype dtype = sizeof(T) == 2 ? Dtype::kFloat16 : Dtype::kFloat32;
  std::normal_distribution<double> normal;
  auto numbers = [&](size_t count, double size) {
    std::vector<T> host(count);
    for (auto& v : host) v = number<T>(normal(random) * size);
    void* device = pool.take(count * sizeof(T));
    CHECK(cudaMemcpy(device, host.data(), count * sizeof(T), cudaMemcpyHostToDevice));
    return static_cast<T*>(device);
  };
  struct Signs {
    uint8_t *packed, *plain;
  };
  auto signs = [&](int N, int K) {
    std::vector<uint32_t> host(size_t((N + 15) / 16) * ((K + 31) / 32) * 16);
    for (auto& word : host) word = random();
    const Signs out{static_cast<uint8_t*>(pool.take(host.size() * 4)), static_cast<uint8_t*>(pool.take(size_t(N) * K))};
    CHECK(cudaMemcpy(out.packed, host.data(), host.size() * 4, cudaMemcpyHostToDevice));
    CHECK(launch(unpack, dim3(unsigned((int64_t(N) * K + 255) / 256)), 256, 0, nullptr, false, reinterpret_cast<const unsigned*>(out.packed),
                 out.plain, N, K));
    return out;
  };
  struct Branch {
    cudaStream_t stream;
    T *x, *h, *y;
    void* scratch;
  };
  const Signs first = signs(k, m), second = signs(n, k);
  T *mid = numbers(k, 1 / std::sqrt(double(m))), *a = numbers(n, 1 / std::sqrt(double(k)));
  auto product = [&](const T* x, const Signs& s, const T* scale, T* y, int64_t N, int64_t K) {
    return Problem{dtype, x, s.packed, scale, y, 1, N, K};
  };
  std::vector<Branch> branches(streams);
  for (Branch& b : branches) {
    CHECK(cudaStreamCreate(&b.stream));
    b.x = numbers(2 * size_t(m), 1), b.h = numbers(k, 1), b.y = numbers(n, 1);
    b.scratch = pool.take(std::max(scratchBytes(product(b.x, first, mid, b.h, k, m)), scratchBytes(product(b.h, second, a, b.y, n, k))));
  }
  CHECK(cudaDeviceSynchronize());
  for (int turn = 0; turn < turns; ++turn) {
    for (const Branch& b : branches) {
      CHECK(run(product(b.x + turn % 2 * m, first, mid, b.h, k, m), b.scratch, b.stream));
      if (apart) CHECK(cudaDeviceSynchronize());
      CHECK(run(product(b.h, second, a, b.y, n, k), b.scratch, b.stream));
      if (apart) CHECK(cudaDeviceSynchronize());
    }
  }
  CHECK(cudaDeviceSynchronize());
  auto* worst = static_cast<Worst*>(pool.take(sizeof(Worst)));
  CHECK(cudaMemset(worst, 0, sizeof(Worst)));
  auto check = [&](const T* x, const Signs& s, const T* scale, const T* y, int N, int K) {
    CHECK(launch(compare<T>, dim3(unsigned((N + 127) / 128)), 128, 0, nullptr, false, x, static_cast<const uint8_t*>(s.plain), scale, y, 1, N,
                 K, true, worst));
  };
  for (const Branch& b : branches) {
    check(b.x + (turns + 1) % 2 * m, first, mid, b.h, k, m);
    check(b.h, second, a, b.y, n, k);
    CHECK(cudaStreamDestroy(b.stream));
  }
  Worst found{};
  CHECK(cudaMemcpy(&found, worst, sizeof found, cudaMemcpyDeviceToHost));
  std::printf("layers %dx%d of rank %d %s on %d streams: %u wrong numbers, largest error %.3f of the allowed\n", n, m, k,
              sizeof(T) == 2 ? "f16" : "f32", streams, found.wrong, found.ratio);
  totals.wrong += found.wrong;
  pool.reset();
}

}  // namespace

int main(int argc, char** argv) {
  long shapes = 10000;
  unsigned seed = 1;
  bool exact = false, onlyLayers = false;
  for (int i = 1, position = 0; i < argc; ++i) {
    if (std::strcmp(argv[i], "--exact") == 0) exact = true;
    else if (std::strcmp(argv[i], "--layers") == 0) onlyLayers = true;
    else if (position++ == 0) shapes = std::atol(argv[i]);
    else seed = unsigned(std::atol(argv[i]));
  }
  std::mt19937 random(seed);
  Pool pool(exact);
  Totals totals;
  auto upTo = [&](double most) { return int(std::exp(std::uniform_real_distribution<double>(0, std::log(most + 1))(random))); };
  for (long i = 0; i < (onlyLayers ? 0 : shapes) && totals.wrong < 2000; ++i) {
    int M = i % 3 == 0 ? 1 + int(random() % 16) : upTo(300), N = upTo(420), K = upTo(900);
    if (i % 101 == 7) M = 0;
    if (i % 4 == 1) K = (K + 7) / 8 * 8;
    if (!exact && i % 500 == 11) K += 8192, N += 1024, M = std::min(M, 64);  // several tiles and stages
    if (i % 16 == 5 || i % 16 == 10) K += int(random() % 3) * 8192, N = std::min(N, 40), M = std::min(M, int(i % 3) + 1);  // many steps of decoding
    if (!exact && i % 1000 == 19) K += 4200, N += 8600, M = 1;  // more rows than blocks of threads have at a time
    if (!exact && i % 250 == 23) M = 1, K = upTo(28672), N = std::min(upTo(28672), (1 << 26) / K);
    const int special = i % 10 == 3 ? 1 : i % 10 == 6 ? 2 : 0;
    if (i % 2) testShape<float>(M, N, K, special, random, pool, totals, exact);
    else testShape<__half>(M, N, K, special, random, pool, totals, exact);
  }
  struct Layer {
    int n, m, bits;
  };
  // Small ones: 4,096 columns are exceeded as well as 8,192.
  const std::vector<Layer> small{{20, 4500, 1}, {17, 9000, 2}};
  const std::vector<Layer> large{{4096, 4096, 1}, {4096, 4096, 2}, {4096, 14336, 1}, {4096, 14336, 2}, {8192, 28672, 1}, {8192, 28672, 2}};
  for (const Layer& layer : exact ? small : large) {
    const int k = int(int64_t(layer.bits) * layer.n * layer.m / (layer.n + layer.m));
    if (exact) {
      testLayers<__half>(layer.n, layer.m, k, 2, 2, true, random, pool, totals);
      continue;
    }
    for (const int streams : {1, 4, 16}) testLayers<__half>(layer.n, layer.m, k, streams, 40, false, random, pool, totals);
    testLayers<float>(layer.n, layer.m, k, 8, 40, false, random, pool, totals);
  }
  for (int i = 0; i < 40 && !exact; ++i) {
    const int n = upTo(28672), m = upTo(28672), k = std::min(upTo(12000), (1 << 28) / (n + m)), streams = 1 + int(random() % 16);
    if (i % 2) testLayers<float>(n, m, k, streams, 20, false, random, pool, totals);
    else testLayers<__half>(n, m, k, streams, 20, false, random, pool, totals);
  }
  const char* names[] = {"automatic", "decode", "prefill wgmma", "prefill mma"};
  for (int p = 0; p < 4 && !onlyLayers; ++p) std::printf("%-14s %6ld runs, largest error %.3f of the allowed\n", names[p], totals.runs[p], totals.ratio[p]);
  std::printf("%s: %ld wrong numbers in %ld shapes\n", totals.wrong ? "FAILED" : "passed", totals.wrong, shapes);
  return totals.wrong ? 1 : 0;
}
