/* Element types: fp32 (kind 0) or bf16 (kind 1) in memory, fp32 in calculations, a block of elements at a time, which
   stays in the first cache. Sums are taken over blocks of a fixed size and then in order, so that the bits do not
   depend on the number of threads. */

#ifndef NUMBERS_H
#define NUMBERS_H

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Elements of the longest vector. */
enum { LANES = 16 };

/* Elements computed at once: a multiple of every vector. Rows that one sum of a gradient covers. */
enum { BLOCK = 512, ROWS = 32 };

typedef int64_t i64;

/* To the longest vector, so that none lies across two lines of the cache. */
#define ALIGNED __attribute__((aligned(64)))

static inline float from_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t to_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
static inline float wide(uint16_t half) { return from_bits((uint32_t)half << 16); }

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
    i64 k = 0;
#ifdef __AVX512BF16__
    for (; k + LANES <= n; k += LANES)
      _mm256_storeu_si256((void *)(half + k), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + k)));
#endif
    for (; k < n; k++) half[k] = narrow(from[k]);
  } else
    memcpy((void *)plus(to, at, 0), from, n * sizeof(float));
}

/* 2^x within three units in the last place where it is a normal number, and the least or largest of them beyond:
   the nearest integer goes into the exponent, the rest f into a polynomial with the least largest relative error
   on [-1/2, 1/2], 9e-8, among those of degree 5 that are 1 at 0. */
#define POWER_1 6.931469776e-1f
#define POWER_2 2.402224208e-1f
#define POWER_3 5.550733745e-2f
#define POWER_4 9.671512833e-3f
#define POWER_5 1.326472717e-3f
static inline float power_of_two(float x) {
  x = x < -126.0f ? -126.0f : x;
  x = x > 127.0f ? 127.0f : x;
  float shifted = x + 12582912.0f, f = x - (shifted - 12582912.0f); /* 1.5 · 2^23: its last bit is worth 1 */
  float p = POWER_5;
  p = p * f + POWER_4;
  p = p * f + POWER_3;
  p = p * f + POWER_2;
  p = p * f + POWER_1;
  p = p * f + 1.0f;
  return from_bits(to_bits(p) + (to_bits(shifted) << 23));
}

#define LOG2_E 1.44269504f

/* tanh GELU is x σ(x (A + B x²)). */
#define GELU_A 1.5957691216057308f
#define GELU_B 0.07135481628f

static inline i64 padded(i64 n) { return (n + LANES - 1) / LANES * LANES; }
#endif
