/* The products of linear layers, and what is done to results while they are in registers or the first cache. Called by
   linear.py.

   Activations are fp32 or bf16, and so is what is computed with them; weights are of the same kind, or fp32 and rounded
   as they are packed. Sums are fp32, and taken in an order that does not depend on the number of threads. */

#include "matmul_tile.h"

/* Whether products of this kind are faster here than torch's. */
int multiplies(int kind) { return kind ? MULTIPLIES_BF16 : MULTIPLIES_FP32; }

#if MULTIPLIES_FP32

/* Bytes of the left factor that stay in the second cache while all panels go by; bytes that one part of a weights'
   gradient may take there; columns of its left factor in one piece, a multiple of TALL. */
enum { LEFT = 1 << 18, FACTORS = 1 << 20, CHUNK = 96 };

/* ------------------------------------------------------------------------- y = x w + bias, or GELU's part in it */

/* What becomes of a sum: y; or h, and y is tanh GELU of it; or y, by that GELU's derivative at h. */
enum { PLAIN, GELU, GELU_GRADIENT };

/* GELU is x times this, the sigmoid of dtypes.h. */
INLINE __m512 gelu_shares(__m512 x, int kind) {
  __m512 z = _mm512_fmadd_ps(_mm512_mul_ps(x, x), all(-LOG2_E * GELU_B), all(-LOG2_E * GELU_A));
  z = _mm512_min_ps(all(126.0f), _mm512_mul_ps(x, z));
  __m512 one = all(1.0f), d = _mm512_add_ps(one, powers_of_two(z, kind)), s = _mm512_rcp14_ps(d);
  return kind ? s : _mm512_fmadd_ps(s, _mm512_fnmadd_ps(d, s, one), s); /* a step of Newton's: 28 bits */
}

INLINE __m512 gelu_slope(__m512 x, int kind) {
  __m512 s = gelu_shares(x, kind), square = _mm512_mul_ps(x, x);
  __m512 inner = _mm512_fmadd_ps(square, all(3 * GELU_B), all(GELU_A));
  return _mm512_fmadd_ps(_mm512_mul_ps(_mm512_fnmadd_ps(s, s, s), x), inner, s);
}

/* Where results go, and what they are made with: TALL rows of `columns`, rows of n numbers. */
typedef struct { void *y, *h; const float *bias; i64 n, columns; } Result;

INLINE __m512 finished(__m512 x, const Result *to, i64 at, i64 c, __mmask16 some, int how, int kind) {
  if (to->bias) x = _mm512_add_ps(x, take(to->bias, c, some, 0));
  if (how == GELU) {
    if (to->h) put(to->h, at + c, x, some, kind);
    x = _mm512_mul_ps(x, gelu_shares(x, kind));
  }
  if (how == GELU_GRADIENT) x = _mm512_mul_ps(x, gelu_slope(take(to->h, at + c, some, kind), kind));
  return x;
}

INLINE void finish_rows(const float *sums, const Result *to, int how, int kind) {
  for (i64 r = 0; r < TALL; r++)
    for (i64 c = 0; c < to->columns; c += LANES) {
      __mmask16 some = first(to->columns - c);
      __m512 x = finished(_mm512_load_ps(sums + r * PANEL + c), to, r * to->n, c, some, how, kind);
      put(to->y, r * to->n + c, x, some, kind);
    }
}

APART void finish_tile(const Factors *f, const Result *to, int how, int vectors, int kind) {
  float sums[TALL * PANEL] ALIGNED;
  sum_tile(f, sums, PANEL, vectors, kind);
#define FINISH_ROWS(how) kind ? finish_rows(sums, to, how, 1) : finish_rows(sums, to, how, 0)
  if (how == GELU) FINISH_ROWS(GELU);
  else if (how == GELU_GRADIENT) FINISH_ROWS(GELU_GRADIENT);
  else FINISH_ROWS(PLAIN);
}

/* Whole vectors with nothing but a bias go from registers to where they belong. */
INLINE void plain_tile_of(const Factors *f, const Result *to, int vectors, int kind) {
  __m512 sum[TALL][BROAD];
  multiply(sum, f, vectors, kind);
#pragma GCC unroll 6
  for (int r = 0; r < TALL; r++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
      __m512 x = finished(sum[r][v], to, 0, v * LANES, 0xffff, PLAIN, kind);
      put(to->y, r * to->n + v * LANES, x, 0xffff, kind);
    }
}

APART void plain_tile(const Factors *f, const Result *to, int vectors, int kind) {
#define PLAIN_TILE(vectors, kind) plain_tile_of(f, to, vectors, kind)
  DISPATCH(vectors, kind, PLAIN_TILE)
}

/* Rows are short pieces of longer ones, which the processor does not see coming; a product is time enough. */
static inline void await_result(const Result *to, int how, int kind) {
  for (i64 r = 0, at = 0; r < TALL; r++, at += to->n) {
    await_write(to->y, at, to->columns, kind);
    if (how == GELU && to->h) await_write(to->h, at, to->columns, kind);
    if (how == GELU_GRADIENT) await_read(to->h, at, to->columns, kind);
  }
}

/* For x (rows, k), rows ≥ TALL and k even, and w (k, n), or (n, k) if transposed. */
void product(const void *x, const void *w, int w_kind, const float *bias, void *y, void *h, i64 rows, i64 k, i64 n,
             i64 transposed, i64 how, int kind, int threads) {
  i64 steps = steps_of(k, kind), panels = panels_of(n), some = LEFT / sizeof(u32) / steps / TALL * TALL;
  i64 tall = some < 8 * TALL ? 8 * TALL : some, parts = (rows + tall - 1) / tall;
  u32 *packed = room_for(steps * padded(n));
#pragma omp parallel num_threads(threads)
  {
    if (transposed) {
#pragma omp for schedule(static)
      for (i64 j = 0; j < panels; j++) {
        i64 start = start_of(n, j), width = start_of(n, j + 1) - start;
        pack_transposed(packed + start * steps, width / LANES, plus(w, start * k, w_kind), k, least(width, n - start),
                        steps, w_kind, kind);
      }
    } else {
#pragma omp for schedule(static)
      for (i64 p = 0; p < steps; p++) pack_steps(packed, steps, p, w, n, n, k, w_kind, kind);
    }
#pragma omp for schedule(static)
    for (i64 part = 0; part < parts; part++)
      for (i64 j = 0; j < panels; j++) {
        i64 start = start_of(n, j), width = start_of(n, j + 1) - start, end = least(rows, (part + 1) * tall);
        for (i64 row = part * tall; row < end; row += TALL) {
          i64 at = least(row, rows - TALL), place = at * n + start; /* the last rows may be computed twice */
          Factors factors = {(const u32 *)x + at * steps, steps, 1, packed + start * steps, steps};
          Result to = {(void *)plus(y, place, kind), h ? (void *)plus(h, place, kind) : 0, bias ? bias + start : 0, n,
                       least(width, n - start)};
          await_result(&to, how, kind);
          if (j == 0) await_read(x, (at + TALL) * k, TALL * k, kind);
          if (how == PLAIN && to.columns == width) plain_tile(&factors, &to, width / LANES, kind);
          else finish_tile(&factors, &to, how, width / LANES, kind);
        }
      }
  }
  free(packed);
}

/* ------------------------------------------------------------------------- gradients of weights and biases */

/* `tall` rows of the product, to or, as `more` says, on top of what is in dw, rows of n numbers. */
static void add_rows(const Factors *f, float *dw, i64 n, i64 tall, i64 columns, int more, int vectors, int kind) {
  float sums[TALL * PANEL] ALIGNED;
  sum_tile(f, sums, PANEL, vectors, kind);
  for (i64 r = 0; r < tall; r++)
    for (i64 c = 0; c < columns; c += LANES) {
      __mmask16 some = first(columns - c);
      __m512 x = _mm512_load_ps(sums + r * PANEL + c);
      put(dw, r * n + c, more ? _mm512_add_ps(x, take(dw, r * n + c, some, 0)) : x, some, 0);
    }
}

/* The same for TALL rows of whole vectors, from registers. */
INLINE void add_tile_of(const Factors *f, float *dw, i64 n, int more, int vectors, int kind) {
  __m512 sum[TALL][BROAD];
  multiply(sum, f, vectors, kind);
#pragma GCC unroll 6
  for (int r = 0; r < TALL; r++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
      float *to = dw + r * n + v * LANES;
      _mm512_storeu_ps(to, more ? _mm512_add_ps(sum[r][v], _mm512_loadu_ps(to)) : sum[r][v]);
    }
}

APART void add_tile(const Factors *f, float *dw, i64 n, int more, int vectors, int kind) {
#define ADD_TILE(vectors, kind) add_tile_of(f, dw, n, more, vectors, kind)
  DISPATCH(vectors, kind, ADD_TILE)
}

INLINE __m512 add_unit(__m512 sum, __m512i unit, int kind) {
#if MULTIPLIES_BF16
  if (kind) return _mm512_dpbf16_ps(sum, (__m512bh)unit, (__m512bh)_mm512_set1_epi32(0x3f803f80)); /* times 1 and 1 */
#endif
  return _mm512_add_ps(sum, (__m512)unit);
}

/* Sums over all steps of a piece of the left factor. */
static void add_bias(const u32 *piece, i64 steps, float *db, i64 columns, int more, int kind) {
  __m512 sum[CHUNK / LANES];
#pragma GCC unroll 6
  for (int v = 0; v < CHUNK / LANES; v++) sum[v] = _mm512_setzero_ps();
  for (i64 p = 0; p < steps; p++, piece += CHUNK)
#pragma GCC unroll 6
    for (int v = 0; v < CHUNK / LANES; v++) sum[v] = add_unit(sum[v], _mm512_load_si512(piece + v * LANES), kind);
  for (i64 c = 0, v = 0; c < columns; c += LANES, v++) {
    __mmask16 some = first(columns - c);
    put(db, c, more ? _mm512_add_ps(sum[v], take(db, c, some, 0)) : sum[v], some, 0);
  }
}

/* Of g (rows, m) and x (rows, n): dw (m, n) = gᵀ x, and db (m), if asked for, the sum of g's rows. */
void product_gradients(const void *g, const void *x, float *dw, float *db, i64 rows, i64 m, i64 n, int kind,
                       int threads) {
  i64 pieces = (m + CHUNK - 1) / CHUNK, panels = panels_of(n), some = FACTORS / sizeof(u32) / (m + n);
  i64 steps = least(some < 32 ? 32 : some > 512 ? 512 : some, steps_of(rows, kind)), tall = kind ? 2 * steps : steps;
  u32 *left = room_for(pieces * CHUNK * steps), *right = room_for(padded(n) * steps);
#pragma omp parallel num_threads(threads)
  for (i64 from = 0; from < rows; from += tall) {
    const void *g_part = plus(g, from * m, kind), *x_part = plus(x, from * n, kind);
    i64 here = least(tall, rows - from), now = steps_of(here, kind);
#pragma omp for schedule(static)
    for (i64 p = 0; p < now; p++) {
      i64 row = p * (kind ? 2 : 1);
      for (i64 c = 0; c < m; c += CHUNK)
        pack_step(left + c * steps + p * CHUNK, plus(g_part, row * m + c, kind), m, least(CHUNK, m - c), here - row,
                  kind, kind);
      pack_steps(right, steps, p, x_part, n, n, here, kind, kind);
    }
#pragma omp for schedule(static) nowait
    for (i64 piece = 0; piece < (db ? pieces : 0); piece++) {
      i64 c = piece * CHUNK;
      add_bias(left + c * steps, now, db + c, least(CHUNK, m - c), from > 0, kind);
    }
#pragma omp for schedule(static) collapse(2)
    for (i64 j = 0; j < panels; j++)
      for (i64 piece = 0; piece < pieces; piece++) {
        i64 start = start_of(n, j), width = start_of(n, j + 1) - start, end = least(m, (piece + 1) * CHUNK);
        for (i64 c = piece * CHUNK; c < end; c += TALL) {
          Factors factors = {left + piece * CHUNK * steps + c % CHUNK, 1, CHUNK, right + start * steps, now};
          i64 rest = least(TALL, m - c), columns = least(width, n - start);
          float *to = dw + c * n + start;
          if (rest == TALL && columns == width) add_tile(&factors, to, n, from > 0, width / LANES, kind);
          else add_rows(&factors, to, n, rest, columns, from > 0, width / LANES, kind);
        }
      }
  }
  free(left);
  free(right);
}
#endif
