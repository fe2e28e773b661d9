/* Self-attention, head by head: scores of a few queries are made, used and forgotten in the first caches, so that no
   matrix of tokens by tokens goes through memory. The backward pass makes them again, from the sum that each query's
   exponentials had. Called by attention.py. */

#include "matmul_tile.h"

#if MULTIPLIES_FP32

/* The heads of qkv (b, n, 3, h, e), whose rows are `row` numbers apart; d = h e. */
typedef struct { i64 n, h, e, d, row; float scale; int kind; } Heads;

static Heads heads_of(i64 n, i64 h, i64 e, int kind) {
  return (Heads){n, h, e, h * e, 3 * h * e, LOG2_E / sqrtf(e), kind};
}

/* Where a head of an image begins in a tensor with rows of so many numbers. */
static const void *head_in(const void *tensor, i64 each, i64 row, const Heads *a) {
  return plus(tensor, each / a->h * a->n * row + each % a->h * a->e, a->kind);
}

/* Of one tensor, e numbers of every token: as columns, for products that sum over e; or as rows, over tokens. */
static u32 *as_columns(u32 *panels, const void *from, const Heads *a, i64 row) {
  i64 steps = steps_of(a->e, a->kind);
  for (i64 j = 0; j < panels_of(a->n); j++) {
    i64 start = start_of(a->n, j), width = start_of(a->n, j + 1) - start;
    pack_transposed(panels + start * steps, width / LANES, plus(from, start * row, a->kind), row,
                    least(width, a->n - start), steps, a->kind, a->kind);
  }
  return panels;
}

static u32 *as_rows(u32 *panels, const void *from, const Heads *a, i64 row) {
  i64 steps = steps_of(a->n, a->kind);
  for (i64 p = 0; p < steps; p++) pack_steps(panels, steps, p, from, row, a->e, a->n, a->kind, a->kind);
  return panels;
}

/* out (TALL, padded n) = rows of the left factor times all of the n columns in panels. */
static void times(const void *left, i64 a_row, i64 a_step, const u32 *panels, i64 steps, i64 n, float *out, int kind) {
  for (i64 j = 0; j < panels_of(n); j++) {
    i64 start = start_of(n, j), width = start_of(n, j + 1) - start;
    Factors factors = {left, a_row, a_step, panels + start * steps, steps};
    sum_tile(&factors, out + start, padded(n), width / LANES, kind);
  }
}

/* So many rows of n numbers, times a factor each, to where rows are to_row apart. */
static void put_rows(void *to, i64 to_row, const float *from, i64 from_row, i64 rows, i64 n, const float *factors,
                     int kind) {
  for (i64 r = 0; r < rows; r++)
    for (i64 c = 0; c < n; c += LANES) {
      __m512 x = _mm512_load_ps(from + r * from_row + c);
      put(to, r * to_row + c, factors ? _mm512_mul_ps(x, all(factors[r])) : x, first(n - c), kind);
    }
}

/* Of a row of n scores, powers of two of which the largest is 1, with zeros behind them; their sum, and the exponent's
   shift. A score that is not a number makes the sum none. */
INLINE float powers_of(const float *x, i64 n, float scale, float *shift, void *to, i64 at, int kind) {
  __m512 most = all(-INFINITY), total = _mm512_setzero_ps();
  for (i64 c = 0; c < n; c += LANES) most = _mm512_mask_max_ps(most, first(n - c), most, _mm512_load_ps(x + c));
  __m512 by = all(scale), less = all(*shift = scale * _mm512_reduce_max_ps(most));
  for (i64 c = 0; c < n; c += LANES) {
    __m512 p = powers_of_two(_mm512_fmsub_ps(_mm512_load_ps(x + c), by, less), kind);
    p = _mm512_maskz_mov_ps(first(n - c), p);
    put(to, at + c, p, 0xffff, kind);
    total = _mm512_add_ps(total, p);
  }
  return _mm512_reduce_add_ps(total);
}

APART float powers(const float *x, i64 n, float scale, float *shift, void *to, i64 at, int kind) {
  return kind ? powers_of(x, n, scale, shift, to, at, 1) : powers_of(x, n, scale, shift, to, at, 0);
}

/* logs (n): of each query the logarithm, to the base 2, of the sum of its exponentials. */
static void head_forward(const void *q, void *y, float *logs, const Heads *a, u32 *room) {
  const void *k = plus(q, a->d, a->kind), *v = plus(k, a->d, a->kind);
  i64 n = a->n, wide = padded(n), steps = steps_of(n, a->kind), deep = steps_of(a->e, a->kind), unit = a->kind ? 2 : 1;
  u32 *keys = as_columns(room, k, a, a->row), *values = as_rows(keys + deep * wide, v, a, a->row);
  float *scores = (float *)(values + steps * padded(a->e)), *out = scores + TALL * wide;
  void *shares = out + TALL * padded(a->e);
  for (i64 row = 0; row < n; row += TALL) {
    i64 at = least(row, n - TALL);
    float factors[TALL];
    times(plus(q, at * a->row, a->kind), a->row / unit, 1, keys, deep, n, scores, a->kind);
    for (i64 r = 0; r < TALL; r++) {
      float shift, sum = powers(scores + r * wide, n, a->scale, &shift, shares, r * wide, a->kind);
      factors[r] = 1.0f / sum;
      if (logs) logs[at + r] = shift + log2f(sum);
    }
    times(shares, wide / unit, 1, values, steps, a->e, out, a->kind);
    put_rows((void *)plus(y, at * a->d, a->kind), a->d, out, padded(a->e), TALL, a->e, factors, a->kind);
  }
}

/* Of a row of scores, the shares, and of the shares' gradients, the changes: gradients of unscaled scores. */
INLINE void changes_of(float *scores, const float *gradients, float log, const Heads *a, void *shares, void *changes,
                       i64 at, int kind) {
  __m512 by = all(a->scale), less = all(log), total = _mm512_setzero_ps();
  for (i64 c = 0; c < a->n; c += LANES) {
    __m512 p = powers_of_two(_mm512_fmsub_ps(_mm512_load_ps(scores + c), by, less), kind);
    p = _mm512_maskz_mov_ps(first(a->n - c), p);
    _mm512_store_ps(scores + c, p);
    put(shares, at + c, p, 0xffff, kind);
    total = _mm512_fmadd_ps(p, _mm512_load_ps(gradients + c), total);
  }
  __m512 along = all(_mm512_reduce_add_ps(total)), scale = all(a->scale / LOG2_E);
  for (i64 c = 0; c < a->n; c += LANES) {
    __m512 g = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(gradients + c), along), _mm512_load_ps(scores + c));
    put(changes, at + c, _mm512_mul_ps(g, scale), 0xffff, kind);
  }
}

APART void change(float *scores, const float *gradients, float log, const Heads *a, void *shares, void *changes,
                  i64 at) {
  if (a->kind) changes_of(scores, gradients, log, a, shares, changes, at, 1);
  else changes_of(scores, gradients, log, a, shares, changes, at, 0);
}

/* The transpose of a matrix (n, n), rows of `wide` numbers, times e columns, to rows that are a->row apart. */
static void times_transposed(const void *matrix, i64 wide, const u32 *panels, void *to, const Heads *a, u32 *room) {
  i64 steps = steps_of(a->n, a->kind), apart = wide + LANES; /* so that steps do not meet in one set of the cache */
  float *out = (float *)room;
  u32 *units = room + TALL * padded(a->e);
  for (i64 p = 0; p < steps; p++) {
    i64 row = p * (a->kind ? 2 : 1);
    pack_step(units + p * apart, plus(matrix, row * wide, a->kind), wide, wide, a->n - row, a->kind, a->kind);
  }
  for (i64 c = 0; c < a->n; c += TALL) {
    times(units + c, 1, apart, panels, steps, a->e, out, a->kind);
    put_rows((void *)plus(to, c * a->row, a->kind), a->row, out, padded(a->e), least(TALL, a->n - c), a->e, 0, a->kind);
  }
}

static void head_backward(const void *q, const void *dy, const float *logs, void *dq, const Heads *a, u32 *room) {
  const void *k = plus(q, a->d, a->kind), *v = plus(k, a->d, a->kind);
  void *dk = (void *)plus(dq, a->d, a->kind), *dv = (void *)plus(dk, a->d, a->kind);
  i64 n = a->n, wide = padded(n), steps = steps_of(n, a->kind), deep = steps_of(a->e, a->kind), unit = a->kind ? 2 : 1;
  u32 *keys = as_columns(room, k, a, a->row), *values = as_columns(keys + deep * wide, v, a, a->row);
  u32 *key_rows = as_rows(values + deep * wide, k, a, a->row);
  u32 *queries = as_rows(key_rows + steps * padded(a->e), q, a, a->row);
  u32 *outputs = as_rows(queries + steps * padded(a->e), dy, a, a->d);
  float *scores = (float *)(outputs + steps * padded(a->e)), *gradients = scores + TALL * wide;
  float *out = gradients + TALL * wide;
  void *shares = out + TALL * padded(a->e), *changes = (u32 *)shares + n * wide / unit;
  for (i64 row = 0; row < n; row += TALL) {
    i64 at = least(row, n - TALL);
    times(plus(q, at * a->row, a->kind), a->row / unit, 1, keys, deep, n, scores, a->kind);
    times(plus(dy, at * a->d, a->kind), a->d / unit, 1, values, deep, n, gradients, a->kind);
    for (i64 r = 0; r < TALL; r++)
      change(scores + r * wide, gradients + r * wide, logs[at + r], a, shares, changes, (at + r) * wide);
    times(plus(changes, at * wide, a->kind), wide / unit, 1, key_rows, steps, a->e, out, a->kind);
    put_rows((void *)plus(dq, at * a->row, a->kind), a->row, out, padded(a->e), TALL, a->e, 0, a->kind);
  }
  u32 *rest = (u32 *)changes + n * wide / unit;
  times_transposed(changes, wide, queries, dk, a, rest);
  times_transposed(shares, wide, outputs, dv, a, rest);
}

/* Units that one head needs at most, in any kind. */
static i64 room_of(i64 n, i64 e) {
  i64 wide = padded(n), deep = padded(e);
  return 2 * e * wide + 3 * n * deep + 2 * TALL * (wide + deep) + 2 * n * wide + n * (wide + LANES) + LANES;
}

/* Ask for the next head while this one is computed: its rows are short pieces of long ones, which the processor does
   not see coming. */
static void await_head(const void *from, i64 row, i64 parts, const Heads *a) {
  for (i64 r = 0; r < a->n; r++)
    for (i64 part = 0; part < parts; part++) await_read(from, r * row + part * a->d, a->e, a->kind);
}

/* qkv (b, n, 3, h, e) to y (b, n, h, e) and, for a backward pass, logs (b, h, n); n ≥ TALL, e even. */
void attention_forward(const void *qkv, void *y, float *logs, i64 b, i64 n, i64 h, i64 e, int kind, int threads) {
  Heads a = heads_of(n, h, e, kind);
#pragma omp parallel num_threads(threads)
  {
    u32 *room = room_for(room_of(n, e));
#pragma omp for schedule(static)
    for (i64 each = 0; each < b * h; each++) {
      const void *q = head_in(qkv, each, a.row, &a);
      if (each + 1 < b * h) await_head(head_in(qkv, each + 1, a.row, &a), a.row, 3, &a);
      head_forward(q, (void *)head_in(y, each, a.d, &a), logs ? logs + each * n : 0, &a, room);
    }
    free(room);
  }
}

/* The gradient of qkv. */
void attention_backward(const void *qkv, const void *dy, const float *logs, void *gradient, i64 b, i64 n, i64 h, i64 e,
                        int kind, int threads) {
  Heads a = heads_of(n, h, e, kind);
#pragma omp parallel num_threads(threads)
  {
    u32 *room = room_for(room_of(n, e));
#pragma omp for schedule(static)
    for (i64 each = 0; each < b * h; each++) {
      const void *q = head_in(qkv, each, a.row, &a), *g = head_in(dy, each, a.d, &a);
      if (each + 1 < b * h) {
        await_head(head_in(qkv, each + 1, a.row, &a), a.row, 3, &a);
        await_head(head_in(dy, each + 1, a.d, &a), a.d, 1, &a);
      }
      head_backward(q, g, logs + each * n, (void *)head_in(gradient, each, a.row, &a), &a, room);
    }
    free(room);
  }
}
#endif
