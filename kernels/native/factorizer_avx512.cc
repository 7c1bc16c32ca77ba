// The factorizer's kernels for AVX-512.
#if defined(__x86_64__)
#define DBF_LANES 16
#define DBF_TILE 4
#define DBF_FACTORIZER kAvx512Factorizer
#include "factorizer_kernels_body.h"
#endif
