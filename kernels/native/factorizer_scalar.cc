// The factorizer's kernels for any machine: SSE2 on x86-64, NEON on ARM, by the compiler.
#define DBF_LANES 4
#define DBF_TILE 2
#define DBF_FACTORIZER kScalarFactorizer
#include "factorizer_kernels_body.h"
