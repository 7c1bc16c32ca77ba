// The factorizer's kernels for AVX2 with FMA.
#if defined(__x86_64__)
#define DBF_LANES 8
#define DBF_TILE 2
#define DBF_FACTORIZER kAvx2Factorizer
#include "factorizer_kernels_body.h"
#endif
