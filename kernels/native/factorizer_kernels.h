// The factorizer's arithmetic between its large products, once per instruction set: what ONNX's own operators would do in hundreds
// of small nodes and passes over memory. Matrices are row-major f32.
#pragma once
#include <cstddef>

namespace dbf {

// Rows of the matrices that spdRoot() works on come in multiples of this.
constexpr size_t kRootUnit = 16;

// The rank-one magnitudes of a factor: |Y| ≈ u·v.
struct FactorRow {
  const float* y;  // (p)
  float u;
  const float* v;  // (p)
};

// One column's signs while they are searched: minimizes ‖w − P·s‖² over the signs of s, G = PᵀP. `padded` is the size rounded up
// to kSearchUnit; what is beyond it has `own` = kNever and zeros elsewhere.
struct SignColumn {
  const float* gram;  // (size, padded)
  size_t size, padded;
  float* s;           // (padded) signs times the column's magnitude
  float* r;           // (padded) G·s − Pᵀw
  const float* own;   // (padded) G_ii s_i²
  int* freeAt;        // (padded) the step from which a sign may flip again; overwritten
  int* flips;         // (steps) room for the order of flips; overwritten
};
constexpr size_t kSearchUnit = 16;
constexpr float kNever = 1e30f;

// Functions of one instruction set.
struct FactorizerKernels {
  // R (size, size), lower triangular, with RᵀR = (M + λI)⁻¹; only entries of M on and above the diagonal count. `work` holds
  // 2·padded² floats, 64-byte aligned, padded being `size` rounded up to kRootUnit. NaN where M + λI is not positive definite.
  void (*spdRoot)(const float* m, size_t size, float lambda, float* r, float* work);
  // t = cross + ρ(2z − y) with z = sign(y) ⊙ u·v, one row of p.
  void (*pull)(const float* cross, const FactorRow& row, float rho, size_t p, float* t);
  // out = y + α(x − z), one row of p; returns Σ_j |out_j|·v_j.
  float (*advance)(const float* x, const FactorRow& row, float alpha, size_t p, float* out);
  // Σ_j |y_j|·v_j.
  float (*weightedSum)(const float* y, const float* v, size_t p);
  // sums_j = Σ_i u_i·|y_ij| for `count` columns of `rows` rows that are `stride` apart; count is at most kColumns.
  void (*columnSums)(const float* y, size_t rows, size_t stride, const float* u, size_t count, float* sums);
  // out = (z + s(x − z)) / ‖·‖, one row of p; zero where all of it is zero.
  void (*fix)(const float* x, const FactorRow& row, float soft, size_t p, float* out);
  // Tabu search: every step flips the best sign that did not flip lately, whether or not that lowers the error, until `patience` steps
  // found nothing better, or after `steps`; ends at the best signs seen. `r` is that of other signs afterwards.
  void (*searchSigns)(const SignColumn& column, int patience, int steps, int tenure);
};

// Columns that columnSums() takes at once.
constexpr size_t kColumns = 64;

extern const FactorizerKernels kScalarFactorizer;
#if defined(__x86_64__) || defined(_M_X64)
extern const FactorizerKernels kAvx2Factorizer;
extern const FactorizerKernels kAvx512Factorizer;
#endif

}  // namespace dbf
