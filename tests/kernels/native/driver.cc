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
#include "factorizer_kernels.h"

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

int wrong(const KernelSet& set, const char* what, size_t k, size_t p, double difference) {
  return std::printf("%s %s k=%zu p=%zu: off by %g\n", set.isa, what, k, p, difference), 1;
}

// The factorizer's kernels on a factor of k rows and p columns, against f64.
int checkFactorizer(const KernelSet& set, size_t k, size_t p, Random random) {
  const FactorizerKernels& f = *set.factorizer;
  std::normal_distribution<float> normal;
  const auto normals = [&](size_t count) {
    std::vector<float> out(count);
    for (float& v : out) v = normal(random);
    return out;
  };
  const std::vector<float> y = normals(k * p), x = normals(k * p);
  std::vector<float> u = normals(k), v = normals(p);
  for (float& each : u) each = std::fabs(each);
  for (float& each : v) each = std::fabs(each);
  const auto z = [&](size_t i, size_t j) { return std::copysign(1.0, y[i * p + j]) * u[i] * v[j]; };
  const float rho = 0.4f, alpha = 0.9f, soft = 0.3f;
  std::vector<float> row(p), sums(std::min(p, kColumns)), next(k * p);
  for (size_t i = 0; i < k; i++) {
    const FactorRow state{y.data() + i * p, u[i], v.data()};
    double sum = 0, weighted = 0, length = 0, difference = 0;
    f.pull(x.data() + i * p, state, rho, p, row.data());
    for (size_t j = 0; j < p; j++) {
      difference = std::max(difference, std::fabs(row[j] - (x[i * p + j] + rho * (2 * z(i, j) - y[i * p + j]))));
    }
    if (!(difference < 1e-5)) return wrong(set, "pull", k, p, difference);
    const float total = f.advance(x.data() + i * p, state, alpha, p, next.data() + i * p);
    for (size_t j = 0; j < p; j++) {
      const double expected = y[i * p + j] + alpha * (x[i * p + j] - z(i, j));
      difference = std::max(difference, std::fabs(next[i * p + j] - expected));
      sum += std::fabs(expected) * v[j];
      weighted += std::fabs(double(y[i * p + j])) * v[j];
      length += std::pow(z(i, j) + soft * (x[i * p + j] - z(i, j)), 2);
    }
    difference = std::max(difference, std::fabs(total - sum) / (1 + sum));
    difference = std::max(difference, std::fabs(f.weightedSum(y.data() + i * p, v.data(), p) - weighted) / (1 + weighted));
    f.fix(x.data() + i * p, state, soft, p, row.data());
    for (size_t j = 0; j < p; j++) {
      const double mixed = z(i, j) + soft * (x[i * p + j] - z(i, j));
      difference = std::max(difference, std::fabs(row[j] - mixed / std::sqrt(length)));
    }
    if (!(difference < 2e-5)) return wrong(set, "advance, weightedSum or fix", k, p, difference);
  }
  f.columnSums(y.data() + p - sums.size(), k, p, u.data(), sums.size(), sums.data());
  for (size_t j = 0; j < sums.size(); j++) {
    double sum = 0;
    for (size_t i = 0; i < k; i++) sum += u[i] * std::fabs(double(y[i * p + p - sums.size() + j]));
    if (!(std::fabs(sums[j] - sum) < 1e-5 * (1 + sum))) return wrong(set, "columnSums", k, p, sums[j] - sum);
  }

  // M = YYᵀ over p: R(M + λI)Rᵀ = I.
  std::vector<float> m(k * k), r(k * k, -1);
  for (size_t i = 0; i < k; i++) {
    for (size_t j = 0; j < k; j++) {
      double sum = 0;
      for (size_t c = 0; c < p; c++) sum += double(y[i * p + c]) * y[j * p + c];
      m[i * k + j] = static_cast<float>(sum / p);
    }
  }
  const size_t padded = (k + kRootUnit - 1) / kRootUnit * kRootUnit;
  const float lambda = 0.2f;
  std::vector<float> work(2 * padded * padded + 16);
  float* aligned = work.data() + (64 - reinterpret_cast<uintptr_t>(work.data()) % 64) % 64 / sizeof(float);
  f.spdRoot(m.data(), k, lambda, r.data(), aligned);
  std::vector<double> rm(k * k);
  for (size_t i = 0; i < k; i++) {
    for (size_t j = 0; j < k; j++) {
      double sum = lambda * double(r[i * k + j]);
      for (size_t c = 0; c <= i; c++) sum += double(r[i * k + c]) * m[c * k + j];
      rm[i * k + j] = sum;
    }
  }
  for (size_t i = 0; i < k; i++) {
    for (size_t j = 0; j < k; j++) {
      double sum = 0;
      for (size_t c = 0; c < k; c++) sum += rm[i * k + c] * r[j * k + c];
      const double difference = std::fabs(sum - (i == j));
      if (!(difference < 1e-4) || (j > i && r[i * k + j] != 0)) return wrong(set, "spdRoot", k, p, difference);
    }
  }

  // Signs of one column against M: sᵀMs − 2sᵀt must not rise.
  const size_t unit = (k + kSearchUnit - 1) / kSearchUnit * kSearchUnit;
  const int steps = 200;
  std::vector<float> gram(k * unit), s(unit), residual(unit), own(unit, kNever), t = normals(k);
  std::vector<int> freeAt(unit), flips(steps);
  for (size_t i = 0; i < k; i++) s[i] = 0.7f * std::copysign(1.0f, normal(random));
  const auto energy = [&] {
    double total = 0;
    for (size_t i = 0; i < k; i++) {
      total -= 2 * double(s[i]) * t[i];
      for (size_t j = 0; j < k; j++) total += double(s[i]) * s[j] * m[i * k + j];
    }
    return total;
  };
  for (size_t i = 0; i < k; i++) {
    double sum = -double(t[i]);
    for (size_t j = 0; j < k; j++) sum += double(m[i * k + j]) * s[j];
    std::copy(m.begin() + i * k, m.begin() + (i + 1) * k, gram.begin() + i * unit);
    residual[i] = static_cast<float>(sum);
    own[i] = m[i * k + i] * s[i] * s[i];
  }
  const double before = energy();
  f.searchSigns({gram.data(), k, unit, s.data(), residual.data(), own.data(), freeAt.data(), flips.data()}, 50, steps, 5);
  const double rise = energy() - before;
  if (!(rise <= 1e-4)) return wrong(set, "searchSigns", k, p, rise);
  for (size_t i = 0; i < unit; i++) {
    if (std::fabs(s[i]) != (i < k ? 0.7f : 0.0f)) return wrong(set, "searchSigns' magnitudes", k, p, s[i]);
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
    if (i % 4 == 0) {
      const size_t k = between(random, 1, 90), p = between(random, 1, 150);
      for (const KernelSet* set : sets) failures += checkFactorizer(*set, k, p, Random(seed));
    }
  }
  std::printf("%ld cases on %s: %ld failures\n", cases, kernelNames(), failures);
  return failures == 0 ? 0 : 1;
}
