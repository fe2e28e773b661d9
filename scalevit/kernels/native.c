/* What a CPU does faster in one pass than torch in several: the calculations of gelu.py and norm.py, what lies
   between attention's products, and the optimizers' updates. native.py compiles this file where it runs.

   Numbers are stored as fp32 (kind 0) or bf16 (kind 1) and computed in fp32, a block of them at a time, which
   stays in the first cache. Sums are taken over blocks of a fixed size and then in order, so that the bits do
   not depend on the number of threads. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Numbers computed at once: a multiple of every vector. */
enum { BLOCK = 512, ROWS = 32, LANES = 16, AHEAD = 2 };

typedef int64_t i64;

/* To the longest vector, so that none lies across two lines of the cache. */
#define ALIGNED __attribute__((aligned(64)))

static inline float from_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t to_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
static inline float wide(uint16_t half) { return from_bits((uint32_t)half << 16); }

/* Whether these are the bits of neither infinity nor NaN: compilers may think of a number as finite (native.py),
   but not of its bits. */
static inline int is_finite(uint32_t bits) { return (bits & 0x7f800000) != 0x7f800000; }

/* To the nearest bf16, ties to even; NaN stays NaN. */
static inline uint16_t narrow(float x) {
  uint32_t bits = to_bits(x), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
}

static inline const void *plus(const void *p, i64 at, int kind) { return (const char *)p + (at << (2 - kind)); }

/* Ask for n numbers that are read, or written, soon. A row is too short for the processor to see it coming. */
static inline void await_read(const void *from, i64 at, i64 n, int kind) {
  for (i64 k = 0; k < n; k += 64 >> (2 - kind)) __builtin_prefetch(plus(from, at + k, kind), 0);
}

static inline void await_write(void *to, i64 at, i64 n, int kind) {
  for (i64 k = 0; k < n; k += 64 >> (2 - kind)) __builtin_prefetch(plus(to, at + k, kind), 1);
}

static inline void load(float *restrict to, const void *from, i64 at, i64 n, int kind) {
  if (kind) {
    const uint16_t *half = plus(from, at, 1);
    for (i64 k = 0; k < n; k++) to[k] = wide(half[k]);
  } else
    memcpy(to, plus(from, at, 0), n * sizeof(float));
}

static inline void store(void *to, const float *restrict from, i64 at, i64 n, int kind) {
  if (kind) {
    uint16_t *half = (uint16_t *)plus(to, at, 1);
    for (i64 k = 0; k < n; k++) half[k] = narrow(from[k]);
  } else
    memcpy((void *)plus(to, at, 0), from, n * sizeof(float));
}

/* 2^x within three units in the last place where it is a normal number, and the least or largest of them beyond:
   the nearest integer goes into the exponent, the rest f into a polynomial with the least largest relative error
   on [-1/2, 1/2], 9e-8, among those of degree 5 that are 1 at 0. */
static inline float power_of_two(float x) {
  x = x < -126.0f ? -126.0f : x;
  x = x > 127.0f ? 127.0f : x;
  float shifted = x + 12582912.0f, f = x - (shifted - 12582912.0f); /* 1.5 · 2^23: its last bit is worth 1 */
  float p = 1.326472717e-3f;
  p = p * f + 9.671512833e-3f;
  p = p * f + 5.550733745e-2f;
  p = p * f + 2.402224208e-1f;
  p = p * f + 6.931469776e-1f;
  p = p * f + 1.0f;
  return from_bits(to_bits(p) + (to_bits(shifted) << 23));
}

#define LOG2_E 1.44269504f

/* ------------------------------------------------------------------------- bias and tanh GELU */

/* tanh GELU is x σ(x (A + B x²)). */
#define GELU_A 1.5957691216057308f
#define GELU_B 0.07135481628f

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

static inline i64 padded(i64 n) { return (n + LANES - 1) / LANES * LANES; }

/* So many rows of n numbers, padded, all zero; to be freed. */
static inline float *rows_of(int rows, i64 n) {
  size_t size = rows * padded(n) * sizeof(float);
  float *room = aligned_alloc(64, size);
  return memset(room, 0, size);
}

/* Of rows that are padded, so that vectors have no rest. */
static inline float sum_of(const float *x, i64 n) {
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (i64 k = 0; k < padded(n); k++) total += x[k];
  return total;
}

static inline float dot_of(const float *x, const float *y, i64 n) {
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (i64 k = 0; k < padded(n); k++) total += x[k] * y[k];
  return total;
}

static inline float largest_of(const float *x, i64 n) {
  float most = x[0];
#pragma omp simd reduction(max : most)
  for (i64 k = 0; k < padded(n); k++) most = x[k] > most ? x[k] : most;
  return most;
}

/* stream = x + branch (x alone without a branch, and then nothing is written); y = its norm. */
void norm_forward(const void *x, int x_kind, const void *branch, int branch_kind, void *stream, const float *weight,
                  const float *bias, float eps, void *y, int y_kind, float *means, float *scales, i64 rows, i64 d,
                  int threads) {
#pragma omp parallel num_threads(threads)
  {
    float *v = rows_of(2, d), *added = v + padded(d);
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
    float *v = rows_of(3, d), *g = v + padded(d), *s = g + padded(d);
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

/* ------------------------------------------------------------------------- softmax */

/* Each row of n scores becomes the softmax of scale times it, in place; NaN where a score is not finite. */
void softmax_forward(void *scores, float scale, i64 rows, i64 n, int kind, int threads) {
#pragma omp parallel num_threads(threads)
  {
    float *x = rows_of(1, n);
#pragma omp for schedule(static)
    for (i64 row = 0; row < rows; row++) {
      int finite = 1;
      load(x, scores, row * n, n, kind);
      for (i64 k = n; k < padded(n); k++) x[k] = x[0];
      for (i64 k = 0; k < padded(n); k++) finite &= is_finite(to_bits(x[k]));
      float largest = largest_of(x, n);
      for (i64 k = 0; k < padded(n); k++) x[k] = power_of_two((x[k] - largest) * (scale * LOG2_E));
      for (i64 k = n; k < padded(n); k++) x[k] = 0;
      float share = finite ? 1.0f / sum_of(x, n) : from_bits(0x7fc00000);
      for (i64 k = 0; k < padded(n); k++) x[k] *= share;
      store(scores, x, row * n, n, kind);
    }
    free(x);
  }
}

/* In place of the gradient of the shares: that of the unscaled scores. */
void softmax_backward(const void *shares, void *gradient, float scale, i64 rows, i64 n, int kind, int threads) {
#pragma omp parallel num_threads(threads)
  {
    float *p = rows_of(2, n), *g = p + padded(n);
#pragma omp for schedule(static)
    for (i64 row = 0; row < rows; row++) {
      load(p, shares, row * n, n, kind);
      load(g, gradient, row * n, n, kind);
      float along = dot_of(p, g, n);
      for (i64 k = 0; k < n; k++) g[k] = scale * p[k] * (g[k] - along);
      store(gradient, g, row * n, n, kind);
    }
    free(p);
  }
}

/* ------------------------------------------------------------------------- the heads of an attention */

/* (b, n, parts, h, e) + bias (parts, h, e), if there is one, as (parts, b, h, n, e). */
void heads_split(const void *joined, const float *bias, void *split, i64 b, i64 n, i64 parts, i64 h, i64 e, int kind,
                 int threads) {
  i64 d = parts * h * e;
#pragma omp parallel num_threads(threads)
  {
    float *x = rows_of(1, d);
#pragma omp for schedule(static)
    for (i64 row = 0; row < b * n; row++) {
      await_read(joined, (row + AHEAD < b * n ? row + AHEAD : row) * d, d, kind);
      load(x, joined, row * d, d, kind);
      if (bias)
        for (i64 k = 0; k < d; k++) x[k] += bias[k];
      for (i64 head = 0; head < parts * h; head++)
        store(split, x + head * e, (((head / h * b + row / n) * h + head % h) * n + row % n) * e, e, kind);
    }
    free(x);
  }
}

/* The way back. sums, if asked for: (blocks of ROWS rows, parts, h, e), whose sum is the bias's gradient. */
void heads_join(const void *split, void *joined, float *sums, i64 b, i64 n, i64 parts, i64 h, i64 e, int kind,
                int threads) {
  i64 d = parts * h * e, blocks = (b * n + ROWS - 1) / ROWS;
#pragma omp parallel num_threads(threads)
  {
    float *x = rows_of(2, d), *sum = x + padded(d);
#pragma omp for schedule(static)
    for (i64 block = 0; block < blocks; block++) {
      i64 first = block * ROWS, last = first + ROWS < b * n ? first + ROWS : b * n;
      memset(sum, 0, d * sizeof(float));
      for (i64 row = first; row < last; row++) {
        for (i64 head = 0; head < parts * h; head++)
          load(x + head * e, split, (((head / h * b + row / n) * h + head % h) * n + row % n) * e, e, kind);
        for (i64 k = 0; k < d; k++) sum[k] += x[k];
        store(joined, x, row * d, d, kind);
      }
      if (sums) memcpy(sums + block * d, sum, d * sizeof(float));
    }
    free(x);
  }
}

/* ------------------------------------------------------------------------- optimizer steps */

/* What updates.py says of a step, and what functions take of it in fp32. */
typedef struct { double lr, shrink, momentum, ours, second, eps, debias1, debias2; } Rates;

enum { SGD, ADAM, ADAFACTOR };

/* n ≤ BLOCK numbers: m ← u + β m; θ ← shrink θ − lr m, before m is rounded. */
static inline void descend(float *weights, const float *update, void *momenta, i64 at, i64 n, int kind, const Rates *r) {
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
