/* What a CPU does faster in one pass than torch in several: the calculations of gelu.py and norm.py, and the
   optimizers' updates. native.py compiles this file where it runs.

   Numbers are stored as fp32 (kind 0) or bf16 (kind 1) and computed in fp32, a block of them at a time, which
   stays in the first cache. Sums are taken over blocks of a fixed size and then in order, so that the bits do
   not depend on the number of threads. */

#include <stdlib.h>

#include "numbers.h"

/* Numbers computed at once: a multiple of every vector. Rows a sum covers; rows that are asked for ahead. */
enum { BLOCK = 512, ROWS = 32, AHEAD = 2 };

/* ------------------------------------------------------------------------- bias and tanh GELU */

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

/* ------------------------------------------------------------------------- LayerNorm in a residual block */

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

/* ------------------------------------------------------------------------- optimizer steps */

/* What updates.py says of a step, and what functions take of it in fp32. */
typedef struct { double lr, shrink, momentum, ours, second, eps, debias1, debias2; } Rates;

enum { SGD, ADAM, ADAFACTOR };

/* n ≤ BLOCK numbers: m ← u + β m; θ ← shrink θ − lr m, before m is rounded. */
static inline void descend(float *weights, const float *update, void *momenta, i64 at, i64 n, int kind,
                           const Rates *r) {
  float m[BLOCK] ALIGNED, lr = r->lr, shrink = r->shrink, momentum = r->momentum;
  load(m, momenta, at, n, kind);
  for (i64 k = 0; k < n; k++) m[k] = m[k] * momentum + update[k];
  for (i64 k = 0; k < n; k++) weights[k] = weights[k] * shrink - lr * m[k];
  store(momenta, m, at, n, kind);
}

static inline void adam(float *weights, const float *g, void *momenta, float *second, i64 at, i64 n, int kind,
                        const Rates *r) {
  float m[BLOCK] ALIGNED, shrink = r->shrink, momentum = r->momentum, ours = r->ours, kept = r->second;
  float fresh = 1.0 - r->second, rate = r->lr / r->debias1, debias2 = 1.0 / r->debias2, eps = r->eps;
  load(m, momenta, at, n, kind);
  for (i64 k = 0; k < n; k++) {
    second[k] = second[k] * kept + fresh * g[k] * g[k];
    m[k] = m[k] * momentum + ours * g[k];
    weights[k] = weights[k] * shrink - rate * m[k] / (sqrtf(second[k] * debias2) + eps);
  }
  store(momenta, m, at, n, kind);
}

static inline void adafactor(float *weights, const float *g, void *momenta, float *second, i64 at, i64 n, int kind,
                             const Rates *r) {
  float update[BLOCK] ALIGNED, kept = r->second, fresh = 1.0 - r->second, eps = r->eps, ours = r->ours;
  for (i64 k = 0; k < n; k++) {
    second[k] = second[k] * kept + fresh * (g[k] * g[k] + eps);
    update[k] = g[k] / sqrtf(second[k]) * ours;
  }
  descend(weights, update, momenta, at, n, kind, r);
}

/* Every element for itself. table: addresses of `count` weights, momenta and, but for SGD, second moments;
   places: of each chunk its tensor and its first element. */
void update_elements(i64 rule, const i64 *table, const i64 *gradients, i64 count, const i64 *sizes, const i64 *places,
                     i64 chunks, i64 chunk, int kind, const Rates *r, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (i64 place = 0; place < chunks; place++) {
    i64 which = places[2 * place], first = places[2 * place + 1], last = first + chunk;
    last = last < sizes[which] ? last : sizes[which];
    float *weights = (float *)table[which], *second = rule == SGD ? 0 : (float *)table[2 * count + which];
    const float *g = (const float *)gradients[which];
    void *momenta = (void *)table[count + which];
    for (i64 at = first; at < last; at += BLOCK) {
      i64 n = last - at < BLOCK ? last - at : BLOCK;
      if (rule == SGD) descend(weights + at, g + at, momenta, at, n, kind, r);
      else if (rule == ADAM) adam(weights + at, g + at, momenta, second + at, at, n, kind, r);
      else adafactor(weights + at, g + at, momenta, second + at, at, n, kind, r);
    }
  }
}

/* Of g (I, B, J): Σ g² along every row, into rows (I, B), and of these I rows along every column, into columns. */
static void sum_squares(const float *g, float *rows, float *columns, i64 I, i64 B, i64 J) {
  memset(columns, 0, B * J * sizeof(float));
  for (i64 row = 0; row < I * B; row++) {
    const float *x = g + row * J;
    float *column = columns + row % B * J, lanes[LANES] = {0}, total = 0;
    i64 whole = J / LANES * LANES;
    for (i64 j = 0; j < whole; j += LANES)
      for (int l = 0; l < LANES; l++) {
        float square = x[j + l] * x[j + l];
        lanes[l] += square;
        column[j + l] += square;
      }
    for (i64 j = whole; j < J; j++) {
      lanes[0] += x[j] * x[j];
      column[j] += x[j] * x[j];
    }
    for (int l = 0; l < LANES; l++) total += lanes[l];
    rows[row] = total;
  }
}

/* v ← β₂ v + (1 − β₂) (Σ / other + eps), and factors scale / √v, or scale / √(v / mean v), for n numbers `step`
   apart. sums: `blocks` of them, `apart` from each other, are added. */
static void renew(float *v, float *factors, const float *sums, i64 n, i64 step, i64 blocks, i64 apart, i64 other,
                  double scale, int normalised, const Rates *r) {
  float kept = r->second, fresh = 1.0 - r->second, eps = r->eps;
  double total = 0;
  for (i64 k = 0; k < n; k++) {
    float sum = 0;
    for (i64 block = 0; block < blocks; block++) sum += sums[block * apart + k * step];
    v[k * step] = v[k * step] * kept + fresh * (sum / other + eps);
    total += v[k * step];
  }
  double numerator = normalised ? scale * sqrt(total / n) : scale;
  for (i64 k = 0; k < n; k++) factors[k * step] = (float)(numerator / sqrt((double)v[k * step]));
}

/* Adafactor on `count` tensors (A, I, B, J), one after the other, so that a gradient may still be in a cache when it
   is read again. table: addresses of weights, momenta, second moments by row (A, I, B) and by column (A, B, J).
   row_sums (A, I, B); column_sums (A, blocks of ROWS rows, B, J); factors as the moments. */
void update_matrices(const i64 *table, const i64 *gradients, i64 count, i64 A, i64 I, i64 B, i64 J, i64 rows_first,
                     float *row_sums, float *column_sums, float *row_factors, float *column_factors, int kind,
                     const Rates *r, int threads) {
  i64 blocks = (I + ROWS - 1) / ROWS;
#pragma omp parallel num_threads(threads)
  for (i64 which = 0; which < count; which++) {
    float *weights = (float *)table[which];
    float *rows = (float *)table[2 * count + which], *columns = (float *)table[3 * count + which];
    const float *g = (const float *)gradients[which];
    void *momenta = (void *)table[count + which];
#pragma omp for schedule(static)
    for (i64 block = 0; block < A * blocks; block++) {
      i64 first = block % blocks * ROWS, n = I - first < ROWS ? I - first : ROWS, at = (block / blocks * I + first) * B;
      sum_squares(g + at * J, row_sums + at, column_sums + block * B * J, n, B, J);
    }
#pragma omp for schedule(static)
    for (i64 place = 0; place < A * B; place++) {
      i64 a = place / B, b = place % B, row = a * I * B + b, column = place * J;
      renew(rows + row, row_factors + row, row_sums + row, I, B, 1, 0, J, r->ours, rows_first, r);
      renew(columns + column, column_factors + column, column_sums + (a * blocks * B + b) * J, J, 1, blocks, B * J, I,
            1.0, !rows_first, r);
    }
#pragma omp for schedule(static)
    for (i64 row = 0; row < A * I * B; row++) {
      const float *column = column_factors + (row / (I * B) * B + row % B) * J;
      for (i64 j = 0; j < J; j += BLOCK) {
        float update[BLOCK] ALIGNED;
        i64 n = J - j < BLOCK ? J - j : BLOCK, at = row * J + j;
        for (i64 k = 0; k < n; k++) update[k] = g[at + k] * row_factors[row] * column[j + k];
        descend(weights + at, update, momenta, at, n, kind, r);
      }
    }
  }
}
