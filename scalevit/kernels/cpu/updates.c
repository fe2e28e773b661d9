/* Optimizer steps (SGD with momentum, Adam, Adafactor) over the tensors of many parameters. Called by updates.py. */

#include "dtypes.h"

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
