/* A small product of matrices in registers, and how its factors are laid out for it: what linear.c and
   attention.c are made of. For x86 processors with AVX-512, in fp32, and in bf16 where they multiply it.

   A product goes in steps along the dimension that is summed over. A unit is the 32 bits that a step takes from
   each factor: one fp32 number, or two neighbouring bf16 ones. The left factor's units are read where they lie,
   TALL rows at a time; the right factor is packed into panels of up to PANEL columns, step after step. */

#ifndef TILE_H
#define TILE_H

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define MULTIPLIES_FP32 1
#else
#define MULTIPLIES_FP32 0
#endif
/* Where there are matrix units (AMX), torch's library uses them, which is faster. */
#if MULTIPLIES_FP32 && defined(__AVX512BF16__) && !defined(__AMX_BF16__)
#define MULTIPLIES_BF16 1
#else
#define MULTIPLIES_BF16 0
#endif

#if MULTIPLIES_FP32
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>

#include "dtypes.h"

/* 6 × 4 sums of 16 columns, 4 units of the right factor and 1 of the left fill 29 of 32 registers. */
enum { TALL = 6, BROAD = 4, PANEL = BROAD * LANES };

/* Rows, from the one that is packed, that are asked for. */
enum { SOON = 6 };

#define INLINE static inline __attribute__((always_inline))

typedef uint32_t u32;

static inline i64 least(i64 a, i64 b) { return a < b ? a : b; }

/* Memory for n units, aligned to a vector; to be freed. */
static inline u32 *room_for(i64 n) {
  u32 *room = aligned_alloc(64, padded(n) * sizeof(u32));
  if (!room) {
    fputs("scalevit: no memory left for a matrix product\n", stderr);
    abort();
  }
  return room;
}

/* ------------------------------------------------------------------------- sixteen numbers, as fp32 */

/* The first n of 16 numbers. */
INLINE __mmask16 first(i64 n) { return n < LANES ? (1u << n) - 1 : 0xffff; }

INLINE __m512 from_halves(__m256i half) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* Masked reads and writes are slow, those of halves several times so (Zen 5). */
INLINE __m256i halves(const void *p, __mmask16 which) {
  return which == 0xffff ? _mm256_loadu_si256(p) : _mm256_maskz_loadu_epi16(which, p);
}

INLINE __m512 take(const void *from, i64 at, __mmask16 which, int kind) {
  const void *p = plus(from, at, kind);
  if (kind) return from_halves(halves(p, which));
  return which == 0xffff ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(which, p);
}

INLINE void put(void *to, i64 at, __m512 x, __mmask16 which, int kind) {
  void *p = (void *)plus(to, at, kind);
#if MULTIPLIES_BF16
  if (kind) {
    __m256i half = (__m256i)_mm512_cvtneps_pbh(x);
    if (which == 0xffff) _mm256_storeu_si256(p, half);
    else _mm256_mask_storeu_epi16(p, which, half);
    return;
  }
#endif
  if (which == 0xffff) _mm512_storeu_ps(p, x);
  else _mm512_mask_storeu_ps(p, which, x);
}

INLINE __m512 all(float x) { return _mm512_set1_ps(x); }

/* 2^x: for fp32 by the polynomial of dtypes.h, within two units in the last place; for what is rounded to bf16 by the
   one of degree 3 with the least largest relative error, 1e-4. */
INLINE __m512 powers_of_two(__m512 x, int kind) {
  __m512 whole = _mm512_roundscale_ps(x, 0), f = _mm512_reduce_ps(x, 0), p;
  if (kind) {
    p = _mm512_fmadd_ps(all(5.50090578e-2f), f, all(2.42210975e-1f));
    p = _mm512_fmadd_ps(p, f, all(6.93282898e-1f));
  } else {
    p = _mm512_fmadd_ps(all(POWER_5), f, all(POWER_4));
    p = _mm512_fmadd_ps(p, f, all(POWER_3));
    p = _mm512_fmadd_ps(p, f, all(POWER_2));
    p = _mm512_fmadd_ps(p, f, all(POWER_1));
  }
  return _mm512_scalef_ps(_mm512_fmadd_ps(p, f, all(1.0f)), whole);
}

/* ------------------------------------------------------------------------- the product */

/* TALL rows of the left factor, a_row units apart, whose steps are a_step apart, and a panel of the right one. */
typedef struct { const u32 *a; i64 a_row, a_step; const u32 *panel; i64 steps; } Factors;

/* sum (TALL, vectors) = their product. With `vectors` and `kind` known to the compiler it stays in registers. */
INLINE void multiply(__m512 sum[TALL][BROAD], const Factors *f, int vectors, int kind) {
  const u32 *a = f->a, *panel = f->panel;
#pragma GCC unroll 6
  for (int r = 0; r < TALL; r++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) sum[r][v] = _mm512_setzero_ps();
  for (i64 p = 0, row = f->a_row, step = f->a_step, steps = f->steps; p < steps; p++) {
    __m512i b[BROAD];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) b[v] = _mm512_load_si512(panel + v * LANES);
#pragma GCC unroll 6
    for (int r = 0; r < TALL; r++) {
      __m512i x = _mm512_set1_epi32(a[r * row]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++)
#if MULTIPLIES_BF16
        sum[r][v] = kind ? _mm512_dpbf16_ps(sum[r][v], (__m512bh)x, (__m512bh)b[v])
                         : _mm512_fmadd_ps((__m512)x, (__m512)b[v], sum[r][v]);
#else
        sum[r][v] = _mm512_fmadd_ps((__m512)x, (__m512)b[v], sum[r][v]);
#endif
    }
    a += step;
    panel += vectors * LANES;
  }
}

/* WORK(vectors, kind), with numbers that the compiler knows. */
#define DISPATCH(vectors, kind, WORK)         \
  switch ((vectors) + ((kind) ? BROAD : 0)) { \
    case 1: WORK(1, 0); break;                \
    case 2: WORK(2, 0); break;                \
    case 3: WORK(3, 0); break;                \
    case 4: WORK(4, 0); break;                \
    case 5: WORK(1, 1); break;                \
    case 6: WORK(2, 1); break;                \
    case 7: WORK(3, 1); break;                \
    default: WORK(4, 1);                      \
  }

/* A function of its own, so that its sums have all registers. */
#define APART static __attribute__((noinline))

INLINE void sum_tile_of(const Factors *f, float *out, i64 row, int vectors, int kind) {
  __m512 sum[TALL][BROAD];
  multiply(sum, f, vectors, kind);
#pragma GCC unroll 6
  for (int r = 0; r < TALL; r++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) _mm512_store_ps(out + r * row + v * LANES, sum[r][v]);
}

/* The product, to rows of fp32 that are so far apart. */
APART void sum_tile(const Factors *f, float *out, i64 row, int vectors, int kind) {
#define SUM_TILE(vectors, kind) sum_tile_of(f, out, row, vectors, kind)
  DISPATCH(vectors, kind, SUM_TILE)
}

/* ------------------------------------------------------------------------- the right factor */

/* A matrix of n columns in panels of nearly equal width: few sums at a time would wait for each other. Panel j
   begins at column start_of(n, j), and lies start_of(n, j) · steps units after the first. */
static inline i64 panels_of(i64 n) { return (padded(n) / LANES + BROAD - 1) / BROAD; }
static inline i64 start_of(i64 n, i64 j) { return padded(n) / LANES * j / panels_of(n) * LANES; }

/* Steps along k numbers of a kind. */
static inline i64 steps_of(i64 k, int kind) { return kind ? (k + 1) / 2 : k; }

/* Sixteen units, of which a matrix that is kept in `from_kind` has the first n. */
INLINE __m512i units_at(const void *from, i64 at, i64 n, int from_kind, int kind) {
  if (from_kind == kind) {
    const void *p = plus(from, at, from_kind);
    return n >= LANES ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi32(first(n), p);
  }
#if MULTIPLIES_BF16
  __m512 low = take(from, at, first(2 * n), 0), high = take(from, at + LANES, first(2 * n - least(2 * n, LANES)), 0);
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
#endif
  return _mm512_setzero_si512();
}

INLINE void transpose(__m512i x[LANES]) {
#pragma GCC unroll 4
  for (int side = LANES / 2; side; side /= 2) {
    int low[LANES], high[LANES];
    for (int k = 0; k < LANES; k++) {
      low[k] = k & side ? LANES + (k ^ side) : k;
      high[k] = k & side ? LANES + k : k | side;
    }
    __m512i l = _mm512_loadu_si512(low), h = _mm512_loadu_si512(high);
#pragma GCC unroll 16
    for (int k = 0; k < LANES; k++)
      if (!(k & side)) {
        __m512i a = x[k], b = x[k | side];
        x[k] = _mm512_permutex2var_epi32(a, l, b);
        x[k | side] = _mm512_permutex2var_epi32(a, h, b);
      }
  }
}

/* A panel of the columns that lie as rows, `row` numbers apart, in `from`: column c is row c. */
INLINE void packed_transposed(u32 *panel, i64 vectors, const void *from, i64 row, i64 n, i64 steps, int from_kind,
                              int kind) {
  for (i64 c = 0; c < vectors * LANES; c += LANES)
    for (i64 p = 0; p < steps; p += LANES) {
      __m512i x[LANES];
      i64 some = least(LANES, steps - p), soon = (p + 2 * LANES) * (kind ? 2 : 1);
      for (int k = 0; k < LANES; k++) {
        __builtin_prefetch(plus(from, (c + k) * row + soon, from_kind));
        if (kind && !from_kind) __builtin_prefetch(plus(from, (c + k) * row + soon + LANES, from_kind));
      }
#pragma GCC unroll 16
      for (int k = 0; k < LANES; k++)
        x[k] = c + k < n ? units_at(from, (c + k) * row + p * (kind ? 2 : 1), some, from_kind, kind)
                         : _mm512_setzero_si512();
      transpose(x);
      for (int k = 0; k < some; k++) _mm512_store_si512(panel + (p + k) * vectors * LANES + c, x[k]);
    }
}

APART void pack_transposed(u32 *panel, i64 vectors, const void *from, i64 row, i64 n, i64 steps, int from_kind,
                           int kind) {
  if (!kind) packed_transposed(panel, vectors, from, row, n, steps, 0, 0);
  else if (from_kind) packed_transposed(panel, vectors, from, row, n, steps, 1, 1);
  else packed_transposed(panel, vectors, from, row, n, steps, 0, 1);
}

INLINE __m256i halves_at(const void *from, i64 at, __mmask16 which, int from_kind) {
#if MULTIPLIES_BF16
  if (!from_kind) return (__m256i)_mm512_cvtneps_pbh(take(from, at, which, 0));
#endif
  return halves(plus(from, at, 1), which);
}

/* One step of n columns: a row of fp32, or two of bf16, of which `rows` are left. */
INLINE void packed_step(u32 *to, const void *from, i64 row, i64 n, i64 rows, int from_kind, int kind) {
  for (i64 c = 0; c < n; c += LANES) {
    __mmask16 some = first(n - c);
    __m512i units;
    for (int r = SOON; r < SOON + (kind ? 2 : 1); r++) __builtin_prefetch(plus(from, r * row + c, from_kind));
    if (kind) {
      __m512i low = _mm512_cvtepu16_epi32(halves_at(from, c, some, from_kind));
      __m512i high = _mm512_cvtepu16_epi32(halves_at(from, row + c, rows > 1 ? some : 0, from_kind));
      units = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
    } else
      units = (__m512i)take(from, c, some, 0);
    _mm512_store_si512(to + c, units);
  }
}

APART void pack_step(u32 *to, const void *from, i64 row, i64 n, i64 rows, int from_kind, int kind) {
  if (!kind) packed_step(to, from, row, n, rows, 0, 0);
  else if (from_kind) packed_step(to, from, row, n, rows, 1, 1);
  else packed_step(to, from, row, n, rows, 0, 1);
}

/* Step p, of `steps`, of all panels. */
static inline void pack_steps(u32 *panels, i64 steps, i64 p, const void *from, i64 row, i64 n, i64 rows,
                              int from_kind, int kind) {
  i64 from_row = p * (kind ? 2 : 1);
  for (i64 j = 0; j < panels_of(n); j++) {
    i64 start = start_of(n, j), width = start_of(n, j + 1) - start;
    pack_step(panels + start * steps + p * width, plus(from, from_row * row + start, from_kind), row,
              least(width, n - start), rows - from_row, from_kind, kind);
  }
}
#endif
#endif
