// Operators of the factorizer for the CPU, domain ai.dbf, version 1, all f32. k is the middle dimension, p the other one of a factor;
// a factor's state is Y (k, p) with magnitudes u (k, 1) and v (1, p), and stands for z = sign(y) ⊙ u·v.
//
//   R = SpdRoot(M (s, s), lambda (1)...)                        one R (s, s) with RᵀR = (M + λI)⁻¹ for every pair of inputs, lower triangular
//   t = FactorPull(cross (k, p), y, u, v, rho (1))              cross + ρ(2z − y)
//   y', u', v' = FactorAdvance(x (k, p), y, u, v; alpha, steps) y' = y + α(x − z); v' = |y'|ᵀ|y'|v / ‖·‖ `steps` times, u' = |y'|v'
//   f = FactorFix(x (k, p), y, u, v, soft (1))                  z + s(x − z), rows of length one
//   s' = SignSearch(s (p, k), r (p, k), G (k, k); patience, steps, tenure)
//                                                               tabu search for the signs of every row of s, r = s·G − (target)
//
// Sums go in one order whatever the number of threads.
#pragma once
#include <vector>

#include "ort_abi.h"

namespace dbf {

// All of them, for as long as the library is loaded.
std::vector<const ort::CustomOp*> factorizerOps();

}  // namespace dbf
