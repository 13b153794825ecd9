// Exact sums of products of 8-bit activations with weights of 8 bits or fewer over a group of
// inputs. The sums being exact, their order is free.
//
// Weights of fewer bits come four inputs at a time, 64 bytes of one value each, as load_four()
// makes them of what is packed; a Packing says what that is.
//
// x: a tile of ROWS rows (K / 4, ROWS, 4); see row_tiles.h. Panels lie `stride` bytes apart.
#pragma once

#include "kernels/row_tiles.h"
#include "kernels/vec_int.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// How far ahead of what it reads a matrix-vector product fetches: the hardware stops at page ends,
// and is too late for the few cycles that a line takes here. A product of several rows fetches the
// next panel while the first of them meet this one.
constexpr int kPrefetchBytes = 1024;

typedef int32_t Quad __attribute__((may_alias, aligned(1)));  // four bytes of x

constexpr int32_t kInt4Offset = 8, kInt3Offset = 4;  // of weights as stored

enum class Packing { kInt4, kInt3, kUnpacked };
constexpr int inputs_of(Packing packing) { return packing == Packing::kInt3 ? kInt3Unit : 8; }
// Of the same number of inputs: of a unit.
constexpr int bytes_of(Packing packing) {
  return packing == Packing::kInt3 ? 3 * 64 : packing == Packing::kInt4 ? 64 : 128;
}

#if defined(__AVX512VNNI__)

constexpr int32_t kInt8Offset = 128;  // the instruction takes one operand as unsigned

GPT2FAST_INLINE int32_t start_from(Format format, SpanSum total) {
  const int32_t offset = format == Format::kInt8   ? kInt8Offset
                         : format == Format::kInt4 ? kInt4Offset
                                                   : kInt3Offset;
  return -offset * total_of(total);
}
// sums[r][p] += what the spans of `count` inputs start from.
template <int ROWS, int PANELS>
GPT2FAST_INLINE void add_starts(const int32_t* starts, int count, I16 (&sums)[ROWS][PANELS]) {
  for (int k = 0; k < count; k += kIntSpan, starts += ROWS) {
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      const __m512i start = _mm512_set1_epi32(starts[r]);
      GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
        sums[r][p].v = _mm512_add_epi32(sums[r][p].v, start);
      }
    }
  }
}

template <int ROWS, int PANELS>
GPT2FAST_INLINE void dot_int8(const uint8_t* w, int64_t stride, const int8_t* x, int count,
                              I16 (&sums)[ROWS][PANELS], int64_t = 0) {
  const __m512i top = _mm512_set1_epi8(static_cast<char>(0x80));
  for (int k = 0; k < count; k += 4, w += 4 * kLanes, x += 4 * ROWS) {
    __m512i weights[PANELS];
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      weights[p] = _mm512_xor_si512(_mm512_loadu_si512(w + p * stride), top);
    }
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      const __m512i input = _mm512_set1_epi32(reinterpret_cast<const Quad*>(x)[r]);
      GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
        sums[r][p].v = _mm512_dpbusd_epi32(sums[r][p].v, weights[p], input);
      }
    }
  }
}

template <Packing PACKING>
GPT2FAST_INLINE __m512i load_four(const uint8_t* w, int four) {
  const auto line = [w](int i) { return _mm512_loadu_si512(w + 64 * i); };
  if (PACKING == Packing::kUnpacked) return line(four);
  const bool second = four % 2 == 1;
  if (PACKING == Packing::kInt4) {
    return _mm512_and_si512(second ? _mm512_srli_epi16(line(0), 4) : line(0), _mm512_set1_epi8(15));
  }
  if (four < 6) {
    const __m512i bits = second ? _mm512_srli_epi16(line(four / 2), 3) : line(four / 2);
    return _mm512_and_si512(bits, _mm512_set1_epi8(7));
  }
  const __m512i low = _mm512_srli_epi16(line(four - 6), 6);
  const __m512i high =
      _mm512_and_si512(_mm512_srli_epi16(line(2), second ? 5 : 4), _mm512_set1_epi8(4));
  return _mm512_ternarylogic_epi32(low, _mm512_set1_epi8(3), high, 0xea);  // low & 3 | high
}

template <Packing PACKING, int ROWS, int PANELS>
GPT2FAST_INLINE void dot_packed(const uint8_t* w, int64_t stride, const int8_t* x,
                                const int32_t* starts, int count, I16 (&sums)[ROWS][PANELS],
                                int64_t = 0) {
  constexpr int kInputs = inputs_of(PACKING);
  add_starts<ROWS, PANELS>(starts, count, sums);
  for (int k = 0; k < count; k += kInputs, w += bytes_of(PACKING), x += kInputs * ROWS) {
    GPT2FAST_UNROLL for (int four = 0; four < kInputs / 4; ++four) {
      __m512i weights[PANELS];
      GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
        weights[p] = load_four<PACKING>(w + p * stride, four);
      }
      GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
        const __m512i input = _mm512_set1_epi32(reinterpret_cast<const Quad*>(x)[four * ROWS + r]);
        GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
          sums[r][p].v = _mm512_dpbusd_epi32(sums[r][p].v, weights[p], input);
        }
      }
    }
  }
}

#elif defined(__AVX2__)

// Sums of 4-bit products (and 3-bit ones) stay in 16 bits for a whole span: a lane adds up 32
// products w * x with w = 0 .. 15, which may wrap around, but it starts from -8 times the sum of
// its x, so what it ends with is the sum of (w - 8) * x, of at most 32 * 8 * 127. The two lanes of
// an output start from the two halves of a 32-bit value.
static_assert(kIntSpan / 2 * kInt4Offset * 127 < 32768, "the sums of a span must fit 16 bits");
GPT2FAST_INLINE int32_t start_from(Format format, SpanSum total) {
  return format == Format::kInt4   ? packed_times<-kInt4Offset>(total)
         : format == Format::kInt3 ? packed_times<-kInt3Offset>(total)
                                   : 0;
}
template <int ROWS, int PANELS>
GPT2FAST_INLINE void add_starts(const int32_t*, int, I16 (&)[ROWS][PANELS]) {}

// The loops below are bound by how many instructions the CPU takes in, and GCC's order of these
// costs a fifth of the speed, mostly in copies of registers; hence the assembly.

// sum += w . x over each four neighbouring bytes; magnitude is |w|, unsigned, and the sign of w
// moves to x. Both within +-127, so that two products fit 16 bits.
GPT2FAST_INLINE void add_int8_products(I16& sum, const I16& w, const I16& magnitude, __m256i x) {
  __m256i other;
  asm("vpsignb %[w_lo], %[x], %[other]\n\t"
      "vpsignb %[w_hi], %[x], %[x]\n\t"
      "vpmaddubsw %[other], %[m_lo], %[other]\n\t"
      "vpmaddubsw %[x], %[m_hi], %[x]\n\t"
      "vpmaddwd %[other], %[ones], %[other]\n\t"
      "vpmaddwd %[x], %[ones], %[x]\n\t"
      "vpaddd %[other], %[lo], %[lo]\n\t"
      "vpaddd %[x], %[hi], %[hi]"
      : [x] "+&x"(x), [other] "=&x"(other), [lo] "+&x"(sum.lo), [hi] "+x"(sum.hi)
      : [w_lo] "x"(w.lo), [w_hi] "x"(w.hi), [m_lo] "x"(magnitude.lo), [m_hi] "x"(magnitude.hi),
        [ones] "x"(_mm256_set1_epi16(1)));
}
// The same for w of 4 bits or fewer, into 16-bit sums of neighbouring pairs.
GPT2FAST_INLINE void add_int4_products(I16& sum, const I16& w, __m256i x) {
  __m256i other;
  asm("vpmaddubsw %[x], %[w_lo], %[other]\n\t"
      "vpmaddubsw %[x], %[w_hi], %[x]\n\t"
      "vpaddw %[other], %[lo], %[lo]\n\t"
      "vpaddw %[x], %[hi], %[hi]"
      : [x] "+&x"(x), [other] "=&x"(other), [lo] "+&x"(sum.lo), [hi] "+x"(sum.hi)
      : [w_lo] "x"(w.lo), [w_hi] "x"(w.hi));
}

GPT2FAST_INLINE I16 load_bytes(const uint8_t* w) {
  const auto* at = reinterpret_cast<const __m256i*>(w);
  return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
GPT2FAST_INLINE __m256i broadcast_quad(const int8_t* x) {
  return _mm256_set1_epi32(*reinterpret_cast<const Quad*>(x));
}

template <int ROWS, int PANELS>
GPT2FAST_INLINE void dot_int8(const uint8_t* w, int64_t stride, const int8_t* x, int count,
                              I16 (&sums)[ROWS][PANELS], int64_t ahead = 0) {
  for (int k = 0; k < count; k += 4, w += 4 * kLanes, x += 4 * ROWS) {
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      const I16 weights = load_bytes(w + p * stride);
      const I16 magnitudes{_mm256_abs_epi8(weights.lo), _mm256_abs_epi8(weights.hi)};
      __builtin_prefetch(w + p * stride + ahead);
      GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
        add_int8_products(sums[r][p], weights, magnitudes, broadcast_quad(x + 4 * r));
      }
    }
  }
}

GPT2FAST_INLINE I16 operator&(I16 a, __m256i mask) {
  return {_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask)};
}
GPT2FAST_INLINE I16 operator|(I16 a, I16 b) {
  return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
GPT2FAST_INLINE I16 shift_right(I16 a, int bits) {
  return {_mm256_srli_epi16(a.lo, bits), _mm256_srli_epi16(a.hi, bits)};
}

template <Packing PACKING>
GPT2FAST_INLINE I16 load_four(const uint8_t* w, int four) {
  const auto line = [w](int i) { return load_bytes(w + 64 * i); };
  if (PACKING == Packing::kUnpacked) return line(four);
  const bool second = four % 2 == 1;
  if (PACKING == Packing::kInt4) {
    return (second ? shift_right(line(0), 4) : line(0)) & _mm256_set1_epi8(15);
  }
  if (four < 6) {
    return (second ? shift_right(line(four / 2), 3) : line(four / 2)) & _mm256_set1_epi8(7);
  }
  return (shift_right(line(four - 6), 6) & _mm256_set1_epi8(3)) |
         (shift_right(line(2), second ? 5 : 4) & _mm256_set1_epi8(4));
}

template <Packing PACKING, int ROWS, int PANELS>
GPT2FAST_INLINE void dot_packed(const uint8_t* w, int64_t stride, const int8_t* x,
                                const int32_t* starts, int count, I16 (&sums)[ROWS][PANELS],
                                int64_t ahead = 0) {
  constexpr int kInputs = inputs_of(PACKING), kBytes = bytes_of(PACKING);
  for (int begin = 0; begin < count; begin += kIntSpan, starts += ROWS) {
    const int end = count - begin < kIntSpan ? count : begin + kIntSpan;
    I16 pairs[ROWS][PANELS];  // of 16 bits each
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
        pairs[r][p] = {_mm256_set1_epi32(starts[r]), _mm256_set1_epi32(starts[r])};
      }
    }
    for (int k = begin; k < end; k += kInputs, w += kBytes, x += kInputs * ROWS) {
      GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
        const uint8_t* const at = w + p * stride;
        GPT2FAST_UNROLL for (int i = 0; PACKING != Packing::kUnpacked && i < kBytes; i += 64) {
          __builtin_prefetch(at + i + ahead);
        }
        GPT2FAST_UNROLL for (int four = 0; four < kInputs / 4; ++four) {
          const I16 weights = load_four<PACKING>(at, four);
          GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
            add_int4_products(pairs[r][p], weights, broadcast_quad(x + 4 * (four * ROWS + r)));
          }
        }
      }
    }
    const __m256i ones = _mm256_set1_epi16(1);
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
        I16& sum = sums[r][p];
        sum.lo = _mm256_add_epi32(sum.lo, _mm256_madd_epi16(pairs[r][p].lo, ones));
        sum.hi = _mm256_add_epi32(sum.hi, _mm256_madd_epi16(pairs[r][p].hi, ones));
      }
    }
  }
}

#else

GPT2FAST_INLINE int32_t start_from(Format format, SpanSum total) {
  return format == Format::kInt4   ? -kInt4Offset * total
         : format == Format::kInt3 ? -kInt3Offset * total
                                   : 0;
}
template <int ROWS, int PANELS>
GPT2FAST_INLINE void add_starts(const int32_t*, int, I16 (&)[ROWS][PANELS]) {}

template <int ROWS, int PANELS>
GPT2FAST_INLINE void dot_int8(const uint8_t* w, int64_t stride, const int8_t* x, int count,
                              I16 (&sums)[ROWS][PANELS], int64_t = 0) {
  for (int k = 0; k < count; k += 4, w += 4 * kLanes, x += 4 * ROWS) {
    for (int p = 0; p < PANELS; ++p) {
      const auto* weights = reinterpret_cast<const int8_t*>(w + p * stride);
      for (int r = 0; r < ROWS; ++r) {
        const int8_t* input = x + 4 * r;
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int j = 0; j < 4; ++j) sums[r][p].v[lane] += weights[lane * 4 + j] * input[j];
        }
      }
    }
  }
}

struct Four {
  uint8_t v[64];
};
template <Packing PACKING>
GPT2FAST_INLINE Four load_four(const uint8_t* w, int four) {
  Four r;
  const int line = PACKING == Packing::kUnpacked ? four : PACKING == Packing::kInt4 ? 0 : four / 2;
  if (PACKING == Packing::kInt3 && four >= 6) {
    const uint8_t *low = w + 64 * (four - 6), *high = w + 128;
    for (int i = 0; i < 64; ++i) r.v[i] = low[i] >> 6 | (high[i] >> four & 1) << 2;
    return r;
  }
  memcpy(&r, w + 64 * line, sizeof(r));
  if (PACKING == Packing::kUnpacked) return r;
  constexpr int kBits = PACKING == Packing::kInt4 ? 4 : 3;
  const int shift = four % 2 * kBits;
  for (int i = 0; i < 64; ++i) r.v[i] = r.v[i] >> shift & ((1 << kBits) - 1);
  return r;
}

template <Packing PACKING, int ROWS, int PANELS>
GPT2FAST_INLINE void dot_packed(const uint8_t* w, int64_t stride, const int8_t* x,
                                const int32_t* starts, int count, I16 (&sums)[ROWS][PANELS],
                                int64_t = 0) {
  constexpr int kInputs = inputs_of(PACKING);
  for (int k = 0; k < count; k += kInputs, w += bytes_of(PACKING), x += kInputs * ROWS) {
    for (int p = 0; p < PANELS; ++p) {
      for (int four = 0; four < kInputs / 4; ++four) {
        const Four weights = load_four<PACKING>(w + p * stride, four);
        for (int r = 0; r < ROWS; ++r) {
          const int8_t* input = x + 4 * (four * ROWS + r);
          const bool first = k % kIntSpan == 0 && four == 0;
          const int32_t start = first ? starts[k / kIntSpan * ROWS + r] : 0;
          for (int lane = 0; lane < kLanes; ++lane) {
            int32_t sum = sums[r][p].v[lane] + start;
            for (int j = 0; j < 4; ++j) sum += weights.v[lane * 4 + j] * input[j];
            sums[r][p].v[lane] = sum;
          }
        }
      }
    }
  }
}

#endif

// `count` inputs of a panel, each value in a byte of its own.
template <Packing PACKING>
static void unpack(const uint8_t* w, int count, uint8_t* out) {
  constexpr int kInputs = inputs_of(PACKING);
  for (int k = 0; k < count; k += kInputs, w += bytes_of(PACKING)) {
    GPT2FAST_UNROLL for (int four = 0; four < kInputs / 4; ++four, out += 64) {
      const auto values = load_four<PACKING>(w, four);
      memcpy(out, &values, sizeof(values));
    }
  }
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
