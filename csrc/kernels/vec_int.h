// Sixteen 32-bit integers, one for each output of a panel, sixteen bytes, and what turns floats,
// integers and bfloat16 into each other.
#pragma once

#include "kernels/vec.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

#if defined(__AVX512VNNI__)

struct I16 {
  __m512i v;
};
GPT2FAST_INLINE I16 zero_ints() { return {_mm512_setzero_si512()}; }
GPT2FAST_INLINE V16 to_float(I16 a) { return {_mm512_cvtepi32_ps(a.v)}; }

#elif defined(__AVX2__)

struct I16 {
  __m256i lo, hi;
};
GPT2FAST_INLINE I16 zero_ints() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
GPT2FAST_INLINE V16 to_float(I16 a) {
  const __m256 lo = _mm256_cvtepi32_ps(a.lo), hi = _mm256_cvtepi32_ps(a.hi);
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
GPT2FAST_INLINE V16 to_float(I16 a) {
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = static_cast<float>(a.v[i]);
  return load(lanes);
}

#endif

// Sixteen signed bytes, and the sums of such over a span of inputs.
#if defined(__AVX2__)

struct B16 {
  __m128i v;
};
// To the nearest integers, ties to even; |a| must be below 128, or NaN, which may become anything.
GPT2FAST_INLINE B16 to_bytes(V16 a) {
#if defined(__AVX512F__)
  return {_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v))};
#else
  // Packing works within halves of a register: the middle quarters come out exchanged.
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
  const __m256i halves = _mm256_permute4x64_epi64(words, 0xd8);
  return {_mm_packs_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1))};
#endif
}
// Four bytes at a time, `apart` bytes from one four to the next.
GPT2FAST_INLINE void store_quads(B16 a, int8_t* to, int apart) {
  const int32_t quads[] = {_mm_extract_epi32(a.v, 0), _mm_extract_epi32(a.v, 1),
                           _mm_extract_epi32(a.v, 2), _mm_extract_epi32(a.v, 3)};
  GPT2FAST_UNROLL for (int i = 0; i < 4; ++i) memcpy(to + i * apart, &quads[i], 4);
}

// Of neighbouring pairs, in 16 bits: the first pairs of four bytes in even lanes, the second ones
// in odd lanes.
struct SpanSum {
  __m128i pairs;
};
GPT2FAST_INLINE SpanSum no_sum() { return {_mm_setzero_si128()}; }
GPT2FAST_INLINE void add(SpanSum& sum, B16 a) {
  sum.pairs = _mm_add_epi16(sum.pairs, _mm_maddubs_epi16(_mm_set1_epi8(1), a.v));
}
GPT2FAST_INLINE int32_t total_of(SpanSum sum) {
  __m128i four = _mm_madd_epi16(sum.pairs, _mm_set1_epi16(1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
// FACTOR times the sum of all first pairs in the low half, of all second ones in the high half.
template <int FACTOR>
GPT2FAST_INLINE int32_t packed_times(SpanSum sum) {
  __m128i four = _mm_add_epi16(sum.pairs, _mm_shuffle_epi32(sum.pairs, 0x4e));
  four = _mm_add_epi16(four, _mm_shuffle_epi32(four, 0xb1));
  return _mm_cvtsi128_si32(_mm_mullo_epi16(four, _mm_set1_epi16(FACTOR)));
}

#else

struct B16 {
  int8_t v[16];
};
GPT2FAST_INLINE B16 to_bytes(V16 a) {
  const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const V16 shifted = a + splat(shifter);
  int32_t bits[16];
  memcpy(bits, &shifted, sizeof(bits));
  B16 r;
  // The low byte of the sum's representation is that of the integer.
  for (int i = 0; i < 16; ++i) r.v[i] = static_cast<int8_t>(static_cast<uint8_t>(bits[i] & 255));
  return r;
}
GPT2FAST_INLINE void store_quads(B16 a, int8_t* to, int apart) {
  for (int i = 0; i < 4; ++i) memcpy(to + i * apart, a.v + 4 * i, 4);
}

typedef int32_t SpanSum;
GPT2FAST_INLINE SpanSum no_sum() { return 0; }
GPT2FAST_INLINE void add(SpanSum& sum, B16 a) {
  for (int i = 0; i < 16; ++i) sum += a.v[i];
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
