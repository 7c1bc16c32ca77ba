// Fuzzes the operator library against an f64 twin: every instruction set of this machine, exact and fast, f32 and f16, with
// and without NaN and infinities; signs, activations and outputs end where their allocation ends, so that sanitizers see
// every access outside. Usage: driver CASES SEED
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "binary_matmul.h"

namespace {

using namespace dbf;
using Random = std::mt19937_64;

size_t between(Random& random, size_t low, size_t high) { return low + random() % (high - low + 1); }

// Several threads, tasks in reversed order: nothing may depend on either.
void inThreads(void* context, void (*body)(void*, size_t), size_t tasks, void* data) {
  const size_t count = *static_cast<size_t*>(context);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < count; t++) {
    threads.emplace_back([=] {
      for (size_t i = tasks; i-- > 0;) {
        if (i % count == t) body(data, i);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Distance of neighbours in half precision around a finite value.
double halfSpacing(double value) {
  return std::isfinite(value) ? std::ldexp(1.0, std::max(-24, std::ilogb(std::max(std::fabs(value), 1e-30)) - 10)) : 0;
}

struct Case {
  size_t rows, n, k;
  bool half, special;
  float magnitude;
};

int check(const Case& c, const KernelSet& set, bool fast, Random random) {
  const size_t words = (c.k + 31) / 32, blocks = (c.n + 15) / 16;
  std::vector<uint32_t> signs(blocks * words * 16);
  for (size_t row = 0; row < c.n; row++) {
    for (size_t word = 0; word < words; word++) {
      const size_t used = std::min<size_t>(32, c.k - 32 * word);
      const uint32_t mask = used == 32 ? ~0u : (1u << used) - 1;
      signs[((row / 16) * words + word) * 16 + row % 16] = static_cast<uint32_t>(random()) & mask;
    }
  }
  std::normal_distribution<float> normal;
  std::vector<float> x(c.rows * c.k), scale(c.n), y(c.rows * c.n, -1);
  for (float& v : x) v = normal(random) * c.magnitude;
  for (float& v : scale) v = normal(random);
  if (c.special) {
    const float values[] = {NAN, INFINITY, -INFINITY, std::numeric_limits<float>::max(), 0, -0.0f, 1e-40f};
    for (size_t i = 0; i < 1 + c.rows / 4; i++) x[between(random, 0, x.size() - 1)] = values[random() % 7];
    if (random() % 4 == 0) scale[between(random, 0, c.n - 1)] = values[random() % 7];
    if (random() % 4 == 0) std::fill(x.begin(), x.begin() + c.k, 0.0f);
  }
  std::vector<uint16_t> xHalf(c.half ? x.size() : 0), scaleHalf(c.half ? c.n : 0), yHalf(c.half ? y.size() : 0, 0xffff);
  if (c.half) {  // the plain C++ conversion is the reference, and is compared with the instruction set's own
    std::vector<uint16_t> other(x.size());
    set.toHalf(x.data(), x.size(), other.data());
    kScalarKernels.toHalf(x.data(), x.size(), xHalf.data());
    for (size_t i = 0; i < x.size(); i++) {
      if (xHalf[i] != other[i] && !std::isnan(x[i])) return std::printf("%s toHalf(%g)\n", set.isa, x[i]), 1;
    }
    kScalarKernels.fromHalf(xHalf.data(), x.size(), x.data());
    kScalarKernels.toHalf(scale.data(), c.n, scaleHalf.data());
    kScalarKernels.fromHalf(scaleHalf.data(), c.n, scale.data());
  }
  size_t threads = between(random, 1, 3);
  const BinaryMatMulCall call{c.half ? static_cast<void*>(xHalf.data()) : x.data(), signs.data(),
                              c.half ? static_cast<void*>(scaleHalf.data()) : scale.data(),
                              c.half ? static_cast<void*>(yHalf.data()) : y.data(), c.rows, c.n, c.k, c.half, fast};
  binaryMatMul(set, call, {inThreads, &threads});
  if (c.half) kScalarKernels.fromHalf(yHalf.data(), y.size(), y.data());

  // f64 twin: all values of a small case, samples of a large one
  const size_t stride = std::max<size_t>(1, c.rows * c.n * c.k / 2000000);
  for (size_t at = random() % stride; at < c.rows * c.n; at += stride) {
    const size_t row = at / c.n, out = at % c.n;
    double sum = 0, absolute = 0, quantized = 0;
    bool finite = true;
    for (size_t word = 0; word < words; word++) {
      double largest = 0;
      for (size_t group = 0; group < 8; group++) {
        double inGroup = 0;
        for (size_t j = 0; j < 4; j++) {
          const size_t column = 32 * word + 4 * group + j;
          if (column >= c.k) break;
          const double v = x[row * c.k + column];
          const uint32_t bits = signs[((out / 16) * words + word) * 16 + out % 16];
          sum += (bits >> (4 * group + j) & 1) ? v : -v;
          absolute += std::fabs(v);
          inGroup += std::fabs(v);
          finite = finite && std::isfinite(v);
        }
        largest = std::max(largest, inGroup);
      }
      quantized += 4 * largest / 127 + (largest < 2 * kFastSmallest ? 8 * largest : 0);
    }
    const double s = scale[out], expected = s * sum, actual = y[row * c.n + out];
    // f32: one rounding for each of k/4 lookups and 3 in a group, at worst; f16: half a spacing of the result
    double bound = 6e-8 * (c.k / 4.0 + 8) * absolute;
    if (fast && finite) bound += quantized * 1.001;
    const double sumBound = bound;
    bound = bound * std::fabs(s) + 1.2e-7 * std::fabs(expected) + 1e-37;
    if (c.half) bound += 0.5 * halfSpacing(expected) * 1.01;
    const double most = c.half ? 65504.0 : std::numeric_limits<float>::max();
    bool good;
    if (!std::isfinite(s) && std::fabs(sum) <= sumBound) {
      good = !std::isfinite(actual);  // the sign of the sum is within its error, and an infinite scale shows it
    } else if (std::isnan(expected)) {
      good = std::isnan(actual);
    } else if (std::isinf(expected)) {
      good = actual == expected;
    } else if (std::fabs(s) * absolute > most * 0.9 || absolute > 3e38) {
      good = true;  // may or may not overflow on the way
    } else {
      good = std::fabs(actual - expected) <= bound;
    }
    if (!good) {
      std::printf("%s %s %s rows=%zu n=%zu k=%zu at (%zu, %zu): %.9g, expected %.9g +- %.3g\n", set.isa, fast ? "fast" : "exact",
                  c.half ? "f16" : "f32", c.rows, c.n, c.k, row, out, actual, expected, bound);
      return 1;
    }
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const long cases = count > 1 ? std::atol(arguments[1]) : 200;
  Random random(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1);
  std::vector<const KernelSet*> sets;
  std::stringstream names(kernelNames());
  for (std::string name; std::getline(names, name, ',');) sets.push_back(kernelsNamed(name.c_str()));
  long failures = 0;
  for (long i = 0; i < cases; i++) {
    Case c;
    const size_t kind = random() % 16;
    c.rows = random() % 64 == 0 ? 0 : kind < 8 ? between(random, 1, 9) : between(random, 1, kind < 14 ? 40 : 300);
    const size_t most = c.rows > 40 ? 160 : kind == 0 ? 3000 : 500;
    c.n = between(random, 1, most);
    c.k = between(random, 1, most);
    c.half = random() % 2;
    c.special = c.rows > 0 && random() % 4 == 0;
    const float magnitudes[] = {1, 1, 1, 1e-3f, 30, 1e-6f};
    c.magnitude = magnitudes[random() % 6];
    const uint64_t seed = random();
    for (const KernelSet* set : sets) {
      for (bool fast : {false, true}) failures += check(c, *set, fast, Random(seed));
    }
  }
  std::printf("%ld cases on %s: %ld failures\n", cases, kernelNames(), failures);
  return failures == 0 ? 0 : 1;
}
