/* Fuzz of the C kernels: every function on random shapes and numbers, with each buffer ending at a page that cannot
   be touched, so that one element too many ends the program. Built with the address and undefined-behaviour
   sanitizers by tests/kernels/test_sanitizers.py; arguments: seed, rounds. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int64_t i64;
typedef struct { double lr, weight_factor, momentum, update_weight, beta2, eps, debias1, debias2; } Rates;

void bias_gelu_forward(const void *, const float *, void *, i64, i64, int, int);
void bias_gelu_backward(const void *, const void *, const float *, void *, float *, i64, i64, int, int);
void norm_forward(const void *, int, const void *, int, void *, const float *, const float *, float, void *, int,
                  float *, float *, i64, i64, int);
void norm_backward(const void *, int, const void *, const void *, int, const float *, const float *, const float *,
                   void *, void *, int, float *, i64, i64, int);
void update_elements(i64, const i64 *, const i64 *, i64, const i64 *, const i64 *, i64, i64, int, const Rates *, int);
void update_matrices(const i64 *, const i64 *, i64, i64, i64, i64, i64, i64, float *, float *, float *, float *, int,
                     const Rates *, int);
int multiplies(int);
/* Only where the processor has the instructions. */
__attribute__((weak)) void product(const void *, const void *, int, const float *, void *, void *, i64, i64, i64, i64,
                                   i64, int, int);
__attribute__((weak)) void product_gradients(const void *, const void *, float *, float *, i64, i64, i64, int, int);
__attribute__((weak)) void attention_forward(const void *, void *, float *, i64, i64, i64, i64, int, int);
__attribute__((weak)) void attention_backward(const void *, const void *, const float *, void *, i64, i64, i64, i64,
                                              int, int);

static uint64_t state;
static uint64_t draw(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}
static i64 below(i64 n) { return (i64)(draw() % (uint64_t)n); }
static i64 size(void) { return 1 + (below(4) ? below(40) : below(700)); }

enum { MOST = 64 };
static struct { void *start; size_t length; } pages[MOST];
static int used;

/* Memory of n bytes that ends where a page begins that cannot be touched. */
static void *guarded(size_t n) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), length = (n + page - 1) / page * page;
  char *start = mmap(0, length + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED || used == MOST || mprotect(start + length, page, PROT_NONE)) abort();
  pages[used].start = start;
  pages[used++].length = length + page;
  return start + length - n;
}

static void release(void) {
  while (used) used--, munmap(pages[used].start, pages[used].length);
}

/* n random numbers of a kind; now and then one is not finite. */
static void *numbers(i64 n, int kind) {
  char *p = guarded((size_t)n << (2 - kind));
  for (i64 k = 0; k < n; k++) {
    float x = (float)below(2000) / 500.0f - 2.0f;
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (below(3000) == 0) bits = 0x7fc00000;
    if (below(3000) == 0) bits = 0xff800000;
    if (kind) {
      uint16_t half = (uint16_t)(bits >> 16);
      memcpy(p + 2 * k, &half, 2);
    } else
      memcpy(p + 4 * k, &bits, 4);
  }
  return p;
}
static void *empty(i64 n, int kind) { return guarded((size_t)n << (2 - kind)); }
static i64 blocks(i64 rows) { return (rows + 31) / 32; }
static int kind_of(void) { return (int)below(2); }

static void gelu(int threads) {
  i64 rows = size(), m = size();
  int kind = kind_of();
  void *h = numbers(rows * m, kind), *bias = numbers(m, 0);
  bias_gelu_forward(h, bias, empty(rows * m, kind), rows, m, kind, threads);
  bias_gelu_backward(numbers(rows * m, kind), h, bias, empty(rows * m, kind), empty(blocks(rows) * m, 0), rows, m, kind,
                     threads);
}

static void norm(int threads) {
  i64 rows = size(), d = size(), n = rows * d;
  int x = kind_of(), y = kind_of(), branch = kind_of(), added = kind_of();
  float *weight = numbers(d, 0), *means = empty(rows, 0), *scales = empty(rows, 0);
  void *stream = added ? empty(n, x) : numbers(n, x);
  norm_forward(added ? numbers(n, x) : stream, x, added ? numbers(n, branch) : 0, branch, stream, weight, numbers(d, 0),
               1e-6f, empty(n, y), y, means, scales, rows, d, threads);
  norm_backward(numbers(n, y), y, numbers(n, x), stream, x, weight, means, scales, empty(n, x),
                added && branch != x ? empty(n, branch) : 0, branch, empty(2 * blocks(rows) * d, 0), rows, d, threads);
}

static const Rates rates = {1e-3, 0.999, 0.8984375, 0.1, 0.99, 1e-8, 0.5, 0.5};

static void elements(int threads) {
  enum { COUNT = 3, CHUNK = 512 };
  i64 sizes[COUNT], places[2 * 64], table[3 * COUNT], gradients[COUNT], chunks = 0;
  int kind = kind_of();
  for (i64 k = 0; k < COUNT; k++) {
    sizes[k] = size();
    for (i64 at = 0; at < sizes[k]; at += CHUNK, chunks++) places[2 * chunks] = k, places[2 * chunks + 1] = at;
    table[k] = (i64)numbers(sizes[k], 0);
    table[COUNT + k] = (i64)numbers(sizes[k], kind);
    table[2 * COUNT + k] = (i64)numbers(sizes[k], 0);
    gradients[k] = (i64)numbers(sizes[k], 0);
  }
  update_elements(below(3), table, gradients, COUNT, sizes, places, chunks, CHUNK, kind, &rates, threads);
}

static void matrices(int threads) {
  i64 A = 1 + below(3), I = 1 + below(70), B = 1 + below(3), J = 1 + below(70), rows = A * I * B, columns = A * B * J;
  int kind = kind_of();
  i64 table[] = {(i64)numbers(rows * J, 0), (i64)numbers(rows * J, kind), (i64)numbers(rows, 0),
                 (i64)numbers(columns, 0)};
  i64 gradients[] = {(i64)numbers(rows * J, 0)};
  update_matrices(table, gradients, 1, A, I, B, J, below(2), empty(rows, 0), empty(A * blocks(I) * B * J, 0),
                  empty(rows, 0), empty(columns, 0), kind, &rates, threads);
}

static void linear(int threads) {
  int kind = kind_of(), w_kind = kind && below(2);
  i64 rows = 5 + size(), k = 2 * size(), n = 2 * size(), transposed = below(2), epilogue = below(3);
  if (!product || !multiplies(kind)) return;
  product(numbers(rows * k, kind), numbers(k * n, w_kind), w_kind, below(2) ? numbers(n, 0) : 0, empty(rows * n, kind),
          epilogue == 2 ? numbers(rows * n, kind) : epilogue && below(2) ? empty(rows * n, kind) : 0, rows, k, n,
          transposed, epilogue, kind, threads);
  product_gradients(numbers(rows * k, kind), numbers(rows * n, kind), empty(k * n, 0), below(2) ? empty(k, 0) : 0, rows,
                    k, n, kind, threads);
}

static void attention(int threads) {
  int kind = kind_of();
  i64 b = 1 + below(3), n = 6 + below(60), h = 1 + below(3), e = 2 * (1 + below(40)), d = h * e;
  if (!attention_forward || !multiplies(kind)) return;
  void *qkv = numbers(3 * b * n * d, kind);
  float *logs = empty(b * h * n, 0);
  attention_forward(qkv, empty(b * n * d, kind), below(4) ? logs : 0, b, n, h, e, kind, threads);
  attention_forward(qkv, empty(b * n * d, kind), logs, b, n, h, e, kind, threads);
  attention_backward(qkv, numbers(b * n * d, kind), logs, empty(3 * b * n * d, kind), b, n, h, e, kind, threads);
}

int main(int count, char **arguments) {
  void (*all[])(int) = {gelu, norm, elements, matrices, linear, attention};
  if (count != 3) return 2;
  state = 88172645463325252u + (uint64_t)atoll(arguments[1]);
  for (i64 round = 0; round < atoll(arguments[2]); round++)
    for (int k = 0; k < 6; k++) {
      all[k](1 + (int)below(3));
      release();
    }
  printf("%d%d\n", multiplies(0), multiplies(1));
  return 0;
}
