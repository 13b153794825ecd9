// Sixteen 32-bit integers, one for each output of a panel, and what turns them and bfloat16 into
// floats.
#pragma once

#include "kernels/vec.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

#if defined(__AVX512VNNI__)

struct I16 {
  __m512i v;
};
GPT2FAST_INLINE I16 zero_ints() { return {_mm512_setzero_si512()}; }
GPT2FAST_INLINE V16 to_float(I16 a, int32_t offset) {
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(a.v, _mm512_set1_epi32(offset)))};
}

#elif defined(__AVX2__)

struct I16 {
  __m256i lo, hi;
};
GPT2FAST_INLINE void pin(I16& a) { asm volatile("" : "+x"(a.lo), "+x"(a.hi)); }
GPT2FAST_INLINE I16 zero_ints() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
// a - offset
GPT2FAST_INLINE V16 to_float(I16 a, int32_t offset) {
  const __m256i o = _mm256_set1_epi32(offset);
  const __m256 lo = _mm256_cvtepi32_ps(_mm256_sub_epi32(a.lo, o));
  const __m256 hi = _mm256_cvtepi32_ps(_mm256_sub_epi32(a.hi, o));
#if defined(__AVX512F__)
  return {_mm512_insertf32x8(_mm512_castps256_ps512(lo), hi, 1)};
#else
  return {lo, hi};
#endif
}

#else

struct I16 {
  int32_t v[16];
};
GPT2FAST_INLINE I16 zero_ints() {
  I16 r;
  memset(&r, 0, sizeof(r));
  return r;
}
GPT2FAST_INLINE V16 to_float(I16 a, int32_t offset) {
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = static_cast<float>(a.v[i] - offset);
  return load(lanes);
}

#endif

// To the nearest integers, ties to even; |a| must be below 2^22.
#if defined(__AVX512VNNI__)
GPT2FAST_INLINE I16 to_ints(V16 a) { return {_mm512_cvtps_epi32(a.v)}; }
GPT2FAST_INLINE I16 operator+(I16 a, I16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
GPT2FAST_INLINE int32_t sum(I16 a) { return _mm512_reduce_add_epi32(a.v); }
// The low bytes, and those of the magnitudes.
GPT2FAST_INLINE void store_bytes(I16 a, int8_t* values, int8_t* magnitudes) {
  const __m128i bytes = _mm512_cvtepi32_epi8(a.v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(values), bytes);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(magnitudes), _mm_abs_epi8(bytes));
}
#elif defined(__AVX2__)
GPT2FAST_INLINE I16 to_ints(V16 a) {
#if defined(__AVX512F__)
  const __m512i ints = _mm512_cvtps_epi32(a.v);
  return {_mm512_castsi512_si256(ints), _mm512_extracti64x4_epi64(ints, 1)};
#else
  return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
#endif
}
GPT2FAST_INLINE I16 operator+(I16 a, I16 b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
GPT2FAST_INLINE int32_t sum(I16 a) {
  const __m256i eight = _mm256_add_epi32(a.lo, a.hi);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  return _mm_cvtsi128_si32(four);
}
GPT2FAST_INLINE void store_bytes(I16 a, int8_t* values, int8_t* magnitudes) {
  // Packing works within halves of a register: the middle quarters come out exchanged.
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(values), bytes);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(magnitudes), _mm_abs_epi8(bytes));
}
#else
GPT2FAST_INLINE I16 to_ints(V16 a) {
  const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const V16 shifted = a + splat(shifter);
  I16 r;
  int32_t origin;
  memcpy(&origin, &shifter, sizeof(origin));
  memcpy(&r, &shifted, sizeof(r));
  for (int i = 0; i < 16; ++i) r.v[i] -= origin;
  return r;
}
// Unsigned: what a NaN became may overflow, and is not used.
GPT2FAST_INLINE I16 operator+(I16 a, I16 b) {
  for (int i = 0; i < 16; ++i) {
    a.v[i] = static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i]));
  }
  return a;
}
GPT2FAST_INLINE int32_t sum(I16 a) {
  uint32_t total = 0;
  for (int i = 0; i < 16; ++i) total += static_cast<uint32_t>(a.v[i]);
  return static_cast<int32_t>(total);
}
GPT2FAST_INLINE void store_bytes(I16 a, int8_t* values, int8_t* magnitudes) {
  for (int i = 0; i < 16; ++i) {
    values[i] = static_cast<int8_t>(a.v[i]);
    magnitudes[i] = static_cast<int8_t>(a.v[i] < 0 ? -a.v[i] : a.v[i]);
  }
}
#endif

// Sixteen bfloat16.
GPT2FAST_INLINE V16 load_bf16(const uint16_t* p) {
#if defined(__AVX512F__)
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
#elif defined(__AVX2__)
  const auto* at = reinterpret_cast<const __m128i*>(p);
  const __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128(at));
  const __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128(at + 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
#else
  uint32_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = static_cast<uint32_t>(p[i]) << 16;
  V16 r;
  memcpy(&r, lanes, sizeof(r));
  return r;
#endif
}

// Of sixteen pairs of bfloat16, the first of each (WHICH = 0) or the second (1).
template <int WHICH>
GPT2FAST_INLINE V16 load_bf16_pairs(const uint8_t* p) {
#if defined(__AVX512F__)
  const __m512i pairs = _mm512_loadu_si512(p);
  return {_mm512_castsi512_ps(WHICH == 0 ? _mm512_slli_epi32(pairs, 16)
                                         : _mm512_and_si512(pairs, _mm512_set1_epi32(-65536)))};
#elif defined(__AVX2__)
  const __m256i mask = _mm256_set1_epi32(-65536);
  const auto* at = reinterpret_cast<const __m256i*>(p);
  const __m256i lo = _mm256_loadu_si256(at), hi = _mm256_loadu_si256(at + 1);
  return {_mm256_castsi256_ps(WHICH == 0 ? _mm256_slli_epi32(lo, 16) : _mm256_and_si256(lo, mask)),
          _mm256_castsi256_ps(WHICH == 0 ? _mm256_slli_epi32(hi, 16) : _mm256_and_si256(hi, mask))};
#else
  uint32_t pairs[16];
  memcpy(pairs, p, sizeof(pairs));
  for (int i = 0; i < 16; ++i) pairs[i] = WHICH == 0 ? pairs[i] << 16 : pairs[i] & 0xffff0000u;
  V16 r;
  memcpy(&r, pairs, sizeof(r));
  return r;
#endif
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
