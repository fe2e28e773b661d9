/* LayerNorm in a residual block: x + branch and its norm, and both gradients in one pass. Called by norm.py. */

#include "dtypes.h"

/* Rows that are prefetched ahead. */
enum { AHEAD = 2 };

/* Vectors that are summed beside each other, since one addition waits for the last. */
enum { BESIDE = 4 };

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), may_alias));

/* Numbers in so many whole groups of vectors. */
static inline i64 grouped(i64 n) { return (n + BESIDE * LANES - 1) / (BESIDE * LANES) * (BESIDE * LANES); }

/* So many rows of n numbers, in whole groups, all zero; to be freed. */
static inline float *rows_of(int rows, i64 n) {
  size_t size = rows * grouped(n) * sizeof(float);
  float *room = aligned_alloc(64, size);
  return memset(room, 0, size);
}

static inline float total_of(const Vector sums[BESIDE]) {
  float lanes[LANES] ALIGNED, total = 0;
  *(Vector *)lanes = (sums[0] + sums[1]) + (sums[2] + sums[3]);
#pragma omp simd reduction(+ : total)
  for (int k = 0; k < LANES; k++) total += lanes[k];
  return total;
}

static inline float sum_of(const float *x, i64 n) {
  Vector sums[BESIDE] = {{0}};
  for (i64 k = 0; k < grouped(n); k += BESIDE * LANES)
    for (int j = 0; j < BESIDE; j++) sums[j] += *(const Vector *)(x + k + j * LANES);
  return total_of(sums);
}

static inline float dot_of(const float *x, const float *y, i64 n) {
  Vector sums[BESIDE] = {{0}};
  for (i64 k = 0; k < grouped(n); k += BESIDE * LANES)
    for (int j = 0; j < BESIDE; j++) {
      i64 at = k + j * LANES;
      sums[j] += *(const Vector *)(x + at) * *(const Vector *)(y + at);
    }
  return total_of(sums);
}

/* stream = x + branch (x alone without a branch, and then nothing is written); y = its norm. */
void norm_forward(const void *x, int x_kind, const void *branch, int branch_kind, void *stream, const float *weight,
                  const float *bias, float eps, void *y, int y_kind, float *means, float *scales, i64 rows, i64 d,
                  int threads) {
#pragma omp parallel num_threads(threads)
  {
    float *v = rows_of(2, d), *added = v + grouped(d);
#pragma omp for schedule(static)
    for (i64 row = 0; row < rows; row++) {
      i64 soon = row + AHEAD < rows ? (row + AHEAD) * d : row * d;
      await_read(x, soon, d, x_kind);
      await_write(y, soon, d, y_kind);
      if (branch) {
        await_read(branch, soon, d, branch_kind);
        await_write(stream, soon, d, x_kind);
      }
      load(v, x, row * d, d, x_kind);
      if (branch) {
        load(added, branch, row * d, d, branch_kind);
        for (i64 k = 0; k < d; k++) v[k] += added[k];
        store(stream, v, row * d, d, x_kind);
      }
      float mean = sum_of(v, d) / d;
      for (i64 k = 0; k < d; k++) v[k] -= mean;
      float scale = 1.0f / sqrtf(dot_of(v, v, d) / d + eps);
      for (i64 k = 0; k < d; k++) v[k] = v[k] * scale * weight[k] + bias[k];
      store(y, v, row * d, d, y_kind);
      means[row] = mean;
      scales[row] = scale;
    }
    free(v);
  }
}

/* dx = ds + the norm's gradient, and the same in the branch's kind where there is one. sums: (2, blocks, d), of
   the gradients of weight and bias. */
void norm_backward(const void *dy, int y_kind, const void *ds, const void *stream, int x_kind, const float *weight,
                   const float *means, const float *scales, void *dx, void *dbranch, int branch_kind, float *sums,
                   i64 rows, i64 d, int threads) {
  i64 blocks = (rows + ROWS - 1) / ROWS;
#pragma omp parallel num_threads(threads)
  {
    float *v = rows_of(3, d), *g = v + grouped(d), *s = g + grouped(d);
#pragma omp for schedule(static)
    for (i64 block = 0; block < blocks; block++) {
      i64 first = block * ROWS, last = first + ROWS < rows ? first + ROWS : rows;
      float *dweight = sums + block * d, *dbias = sums + (blocks + block) * d;
      memset(dweight, 0, d * sizeof(float));
      memset(dbias, 0, d * sizeof(float));
      for (i64 row = first; row < last; row++) {
        float mean = means[row], scale = scales[row];
        i64 soon = row + AHEAD < rows ? (row + AHEAD) * d : row * d;
        await_read(stream, soon, d, x_kind);
        await_read(dy, soon, d, y_kind);
        await_read(ds, soon, d, x_kind);
        await_write(dx, soon, d, x_kind);
        if (dbranch) await_write(dbranch, soon, d, branch_kind);
        load(v, stream, row * d, d, x_kind);
        load(g, dy, row * d, d, y_kind);
        load(s, ds, row * d, d, x_kind);
        for (i64 k = 0; k < d; k++) {
          v[k] = (v[k] - mean) * scale;
          dweight[k] += g[k] * v[k];
          dbias[k] += g[k];
          g[k] *= weight[k];
        }
        float along = dot_of(v, g, d) / d, flat = sum_of(g, d) / d;
        for (i64 k = 0; k < d; k++) s[k] += (g[k] - flat - v[k] * along) * scale;
        store(dx, s, row * d, d, x_kind);
        if (dbranch) store(dbranch, s, row * d, d, branch_kind);
      }
    }
    free(v);
  }
}
