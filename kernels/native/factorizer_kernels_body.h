// Bodies of FactorizerKernels in vectors of kLanes floats, a compiler extension of GCC and Clang; included once per instruction set,
// by a file that defines DBF_LANES, DBF_TILE (vectors of a tile's row) and DBF_FACTORIZER (the name of the set).
#include <cmath>
#include <cstring>

#include "factorizer_kernels.h"

namespace dbf {
namespace {

constexpr size_t kLanes = DBF_LANES, kTile = DBF_TILE;
// Rows that are solved together: their coefficients follow each other in memory.
constexpr size_t kPanel = 4;

typedef float Vector __attribute__((vector_size(4 * DBF_LANES)));
typedef int Bits __attribute__((vector_size(4 * DBF_LANES)));
typedef float Unaligned __attribute__((vector_size(4 * DBF_LANES), aligned(4), may_alias));

inline Vector load(const float* at) { return *reinterpret_cast<const Unaligned*>(at); }
inline void store(float* at, Vector value) { *reinterpret_cast<Unaligned*>(at) = value; }

inline Vector magnitude(Vector value) { return (Vector)((Bits)value & 0x7fffffff); }

inline float sum(Vector value) {
  float lanes[kLanes];
  std::memcpy(lanes, &value, sizeof lanes);
  for (size_t width = kLanes / 2; width > 0; width /= 2) {
    for (size_t i = 0; i < width; i++) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// rows[r][0, kVectors·kLanes) −= Σ_{first ≤ i < end} factors[i·ld + r] · basis[i·ld + ...], r < kPanel.
template <size_t kVectors>
inline void subtractTile(float* rows, const float* factors, const float* basis, size_t ld, size_t first, size_t end) {
  Vector sums[kPanel][kVectors];
#pragma GCC unroll 4
  for (size_t r = 0; r < kPanel; r++) {
#pragma GCC unroll 4
    for (size_t c = 0; c < kVectors; c++) sums[r][c] = load(rows + r * ld + c * kLanes);
  }
  for (size_t i = first; i < end; i++) {
    const float *factor = factors + i * ld, *from = basis + i * ld;
    Vector other[kVectors];
#pragma GCC unroll 4
    for (size_t c = 0; c < kVectors; c++) other[c] = load(from + c * kLanes);
#pragma GCC unroll 4
    for (size_t r = 0; r < kPanel; r++) {
#pragma GCC unroll 4
      for (size_t c = 0; c < kVectors; c++) sums[r][c] -= factor[r] * other[c];
    }
  }
#pragma GCC unroll 4
  for (size_t r = 0; r < kPanel; r++) {
#pragma GCC unroll 4
    for (size_t c = 0; c < kVectors; c++) store(rows + r * ld + c * kLanes, sums[r][c]);
  }
}

// The same for columns [from, to) of the rows, multiples of kLanes apart; `start(column)` is the first i that counts there.
template <typename Start>
inline void subtract(float* rows, const float* factors, const float* basis, size_t ld, size_t from, size_t to, size_t end, Start start) {
  size_t at = from;
  for (; at + kTile * kLanes <= to; at += kTile * kLanes) subtractTile<kTile>(rows + at, factors, basis + at, ld, start(at), end);
  for (; at < to; at += kLanes) subtractTile<1>(rows + at, factors, basis + at, ld, start(at), end);
}

void spdRoot(const float* m, size_t size, float lambda, float* r, float* work) {
  const size_t ld = (size + kRootUnit - 1) / kRootUnit * kRootUnit;
  float *upper = work, *root = work + ld * ld;  // M + λI = UᵀU, R = U⁻ᵀ
  for (size_t i = 0; i < ld; i++) {
    float* row = upper + i * ld;
    std::memset(row, 0, ld * sizeof(float));
    if (i < size) std::memcpy(row + i, m + i * size + i, (size - i) * sizeof(float));
    row[i] = i < size ? row[i] + lambda : 1.0f;
  }
  std::memset(root, 0, ld * ld * sizeof(float));
  float inverse[kPanel];
  for (size_t i = 0; i < ld; i += kPanel) {
    const size_t from = i / kLanes * kLanes;
    float* rows = upper + i * ld;
    subtract(rows, upper + i, upper, ld, from, ld, i, [](size_t) { return size_t{0}; });
    for (size_t a = 0; a < kPanel; a++) {
      float* row = rows + a * ld;
      for (size_t b = 0; b < a; b++) {
        const float factor = rows[b * ld + i + a];
        for (size_t j = from; j < ld; j++) row[j] -= factor * rows[b * ld + j];
      }
      inverse[a] = 1.0f / std::sqrt(row[i + a]);
      for (size_t j = from; j < ld; j++) row[j] *= inverse[a];
    }
    // Row i of R is (e_i − Σ_{j<i} U_ji R_j) / U_ii: column c has its first entry in row c.
    float* out = root + i * ld;
    for (size_t a = 0; a < kPanel; a++) out[a * ld + i + a] = 1.0f;
    const size_t to = (i + kPanel + kLanes - 1) / kLanes * kLanes;
    subtract(out, upper + i, root, ld, 0, to, i, [](size_t column) { return column; });
    for (size_t a = 0; a < kPanel; a++) {
      float* row = out + a * ld;
      for (size_t b = 0; b < a; b++) {
        const float factor = rows[b * ld + i + a];
        for (size_t j = 0; j < to; j++) row[j] -= factor * out[b * ld + j];
      }
      for (size_t j = 0; j < to; j++) row[j] *= inverse[a];
    }
  }
  for (size_t i = 0; i < size; i++) {
    std::memcpy(r + i * size, root + i * ld, (i + 1) * sizeof(float));
    std::memset(r + i * size + i + 1, 0, (size - i - 1) * sizeof(float));
  }
}

inline float signedAs(float magnitude, float y) { return std::copysign(magnitude, y); }

void pull(const float* cross, const FactorRow& row, float rho, size_t p, float* t) {
  const float *y = row.y, *v = row.v, u = row.u;
  for (size_t j = 0; j < p; j++) t[j] = cross[j] + rho * (2 * signedAs(u * v[j], y[j]) - y[j]);
}

float weightedSum(const float* y, const float* v, size_t p) {
  Vector sums[2] = {};
  size_t j = 0;
  for (; j + 2 * kLanes <= p; j += 2 * kLanes) {
    sums[0] += magnitude(load(y + j)) * load(v + j);
    sums[1] += magnitude(load(y + j + kLanes)) * load(v + j + kLanes);
  }
  float rest = 0;
  for (; j < p; j++) rest += std::fabs(y[j]) * v[j];
  return sum(sums[0] + sums[1]) + rest;
}

float advance(const float* x, const FactorRow& row, float alpha, size_t p, float* out) {
  const float *y = row.y, *v = row.v, u = row.u;
  for (size_t j = 0; j < p; j++) out[j] = y[j] + alpha * (x[j] - signedAs(u * v[j], y[j]));
  return weightedSum(out, v, p);
}

void columnSums(const float* y, size_t rows, size_t stride, const float* u, size_t count, float* sums) {
  float local[kColumns] = {};
  if (count == kColumns) {
    for (size_t i = 0; i < rows; i++, y += stride) {
      const float factor = u[i];
      for (size_t j = 0; j < kColumns; j++) local[j] += factor * std::fabs(y[j]);
    }
  } else {
    for (size_t i = 0; i < rows; i++, y += stride) {
      for (size_t j = 0; j < count; j++) local[j] += u[i] * std::fabs(y[j]);
    }
  }
  std::memcpy(sums, local, count * sizeof(float));
}

void fix(const float* x, const FactorRow& row, float soft, size_t p, float* out) {
  const float *y = row.y, *v = row.v, u = row.u;
  for (size_t j = 0; j < p; j++) {
    const float z = signedAs(u * v[j], y[j]);
    out[j] = z + soft * (x[j] - z);
  }
  Vector squares[2] = {};
  size_t j = 0;
  for (; j + 2 * kLanes <= p; j += 2 * kLanes) {
    const Vector first = load(out + j), second = load(out + j + kLanes);
    squares[0] += first * first;
    squares[1] += second * second;
  }
  float rest = 0;
  for (; j < p; j++) rest += out[j] * out[j];
  const float length = std::sqrt(sum(squares[0] + squares[1]) + rest);
  const float scale = 1 / std::fmax(length, 1e-30f);
  for (j = 0; j < p; j++) out[j] *= scale;
}

// r += factor·G_row, and the flip of least energy own − s·r among those free at `step`.
inline size_t cheapest(const SignColumn& c, const float* gram, float factor, int step, float* energy) {
  Vector least = {};
  least += kNever;
  Bits at = {}, index;
  for (size_t i = 0; i < kLanes; i++) index[i] = static_cast<int>(i);
  for (size_t j = 0; j < c.padded; j += kLanes) {
    const Vector r = load(c.r + j) + factor * load(gram + j);
    store(c.r + j, r);
    const Vector e = load(c.own + j) - load(c.s + j) * r;
    Bits freeAt;
    std::memcpy(&freeAt, c.freeAt + j, sizeof freeAt);
    const Bits better = (e < least) & (freeAt <= step);
    least = better ? e : least;
    at = better ? index : at;
    index += static_cast<int>(kLanes);
  }
  size_t best = 0;
  for (size_t i = 1; i < kLanes; i++) {
    if (least[i] < least[best] || (least[i] == least[best] && at[i] < at[best])) best = i;
  }
  *energy = least[best];
  return static_cast<size_t>(at[best]);
}

void searchSigns(const SignColumn& c, int patience, int steps, int tenure) {
  float energy;
  double total = 0, lowest = 0;
  int done = 0, kept = 0;
  std::memset(c.freeAt, 0, c.padded * sizeof(int));
  size_t next = cheapest(c, c.gram, 0, 0, &energy);
  while (done < steps && done - kept < patience && energy < kNever) {
    total += energy;
    c.flips[done++] = static_cast<int>(next);
    // By more than rounding, so that the end is no worse than the start.
    if (total < lowest - 1e-5 * c.own[next]) {
      lowest = total;
      kept = done;
    }
    const float change = -2 * c.s[next];
    c.s[next] = -c.s[next];
    c.freeAt[next] = done + tenure + static_cast<int>(static_cast<unsigned>(done) * 2654435761u >> 30);
    next = cheapest(c, c.gram + next * c.padded, change, done, &energy);
  }
  while (done > kept) {
    const int undone = c.flips[--done];
    c.s[undone] = -c.s[undone];
  }
}

}  // namespace

const FactorizerKernels DBF_FACTORIZER = {spdRoot, pull, advance, weightedSum, columnSums, fix, searchSigns};

}  // namespace dbf
