// Sixteen floats, whatever the machine calls them: one AVX-512 register, two AVX ones, or four
// vectors of the compiler's own. GPT2FAST_ISA names the namespace that this compilation fills.
//
// No standard-library templates here or in the kernel files: the linker keeps one copy of a
// template, and it could be the one compiled for a CPU that this machine does not have.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if !defined(GPT2FAST_ISA)
#error "GPT2FAST_ISA must name the instruction set this file is compiled for"
#endif

#define GPT2FAST_INLINE static inline __attribute__((always_inline))
// On loops over arrays of V16 that should live in registers.
#if defined(__clang__)
#define GPT2FAST_UNROLL _Pragma("unroll")
#else
#define GPT2FAST_UNROLL _Pragma("GCC unroll 16")
#endif

namespace gpt2fast {
namespace GPT2FAST_ISA {

#if defined(__AVX512F__)

struct V16 {
  __m512 v;
};
GPT2FAST_INLINE V16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
GPT2FAST_INLINE void store(float* p, V16 a) { _mm512_storeu_ps(p, a.v); }
GPT2FAST_INLINE V16 splat(float x) { return {_mm512_set1_ps(x)}; }
GPT2FAST_INLINE V16 operator+(V16 a, V16 b) { return {_mm512_add_ps(a.v, b.v)}; }
GPT2FAST_INLINE V16 operator-(V16 a, V16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
GPT2FAST_INLINE V16 operator*(V16 a, V16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
GPT2FAST_INLINE V16 operator/(V16 a, V16 b) { return {_mm512_div_ps(a.v, b.v)}; }
GPT2FAST_INLINE V16 fma(V16 a, V16 b, V16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
GPT2FAST_INLINE V16 max(V16 a, V16 b) { return {_mm512_max_ps(a.v, b.v)}; }
GPT2FAST_INLINE V16 min(V16 a, V16 b) { return {_mm512_min_ps(a.v, b.v)}; }
// a < b ? yes : no, lane by lane
GPT2FAST_INLINE V16 select_less(V16 a, V16 b, V16 yes, V16 no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
// a * 2^n, n being the low bits of the representation of `n_bits`
GPT2FAST_INLINE V16 scale_by_power(V16 a, V16 n_bits) {
  return {_mm512_castsi512_ps(_mm512_add_epi32(
      _mm512_castps_si512(a.v), _mm512_slli_epi32(_mm512_castps_si512(n_bits.v), 23)))};
}

#elif defined(__AVX2__)

struct V16 {
  __m256 lo, hi;
};
GPT2FAST_INLINE V16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
GPT2FAST_INLINE void store(float* p, V16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
GPT2FAST_INLINE V16 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
GPT2FAST_INLINE V16 operator+(V16 a, V16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
GPT2FAST_INLINE V16 operator-(V16 a, V16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
GPT2FAST_INLINE V16 operator*(V16 a, V16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
GPT2FAST_INLINE V16 operator/(V16 a, V16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
GPT2FAST_INLINE V16 fma(V16 a, V16 b, V16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
GPT2FAST_INLINE V16 max(V16 a, V16 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
GPT2FAST_INLINE V16 min(V16 a, V16 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
GPT2FAST_INLINE V16 select_less(V16 a, V16 b, V16 yes, V16 no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
GPT2FAST_INLINE __m256 scale_half(__m256 a, __m256 n_bits) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(_mm256_castps_si256(n_bits), 23)));
}
GPT2FAST_INLINE V16 scale_by_power(V16 a, V16 n_bits) {
  return {scale_half(a.lo, n_bits.lo), scale_half(a.hi, n_bits.hi)};
}

#else

typedef float F4 __attribute__((vector_size(16)));
typedef int32_t I4 __attribute__((vector_size(16)));
typedef uint32_t U4 __attribute__((vector_size(16)));

struct V16 {
  F4 q[4];
};
#define GPT2FAST_EACH(expression)                    \
  V16 r;                                             \
  for (int i = 0; i < 4; ++i) r.q[i] = (expression); \
  return r
GPT2FAST_INLINE V16 load(const float* p) {
  V16 r;
  memcpy(&r, p, sizeof(r));
  return r;
}
GPT2FAST_INLINE void store(float* p, V16 a) { memcpy(p, &a, sizeof(a)); }
GPT2FAST_INLINE V16 splat(float x) { GPT2FAST_EACH((F4{x, x, x, x})); }
GPT2FAST_INLINE V16 operator+(V16 a, V16 b) { GPT2FAST_EACH(a.q[i] + b.q[i]); }
GPT2FAST_INLINE V16 operator-(V16 a, V16 b) { GPT2FAST_EACH(a.q[i] - b.q[i]); }
GPT2FAST_INLINE V16 operator*(V16 a, V16 b) { GPT2FAST_EACH(a.q[i] * b.q[i]); }
GPT2FAST_INLINE V16 operator/(V16 a, V16 b) { GPT2FAST_EACH(a.q[i] / b.q[i]); }
// Two roundings: a fused one would be a library call where the CPU has no such instruction.
GPT2FAST_INLINE V16 fma(V16 a, V16 b, V16 c) { GPT2FAST_EACH(a.q[i] * b.q[i] + c.q[i]); }
GPT2FAST_INLINE F4 blend(I4 mask, F4 yes, F4 no) {
  return (F4)((mask & (I4)yes) | (~mask & (I4)no));
}
GPT2FAST_INLINE V16 max(V16 a, V16 b) { GPT2FAST_EACH(blend(a.q[i] > b.q[i], a.q[i], b.q[i])); }
GPT2FAST_INLINE V16 min(V16 a, V16 b) { GPT2FAST_EACH(blend(a.q[i] < b.q[i], a.q[i], b.q[i])); }
GPT2FAST_INLINE V16 select_less(V16 a, V16 b, V16 yes, V16 no) {
  GPT2FAST_EACH(blend(a.q[i] < b.q[i], yes.q[i], no.q[i]));
}
GPT2FAST_INLINE V16 scale_by_power(V16 a, V16 n_bits) {
  GPT2FAST_EACH((F4)((U4)a.q[i] + ((U4)n_bits.q[i] << 23)));
}

#endif

// Keeps an accumulator in its register from here on. GCC otherwise reorders the sums of a tile
// until it runs out of registers, and half of the accumulators live in memory.
#if defined(__AVX512F__)
GPT2FAST_INLINE void pin(V16& a) { asm volatile("" : "+v"(a.v)); }
#elif defined(__AVX2__)
GPT2FAST_INLINE void pin(V16& a) { asm volatile("" : "+x"(a.lo), "+x"(a.hi)); }
#else
GPT2FAST_INLINE void pin(V16&) {}
#endif

// max(a, b) and min(a, b) return b where either is NaN, on every instruction set.

GPT2FAST_INLINE V16 load_partial(const float* p, int count, float fill) {
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = i < count ? p[i] : fill;
  return load(lanes);
}
GPT2FAST_INLINE void store_partial(float* p, V16 a, int count) {
  float lanes[16];
  store(lanes, a);
  memcpy(p, lanes, static_cast<size_t>(count) * sizeof(float));
}
// Reductions across lanes halve the vector, in the same order on every instruction set.
#if defined(__AVX2__)
#if defined(__AVX512F__)
GPT2FAST_INLINE __m256 low_half(V16 a) { return _mm512_castps512_ps256(a.v); }
GPT2FAST_INLINE __m256 high_half(V16 a) { return _mm512_extractf32x8_ps(a.v, 1); }
#else
GPT2FAST_INLINE __m256 low_half(V16 a) { return a.lo; }
GPT2FAST_INLINE __m256 high_half(V16 a) { return a.hi; }
#endif
GPT2FAST_INLINE float sum(V16 a) {
  const __m256 eight = _mm256_add_ps(low_half(a), high_half(a));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
GPT2FAST_INLINE float max_lane(V16 a) {
  const __m256 eight = _mm256_max_ps(low_half(a), high_half(a));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
#else
GPT2FAST_INLINE float sum(V16 a) {
  float lanes[16];
  store(lanes, a);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}
GPT2FAST_INLINE float max_lane(V16 a) {
  float lanes[16];
  store(lanes, a);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i)
      lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  }
  return lanes[0];
}
#endif

// e^x to 2 ulp; 0 below -87. Range reduction by ln 2 and the polynomial of Cephes' expf.
GPT2FAST_INLINE V16 exp(V16 x) {
  const V16 shifter = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  // x second: a NaN passes through both, and through the selection below, instead of vanishing.
  const V16 clamped = min(splat(88.0f), max(splat(-87.0f), x));
  const V16 n_bits = fma(clamped, splat(1.44269504088896341f), shifter);
  const V16 n = n_bits - shifter;
  V16 r = fma(n, splat(-0.693359375f), clamped);
  r = fma(n, splat(2.12194440e-4f), r);
  V16 p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + splat(1.0f);
  return select_less(x, splat(-87.0f), splat(0.0f), scale_by_power(p, n_bits));
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
