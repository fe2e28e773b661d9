/* Bias and tanh GELU, forward and backward, in one pass. Called by gelu.py. */

#include "dtypes.h"

static inline float gelu_sigmoid(float x) {
  return 1.0f / (1.0f + power_of_two(x * (-LOG2_E * GELU_A - LOG2_E * GELU_B * x * x)));
}

void bias_gelu_forward(const void *h, const float *bias, void *y, i64 rows, i64 m, int kind, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (i64 row = 0; row < rows; row++)
    for (i64 j = 0; j < m; j += BLOCK) {
      float x[BLOCK] ALIGNED;
      i64 n = m - j < BLOCK ? m - j : BLOCK;
      load(x, h, row * m + j, n, kind);
      for (i64 k = 0; k < n; k++) x[k] += bias[j + k];
      for (i64 k = 0; k < n; k++) x[k] *= gelu_sigmoid(x[k]);
      store(y, x, row * m + j, n, kind);
    }
}

/* sums: (blocks of ROWS rows, m), of the gradient of the bias. */
void bias_gelu_backward(const void *dy, const void *h, const float *bias, void *dh, float *sums, i64 rows, i64 m,
                        int kind, int threads) {
  i64 blocks = (rows + ROWS - 1) / ROWS;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (i64 block = 0; block < blocks; block++) {
    i64 first = block * ROWS, last = first + ROWS < rows ? first + ROWS : rows;
    float *sum = sums + block * m;
    memset(sum, 0, m * sizeof(float));
    for (i64 row = first; row < last; row++)
      for (i64 j = 0; j < m; j += BLOCK) {
        float x[BLOCK] ALIGNED, g[BLOCK] ALIGNED;
        i64 n = m - j < BLOCK ? m - j : BLOCK;
        load(x, h, row * m + j, n, kind);
        load(g, dy, row * m + j, n, kind);
        for (i64 k = 0; k < n; k++) x[k] += bias[j + k];
        for (i64 k = 0; k < n; k++) {
          float s = gelu_sigmoid(x[k]);
          g[k] *= s + x[k] * s * (1.0f - s) * (GELU_A + 3.0f * GELU_B * x[k] * x[k]);
        }
        for (i64 k = 0; k < n; k++) sum[j + k] += g[k];
        store(dh, g, row * m + j, n, kind);
      }
  }
}
