// The CPU twin of the kernels: a plain C ABI over raw memory, no headers of torch, one file.
//
// The file includes itself once per instruction set (section B), so that one library holds them all and picks at run
// time (section C). Every sum comes with a stated error; `error_bounds.py` beside this file states and derives them.
// Compiled without contraction and without fast-math: TwoSum and the error bounds need IEEE arithmetic as written.
#ifndef NG_PASS
// A. What every instruction set shares ------------------------------------------------------------------------------
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define NG_EXPORT extern "C" __attribute__((visibility("default")))

namespace twin {

enum Dtype : int { F64 = 0, F32 = 1, BF16 = 2, F16 = 3, BYTE = 4 };  // BYTE: any 8-bit format, through a table
enum Mode : int { BLOCKED = 0, DOUBLE = 1, TWO_FLOAT = 2 };

struct Bf16 { uint16_t bits; };
struct Half { uint16_t bits; };
struct Byte { uint8_t bits; };

constexpr int64_t CHUNK = 1 << 15;         // elements between two flushes of the lanes
constexpr int64_t PIECE = 512;            // vectors whose elements the lanes of a checked sum add one after another
constexpr int64_t AHEAD = 4096;           // bytes between what is read and what is prefetched
constexpr int64_t SPAN = 256;              // columns held on the stack at once
constexpr int64_t BYTES_PER_THREAD = 4 << 20;

static float byte_table[8][256];

// Sum as an unevaluated pair, sum of magnitudes, largest magnitude (NaN beats Inf beats numbers).
struct Totals { double high = 0, low = 0, mass = 0, largest = 0; };

static inline void two_sum(double a, double b, double& s, double& e) {
  s = a + b;
  const double t = s - a;
  e = (a - (s - t)) + (b - t);
}
static inline void add_to(Totals& t, double x) {
  double s, e;
  two_sum(t.high, x, s, e);
  t.high = s;
  if (std::isfinite(e)) t.low += e;
}
static inline double larger(double a, double b) { return (std::isnan(a) || a > b) ? a : b; }
static inline void merge(Totals& t, const Totals& o) {
  add_to(t, o.high);
  t.low += o.low;
  t.mass += o.mass;
  t.largest = larger(o.largest, t.largest);
}

static inline float float_of(uint32_t bits) { float f; std::memcpy(&f, &bits, 4); return f; }
static inline float half_value(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return float_of(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  if (rest < 0x400u) { const float f = (float)rest * 0x1p-24f; return sign ? -f : f; }
  return float_of(sign | ((rest << 13) + 0x38000000u));
}
static inline double value(const double* p) { return *p; }
static inline double value(const float* p) { return *p; }
static inline double value(const Bf16* p) { return float_of((uint32_t)p->bits << 16); }
static inline double value(const Half* p) { return half_value(p->bits); }

static inline uint32_t mixed(uint32_t bits) {  // the finalizer of MurmurHash3
  bits = (bits ^ bits >> 16) * 0x85ebca6bu;
  bits = (bits ^ bits >> 13) * 0xc2b2ae35u;
  return bits ^ bits >> 16;
}
// A float32 number rounded to the format of a parameter, ties to even.
static inline double rounded_to(double x, int dtype) {
  if (dtype == F64 || dtype == F32 || !std::isfinite(x) || x == 0.0) return dtype == F64 ? x : (double)(float)x;
  const int places = dtype == BF16 ? 7 : 10, least = dtype == BF16 ? -133 : -24;
  const int exponent = std::max(std::ilogb(x) - places, least);
  const double y = std::ldexp(std::nearbyint(std::ldexp(x, -exponent)), exponent);
  return std::fabs(y) < (dtype == BF16 ? 0x1p128 : 0x1p16) ? y : std::copysign(std::numeric_limits<double>::infinity(), x);
}

// Subnormal numbers count, whatever torch.set_flush_denormal has asked of this thread.
struct Gradual {
#if defined(__x86_64__)
  unsigned kept = _mm_getcsr();
  Gradual() { if (kept & 0x8040u) _mm_setcsr(kept & ~0x8040u); }
  ~Gradual() { if (kept & 0x8040u) _mm_setcsr(kept); }
#elif defined(__aarch64__)
  uint64_t kept;
  Gradual() { asm volatile("mrs %0, fpcr" : "=r"(kept)); asm volatile("msr fpcr, %0" ::"r"(kept & ~(1ull << 24))); }
  ~Gradual() { asm volatile("msr fpcr, %0" ::"r"(kept)); }
#else
  Gradual() {}
  ~Gradual() {}
#endif
};

// Runs work(part) for parts 0 .. parts-1, one thread each; the caller's thread takes the last. Threads live for the
// call alone: nothing spins beside torch's pool, nothing is left over for a fork.
template <class Work> static void in_parts(int parts, const Work& work) {
  std::vector<std::thread> others;
  for (int part = 0; part + 1 < parts; ++part) {
    try {
      others.emplace_back([&work, part] { Gradual gradual; work(part); });
    } catch (...) {
      work(part);  // no thread to be had
    }
  }
  work(parts - 1);
  for (auto& other : others) other.join();
}
static inline int parts_for(int64_t bytes, int threads) {
  return (int)std::max<int64_t>(1, std::min<int64_t>(threads, bytes / BYTES_PER_THREAD));
}

// Kept and reduced dimensions of a strided tensor, in elements.
struct Walk { int num_dims; const int64_t* sizes; const int64_t* strides; };
static inline int64_t offset_of(const Walk& walk, int64_t number) {
  int64_t offset = 0;
  for (int d = walk.num_dims - 1; d >= 0; --d) {
    offset += (number % walk.sizes[d]) * walk.strides[d];
    number /= walk.sizes[d];
  }
  return offset;
}
static inline int64_t count_of(const Walk& walk) {
  int64_t count = 1;
  for (int d = 0; d < walk.num_dims; ++d) count *= walk.sizes[d];
  return count;
}

static inline int64_t bytes_of(int64_t dtype) { return dtype == F64 ? 8 : dtype == F32 ? 4 : dtype >= BYTE ? 1 : 2; }
struct Operand { const void* data; int64_t dtype, batch, row, column; };  // strides in elements
// The matrices of rows m < M, columns n < N and terms k < K of one checksum, and a row of N numbers for each result.
struct Sums { double *computed, *exact, *size, *results, *norms, *sizes, *added, *added_size, *added_largest; };

// A bound on the error before output rounding, and what it is judged with: equation (1) of numguard's judgement module.
struct Bound { double relative, floor, factor, limit; };  // factor: of the sizes of subnormal factors
struct Judging {
  double alpha, beta, error_relative, error_floor, unit, eta, largest, result_largest, output_relative, output_floor;
  Bound strict, permissive;
  int64_t has_permissive, rectified, propagates;
};
static inline double bounded(const Bound& bound, double size, double sizes) {
  if (!(size < bound.limit)) return std::numeric_limits<double>::infinity();
  return size * bound.relative + bound.floor + (bound.factor != 0.0 ? bound.factor * sizes : 0.0);
}

// Layer normalisation: what bounds are made of (numguard's normalisation_bounds module), the formats of the results.
struct Format { double unit, eta, largest; };
struct Normalising {
  double eps, height, unit, tiny, eta, limit, shadow;  // of the accumulator; shadow: its error over the strict bound
  Format result, statistics;
};
struct Normalised { double *exact, *strict, *permissive, *error; };  // of one row; permissive: the gradient's alone
// Rows of several tensors with the same leading dimensions: words of `d`, `d` sizes, then data, dtype and `d` strides each.
struct RowSet {
  const int64_t* words;
  int64_t dims() const { return words[0]; }
  int64_t count() const { return count_of(Walk{(int)dims(), words + 1, nullptr}); }
  int dtype(int which) const { return (int)words[1 + dims() + which * (2 + dims()) + 1]; }
  const void* row(int which, int64_t number) const {
    const int64_t* own = words + 1 + dims() + which * (2 + dims());
    return (const char*)own[0] + offset_of(Walk{(int)dims(), words + 1, own + 2}, number) * bytes_of(own[1]);
  }
  const double* parameter(int which, int64_t n, double* held) const;  // in float64, or null where it has no data
};

// Sums over rows or columns, by row_sum_bound and row_mean_bound; `divisor` is one, or the number of terms of a mean.
struct Summing {
  double growth, permissive_growth, limit, lost, error, divisor, division;
  Format result;
  int64_t has_permissive;
};
static inline double sum_bound(double total, double mass, double growth, const Summing& by) {
  if (!((1.0 + growth) * mass < by.limit)) return std::numeric_limits<double>::infinity();
  const double error = growth * mass;
  const double bound = by.division == 0.0 ? error : (error + by.division * (std::fabs(total) + error)) / by.divisor;
  return bound + by.lost;
}

// dgamma and dbeta, by parameter_gradient_bound: of the accumulator and of the format in which rows may be stored.
struct Storing { double unit, eta, limit; };
struct Weighing {
  double tiny, shadow;
  Storing strict, permissive;
  Format result;
  int64_t has_permissive;
};
static inline double weighed(double mass, double grad_mass, double slack, double rows, double tiny, const Storing& by) {
  if (!(mass < by.limit)) return std::numeric_limits<double>::infinity();
  return (rows + 6.0) * by.unit * (mass + slack) + slack + rows * by.eta + tiny * grad_mass;
}

// Sums by slot, by slot_bound: of the accumulator, which is the results' own format.
struct Slotting { double shadow; Format result; };

// Attention: AttentionModel and the formulas of numguard's attention_bounds module.
struct AttentionModel {
  double unit, tiny, exponential, weight_unit, weight_eta, weight_largest, factor_unit, store_unit, store_eta;
};
struct Attending {
  double scale, shadow, mass_limit, key_height, query_stores, key_stores;
  Format result, logarithm;
  AttentionModel strict, permissive;
  int64_t has_permissive, causal;
};
// A matrix of a batch and a head; strides in elements. A mask of truth values has the dtype TRUTH.
constexpr int64_t TRUTH = 100;
struct Headed {
  const char* data; int64_t dtype, batch, head, row, column;
  const char* at(int64_t b, int64_t h, int64_t r) const {
    return data + (b * batch + h * head + r * row) * (dtype == TRUTH ? 1 : bytes_of(dtype));
  }
};
struct Every { int64_t first, step, count; int64_t operator[](int64_t i) const { return first + i * step; } };
struct AttentionCall {  // the words of one call
  int64_t group, num_queries, num_keys, features, width;
  Every batches, heads, queries, keys;
  Headed query, key, value, mask, output, logsumexp, grad_output, grad_query, grad_key, grad_value;
};
struct Factors { const double *query, *keys, *values; const double* mask; bool truth; int64_t visible; const int64_t* places; };
struct Pairs { double *weights, *weights_error, *scores, *scores_error; };

// Elementwise operators, by numguard's pointwise_bounds module; rules are numbered as PointwiseRule.
enum Rule : int64_t { ADD = 0, SUB, MUL, DIV, LERP, ADDCMUL, ADDCDIV, SQRT };
struct Roundings { double unit, constant, constant_floor, store, tiny, largest; };
struct Pointwise {
  double constant, factor;
  Roundings strict, permissive;
  Format result;
  int64_t rule, has_constant, has_permissive, propagates;
};

struct Table {  // the functions of one instruction set
  const char* name;
  void (*run)(const void*, int, int64_t, int64_t, int, Totals*);
  void (*columns)(const void*, int, int64_t, int64_t, int64_t, int64_t, int, Totals*);
  void (*checked)(const void*, int, int64_t, float*, Totals*);
  void (*widen)(const void*, int, int64_t, int64_t, double*);
  void (*dot)(const void*, int, const void*, int, int64_t, Totals*);
  void (*scaled_row)(double, const void*, int, int64_t, double*, double*);
  void (*row_products)(const double*, const void*, int, int64_t, double*);
  void (*judge)(int64_t, const void*, int, const double*, int64_t, const double*, int64_t, const double*, int64_t,
                const double*, int64_t, double, double, double, int, int, double*);
  void (*checksum)(const Operand*, const Operand*, const Operand*, const Operand*, int64_t, int64_t, int64_t, int64_t,
                   double, const double*, Sums);
  uint64_t (*hash)(const uint32_t*, int64_t, const uint64_t*);
  void (*normalise)(int64_t, const double*, const double*, const double*, const Normalising&, double*, Normalised);
  void (*normalise_back)(int64_t, double*, const double*, const double*, double, double, const Normalising&, Normalised);
  void (*weigh)(int64_t, const double*, const double*, double, double, double*);
  void (*attend)(int64_t, int64_t, int64_t, const Factors&, const Attending&, const double*, double*, double*, double*, double*);
  void (*differentiate)(int64_t, int64_t, int64_t, const Factors&, const double*, double, double, double, const Attending&, double*, Pairs);
  void (*accumulate)(int64_t, double, double, const double*, double*, double*, double*);
  void (*pointwise)(int64_t, const double* const*, const Pointwise&, double*, double*, double*);
};
static inline const void* at(const Operand& x, int64_t batch, int64_t row, int64_t column) {
  return (const char*)x.data + (batch * x.batch + row * x.row + column * x.column) * bytes_of(x.dtype);
}

}  // namespace twin

// B. The same code for each instruction set ------------------------------------------------------------------------
#define NG_PASS generic
#define NG_WIDTH 4
#define NG_TARGET
#include __FILE__
#undef NG_PASS
#undef NG_WIDTH
#undef NG_TARGET
#if defined(__x86_64__)
#define NG_AVX2
#define NG_PASS avx2
#define NG_WIDTH 8
#define NG_TARGET __attribute__((target("avx2,f16c,fma")))
#include __FILE__
#undef NG_PASS
#undef NG_WIDTH
#undef NG_TARGET
#undef NG_AVX2
#define NG_AVX512
#define NG_PASS avx512
#define NG_WIDTH 16
#define NG_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c,fma")))
#include __FILE__
#undef NG_WIDTH
#undef NG_TARGET
#undef NG_AVX512
#undef NG_PASS
#endif
#define NG_PASS last

// C. Choice and the C ABI ------------------------------------------------------------------------------------------
namespace twin {

static const Table* tables(int number) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool middle = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (number == 2) return wide ? &avx512::table : nullptr;
  if (number == 1) return middle ? &avx2::table : nullptr;
#endif
  return number == 0 ? &generic::table : nullptr;
}
static const Table* active = nullptr;
static inline const Table* use() {
  if (!active)
    for (int number = 2; number >= 0 && !active; --number) active = tables(number);
  return active;
}

}  // namespace twin
using namespace twin;

NG_EXPORT int ng_version() { return 5; }
NG_EXPORT const char* ng_variant() { return use()->name; }
NG_EXPORT int ng_select(int number) {
  const Table* table = number < 0 ? nullptr : tables(number);
  if (number >= 0 && !table) return 0;
  active = table;
  return 1;
}
NG_EXPORT void ng_set_byte_table(int number, const float* values) {
  std::memcpy(byte_table[number & 7], values, sizeof byte_table[0]);
}

// One argument is passed faster than five.
struct Whole { const char* data; int64_t dtype, n, mode, threads; };
// Of a whole contiguous tensor: sum (pair), sum of magnitudes, largest magnitude.
NG_EXPORT void ng_statistics(const Whole* x, double* out) {
  Gradual gradual;
  const int64_t n = x->n, size = bytes_of(x->dtype);
  const int parts = parts_for(n * size, (int)x->threads);
  std::vector<Totals> totals(parts);
  in_parts(parts, [&](int part) {
    const int64_t first = n / parts * part, end = part + 1 == parts ? n : n / parts * (part + 1);
    use()->run(x->data + first * size, (int)x->dtype, end - first, 1, (int)x->mode, &totals[part]);
  });
  Totals all;
  for (const auto& one : totals) merge(all, one);
  out[0] = all.high; out[1] = all.low; out[2] = all.mass; out[3] = all.largest;
}

// Sums over the reduced dimensions for every index of the kept ones: four arrays of doubles.
NG_EXPORT void ng_reduce(const void* data, int dtype, int kept_dims, const int64_t* kept_sizes,
                         const int64_t* kept_strides, int reduced_dims, const int64_t* reduced_sizes,
                         const int64_t* reduced_strides, int mode, int threads, double* sums, double* lows,
                         double* masses, double* largest) {
  Gradual gradual;
  const int64_t size = dtype == F64 ? 8 : dtype == F32 ? 4 : dtype >= BYTE ? 1 : 2;
  const Walk kept{kept_dims, kept_sizes, kept_strides};
  const Walk outer{reduced_dims - 1, reduced_sizes, reduced_strides};
  const int64_t num_kept = count_of(kept), num_outer = count_of(outer);
  const int64_t length = reduced_sizes[reduced_dims - 1], step = reduced_strides[reduced_dims - 1];
  const char* base = (const char*)data;
  // Columns: the last kept dimension lies closer together in memory than the reduced ones.
  const int64_t apart = kept_dims ? kept_strides[kept_dims - 1] : 0;
  const bool by_columns = apart > 0 && apart < std::llabs(step) && kept_sizes[kept_dims - 1] > 1;
  const int64_t width = by_columns ? kept_sizes[kept_dims - 1] : 1;
  const int64_t spans = (width + SPAN - 1) / SPAN;
  const int64_t jobs = num_kept / std::max<int64_t>(width, 1) * spans;
  const int parts = (int)std::min<int64_t>(parts_for(num_kept * num_outer * length * size, threads), std::max<int64_t>(jobs, 1));
  const Walk kept_outer{kept_dims - (by_columns ? 1 : 0), kept_sizes, kept_strides};
  in_parts(parts, [&](int part) {
    Totals held[SPAN];
    for (int64_t job = jobs * part / parts; job < jobs * (part + 1) / parts; ++job) {
      const int64_t first = job % spans * SPAN, many = std::min(SPAN, width - first);
      const int64_t start = offset_of(kept_outer, job / spans) + first * apart;
      for (int64_t c = 0; c < many; ++c) held[c] = Totals();
      for (int64_t turn = 0; turn < num_outer; ++turn) {
        const char* p = base + (start + offset_of(outer, turn)) * size;
        if (by_columns) use()->columns(p, dtype, length, step, many, apart, mode, held);
        else use()->run(p, dtype, length, step, mode, held);
      }
      for (int64_t c = 0; c < many; ++c) {
        const int64_t at = job / spans * width + first + c;
        sums[at] = held[c].high; lows[at] = held[c].low; masses[at] = held[c].mass; largest[at] = held[c].largest;
      }
    }
  });
}

// The exponent field of a value as float32: 0 for zeros and what is below 2^-126, 255 for Inf, NaN and beyond.
static inline int field_of(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, 8);
  const int exponent = (int)(bits >> 52 & 0x7ff) - 1023;
  return exponent < -126 ? 0 : exponent > 127 ? 255 : exponent + 127;
}

// Counts of a contiguous tensor: nan, inf, zero, subnormal; the smallest non-zero magnitude; exponents if asked for.
NG_EXPORT void ng_counts(const void* data, int dtype, int64_t n, double smallest_normal, int64_t* counts,
                         double* smallest, int64_t* exponents) {
  Gradual gradual;
  const int64_t size = dtype == F64 ? 8 : dtype == F32 ? 4 : dtype >= BYTE ? 1 : 2;
  double held[1024], least = std::numeric_limits<double>::infinity();
  int64_t num_nan = 0, num_inf = 0, num_zero = 0, num_subnormal = 0;
  for (int64_t first = 0; first < n; first += 1024) {
    const int64_t many = std::min<int64_t>(1024, n - first);
    use()->widen((const char*)data + first * size, dtype, many, 1, held);
    for (int64_t i = 0; i < many; ++i) {
      const double a = std::fabs(held[i]);
      num_nan += a != a;
      num_inf += a == std::numeric_limits<double>::infinity();
      num_zero += a == 0.0;
      num_subnormal += a > 0.0 && a < smallest_normal;
      least = a > 0.0 && a < least ? a : least;
    }
    if (exponents)
      for (int64_t i = 0; i < many; ++i)
        ++exponents[field_of(held[i])];
  }
  counts[0] = num_nan; counts[1] = num_inf; counts[2] = num_zero; counts[3] = num_subnormal;
  *smallest = least;
}

// A float32 sum as an operator would return it and the verdict on it, from one read; `relative` is the bound on the
// difference from the shadow over the sum of magnitudes. `out`: result, shadow, sum of magnitudes, bound, and the
// difference as a multiple of it, zero where the sum may have overflowed.
struct Checking { int64_t dtype, n, threads; double relative; };
NG_EXPORT void ng_checked_sum(const char* data, const Checking* by, double* out) {
  Gradual gradual;
  const int64_t n = by->n, size = bytes_of(by->dtype);
  const int parts = parts_for(n * size, (int)by->threads);
  struct Part { Totals shadow; float result; };
  std::vector<Part> found(parts);
  in_parts(parts, [&](int part) {
    const int64_t first = n / parts * part, end = part + 1 == parts ? n : n / parts * (part + 1);
    use()->checked(data + first * size, (int)by->dtype, end - first, &found[part].result, &found[part].shadow);
  });
  Totals all;
  float result = 0;
  for (const Part& part : found) { merge(all, part.shadow); result += part.result; }
  const double shadow = all.high + all.low, bound = by->relative * all.mass, difference = std::fabs(result - shadow);
  const bool finite = all.mass < std::numeric_limits<float>::max() / 2.0;
  out[0] = result; out[1] = shadow; out[2] = all.mass; out[3] = bound;
  out[4] = finite && difference != 0.0 ? difference / bound : 0.0;
}

// Inner product of two contiguous vectors: pair and sum of magnitudes of the products.
NG_EXPORT void ng_dot(const void* x, int x_dtype, const void* y, int y_dtype, int64_t n, double* out) {
  Gradual gradual;
  Totals all;
  use()->dot(x, x_dtype, y, y_dtype, n, &all);
  out[0] = all.high; out[1] = all.low; out[2] = all.mass;
}

// value[m, n] = sum_k a[m, k] b[k, n] and mass of the magnitudes, float64, for each of the batches.
NG_EXPORT void ng_product(const Operand* a, const Operand* b, int64_t batches, int64_t rows, int64_t columns,
                          int64_t terms, int64_t a_size, int64_t b_size, double* values, double* masses) {
  Gradual gradual;
  // The operand is walked along its shorter stride: row by row, each added to all results, or column by column.
  const bool by_rows = columns > 1 && std::llabs(b->column) <= std::llabs(b->row);
  std::vector<double> left(terms), held(by_rows && b->column == 1 ? 0 : std::max(columns, terms));
  for (int64_t batch = 0; batch < batches; ++batch)
    for (int64_t m = 0; m < rows; ++m) {
      use()->widen((const char*)a->data + (batch * a->batch + m * a->row) * a_size, a->dtype, terms, a->column, left.data());
      double* value = values + (batch * rows + m) * columns;
      double* mass = masses + (batch * rows + m) * columns;
      const char* right = (const char*)b->data + batch * b->batch * b_size;
      if (by_rows) {
        std::fill(value, value + columns, 0.0);
        std::fill(mass, mass + columns, 0.0);
        for (int64_t k = 0; k < terms; ++k) {
          const char* row = right + k * b->row * b_size;
          if (b->column == 1) { use()->scaled_row(left[k], row, b->dtype, columns, value, mass); continue; }
          use()->widen(row, b->dtype, columns, b->column, held.data());
          use()->scaled_row(left[k], held.data(), F64, columns, value, mass);
        }
      } else {
        for (int64_t n = 0; n < columns; ++n) {
          double both[2];
          const char* column = right + n * b->column * b_size;
          if (b->row == 1) {
            use()->row_products(left.data(), column, b->dtype, terms, both);
          } else {
            use()->widen(column, b->dtype, terms, b->row, held.data());
            use()->row_products(left.data(), held.data(), F64, terms, both);
          }
          value[n] = both[0];
          mass[n] = both[1];
        }
      }
    }
}

// Sums over the rows, with weights, of C and of (A) B + beta C0: nine rows of N numbers, zeroed, for all batches.
// Rows of A that are not finite take no part. `added` has no data where nothing is added.
NG_EXPORT void ng_checksum(const Operand* a, const Operand* b, const Operand* c, const Operand* added, int64_t batches,
                           int64_t rows, int64_t columns, int64_t terms, double beta, const double* weights,
                           double* out) {
  static_assert(sizeof(Sums) == 9 * sizeof(double*));
  Gradual gradual;
  for (int64_t batch = 0; batch < batches; ++batch) {
    double* rows_of[9];
    for (int row = 0; row < 9; ++row) rows_of[row] = out + (row * batches + batch) * columns;
    Sums sums;
    std::memcpy(&sums, rows_of, sizeof sums);
    use()->checksum(a, b, c, added, batch, rows, columns, terms, beta, weights, sums);
  }
}

// The verdict on one comparison: thirteen numbers, as numguard.shadow.verdict orders them.
NG_EXPORT void ng_judge(int64_t n, const void* computed, int dtype, const double* exact, int64_t exact_step,
                        const double* strict, int64_t strict_step, const double* permissive, int64_t permissive_step,
                        const double* error, int64_t error_step, double unit, double eta, double limit,
                        int rounds_output, int propagates, double* out) {
  Gradual gradual;
  use()->judge(n, computed, dtype, exact, exact_step, strict, strict_step, permissive, permissive_step, error,
               error_step, unit, eta, limit, rounds_output, propagates, out);
}

static void judge_all(int64_t n, const double* computed, const double* rows, const Judging& by, double* verdict) {
  use()->judge(n, computed, F64, rows, 1, rows + n, 1, by.has_permissive ? rows + 2 * n : nullptr, 1, rows + 3 * n, 1,
               by.unit, by.eta, by.largest, 1, (int)by.propagates, verdict);
}

// alpha A B + beta C0 against C (operands: A, B, C, C0 or no data), element by element: exact, strict, permissive and error of the shadow, four rows of
// the size of C, and the verdict.
NG_EXPORT void ng_judged_product(const Operand* operands, int64_t batches, int64_t rows, int64_t columns, int64_t terms,
                                 const Judging* by, double* out, double* verdict) {
  Gradual gradual;
  const Operand *a = operands, *b = operands + 1, *c = operands + 2, *added = operands + 3;
  const int64_t n = batches * rows * columns;
  double *exact = out, *strict = out + n, *permissive = out + 2 * n, *error = out + 3 * n;
  ng_product(a, b, batches, rows, columns, terms, bytes_of(a->dtype), bytes_of(b->dtype), exact, strict);
  std::vector<double> computed(n), held(std::max(columns, terms)), column_sizes(by->strict.factor != 0.0 ? columns : 0);
  const double scale = std::fabs(by->alpha);
  for (int64_t batch = 0; batch < batches; ++batch) {
    for (size_t j = 0; j < column_sizes.size(); ++j) {
      use()->widen(at(*b, batch, 0, (int64_t)j), b->dtype, terms, b->row, held.data());
      column_sizes[j] = 0;
      for (int64_t k = 0; k < terms; ++k) column_sizes[j] += std::fabs(held[k]);
    }
    for (int64_t m = 0; m < rows; ++m) {
      const int64_t first = (batch * rows + m) * columns;
      double row_size = 0;
      if (!column_sizes.empty()) {
        use()->widen(at(*a, batch, m, 0), a->dtype, terms, a->column, held.data());
        for (int64_t k = 0; k < terms; ++k) row_size += std::fabs(held[k]);
      }
      use()->widen(at(*c, batch, m, 0), c->dtype, columns, c->column, computed.data() + first);
      if (added->data) use()->widen(at(*added, batch, m, 0), added->dtype, columns, added->column, held.data());
      for (int64_t j = 0; j < columns; ++j) {
        double value = exact[first + j] * by->alpha, size = strict[first + j] * scale;
        if (added->data) { const double x = held[j] * by->beta; value += x; size += std::fabs(x); }
        const double sizes = column_sizes.empty() ? 0.0 : row_size + column_sizes[j];
        exact[first + j] = by->rectified && value < 0.0 ? 0.0 : value;
        strict[first + j] = bounded(by->strict, size, sizes);
        permissive[first + j] = bounded(by->permissive, size, sizes);
        error[first + j] = size * by->error_relative + by->error_floor;
      }
    }
  }
  judge_all(n, computed.data(), out, *by, verdict);
}

// The same for the checksums over the rows of C: exact, strict, permissive, error of the shadow and w^T C, five rows.
// The weights are plus and minus one: bits of an integer hash of `first` + row, as in numguard.checks.freivalds.
NG_EXPORT void ng_judged_checksum(const Operand* operands, int64_t batches, int64_t rows, int64_t columns,
                                  int64_t terms, int64_t first, const Judging* by, double* out, double* verdict) {
  const int64_t n = batches * columns;
  std::vector<double> sums(9 * n), weights(rows);
  for (int64_t m = 0; m < rows; ++m) {
    int64_t x = (int64_t)((uint64_t)(first + m) * 0x2545f4914f6cdd1dull);
    x = (int64_t)((uint64_t)(x ^ x >> 29) * 0x1b8735939e3779b1ull);
    weights[m] = x >> 40 & 1 ? -1.0 : 1.0;
  }
  const Operand *a = operands, *b = operands + 1, *c = operands + 2, *added = operands + 3;
  ng_checksum(a, b, c, added, batches, rows, columns, terms, by->beta, weights.data(), sums.data());
  const double *computed = &sums[0], *value = &sums[n], *mass = &sums[2 * n], *results = &sums[3 * n];
  const double *norms = &sums[4 * n], *sizes = &sums[5 * n], *extra = &sums[6 * n], *extra_size = &sums[7 * n];
  const double scale = std::fabs(by->alpha);
  for (int64_t j = 0; j < n; ++j) {
    const double size = mass[j] * scale + extra_size[j];
    const double largest = norms[j] * std::max(1.0, scale) + sums[8 * n + j];
    const double rounding = by->output_relative * results[j] + by->output_floor;
    out[j] = largest * 1.05 < by->result_largest ? value[j] * by->alpha + extra[j] : std::numeric_limits<double>::quiet_NaN();
    out[n + j] = bounded(by->strict, size, sizes[j]) + rounding;
    out[2 * n + j] = bounded(by->permissive, size, sizes[j]) + rounding;
    out[3 * n + j] = by->error_relative * (size + results[j]) + by->error_floor;
    out[4 * n + j] = computed[j];
  }
  judge_all(n, computed, out, *by, verdict);
}

// Elements of a product, then checksums over its rows where `summed` has columns, by one call: sizes are batches, rows,
// columns and terms; `out` holds four rows for each element, then five for each checksum; two verdicts.
NG_EXPORT void ng_judged_product_and_checksum(const Operand* operands, const int64_t* sizes, const Operand* summed,
                                              const int64_t* summed_sizes, int64_t first, const Judging* by,
                                              const Judging* summed_by, double* out, double* verdicts) {
  ng_judged_product(operands, sizes[0], sizes[1], sizes[2], sizes[3], by, out, verdicts);
  if (!summed) return;
  out += 4 * sizes[0] * sizes[1] * sizes[2];
  ng_judged_checksum(summed, summed_sizes[0], summed_sizes[1], summed_sizes[2], summed_sizes[3], first, summed_by, out, verdicts + 13);
}

// The step `parameter + update`, formed in float32 (float64 for float64) and rounded to the parameter's dtype: updated
// and stagnant elements, sums of the magnitudes of the updates and of what rounding took from them.
NG_EXPORT void ng_update_health(const void* parameter, int dtype, const void* update, int update_dtype, int64_t n,
                                double* out) {
  Gradual gradual;
  double before[512], updates[512];
  for (int64_t first = 0; first < n; first += 512) {
    const int64_t many = std::min<int64_t>(512, n - first);
    use()->widen((const char*)parameter + first * bytes_of(dtype), dtype, many, 1, before);
    use()->widen((const char*)update + first * bytes_of(update_dtype), update_dtype, many, 1, updates);
    for (int64_t i = 0; i < many; ++i) {
      double total, error;
      two_sum(before[i], updates[i], total, error);
      const double after = dtype == F64 ? total : rounded_to((double)(float)(before[i] + updates[i]), dtype);
      if (updates[i] == 0.0 || !std::isfinite(updates[i]) || !std::isfinite(after)) continue;
      out[0] += 1.0;
      out[1] += after == before[i];
      out[2] += std::fabs(updates[i]);
      out[3] += std::fabs((total - after) + error);
    }
  }
}
// Non-finite elements and the sum of squares of a contiguous list, the squares scaled by a power of two.
NG_EXPORT void ng_list_health(const void* data, int dtype, int64_t n, double scale, double* out) {
  Gradual gradual;
  double held[512];
  for (int64_t first = 0; first < n; first += 512) {
    const int64_t many = std::min<int64_t>(512, n - first);
    use()->widen((const char*)data + first * bytes_of(dtype), dtype, many, 1, held);
    for (int64_t i = 0; i < many; ++i) {
      const double x = held[i] * scale;
      out[0] += !(std::fabs(held[i]) < std::numeric_limits<double>::infinity());
      out[1] += x * x;
    }
  }
}

const double* RowSet::parameter(int which, int64_t n, double* held) const {
  if (!words[1 + dims() + which * (2 + dims())]) return nullptr;
  use()->widen(row(which, 0), dtype(which), n, 1, held);
  return held;
}
// Rows of x, y, mean and rstd of a layer norm, then weight and bias, or no data, as rows that all are the same. `out`: exact, strict and error of y, then of mean, then of rstd; the
// verdicts follow one another in the same order.
NG_EXPORT void ng_judged_layer_norm(const int64_t* words, int64_t n, const Normalising* by, double* out, double* verdicts) {
  Gradual gradual;
  const RowSet set{words};
  const int64_t rows = set.count(), all = rows * n;
  double *mean = out + 3 * all, *rstd = mean + 3 * rows;
  std::vector<double> x(n), computed(all), means(rows), rstds(rows), held(2 * n);
  const double *weight = set.parameter(4, n, held.data()), *bias = set.parameter(5, n, held.data() + n);
  for (int64_t r = 0; r < rows; ++r) {
    use()->widen(set.row(0, r), set.dtype(0), n, 1, x.data());
    use()->widen(set.row(1, r), set.dtype(1), n, 1, &computed[r * n]);
    use()->widen(set.row(2, r), set.dtype(2), 1, 1, &means[r]);
    use()->widen(set.row(3, r), set.dtype(3), 1, 1, &rstds[r]);
    double found[4];  // mean and its bound, rstd and its bound
    use()->normalise(n, x.data(), weight, bias, *by, found,
                     Normalised{out + r * n, out + all + r * n, nullptr, out + 2 * all + r * n});
    mean[r] = found[0]; mean[rows + r] = found[1]; mean[2 * rows + r] = found[1] * by->shadow;
    rstd[r] = found[2]; rstd[rows + r] = found[3]; rstd[2 * rows + r] = found[3] * by->shadow;
  }
  const Format &f = by->result, &s = by->statistics;
  use()->judge(all, computed.data(), F64, out, 1, out + all, 1, nullptr, 0, out + 2 * all, 1, f.unit, f.eta, f.largest, 1, 1, verdicts);
  use()->judge(rows, means.data(), F64, mean, 1, mean + rows, 1, nullptr, 0, mean + 2 * rows, 1, s.unit, s.eta, s.largest, 1, 1, verdicts + 13);
  use()->judge(rows, rstds.data(), F64, rstd, 1, rstd + rows, 1, nullptr, 0, rstd + 2 * rows, 1, s.unit, s.eta, s.largest, 1, 0, verdicts + 26);
}
// Rows of dy, x, mean, rstd and the gradient of x, then the weight, or no data. `out`: exact, strict, permissive and error.
NG_EXPORT void ng_judged_layer_norm_gradient(const int64_t* words, int64_t n, const Normalising* by, double* out, double* verdict) {
  Gradual gradual;
  const RowSet set{words};
  const int64_t rows = set.count(), all = rows * n;
  std::vector<double> t(n), x(n), computed(all), held(n);
  const double* weight = set.parameter(5, n, held.data());
  for (int64_t r = 0; r < rows; ++r) {
    double mean, rstd;
    use()->widen(set.row(0, r), set.dtype(0), n, 1, t.data());
    use()->widen(set.row(1, r), set.dtype(1), n, 1, x.data());
    use()->widen(set.row(2, r), set.dtype(2), 1, 1, &mean);
    use()->widen(set.row(3, r), set.dtype(3), 1, 1, &rstd);
    use()->widen(set.row(4, r), set.dtype(4), n, 1, &computed[r * n]);
    double* first = out + r * n;
    use()->normalise_back(n, t.data(), x.data(), weight, mean, rstd, *by,
                          Normalised{first, first + all, first + 2 * all, first + 3 * all});
  }
  const Format& f = by->result;
  use()->judge(all, computed.data(), F64, out, 1, out + all, 1, out + 2 * all, 1, out + 3 * all, 1, f.unit, f.eta, f.largest, 1, 1, verdict);
}

// Sums or means over the reduced dimensions, as ng_reduce walks them, beside results in the order of the kept ones.
// `out`: exact, strict, permissive, error.
NG_EXPORT void ng_judged_sums(const void* data, int dtype, int kept_dims, const int64_t* kept_sizes,
                              const int64_t* kept_strides, int reduced_dims, const int64_t* reduced_sizes,
                              const int64_t* reduced_strides, const void* results, int result_dtype, const Summing* by,
                              double* out, double* verdict) {
  Gradual gradual;
  const int64_t n = count_of(Walk{kept_dims, kept_sizes, nullptr});
  double *exact = out, *strict = out + n, *permissive = out + 2 * n, *error = out + 3 * n;
  ng_reduce(data, dtype, kept_dims, kept_sizes, kept_strides, reduced_dims, reduced_sizes, reduced_strides, DOUBLE, 1,
            exact, strict, permissive, error);
  for (int64_t i = 0; i < n; ++i) {
    const double total = exact[i] + strict[i], mass = permissive[i];
    exact[i] = total / by->divisor;
    strict[i] = sum_bound(total, mass, by->growth, *by);
    permissive[i] = by->has_permissive ? sum_bound(total, mass, by->permissive_growth, *by) : strict[i];
    error[i] = by->error * mass;
  }
  const Format& f = by->result;
  use()->judge(n, results, result_dtype, exact, 1, strict, 1, by->has_permissive ? permissive : nullptr, 1, error, 1,
               f.unit, f.eta, f.largest, 1, 1, verdict);
}

// Columns of dy, x, mean, rstd (data, dtype, stride of rows, stride of columns; no mean for RMS) beside dgamma and dbeta
// (data, dtype, 0, stride). `out`: exact, strict, permissive and error of dgamma, then of dbeta; two verdicts.
NG_EXPORT void ng_judged_parameter_gradients(const int64_t* words, const Weighing* by, double* out, double* verdicts) {
  Gradual gradual;
  struct Grid { const char* data; int64_t dtype, row, column; };
  const int64_t rows = words[0], columns = words[1];
  Grid grids[6];
  static_assert(sizeof grids == 24 * sizeof(int64_t));
  std::memcpy(grids, words + 2, sizeof grids);
  const auto read = [&](const Grid& from, int64_t row, int64_t many, double* to) {
    use()->widen(from.data + row * from.row * bytes_of(from.dtype), (int)from.dtype, many, from.column, to);
  };
  std::vector<double> sums(5 * columns), dy(columns), x(columns), computed(columns);
  for (int64_t r = 0; r < rows; ++r) {
    double mean = 0.0, rstd;
    if (grids[2].data) read(grids[2], r, 1, &mean);
    read(grids[3], r, 1, &rstd);
    read(grids[0], r, columns, dy.data());
    read(grids[1], r, columns, x.data());
    use()->weigh(columns, dy.data(), x.data(), mean, rstd, sums.data());
  }
  for (int64_t which = 0; which < 2; ++which) {
    double *exact = out + 4 * which * columns, *strict = exact + columns, *permissive = strict + columns, *error = permissive + columns;
    const double *total = &sums[which * columns], *mass = &sums[(2 + which) * columns], *grad_mass = &sums[3 * columns];
    for (int64_t c = 0; c < columns; ++c) {
      const double slack = which ? 0.0 : 4.0 * by->strict.unit * sums[4 * columns + c];
      exact[c] = total[c];
      strict[c] = weighed(mass[c], grad_mass[c], slack, (double)rows, by->tiny, by->strict);
      permissive[c] = weighed(mass[c], grad_mass[c], slack, (double)rows, by->tiny, by->has_permissive ? by->permissive : by->strict);
      error[c] = strict[c] * by->shadow;
    }
    if (!grids[4 + which].data) continue;
    read(grids[4 + which], 0, columns, computed.data());
    const Format& f = by->result;
    use()->judge(columns, computed.data(), F64, exact, 1, strict, 1, by->has_permissive ? permissive : nullptr, 1, error, 1,
                 f.unit, f.eta, f.largest, 1, 1, verdicts + 13 * which);
  }
}

// base + the sum of the rows of a source by slot, beside the results; an index of `slots` is nowhere. Words: rows,
// slots, columns, the indices, their stride, then data, dtype, row and column strides of source, base (or no data) and
// results. `out`: exact, strict, error, [slots, columns] each.
NG_EXPORT void ng_judged_slots(const int64_t* words, const Slotting* by, double* out, double* verdict) {
  Gradual gradual;
  struct Grid { const char* data; int64_t dtype, row, column; };
  const int64_t rows = words[0], slots = words[1], columns = words[2], n = slots * columns;
  const int64_t* index = (const int64_t*)words[3];
  Grid grids[3];
  std::memcpy(grids, words + 5, sizeof grids);
  const auto read = [&](const Grid& from, int64_t row, double* to) {
    use()->widen(from.data + row * from.row * bytes_of(from.dtype), (int)from.dtype, columns, from.column, to);
  };
  double *exact = out, *strict = out + n, *error = out + 2 * n;
  std::fill(out, out + 2 * n, 0.0);
  const Format& f = by->result;
  std::vector<double> held(columns), hits(slots), computed(n);
  double* mass = strict;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t slot = index[r * words[4]];
    if (slot < 0 || slot >= slots) continue;
    read(grids[0], r, held.data());
    hits[slot] += 1.0;
    double *to = exact + slot * columns, *sizes = mass + slot * columns;
    for (int64_t c = 0; c < columns; ++c) { to[c] += held[c]; sizes[c] += std::fabs(held[c]); }
  }
  constexpr double inf = std::numeric_limits<double>::infinity();
  for (int64_t slot = 0; slot < slots; ++slot) {
    const int64_t first = slot * columns;
    if (grids[1].data) {
      read(grids[1], slot, held.data());
      for (int64_t c = 0; c < columns; ++c) { exact[first + c] += held[c]; mass[first + c] += std::fabs(held[c]); }
    }
    read(grids[2], slot, computed.data() + first);
    const double roundings = hits[slot] > 0.0 ? hits[slot] + 1.0 : 0.0;
    for (int64_t i = first; i < first + columns; ++i) {
      const double size = mass[i];
      error[i] = by->shadow * (hits[slot] + 4.0) * size;
      strict[i] = size < f.largest ? roundings * f.unit * size : inf;
    }
  }
  use()->judge(n, computed.data(), F64, exact, 1, strict, 1, nullptr, 0, error, 1, f.unit, f.eta, f.largest, 1, 0, verdict);
}

// One elementwise operator on up to three vectors of one dtype: exact, strict and permissive, and the verdict.
NG_EXPORT void ng_judged_pointwise(int64_t n, int dtype, const void* computed, const void* first, const void* second,
                                   const void* third, const Pointwise* by, double* out, double* verdict) {
  Gradual gradual;
  const void* given[3] = {first, second, third};
  const double* terms[3] = {};
  std::vector<double> held(3 * n);
  for (int which = 0; which < 3; ++which) {
    if (!given[which]) continue;
    use()->widen(given[which], dtype, n, 1, &held[which * n]);
    terms[which] = &held[which * n];
  }
  if (by->has_constant) { std::fill(&held[n], &held[n] + n, by->constant); terms[1] = &held[n]; }
  double *exact = out, *strict = out + n, *permissive = by->has_permissive ? out + 2 * n : nullptr;
  use()->pointwise(n, terms, *by, exact, strict, permissive);
  const double nothing = 0.0;
  const Format& f = by->result;
  use()->judge(n, computed, dtype, exact, 1, strict, 1, permissive, 1, &nothing, 0, f.unit, f.eta, f.largest, 1, (int)by->propagates, verdict);
}

// What both directions of attention read of one batch and one key head: all rows of a side in float64.
static void widen_rows(const Headed& from, int64_t b, int64_t h, const Every& rows, int64_t n, double* to) {
  for (int64_t r = 0; r < rows.count; ++r) use()->widen(from.at(b, h, rows[r]), (int)from.dtype, n, from.column, to + r * n);
}
static const double* read_mask(const Headed& mask, int64_t b, int64_t h, int64_t query, const Every& keys, double* held) {
  if (!mask.data) return nullptr;
  const char* row = mask.at(b, h, query);
  for (int64_t k = 0; k < keys.count; ++k) {
    const int64_t place = keys[k] * mask.column;
    if (mask.dtype == TRUTH) held[k] = row[place] != 0;
    else use()->widen(row + place * bytes_of(mask.dtype), (int)mask.dtype, 1, 1, held + k);
  }
  return held;
}
static std::vector<int64_t> places_of(const Every& keys) {
  std::vector<int64_t> places(keys.count);
  for (int64_t k = 0; k < keys.count; ++k) places[k] = keys[k];
  return places;
}

// Sampled queries over all keys. `out`: exact, strict and error of the output, then of the logsumexp where it is there.
NG_EXPORT void ng_judged_attention(const AttentionCall* call, const Attending* by, double* out, double* verdicts) {
  Gradual gradual;
  const int64_t keys = call->num_keys, features = call->features, width = call->width;
  const Every all{0, 1, keys};
  const int64_t rows = call->batches.count * call->heads.count * call->group * call->queries.count, n = rows * width;
  double *exact = out, *strict = out + n, *error = out + 2 * n, *logs = out + 3 * n;
  std::vector<double> k(keys * features), v(keys * width), q(features), floor(width), held(5 * keys), mask(keys), computed(n), log_computed(rows);
  const std::vector<int64_t> places = places_of(all);
  int64_t number = 0;
  for (int64_t i = 0; i < call->batches.count; ++i)
    for (int64_t j = 0; j < call->heads.count; ++j) {
      const int64_t b = call->batches[i], kv = call->heads[j];
      widen_rows(call->key, b, kv, all, features, k.data());
      widen_rows(call->value, b, kv, all, width, v.data());
      for (int64_t f = 0; f < width; ++f) {
        double largest = 0, sizes = 0;
        for (int64_t key = 0; key < keys; ++key) {
          const double size = std::fabs(v[key * width + f]);
          largest = larger(size, largest);
          sizes += size;
        }
        floor[f] = 4.0 * (double)keys * by->strict.tiny * (1.0 + largest) + by->strict.weight_eta * sizes;
      }
      for (int64_t g = 0; g < call->group; ++g)
        for (int64_t r = 0; r < call->queries.count; ++r, ++number) {
          const int64_t h = kv * call->group + g, query = call->queries[r];
          use()->widen(call->query.at(b, h, query), (int)call->query.dtype, features, call->query.column, q.data());
          use()->widen(call->output.at(b, h, query), (int)call->output.dtype, width, call->output.column, &computed[number * width]);
          const Factors factors{q.data(), k.data(), v.data(), read_mask(call->mask, b, h, query, all, mask.data()),
                                call->mask.dtype == TRUTH, by->causal ? query : keys, places.data()};
          double log_total[2];
          use()->attend(keys, features, width, factors, *by, floor.data(), held.data(), exact + number * width, strict + number * width, log_total);
          if (!call->logsumexp.data) continue;
          logs[number] = log_total[0]; logs[rows + number] = log_total[1]; logs[2 * rows + number] = log_total[1] * by->shadow;
          use()->widen(call->logsumexp.at(b, h, query), (int)call->logsumexp.dtype, 1, 1, &log_computed[number]);
        }
    }
  for (int64_t i = 0; i < n; ++i) error[i] = strict[i] * by->shadow;
  const Format &f = by->result, &l = by->logarithm;
  use()->judge(n, computed.data(), F64, exact, 1, strict, 1, nullptr, 0, error, 1, f.unit, f.eta, f.largest, 1, 0, verdicts);
  if (call->logsumexp.data)
    use()->judge(rows, log_computed.data(), F64, logs, 1, logs + rows, 1, nullptr, 0, logs + 2 * rows, 1, l.unit, l.eta, l.largest, 1, 0, verdicts + 13);
}

// E of `count` numbers of a gradient: masses with the error of the left factor, with the left factor, and of the right.
static void finish_gradient(int64_t count, int64_t width, double terms, double stores, double scale, const double* error_mass,
                            const double* mass, const double* sizes, const AttentionModel& by, double* bound) {
  const double relative = (terms + 5.0) * by.unit + 1.01 * by.weight_unit + 2.0 * by.factor_unit + stores * by.store_unit;
  for (int64_t i = 0; i < count; ++i) {
    const double floor = (2.0 * by.tiny + by.weight_eta) * sizes[i % width] + 3.0 * terms * by.tiny;
    bound[i] = std::fabs(scale) * (error_mass[i] * 1.01 + relative * mass[i] + floor) + stores * by.store_eta;
  }
}
struct GradientPart { double *exact, *strict, *permissive, *error; int64_t n; };
static GradientPart gradient_part(double* out, int64_t n) { return GradientPart{out, out + n, out + 2 * n, out + 3 * n, n}; }
static void finish(const GradientPart& part, int64_t first, int64_t count, int64_t width, double terms, double stores,
                   double scale, const double* sizes, const Attending& by) {
  // Masses lie where the bounds will be: with the error of the left factor in `strict`, plain ones in `error`.
  double *exact = part.exact + first, *strict = part.strict + first, *permissive = part.permissive + first, *error = part.error + first;
  if (by.has_permissive) finish_gradient(count, width, terms, stores, scale, strict, error, sizes, by.permissive, permissive);
  finish_gradient(count, width, terms, stores, scale, strict, error, sizes, by.strict, strict);
  for (int64_t i = 0; i < count; ++i) { exact[i] *= scale; error[i] = strict[i] * by.shadow; }
}
static void judge_gradient(const GradientPart& part, const double* computed, const Attending& by, double* verdict) {
  const Format& f = by.result;
  use()->judge(part.n, computed, F64, part.exact, 1, part.strict, 1, by.has_permissive ? part.permissive : nullptr, 1,
               part.error, 1, f.unit, f.eta, f.largest, 1, 0, verdict);
}

// Queries over keys; what is known of each query besides: its gradient, its output and its logsumexp.
struct QueryRow { std::vector<double> query, grad, output; double logarithm, inner, inner_mass; };
static void read_query(const AttentionCall& call, int64_t b, int64_t h, int64_t row, QueryRow& to) {
  use()->widen(call.query.at(b, h, row), (int)call.query.dtype, call.features, call.query.column, to.query.data());
  use()->widen(call.grad_output.at(b, h, row), (int)call.grad_output.dtype, call.width, call.grad_output.column, to.grad.data());
  use()->widen(call.output.at(b, h, row), (int)call.output.dtype, call.width, call.output.column, to.output.data());
  use()->widen(call.logsumexp.at(b, h, row), (int)call.logsumexp.dtype, 1, 1, &to.logarithm);
  to.inner = to.inner_mass = 0;
  for (int64_t f = 0; f < call.width; ++f) { const double x = to.grad[f] * to.output[f]; to.inner += x; to.inner_mass += std::fabs(x); }
}

// Gradients of sampled queries over all keys (by `queries`), and of sampled keys over all queries (by `keys`); both
// calls name the same tensors. `out`: exact, strict, permissive and error of the gradients of query, key and value.
NG_EXPORT void ng_judged_attention_gradients(const AttentionCall* by_query, const AttentionCall* by_key, const Attending* by,
                                             double* out, double* verdicts) {
  Gradual gradual;
  const AttentionCall &a = *by_query, &c = *by_key;
  const int64_t features = a.features, width = a.width, most = a.num_keys;
  const int64_t pairs_a = a.batches.count * a.heads.count, pairs_c = c.batches.count * c.heads.count;
  const GradientPart query = gradient_part(out, pairs_a * a.group * a.queries.count * features);
  const GradientPart key = gradient_part(out + 4 * query.n, pairs_c * c.keys.count * features);
  const GradientPart value = gradient_part(out + 4 * (query.n + key.n), pairs_c * c.keys.count * width);
  std::fill(out, out + 4 * (query.n + key.n + value.n), 0.0);
  std::vector<double> k(most * features), v(most * width), held(5 * most), mask(most), pairs(4 * most);
  std::vector<double> computed(std::max(query.n, std::max(key.n, value.n))), sizes(std::max(features, width)), grad_sizes(width);
  const Pairs found{&pairs[0], &pairs[most], &pairs[2 * most], &pairs[3 * most]};
  QueryRow row{std::vector<double>(features), std::vector<double>(width), std::vector<double>(width), 0, 0, 0};
  const auto differentiate = [&](const AttentionCall& call, const Every& keys, const int64_t* places, int64_t b, int64_t h, int64_t number) {
    read_query(call, b, h, number, row);
    const Factors factors{row.query.data(), k.data(), v.data(), read_mask(call.mask, b, h, number, keys, mask.data()),
                          call.mask.dtype == TRUTH, by->causal ? number : call.num_keys, places};
    use()->differentiate(keys.count, features, width, factors, row.grad.data(), row.inner, row.inner_mass, row.logarithm, *by, held.data(), found);
  };
  const Every all{0, 1, most};
  std::vector<int64_t> places = places_of(all);
  int64_t number = 0;
  for (int64_t pair = 0; pair < pairs_a; ++pair) {
    const int64_t b = a.batches[pair / a.heads.count], kv = a.heads[pair % a.heads.count];
    widen_rows(a.key, b, kv, all, features, k.data());
    widen_rows(a.value, b, kv, all, width, v.data());
    std::fill(sizes.begin(), sizes.end(), 0.0);
    for (int64_t i = 0; i < most * features; ++i) sizes[i % features] += std::fabs(k[i]);
    for (int64_t g = 0; g < a.group; ++g)
      for (int64_t r = 0; r < a.queries.count; ++r, ++number) {
        const int64_t h = kv * a.group + g, first = number * features;
        differentiate(a, all, places.data(), b, h, a.queries[r]);
        for (int64_t j = 0; j < most; ++j)
          use()->accumulate(features, found.scores[j], found.scores_error[j], &k[j * features], query.exact + first, query.strict + first, query.error + first);
        finish(query, first, features, features, (double)most, by->query_stores, by->scale, sizes.data(), *by);
        use()->widen(a.grad_query.at(b, h, a.queries[r]), (int)a.grad_query.dtype, features, a.grad_query.column, &computed[first]);
      }
  }
  judge_gradient(query, computed.data(), *by, verdicts);
  places = places_of(c.keys);
  std::vector<double> value_computed(value.n);
  for (int64_t pair = 0; pair < pairs_c; ++pair) {
    const int64_t b = c.batches[pair / c.heads.count], kv = c.heads[pair % c.heads.count], many = c.keys.count;
    const int64_t first = pair * many * features, value_first = pair * many * width;
    widen_rows(c.key, b, kv, c.keys, features, k.data());
    widen_rows(c.value, b, kv, c.keys, width, v.data());
    std::fill(sizes.begin(), sizes.end(), 0.0);
    std::fill(grad_sizes.begin(), grad_sizes.end(), 0.0);
    for (int64_t g = 0; g < c.group; ++g)
      for (int64_t r = 0; r < c.num_queries; ++r) {
        differentiate(c, c.keys, places.data(), b, kv * c.group + g, r);
        for (int64_t j = 0; j < many; ++j) {
          const int64_t at = first + j * features, value_at = value_first + j * width;
          use()->accumulate(features, found.scores[j], found.scores_error[j], row.query.data(), key.exact + at, key.strict + at, key.error + at);
          use()->accumulate(width, found.weights[j], found.weights_error[j], row.grad.data(), value.exact + value_at, value.strict + value_at, value.error + value_at);
        }
        for (int64_t f = 0; f < features; ++f) sizes[f] += std::fabs(row.query[f]);
        for (int64_t f = 0; f < width; ++f) grad_sizes[f] += std::fabs(row.grad[f]);
      }
    const double terms = (double)(c.group * c.num_queries);
    finish(key, first, many * features, features, terms, by->key_stores, by->scale, sizes.data(), *by);
    finish(value, value_first, many * width, width, terms, by->key_stores, 1.0, grad_sizes.data(), *by);
    widen_rows(c.grad_key, b, kv, c.keys, features, &computed[first]);
    widen_rows(c.grad_value, b, kv, c.keys, width, &value_computed[value_first]);
  }
  judge_gradient(key, computed.data(), *by, verdicts + 13);
  judge_gradient(value, value_computed.data(), *by, verdicts + 26);
}

NG_EXPORT uint64_t ng_replica_checksum(const uint32_t* words, int64_t n) {
  static const std::vector<uint64_t> lanes = [] {
    std::vector<uint64_t> made(1024);
    for (uint32_t lane = 0; lane < 1024; ++lane)
      made[lane] = (uint64_t)mixed(lane * 2 + 0x9e3779b9u) << 32 | mixed(lane * 2 + 1) | 1u;
    return made;
  }();
  return use()->hash(words, n, lanes.data());
}

#elif defined(NG_WIDTH)
// B. One instruction set -------------------------------------------------------------------------------------------
namespace twin {
namespace NG_PASS {

#define NG_FN NG_TARGET static
#define NG_INLINE NG_TARGET static inline __attribute__((always_inline))

constexpr int W = NG_WIDTH;
typedef float F __attribute__((vector_size(4 * NG_WIDTH)));
typedef uint32_t U __attribute__((vector_size(4 * NG_WIDTH)));
typedef double D __attribute__((vector_size(4 * NG_WIDTH)));  // the same register, half the lanes
typedef int64_t I __attribute__((vector_size(4 * NG_WIDTH)));

// Asks for the bytes that come AHEAD of those at p, which may lie beyond the end: where little is done with each byte,
// the processor's own prefetching falls behind memory.
template <int64_t bytes> NG_INLINE void prefetch(const void* p) {
  for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch((const char*)p + AHEAD + line);
}
template <class V, class T> NG_INLINE V load(const T* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
NG_INLINE U max16(U a, U b) {  // of unsigned 16-bit lanes
#if defined(NG_AVX512)
  return (U)_mm512_max_epu16((__m512i)a, (__m512i)b);
#elif defined(NG_AVX2)
  return (U)_mm256_max_epu16((__m256i)a, (__m256i)b);
#else
  typedef uint16_t S __attribute__((vector_size(4 * NG_WIDTH)));
  const S x = (S)a, y = (S)b;
  return (U)(x > y ? x : y);
#endif
}
NG_INLINE U max32(U a, U b) {
#if defined(NG_AVX512)
  return (U)_mm512_max_epu32((__m512i)a, (__m512i)b);
#elif defined(NG_AVX2)
  return (U)_mm256_max_epu32((__m256i)a, (__m256i)b);
#else
  return a > b ? a : b;
#endif
}
NG_INLINE void halves(F v, D& low, D& high) {
#if defined(NG_AVX512)
  low = (D)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
  high = (D)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
#elif defined(NG_AVX2)
  low = (D)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
  high = (D)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
#else
  for (int j = 0; j < W / 2; ++j) { low[j] = v[j]; high[j] = v[j + W / 2]; }
#endif
}
NG_INLINE F halfs(const Half* p) {  // W float16 numbers
#if defined(NG_AVX512)
  return (F)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(NG_AVX2)
  return (F)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#elif defined(__aarch64__)
  return (F)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t*)p)));
#else
  F v;
  for (int j = 0; j < W; ++j) v[j] = half_value(p[j].bits);
  return v;
#endif
}

// a + b, one rounding: where there is FMA by its unit, which would idle while the adders are busy (a third of the time
// of a checked sum). `one` holds ones.
NG_INLINE F fused_sum(F a, F b, F one) {
#if defined(NG_AVX512)
  return (F)_mm512_fmadd_ps((__m512)a, (__m512)one, (__m512)b);
#elif defined(NG_AVX2)
  return (F)_mm256_fmadd_ps((__m256)a, (__m256)one, (__m256)b);
#else
  return a + b;
#endif
}

// Two vectors of float32 values x, y with their magnitudes; returns the magnitudes, the larger of each lane, in the
// dtype's own bits, for larger_of and largest.
template <class T> struct Reader;
template <> struct Reader<float> {
  NG_INLINE U pair(const float* p, F& x, F& y, F& ax, F& ay) {
    x = load<F>(p); y = load<F>(p + W);
    const U ux = (U)x & 0x7fffffffu, uy = (U)y & 0x7fffffffu;
    ax = (F)ux; ay = (F)uy;
    return max32(ux, uy);
  }
  NG_INLINE U larger_of(U a, U b) { return max32(a, b); }
  NG_INLINE double largest(U key) {
    uint32_t most = 0;
    for (int j = 0; j < W; ++j) most = std::max<uint32_t>(most, key[j]);
    return float_of(most);
  }
};
template <> struct Reader<Bf16> {  // even lanes shift up, odd lanes are there already: order is free in a sum
  NG_INLINE U pair(const Bf16* p, F& x, F& y, F& ax, F& ay) {
    const U raw = load<U>(p);
    x = (F)(raw << 16); y = (F)(raw & 0xffff0000u);
    ax = (F)((U)x & 0x7fffffffu); ay = (F)(raw & 0x7fff0000u);
    return raw & 0x7fff7fffu;
  }
  NG_INLINE U larger_of(U a, U b) { return max16(a, b); }
  NG_INLINE double largest(U key) {
    uint32_t most = 0;
    for (int j = 0; j < W; ++j) most = std::max<uint32_t>(most, std::max<uint32_t>(key[j] & 0xffffu, key[j] >> 16));
    return float_of(most << 16);
  }
};
template <> struct Reader<Half> {
  NG_INLINE U pair(const Half* p, F& x, F& y, F& ax, F& ay) {
    x = halfs(p); y = halfs(p + W);
    ax = (F)((U)x & 0x7fffffffu); ay = (F)((U)y & 0x7fffffffu);
    return load<U>(p) & 0x7fff7fffu;
  }
  NG_INLINE U larger_of(U a, U b) { return max16(a, b); }
  NG_INLINE double largest(U key) {
    uint32_t most = 0;
    for (int j = 0; j < W; ++j) most = std::max<uint32_t>(most, std::max<uint32_t>(key[j] & 0xffffu, key[j] >> 16));
    return half_value((uint16_t)most);
  }
};

NG_INLINE double across(D v) {
  double s = 0;
  for (int j = 0; j < W / 2; ++j) s += v[j];
  return s;
}
template <class T> NG_INLINE void one_by_one(const T* p, int64_t n, int64_t step, Totals& t) {
  double sum = 0, mass = 0, most = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double x = value(p + i * step), a = std::fabs(x);
    sum += x; mass += a; most = larger(a, most);
  }
  Totals one;
  one.high = sum; one.mass = mass; one.largest = most;
  merge(t, one);
}

// At most CHUNK adjacent elements. Blocks: 16 float32 numbers a lane (four chains of four, then two additions), then
// float64. Chains are short and a block has largest magnitudes of its own, so that blocks need not wait for one another.
template <class T> NG_FN Totals blocked(const T* p, int64_t n) {
  D s0{}, s1{}, m0{}, m1{}, low, high;
  U key{};
  const T* end = p + n;
  for (; p + 16 * W <= end; p += 16 * W) {
    F x, y, ax, ay, sx[2], sy[2], mx[2], my[2];
    U most[2];
    prefetch<4 * W * sizeof(T)>(p);
    most[0] = Reader<T>::pair(p, sx[0], sy[0], mx[0], my[0]);
    most[1] = Reader<T>::pair(p + 2 * W, sx[1], sy[1], mx[1], my[1]);
#pragma GCC unroll 1
    for (int k = 2; k < 8; k += 2) {
      prefetch<4 * W * sizeof(T)>(p + 2 * k * W);
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        most[j] = Reader<T>::larger_of(most[j], Reader<T>::pair(p + 2 * (k + j) * W, x, y, ax, ay));
        sx[j] += x; sy[j] += y; mx[j] += ax; my[j] += ay;
      }
    }
    key = Reader<T>::larger_of(key, Reader<T>::larger_of(most[0], most[1]));
    halves((sx[0] + sy[0]) + (sx[1] + sy[1]), low, high); s0 += low; s1 += high;
    halves((mx[0] + my[0]) + (mx[1] + my[1]), low, high); m0 += low; m1 += high;
  }
  for (; p + 2 * W <= end; p += 2 * W) {
    F x, y, ax, ay;
    key = Reader<T>::larger_of(key, Reader<T>::pair(p, x, y, ax, ay));
    halves(x, low, high); s0 += low; s1 += high;
    halves(y, low, high); s0 += low; s1 += high;
    halves(ax, low, high); m0 += low; m1 += high;
    halves(ay, low, high); m0 += low; m1 += high;
  }
  Totals t;
  t.high = across(s0 + s1); t.mass = across(m0 + m1); t.largest = Reader<T>::largest(key);
  one_by_one(p, end - p, 1, t);
  return t;
}
template <class T> NG_FN Totals in_double(const T* p, int64_t n) {
  D s0{}, s1{}, m0{}, m1{}, low, high;
  U key{};
  const T* end = p + n;
  for (; p + 2 * W <= end; p += 2 * W) {
    F x, y, ax, ay;
    key = Reader<T>::larger_of(key, Reader<T>::pair(p, x, y, ax, ay));
    halves(x, low, high); s0 += low; s1 += high;
    halves(y, low, high); s0 += low; s1 += high;
    halves(ax, low, high); m0 += low; m1 += high;
    halves(ay, low, high); m0 += low; m1 += high;
  }
  Totals t;
  t.high = across(s0 + s1); t.mass = across(m0 + m1); t.largest = Reader<T>::largest(key);
  one_by_one(p, end - p, 1, t);
  return t;
}
NG_INLINE void two_sum_lanes(D& s, D& c, D x) {
  const D t = s + x, z = t - s;
  c += (s - (t - z)) + (x - z);
  s = t;
}
// Lanes of TwoSum; an overflow or a non-finite element makes the errors NaN, then plain sums say what IEEE says.
template <class T> NG_FN Totals in_pairs(const T* p, int64_t n) {
  D s[4] = {}, c[4] = {}, m[4] = {};
  double most = 0;
  const T* begin = p;
  const T* end = p + n;
  for (; p + 2 * W <= end; p += 2 * W) {
    double x[2 * W];
    for (int j = 0; j < 2 * W; ++j) x[j] = value(p + j);
    for (int k = 0; k < 4; ++k) {
      const D v = load<D>(x + k * (W / 2));
      const D a = (D)((I)v & 0x7fffffffffffffffll);
      two_sum_lanes(s[k], c[k], v);
      m[k] += a;
    }
    for (int j = 0; j < 2 * W; ++j) most = larger(std::fabs(x[j]), most);
  }
  Totals t;
  for (int k = 0; k < 4; ++k)
    for (int j = 0; j < W / 2; ++j) { add_to(t, s[k][j]); t.low += c[k][j]; t.mass += m[k][j]; }
  for (; p < end; ++p) {
    const double x = value(p);
    add_to(t, x); t.mass += std::fabs(x); most = larger(std::fabs(x), most);
  }
  t.largest = most;
  if (!std::isfinite(t.high + t.low)) {
    t.high = t.low = 0;
    for (p = begin; p < end; ++p) t.high += value(p);
  }
  return t;
}
NG_FN Totals doubles(const double* p, int64_t n) {
  D s[4] = {}, m[4] = {};
  I key[4] = {};
  const double* end = p + n;
  for (; p + 2 * W <= end; p += 2 * W)
    for (int k = 0; k < 4; ++k) {
      const D v = load<D>(p + k * (W / 2));
      const I a = (I)v & 0x7fffffffffffffffll;
      s[k] += v; m[k] += (D)a; key[k] = a > key[k] ? a : key[k];
    }
  Totals t;
  int64_t most = 0;
  for (int k = 0; k < 4; ++k)
    for (int j = 0; j < W / 2; ++j) most = std::max<int64_t>(most, key[k][j]);
  t.high = across((s[0] + s[1]) + (s[2] + s[3])); t.mass = across((m[0] + m[1]) + (m[2] + m[3]));
  std::memcpy(&t.largest, &most, 8);
  one_by_one(p, end - p, 1, t);
  return t;
}

NG_INLINE Totals chunk(const double* p, int64_t n, int mode) { return mode == TWO_FLOAT ? in_pairs(p, n) : doubles(p, n); }
template <class T> NG_INLINE Totals chunk(const T* p, int64_t n, int mode) {
  if (mode == TWO_FLOAT) return in_pairs(p, n);
  if (mode == DOUBLE) return in_double(p, n);
  const Totals t = blocked(p, n);
  return t.largest < 0x1p122 ? t : in_double(p, n);  // a block of float32 sums might have overflowed
}
template <class T> NG_FN void run_of(const T* p, int64_t n, int64_t step, int mode, Totals& t) {
  if (step != 1 && mode != TWO_FLOAT) return one_by_one(p, n, step, t);
  if (step != 1) {
    double held[512];
    for (int64_t i = 0; i < n; i += 512) {
      const int64_t many = std::min<int64_t>(512, n - i);
      for (int64_t j = 0; j < many; ++j) held[j] = value(p + (i + j) * step);
      merge(t, in_pairs(held, many));
    }
    return;
  }
  for (int64_t i = 0; i < n; i += CHUNK) merge(t, chunk(p + i, std::min(CHUNK, n - i), mode));
}
NG_FN void widen_bytes(const Byte* p, int number, int64_t n, int64_t step, float* out) {
  const float* values = byte_table[number & 7];
  for (int64_t i = 0; i < n; ++i) out[i] = values[p[i * step].bits];
}
NG_FN void run(const void* p, int dtype, int64_t n, int64_t step, int mode, Totals* t) {
  switch (dtype) {
    case F64: return run_of((const double*)p, n, step, mode, *t);
    case F32: return run_of((const float*)p, n, step, mode, *t);
    case BF16: return run_of((const Bf16*)p, n, step, mode, *t);
    case F16: return run_of((const Half*)p, n, step, mode, *t);
  }
  float held[2048];
  for (int64_t i = 0; i < n; i += 2048) {
    const int64_t many = std::min<int64_t>(2048, n - i);
    widen_bytes((const Byte*)p + i * step, dtype - BYTE, many, step, held);
    run_of(held, many, 1, mode, *t);
  }
}

template <class T> NG_FN void widen_of(const T* p, int64_t n, int64_t step, double* out) {
  if (step == 1) for (int64_t i = 0; i < n; ++i) out[i] = value(p + i);
  else for (int64_t i = 0; i < n; ++i) out[i] = value(p + i * step);
}
NG_FN void widen(const void* p, int dtype, int64_t n, int64_t step, double* out) {
  switch (dtype) {
    case F64: return widen_of((const double*)p, n, step, out);
    case F32: return widen_of((const float*)p, n, step, out);
    case BF16: return widen_of((const Bf16*)p, n, step, out);
    case F16:
      if (step == 1 && n % W == 0) {
        D low, high;
        for (int64_t i = 0; i < n; i += W) {
          halves(halfs((const Half*)p + i), low, high);
          std::memcpy(out + i, &low, sizeof low); std::memcpy(out + i + W / 2, &high, sizeof high);
        }
        return;
      }
      return widen_of((const Half*)p, n, step, out);
  }
  for (int64_t i = 0; i < n; ++i) out[i] = byte_table[(dtype - BYTE) & 7][((const Byte*)p)[i * step].bits];
}

// Adds `rows` rows of `many` columns, at most SPAN, `apart` from one another, to the totals of each column.
NG_FN void columns(const void* p, int dtype, int64_t rows, int64_t step, int64_t many, int64_t apart, int mode, Totals* t) {
  double x[SPAN], sum[SPAN], low[SPAN], mass[SPAN], most[SPAN];
  const int64_t size = dtype == F64 ? 8 : dtype == F32 ? 4 : dtype >= BYTE ? 1 : 2;
  for (int64_t c = 0; c < many; ++c) { sum[c] = t[c].high; low[c] = t[c].low; mass[c] = t[c].mass; most[c] = t[c].largest; }
  for (int64_t r = 0; r < rows; ++r) {
    widen((const char*)p + r * step * size, dtype, many, apart, x);
    if (mode == TWO_FLOAT) {
      for (int64_t c = 0; c < many; ++c) {
        double s, e;
        two_sum(sum[c], x[c], s, e);
        sum[c] = s;
        low[c] += std::fabs(e) < std::numeric_limits<double>::infinity() ? e : 0.0;
      }
    } else {
      for (int64_t c = 0; c < many; ++c) sum[c] += x[c];
    }
    for (int64_t c = 0; c < many; ++c) mass[c] += std::fabs(x[c]);
    for (int64_t c = 0; c < many; ++c) {
      const double a = std::fabs(x[c]);
      most[c] = a <= most[c] ? most[c] : (most[c] != most[c] ? most[c] : a);
    }
  }
  for (int64_t c = 0; c < many; ++c) { t[c].high = sum[c]; t[c].low = low[c]; t[c].mass = mass[c]; t[c].largest = most[c]; }
}

// A float32 sum in plain lanes and from the same registers its shadow: blocks of 64 float32 numbers a lane (four chains
// of sixteen, then two additions), eight blocks added up, then float64. The two share no addition: the plain lanes add
// sums of two.
struct Shadow { D sum{}, mass{}; };
template <class T> NG_FN F plain_piece(const T* p, int64_t n, Shadow& shadow) {  // at most PIECE W elements, in fours of W
  F r0{}, r1{}, s{}, m{};
  const F one = (F)((U){} + 0x3f800000u);
  const T* end = p + n;
  while (p < end) {
    F x, y, ax, ay, s0{}, s1{}, s2{}, s3{}, m0{}, m1{}, m2{}, m3{};
    const T* last = std::min(p + 64 * W, end);
#pragma GCC unroll 2
    for (; p < last; p += 4 * W) {
      prefetch<4 * W * sizeof(T)>(p);
      Reader<T>::pair(p, x, y, ax, ay);
      r0 = fused_sum(x + y, r0, one);
      s0 = fused_sum(x, s0, one); m0 += ax;
      s1 = fused_sum(y, s1, one); m1 += ay;
      Reader<T>::pair(p + 2 * W, x, y, ax, ay);
      r1 += x + y;
      s2 = fused_sum(x, s2, one); m2 += ax;
      s3 = fused_sum(y, s3, one); m3 += ay;
    }
    s += (s0 + s1) + (s2 + s3);
    m += (m0 + m1) + (m2 + m3);
  }
  D low, high;
  halves(s, low, high); shadow.sum += low + high;
  halves(m, low, high); shadow.mass += low + high;
  return r0 + r1;
}
template <class T> NG_FN F plain_lanes(const T* p, int64_t n, Shadow& shadow) {  // pieces, added up pairwise
  if (n <= PIECE * W) return plain_piece(p, n, shadow);
  const int64_t half = (n / 2 + PIECE * W - 1) / (PIECE * W) * (PIECE * W);
  const F first = plain_lanes(p, half, shadow);
  return first + plain_lanes(p + half, n - half, shadow);
}
template <class T> NG_FN float plain_sum(const T* p, int64_t n, Totals& to) {
  Shadow shadow;
  int64_t done = n / (4 * W) * (4 * W);
  F lanes = plain_lanes(p, done, shadow);
  if (done + 2 * W <= n) {
    F x, y, ax, ay;
    D low, high;
    Reader<T>::pair(p + done, x, y, ax, ay);
    done += 2 * W;
    lanes += x + y;
    for (const F& v : {x, y}) { halves(v, low, high); shadow.sum += low + high; }
    for (const F& v : {ax, ay}) { halves(v, low, high); shadow.mass += low + high; }
  }
  float result = 0;
  for (int j = 0; j < W; ++j) result += lanes[j];
  for (int64_t i = done; i < n; ++i) result += (float)value(p + i);
  Totals t;
  t.high = across(shadow.sum); t.mass = across(shadow.mass);
  if (!(t.mass < 0x1p126)) {  // a block of float32 sums might have overflowed
    run_of(p, n, 1, DOUBLE, to);
    return result;
  }
  one_by_one(p + done, n - done, 1, t);
  merge(to, t);
  return result;
}
NG_FN void checked(const void* p, int dtype, int64_t n, float* result, Totals* shadow) {
  *result = dtype == F32   ? plain_sum((const float*)p, n, *shadow)
            : dtype == BF16 ? plain_sum((const Bf16*)p, n, *shadow)
                            : plain_sum((const Half*)p, n, *shadow);
}

// Dot2 (Ogita, Rump and Oishi, SIAM J. Sci. Comput. 26(6), 2005, algorithm 5.3), in lanes.
NG_FN void dot(const void* px, int x_dtype, const void* py, int y_dtype, int64_t n, Totals* t) {
  constexpr int64_t BLOCK = 512;
  double x[BLOCK], y[BLOCK], s[8] = {}, c[8] = {}, mass = 0;
  const int64_t sx = x_dtype == F64 ? 8 : x_dtype == F32 ? 4 : x_dtype >= BYTE ? 1 : 2;
  const int64_t sy = y_dtype == F64 ? 8 : y_dtype == F32 ? 4 : y_dtype >= BYTE ? 1 : 2;
  double plain = 0;
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t many = std::min(BLOCK, n - first);
    widen((const char*)px + first * sx, x_dtype, many, 1, x);
    widen((const char*)py + first * sy, y_dtype, many, 1, y);
    for (int64_t i = many; i < (many + 7) / 8 * 8; ++i) x[i] = y[i] = 0.0;
    for (int64_t i = 0; i < many; i += 8)
      for (int j = 0; j < 8; ++j) {
        const double a = x[i + j], b = y[i + j], h = a * b;
        const double r = __builtin_fma(a, b, -h), q = s[j] + h, z = q - s[j];
        c[j] += ((s[j] - (q - z)) + (h - z)) + r;
        s[j] = q;
      }
    for (int64_t i = 0; i < many; ++i) { mass += std::fabs(x[i] * y[i]); plain += x[i] * y[i]; }
  }
  for (int j = 0; j < 8; ++j) { add_to(*t, s[j]); t->low += c[j]; }
  t->mass += mass;
  if (!std::isfinite(t->high + t->low)) { t->high = plain; t->low = 0; }
}

template <class T> NG_INLINE void scaled_row_of(double a, const T* p, int64_t n, double* value_row, double* mass_row) {
  const double size = std::fabs(a);
  for (int64_t i = 0; i < n; ++i) {
    const double x = value(p + i);
    value_row[i] += a * x;
    mass_row[i] += size * std::fabs(x);
  }
}
NG_FN void scaled_row(double a, const void* p, int dtype, int64_t n, double* value_row, double* mass_row) {
  switch (dtype) {
    case F64: return scaled_row_of(a, (const double*)p, n, value_row, mass_row);
    case F32: return scaled_row_of(a, (const float*)p, n, value_row, mass_row);
    case BF16: return scaled_row_of(a, (const Bf16*)p, n, value_row, mass_row);
  }
  double held[512];
  const int64_t size = dtype == F16 ? 2 : 1;
  for (int64_t i = 0; i < n; i += 512) {
    const int64_t many = std::min<int64_t>(512, n - i);
    widen((const char*)p + i * size, dtype, many, 1, held);
    scaled_row_of(a, held, many, value_row + i, mass_row + i);
  }
}
NG_FN void row_products(const double* a, const void* p, int dtype, int64_t n, double* both) {
  double held[512], sum[8] = {}, mass[8] = {};
  const int64_t size = dtype == F64 ? 8 : dtype == F32 ? 4 : dtype >= BYTE ? 1 : 2;
  for (int64_t i = 0; i < n; i += 512) {
    const int64_t many = std::min<int64_t>(512, n - i);
    widen((const char*)p + i * size, dtype, many, 1, held);
    int64_t k = 0;
    for (; k + 8 <= many; k += 8)
      for (int j = 0; j < 8; ++j) {
        const double h = a[i + k + j] * held[k + j];
        sum[j] += h; mass[j] += std::fabs(h);
      }
    for (; k < many; ++k) { const double h = a[i + k] * held[k]; sum[0] += h; mass[0] += std::fabs(h); }
  }
  both[0] = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
  both[1] = ((mass[0] + mass[1]) + (mass[2] + mass[3])) + ((mass[4] + mass[5]) + (mass[6] + mass[7]));
}

NG_FN void checksum(const Operand* a, const Operand* b, const Operand* c, const Operand* added, int64_t batch,
                    int64_t rows, int64_t columns, int64_t terms, double beta, const double* weights, Sums out) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const int64_t longest = std::max(columns, terms);
  // A whose rows lie closer together than its terms is transposed first: each line of memory is read once.
  const bool gathers = rows > 1 && std::llabs(a->row) < std::llabs(a->column);
  std::vector<double> row(std::max(longest, rows)), weighted(terms), sizes(terms), usable(rows), turned(gathers ? rows * terms : 0);
  double *wa = weighted.data(), *sa = sizes.data(), largest_square = 0, all_sizes = 0;
  for (int64_t k = 0; gathers && k < terms; ++k) {
    widen(at(*a, batch, 0, k), a->dtype, rows, a->row, row.data());
    for (int64_t m = 0; m < rows; ++m) turned[m * terms + k] = row[m];
  }
  for (int64_t m = 0; m < rows; ++m) {
    double* x = gathers ? &turned[m * terms] : row.data();
    if (!gathers) widen(at(*a, batch, m, 0), a->dtype, terms, a->column, x);
    double size = 0, square = 0;
    for (int64_t k = 0; k < terms; ++k) size += std::fabs(x[k]);
    usable[m] = size < inf;
    if (!(size < inf)) continue;
    for (int64_t k = 0; k < terms; ++k) square += x[k] * x[k];
    largest_square = larger(square, largest_square);
    const double w = weights[m];
    for (int64_t k = 0; k < terms; ++k) { wa[k] += w * x[k]; sa[k] += std::fabs(x[k]); }
  }
  double* x = row.data();
  for (int64_t k = 0; k < terms; ++k) all_sizes += sa[k];
  if (std::llabs(b->row) < std::llabs(b->column)) {
    for (int64_t n = 0; n < columns; ++n) {
      widen(at(*b, batch, 0, n), b->dtype, terms, b->row, x);
      double sums[4][4] = {};
      for (int64_t k = 0; k < terms; ++k) {
        const double size = std::fabs(x[k]);
        const int lane = k & 3;
        sums[0][lane] += wa[k] * x[k]; sums[1][lane] += sa[k] * size; sums[2][lane] += x[k] * x[k]; sums[3][lane] += size;
      }
      double* to[4] = {out.exact + n, out.size + n, out.norms + n, out.sizes + n};
      for (int kind = 0; kind < 4; ++kind) *to[kind] = (sums[kind][0] + sums[kind][1]) + (sums[kind][2] + sums[kind][3]);
    }
  } else {
    for (int64_t k = 0; k < terms; ++k) {
      widen(at(*b, batch, k, 0), b->dtype, columns, b->column, x);
      const double w = wa[k], s = sa[k];
      for (int64_t n = 0; n < columns; ++n) { out.exact[n] += w * x[n]; out.size[n] += s * std::fabs(x[n]); }
      for (int64_t n = 0; n < columns; ++n) { out.norms[n] += x[n] * x[n]; out.sizes[n] += std::fabs(x[n]); }
    }
  }
  for (int64_t n = 0; n < columns; ++n) {
    out.norms[n] = std::sqrt(largest_square * out.norms[n]);
    out.sizes[n] = all_sizes + (double)rows * out.sizes[n];
  }
  for (int64_t m = 0; m < rows; ++m) {
    if (!usable[m]) continue;
    const double w = weights[m];
    widen(at(*c, batch, m, 0), c->dtype, columns, c->column, x);
    for (int64_t n = 0; n < columns; ++n) {
      const double size = std::fabs(x[n]);
      out.computed[n] += w * x[n];
      out.results[n] += size < inf ? size : 0.0;
    }
    if (!added->data) continue;
    widen(at(*added, batch, m, 0), added->dtype, columns, added->column, x);
    for (int64_t n = 0; n < columns; ++n) x[n] *= beta;
    for (int64_t n = 0; n < columns; ++n) out.added_largest[n] = larger(std::fabs(x[n]), out.added_largest[n]);
    for (int64_t n = 0; n < columns; ++n) { out.added[n] += w * x[n]; out.added_size[n] += std::fabs(x[n]); }
  }
}

// Equation (1) of numguard.numerics.error_bounds.judgement on blocks of elements.
struct Ratios { double ratio[256], threshold[256], unknown[256]; };  // unknown: one, or zero
NG_INLINE void ratios(int64_t many, const double* c, const double* r, const double* bound, const double* error,
                      double unit, double eta, double limit, int rounds_output, int propagates, Ratios& out) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  if (rounds_output) {
    for (int64_t i = 0; i < many; ++i) {
      const double magnitude = std::fabs(r[i]), difference = std::fabs(c[i] - r[i]);
      double threshold = magnitude * (unit + (1.0 + unit) * 0x1p-51);
      threshold = threshold + ((1.0 + unit) * ((1.0 + 0x1p-8) * bound[i] + error[i]) + eta);
      const double share = difference / threshold;
      out.threshold[i] = threshold;
      out.unknown[i] = magnitude + threshold < limit ? 0.0 : 1.0;
      out.ratio[i] = difference != difference ? inf : share;
    }
  } else {
    for (int64_t i = 0; i < many; ++i) {
      out.threshold[i] = 0.0;
      out.unknown[i] = r[i] != r[i] ? 1.0 : 0.0;
      out.ratio[i] = c[i] == r[i] ? 0.0 : inf;
    }
  }
  if (propagates)
    for (int64_t i = 0; i < many; ++i)
      if (!(std::fabs(r[i]) < inf) && std::fabs(c[i]) < inf) { out.unknown[i] = 0.0; out.ratio[i] = inf; }
  for (int64_t i = 0; i < many; ++i) out.ratio[i] = out.unknown[i] != 0.0 ? 0.0 : out.ratio[i];
}
NG_INLINE const double* piece(const double* p, int64_t step, int64_t first, int64_t many, double* held) {
  if (step) return p + first;
  std::fill(held, held + many, *p);
  return held;
}
NG_FN void judge(int64_t n, const void* computed, int dtype, const double* exact, int64_t exact_step,
                 const double* strict, int64_t strict_step, const double* permissive, int64_t permissive_step,
                 const double* error, int64_t error_step, double unit, double eta, double limit, int rounds_output,
                 int propagates, double* out) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  constexpr int64_t BLOCK = 256;
  double c[BLOCK], hold_r[BLOCK], hold_b[BLOCK], hold_e[BLOCK];
  Ratios narrow, wide;
  const int64_t size = dtype == F64 ? 8 : dtype == F32 ? 4 : dtype >= BYTE ? 1 : 2;
  int64_t unknown = 0, wrong = 0, inaccurate = 0, overflowed = 0, at = 0;
  double worst = -1, worst_strict = -1, sum = 0, at_c = 0, at_r = 0, at_b = 0, at_s = 0;
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t many = std::min(BLOCK, n - first);
    widen((const char*)computed + first * size, dtype, many, 1, c);
    const double* r = piece(exact, exact_step, first, many, hold_r);
    const double* e = piece(error, error_step, first, many, hold_e);
    ratios(many, c, r, piece(strict, strict_step, first, many, hold_b), e, unit, eta, limit, rounds_output, propagates, narrow);
    if (permissive)
      ratios(many, c, r, piece(permissive, permissive_step, first, many, hold_b), e, unit, eta, limit, rounds_output, propagates, wide);
    const Ratios& judged = permissive ? wide : narrow;
    // Eight lanes each; a NaN is larger than everything, and what a comparison with it would lose is kept apart.
    double unknowns[8] = {}, wrongs[8] = {}, inaccurates[8] = {}, sums[8] = {}, tops[8], strictest[8], nans[8] = {}, strict_nans[8] = {};
    for (int j = 0; j < 8; ++j) tops[j] = strictest[j] = -1.0;
    const auto take = [&](int64_t i, int j) __attribute__((always_inline)) {
      const double ratio = judged.ratio[i], own = narrow.ratio[i], signed_ratio = c[i] >= r[i] ? own : -own;
      unknowns[j] += judged.unknown[i];
      wrongs[j] += ratio > 1.0 ? 1.0 : 0.0;
      inaccurates[j] += own > 1.0 ? 1.0 : 0.0;
      sums[j] += std::fabs(signed_ratio) < inf ? signed_ratio : 0.0;
      tops[j] = ratio > tops[j] ? ratio : tops[j];
      strictest[j] = own > strictest[j] ? own : strictest[j];
      nans[j] += ratio != ratio ? 1.0 : 0.0;
      strict_nans[j] += own != own ? 1.0 : 0.0;
    };
    int64_t i = 0;
    for (; i + 8 <= many; i += 8)
      for (int j = 0; j < 8; ++j) take(i + j, j);
    for (; i < many; ++i) take(i, 0);
    double top = -1.0, found_unknown = 0, found_nans = 0;
    for (int j = 0; j < 8; ++j) {
      found_unknown += unknowns[j]; found_nans += nans[j];
      wrong += (int64_t)wrongs[j]; inaccurate += (int64_t)inaccurates[j]; sum += sums[j];
      top = larger(tops[j], top);
      worst_strict = larger(strict_nans[j] > 0.0 ? std::numeric_limits<double>::quiet_NaN() : strictest[j], worst_strict);
    }
    unknown += (int64_t)found_unknown;
    for (int64_t k = 0; found_unknown > 0.0 && k < many; ++k)
      if (judged.unknown[k] != 0.0 && std::fabs(r[k]) < std::min(limit, inf) && !(std::fabs(c[k]) < inf)) ++overflowed;
    if (!(top > worst) && found_nans == 0.0) continue;
    for (int64_t k = 0; k < many; ++k) {
      const double ratio = judged.ratio[k];
      if (ratio > worst || (ratio != ratio && worst == worst)) {
        worst = ratio; at = first + k; at_c = c[k]; at_r = r[k]; at_b = judged.threshold[k]; at_s = narrow.threshold[k];
      }
    }
  }
  const double numbers[13] = {(double)n, (double)unknown, (double)wrong, (double)inaccurate, (double)overflowed, worst,
                              worst_strict, (double)at, at_c, at_r, at_b, at_s, sum / (double)n};
  std::memcpy(out, numbers, sizeof numbers);
}

// sum_i word_i Z(i / 1024) V(i % 1024) modulo 2^64 with odd weights: the same as the Triton kernel's.
NG_FN uint64_t hash(const uint32_t* p, int64_t n, const uint64_t* lanes) {
  uint64_t total = 0;
  for (int64_t block = 0; block * 1024 < n; ++block) {
    const uint32_t* words = p + block * 1024;
    const int64_t many = std::min<int64_t>(1024, n - block * 1024);
    uint64_t sum = 0;
    for (int64_t i = 0; i < many; ++i) sum += (uint64_t)words[i] * lanes[i];
    total += sum * (uint64_t)(mixed((uint32_t)block) | 1u);
  }
  return total;
}

// One row of a layer norm in float64: statistics, results and bounds, as numguard's normalisation_bounds has them.
NG_INLINE double total_of(const double* p, int64_t n) {
  double s[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; ++j) s[j] += p[i + j];
  for (; i < n; ++i) s[0] += p[i];
  return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}
template <class Term> NG_INLINE double summed(int64_t n, double* held, const Term& term) {
  for (int64_t i = 0; i < n; ++i) held[i] = term(i);
  return total_of(held, n);
}
NG_FN void normalise(int64_t n, const double* x, const double* weight, const double* bias, const Normalising& by,
                     double* found, Normalised out) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const double unit = by.unit, count = (double)n;
  double* held = out.exact;  // room for the terms until the results come
  const double mean = total_of(x, n) / count, magnitude = summed(n, held, [&](int64_t i) { return std::fabs(x[i]); }) / count;
  const double variance = summed(n, held, [&](int64_t i) { const double d = x[i] - mean; return d * d; }) / count;
  const double rstd = 1.0 / std::sqrt(variance + by.eps), second = variance + mean * mean, grown = by.height * unit;
  double mean_bound = grown * magnitude + 4.0 * unit * std::fabs(mean) + (by.height + 1.0) * by.eta;
  if (!(4.0 * count * magnitude < by.limit)) mean_bound = inf;
  const double variance_bound = 2.0 * grown * (variance + std::sqrt(variance * second)) + grown * grown * second +
                                4.0 * unit * variance + mean_bound * mean_bound + 2.0 * by.tiny;
  const double share = variance_bound / (variance + by.eps);
  double relative = (share < 0.75 ? 1.0 / std::sqrt(1.0 - share) - 1.0 : inf) + 4.0 * unit;
  if (!(4.0 * count * second < by.limit)) relative = inf;
  found[0] = mean; found[1] = mean_bound; found[2] = rstd; found[3] = rstd * relative;
  const double outer = rstd * (1.0 + relative), fixed = outer * (mean_bound + 4.0 * unit * std::fabs(mean));
  const double by_x = 4.0 * unit * outer, by_centred = rstd * (relative + 9.0 * unit);
  for (int64_t i = 0; i < n; ++i) {
    const double centred = x[i] - mean, w = weight ? weight[i] : 1.0, b = bias ? bias[i] : 0.0;
    const double bound = std::fabs(w) * (fixed + by_x * std::fabs(x[i]) + std::fabs(centred) * by_centred + by.tiny) +
                         3.0 * unit * std::fabs(b);
    out.exact[i] = centred * rstd * w + b;
    out.strict[i] = bound;
    out.error[i] = bound * by.shadow;
  }
}
// One row of the gradient of x; `t` holds dy and becomes dy w. Centred form and that of ATen, a t + b x + c.
NG_FN void normalise_back(int64_t n, double* t, const double* x, const double* weight, double mean, double rstd,
                          const Normalising& by, Normalised out) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const double unit = by.unit, count = (double)n, offset = std::fabs(mean);
  double *held = out.exact, *xhat = out.error;
  if (weight) for (int64_t i = 0; i < n; ++i) t[i] *= weight[i];
  for (int64_t i = 0; i < n; ++i) xhat[i] = (x[i] - mean) * rstd;
  const double sum_t = total_of(t, n), mass_t = summed(n, held, [&](int64_t i) { return std::fabs(t[i]); });
  const double sum_tx = summed(n, held, [&](int64_t i) { return t[i] * x[i]; });
  const double mass_tx = summed(n, held, [&](int64_t i) { return std::fabs(t[i] * x[i]); });
  const double sum_txhat = summed(n, held, [&](int64_t i) { return t[i] * xhat[i]; });
  const double mass_txhat = summed(n, held, [&](int64_t i) { return std::fabs(t[i] * xhat[i]); });
  const double first = sum_t / count, second = sum_txhat / count, scale = rstd / count;
  const double spread = 4.0 * unit * rstd * (mass_tx + offset * mass_t) / count;
  const double fixed = (count + 2.0) * unit / count * mass_t + 6.0 * unit * std::fabs(first);
  const double by_xhat = (count + 3.0) * unit / count * mass_txhat + spread + 6.0 * unit * std::fabs(second);
  const double sum_bound = (count + 2.0) * unit * mass_t, product_bound = (count + 3.0) * unit * mass_tx;
  const double cube = rstd * rstd * scale, slope = (sum_t * mean - sum_tx) * cube;
  const double slope_bound = cube * (offset * sum_bound + product_bound + 8.0 * unit * (std::fabs(sum_t * mean) + std::fabs(sum_tx)));
  const double constant = -slope * mean - sum_t * scale;
  const double constant_bound = offset * slope_bound + scale * sum_bound +
                                5.0 * unit * (std::fabs(slope * mean) + std::fabs(sum_t * scale) + std::fabs(constant));
  const double by_x = slope_bound + 5.0 * unit * std::fabs(slope), growth = (1.0 + rstd) * (1.0 + rstd) * (1.0 + rstd);
  const double smallest = 8.0 * by.tiny * unit * growth;
  const bool centred_fits = 4.0 * (mass_t + mass_txhat) < by.limit;
  const bool raw_fits = (mass_tx + offset * mass_t) * 4.0 * growth < by.limit;
  for (int64_t i = 0; i < n; ++i) {
    const double size = std::fabs(x[i]) + offset, underflow = smallest * (1.0 + size);
    const double centred = rstd * (fixed + 4.0 * unit * rstd * size * std::fabs(second) + std::fabs(xhat[i]) * by_xhat +
                                   6.0 * unit * std::fabs(t[i])) + underflow;
    const double strict = centred_fits ? centred : inf;
    const double raw = std::fabs(x[i]) * by_x + constant_bound + 5.0 * unit * std::fabs(rstd * t[i]) + underflow;
    out.exact[i] = rstd * (t[i] - first - xhat[i] * second);
    out.strict[i] = strict;
    out.permissive[i] = raw_fits ? larger(strict, raw) : inf;
    out.error[i] = strict * by.shadow;
  }
}

// Adds one row to five sums of every column: dy xhat, dy, their magnitudes, and |dy| rstd (|x| + |mean|).
NG_FN void weigh(int64_t n, const double* dy, const double* x, double mean, double rstd, double* sums) {
  double *terms = sums, *grads = sums + n, *masses = sums + 2 * n, *sizes = sums + 3 * n, *spread = sums + 4 * n;
  const double offset = std::fabs(mean), scale = std::fabs(rstd);
  for (int64_t i = 0; i < n; ++i) {
    const double size = std::fabs(dy[i]), term = dy[i] * ((x[i] - mean) * rstd);
    terms[i] += term; grads[i] += dy[i]; masses[i] += std::fabs(term); sizes[i] += size;
    spread[i] += size * scale * (std::fabs(x[i]) + offset);
  }
}

// Attention. Scores of one query, -inf where masked, with their errors; returns whether one of them may have overflowed.
NG_INLINE void inner_products(const double* a, const double* rows, int64_t many, int64_t n, double* values, double* masses) {
  for (int64_t r = 0; r < many; ++r) {
    const double* p = rows + r * n;
    double sum[8] = {}, mass[8] = {};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
      for (int j = 0; j < 8; ++j) { const double h = a[i + j] * p[i + j]; sum[j] += h; mass[j] += std::fabs(h); }
    for (; i < n; ++i) { const double h = a[i] * p[i]; sum[0] += h; mass[0] += std::fabs(h); }
    values[r] = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
    masses[r] = ((mass[0] + mass[1]) + (mass[2] + mass[3])) + ((mass[4] + mass[5]) + (mass[6] + mass[7]));
  }
}
NG_INLINE bool score(int64_t keys, int64_t features, const Factors& of, const Attending& by, double* values, double* errors) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const AttentionModel& model = by.strict;
  const double relative = ((double)features + 5.0) * model.unit + 2.0 * model.factor_unit, size = std::fabs(by.scale);
  const double least = (double)features * model.tiny;
  inner_products(of.query, of.keys, keys, features, values, errors);
  bool overflows = false;
  for (int64_t k = 0; k < keys; ++k) {
    overflows |= !(errors[k] < by.mass_limit);
    double value = values[k] * by.scale, mass = errors[k] * size;
    if (of.mask && of.truth && of.mask[k] == 0.0) value = -inf;
    if (of.mask && !of.truth) { value += of.mask[k]; mass += std::fabs(of.mask[k]); }
    if (of.places[k] > of.visible) value = -inf;
    if (value == -inf) mass = 0.0;
    values[k] = value;
    errors[k] = mass > 0.0 ? relative * mass + least : 0.0;
  }
  return overflows;
}
NG_INLINE double moved(double exponent, double delta, double value) {
  if (exponent == -std::numeric_limits<double>::infinity()) return 0.0;
  return delta < 1.0 ? value * std::expm1(delta) : std::exp(exponent + delta);
}
NG_FN void accumulate(int64_t n, double left, double error, const double* right, double* value, double* error_mass, double* mass) {
  const double size = std::fabs(left);
  for (int64_t i = 0; i < n; ++i) {
    const double x = std::fabs(right[i]);
    value[i] += left * right[i]; error_mass[i] += error * x; mass[i] += size * x;
  }
}
NG_FN void attend(int64_t keys, int64_t features, int64_t width, const Factors& of, const Attending& by, const double* floor,
                  double* held, double* exact, double* strict, double* logarithm) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const AttentionModel& model = by.strict;
  double *values = held, *errors = held + keys, *terms = held + 2 * keys, *spoils = held + 3 * keys;
  score(keys, features, of, by, values, errors);
  double peak = -inf, total = 0, lost = 0;
  for (int64_t k = 0; k < keys; ++k) peak = values[k] <= peak ? peak : (peak != peak ? peak : values[k]);
  for (int64_t k = 0; k < keys; ++k) {
    const double shifted = values[k] - peak;
    const double delta = errors[k] + model.unit * (shifted == -inf ? 0.0 : -shifted) + model.exponential;
    terms[k] = std::exp(shifted);
    spoils[k] = moved(shifted, delta, terms[k]);
    total += terms[k]; lost += spoils[k];
  }
  const double relative = lost / total + by.key_height * model.unit;
  const double rounding = (by.key_height + 4.0) * model.unit + model.weight_unit + model.factor_unit;
  for (int64_t f = 0; f < width; ++f) exact[f] = strict[f] = 0.0;
  for (int64_t k = 0; k < keys; ++k) {
    const double weight = terms[k] / total;
    const double bound = relative < 0.5 ? (spoils[k] / total + weight * relative) / (1.0 - relative) : inf;
    const double factor = bound + (weight + bound) * rounding;
    const double* v = of.values + k * width;
    for (int64_t f = 0; f < width; ++f) { exact[f] += weight * v[f]; strict[f] += factor * std::fabs(v[f]); }
  }
  for (int64_t f = 0; f < width; ++f) strict[f] += floor[f];
  const double log_total = std::log(total);
  logarithm[0] = peak + log_total;
  logarithm[1] = relative < 0.5 ? -std::log1p(-relative) + 5.0 * model.unit * std::fabs(log_total) : inf;
}
// P and dS of one query with their errors, on the saved output and logsumexp.
NG_FN void differentiate(int64_t keys, int64_t features, int64_t width, const Factors& of, const double* grad, double inner,
                         double inner_mass, double logarithm, const Attending& by, double* held, Pairs out) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const AttentionModel& model = by.strict;
  double *values = held, *errors = held + keys, *differences = held + 2 * keys, *masses = held + 3 * keys;
  const bool overflows = score(keys, features, of, by, values, errors), known = std::fabs(logarithm) < inf;
  inner_products(grad, of.values, keys, width, differences, masses);
  const double relative = ((double)width + 4.0) * model.unit + 2.0 * model.factor_unit, least = (double)width * model.tiny;
  for (int64_t k = 0; k < keys; ++k) {
    const bool masked = values[k] == -inf;
    const double exponent = known ? (masked ? -inf : values[k] - logarithm) : std::numeric_limits<double>::quiet_NaN();
    const double size = masked ? 0.0 : std::fabs(values[k]) + std::fabs(logarithm);
    const double delta = errors[k] + model.unit * size + model.exponential + 2.0 * model.unit;
    const double weight = std::exp(exponent), spoiled = overflows ? inf : moved(exponent, delta, weight);
    const double difference = differences[k] - inner, lost = relative * (masses[k] + inner_mass) + least;
    const double value = std::fabs(weight * difference);
    const double bound = spoiled * (std::fabs(difference) + lost) + weight * lost + 3.0 * model.unit * value;
    out.weights[k] = weight; out.weights_error[k] = spoiled; out.scores[k] = weight * difference;
    out.scores_error[k] = !overflows && 1.05 * value < model.weight_largest ? bound : inf;
  }
}

// Elementwise operators: the value, and the error for each of the two models of rounding.
template <class Error>
NG_INLINE void erring(int64_t n, const Pointwise& by, double* strict, double* permissive, const Error& error) {
  for (int64_t i = 0; i < n; ++i) strict[i] = error(i, by.strict);
  if (permissive) for (int64_t i = 0; i < n; ++i) permissive[i] = error(i, by.permissive);
}
NG_FN void pointwise(int64_t n, const double* const* terms, const Pointwise& by, double* v, double* strict, double* permissive) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const double *a = terms[0], *b = terms[1], *c = terms[2];
  const double f = by.factor, size = std::fabs(f);
  const bool constant = by.has_constant, scaled = constant || size != 1.0;
  switch (by.rule) {
    case ADD:
    case SUB: {
      if (by.rule == ADD) for (int64_t i = 0; i < n; ++i) v[i] = a[i] + f * b[i];
      else for (int64_t i = 0; i < n; ++i) v[i] = a[i] - f * b[i];
      return erring(n, by, strict, permissive, [&](int64_t i, const Roundings& r) {
        const double term = std::fabs(f * b[i]);
        double error = r.store * std::fabs(v[i]) + r.tiny;
        if (scaled) error = error + (2.0 * r.unit + 2.0 * r.constant) * term + r.constant_floor * (1.0 + size + std::fabs(b[i]));
        return term < r.largest ? error : inf;
      });
    }
    case MUL: {
      for (int64_t i = 0; i < n; ++i) v[i] = a[i] * b[i];
      return erring(n, by, strict, permissive, [&](int64_t i, const Roundings& r) {
        const double value = std::fabs(v[i]), error = r.store * value + r.tiny;
        return constant ? error + (2.0 * r.unit + 2.0 * r.constant) * value + r.constant_floor * std::fabs(a[i]) : error;
      });
    }
    case DIV: {
      for (int64_t i = 0; i < n; ++i) v[i] = a[i] / b[i];
      return erring(n, by, strict, permissive, [&](int64_t i, const Roundings& r) {
        const double value = std::fabs(v[i]), error = r.store * value + r.tiny, divisor = std::fabs(b[i]);
        if (!constant) return error;
        const bool fits = divisor < r.largest && 1.0 / divisor < r.largest;
        return error + (fits ? 3.0 * r.unit + 2.0 * r.constant + r.constant_floor / divisor : inf) * value;
      });
    }
    case LERP: {
      for (int64_t i = 0; i < n; ++i) v[i] = size < 0.5 ? a[i] + f * (b[i] - a[i]) : b[i] - (b[i] - a[i]) * (1.0 - f);
      const double mass = size + std::fabs(1.0 - f) * (size >= 0.5 ? 1.0 : 0.0);
      return erring(n, by, strict, permissive, [&](int64_t i, const Roundings& r) {
        const double gap = std::fabs(b[i] - a[i]);
        const double error = (4.0 * r.unit + 2.0 * r.constant) * mass * gap + r.constant_floor * gap + r.store * std::fabs(v[i]) + 3.0 * r.tiny;
        return std::fabs(a[i]) + std::fabs(b[i]) < r.largest ? error : inf;
      });
    }
    case ADDCMUL:
    case ADDCDIV: {
      const bool divides = by.rule == ADDCDIV;
      if (divides) for (int64_t i = 0; i < n; ++i) v[i] = a[i] + f * b[i] / c[i];
      else for (int64_t i = 0; i < n; ++i) v[i] = a[i] + f * b[i] * c[i];
      return erring(n, by, strict, permissive, [&](int64_t i, const Roundings& r) {
        const double first = std::fabs(b[i]), second = divides ? 1.0 / std::fabs(c[i]) : std::fabs(c[i]);
        const double pair = first * second, by_factor = size * first, beside = divides ? 0.0 : first;
        double error = (4.0 * r.unit + 3.0 * r.constant) * by_factor * second + r.constant_floor * (1.0 + pair + beside + second);
        error = error + r.store * std::fabs(v[i]) + r.tiny * (2.0 + beside + second + size);
        return pair + by_factor + by_factor * second < r.largest ? error : inf;
      });
    }
    default: {
      for (int64_t i = 0; i < n; ++i) v[i] = std::sqrt(a[i]);
      return erring(n, by, strict, permissive, [&](int64_t i, const Roundings& r) {
        return (std::fabs(a[i]) < r.tiny ? 1.0 : 2.0 * r.unit + r.store) * std::fabs(v[i]) + r.tiny;
      });
    }
  }
}

#define NG_NAME_(x) #x
#define NG_NAME(x) NG_NAME_(x)
static const Table table = {NG_NAME(NG_PASS), run, columns, checked, widen, dot, scaled_row, row_products, judge, checksum, hash,
                            normalise, normalise_back, weigh, attend, differentiate, accumulate, pointwise};
#undef NG_NAME
#undef NG_NAME_
#undef NG_FN
#undef NG_INLINE

}  // namespace NG_PASS
}  // namespace twin
#endif
