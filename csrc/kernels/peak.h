// The arithmetic of each format with everything in registers: the yardstick for prefill.
//
// Every sum is a chain of its own, in a register of its own. Where the compiler sees that two sums
// are equal it computes one of them, and the peak comes out too high by as many times; where it
// copies registers, too low. So the multiply-adds are assembly, or hidden from the compiler (hide).
// There are more chains than the longest latency of an instruction (5 cycles) times the ports that
// take it (2). tests/csrc/test_peak_loops.py counts the instructions that came out.
#pragma once

#include "kernels/matmul_int.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// Functions of their own, so that the test finds them by name.
#define GPT2FAST_PEAK static __attribute__((noinline))

#if defined(__AVX512F__)

constexpr int kFloatSums = 16;
GPT2FAST_INLINE void add_product(V16& sum, V16 x) {
  asm volatile("vfmadd231ps %[x], %[x], %[sum]" : [sum] "+v"(sum.v) : [x] "v"(x.v));
}
GPT2FAST_INLINE void add_products(V16 (&sums)[kFloatSums], V16 x) {
  GPT2FAST_UNROLL for (int i = 0; i < kFloatSums; ++i) add_product(sums[i], x);
}

#elif defined(__AVX2__)

constexpr int kFloatSums = 6;  // of two registers
GPT2FAST_INLINE void add_products(V16 (&sums)[kFloatSums], V16 x) {
  GPT2FAST_UNROLL for (int i = 0; i < kFloatSums; ++i) {
    asm volatile(
        "vfmadd231ps %[x], %[x], %[lo]\n\t"
        "vfmadd231ps %[x], %[x], %[hi]"
        : [lo] "+x"(sums[i].lo), [hi] "+x"(sums[i].hi)
        : [x] "x"(x.lo));
  }
}

#else

#if defined(__SSE2__)
#define GPT2FAST_HIDE(vector) asm volatile("" : "+x"(vector))
#elif defined(__aarch64__)
#define GPT2FAST_HIDE(vector) asm volatile("" : "+w"(vector))
#else
#define GPT2FAST_HIDE(vector) asm volatile("" : "+m"(vector))
#endif

#if defined(__aarch64__)
constexpr int kFloatSums = 6;  // of four registers
#else
constexpr int kFloatSums = 3;
#endif
// All products first: an addition that waits for its product takes no port from another one.
GPT2FAST_INLINE void add_products(V16 (&sums)[kFloatSums], V16 x) {
  GPT2FAST_UNROLL for (int i = 0; i < 4 * kFloatSums; ++i) {
    F4& sum = sums[i / 4].q[i % 4];
    sum = sum * x.q[0];
    GPT2FAST_HIDE(sum);
  }
  GPT2FAST_UNROLL for (int i = 0; i < 4 * kFloatSums; ++i) {
    F4& sum = sums[i / 4].q[i % 4];
    sum = sum + x.q[0];
    GPT2FAST_HIDE(sum);
  }
}

#endif

// A round is a multiply-add in each lane of kFloatSums vectors.
GPT2FAST_PEAK float peak_float(int64_t rounds) {
  V16 sums[kFloatSums];
  const V16 x = splat(0.5f);  // the sums converge to 1 or less: no infinities, no subnormals
  GPT2FAST_UNROLL for (int i = 0; i < kFloatSums; ++i) sums[i] = splat(static_cast<float>(i));
  for (int64_t n = 0; n < rounds; ++n) add_products(sums, x);
  V16 total = sums[0];
  GPT2FAST_UNROLL for (int i = 1; i < kFloatSums; ++i) total = total + sums[i];
  return sum(total);
}

// Of the integers a round is four multiply-adds in each lane of kIntSums vectors. Rounds come in
// spans.
constexpr int kSpanRounds = kIntSpan / 4;

#if defined(__AVX512VNNI__)

constexpr int kIntSums = 16;
struct PeakInts {
  I16 sums[kIntSums];
};
GPT2FAST_INLINE PeakInts peak_ints() {
  PeakInts p;
  GPT2FAST_UNROLL for (int i = 0; i < kIntSums; ++i) p.sums[i] = {_mm512_set1_epi32(i)};
  return p;
}
GPT2FAST_INLINE float total_of(const PeakInts& p) {
  V16 total = to_float(p.sums[0]);
  GPT2FAST_UNROLL for (int i = 1; i < kIntSums; ++i) total = total + to_float(p.sums[i]);
  return sum(total);
}
template <Format>
GPT2FAST_INLINE void add_span(PeakInts& p) {
  const __m512i w = _mm512_set1_epi8(3), x = _mm512_set1_epi8(5);
  for (int round = 0; round < kSpanRounds; ++round) {
    GPT2FAST_UNROLL for (int i = 0; i < kIntSums; ++i) {
      asm volatile("vpdpbusd %[x], %[w], %[sum]"
                   : [sum] "+v"(p.sums[i].v)
                   : [w] "v"(w), [x] "v"(x));
    }
  }
}

#elif defined(__AVX2__)

// Of two registers: with the operands and what the products need few enough for sixteen. Products
// start anew each time, so that only the last addition of each, of one cycle, waits for another.
constexpr int kIntSums = 4;
struct PeakInts {
  I16 sums[kIntSums];
};
GPT2FAST_INLINE PeakInts peak_ints() {
  PeakInts p;
  GPT2FAST_UNROLL for (int i = 0; i < kIntSums; ++i) {
    p.sums[i] = {_mm256_set1_epi32(2 * i), _mm256_set1_epi32(2 * i + 1)};
  }
  return p;
}
GPT2FAST_INLINE float total_of(const PeakInts& p) {
  V16 total = to_float(p.sums[0]);
  GPT2FAST_UNROLL for (int i = 1; i < kIntSums; ++i) total = total + to_float(p.sums[i]);
  return sum(total);
}
template <Format FORMAT>
GPT2FAST_INLINE void add_product(__m256i& sum, __m256i w, __m256i x, __m256i ones) {
  __m256i product;
  if (FORMAT == Format::kInt8) {
    asm volatile(
        "vpsignb %[w], %[x], %[product]\n\t"
        "vpmaddubsw %[product], %[w], %[product]\n\t"
        "vpmaddwd %[product], %[ones], %[product]\n\t"
        "vpaddd %[product], %[sum], %[sum]"
        : [sum] "+x"(sum), [product] "=&x"(product)
        : [w] "x"(w), [x] "x"(x), [ones] "x"(ones));
  } else {
    asm volatile(
        "vpmaddubsw %[x], %[w], %[product]\n\t"
        "vpaddw %[product], %[sum], %[sum]"
        : [sum] "+x"(sum), [product] "=&x"(product)
        : [w] "x"(w), [x] "x"(x));
  }
}
template <Format FORMAT>
GPT2FAST_INLINE void add_span(PeakInts& p) {
  const __m256i w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
  GPT2FAST_UNROLL for (int round = 0; round < kSpanRounds; ++round) {
    GPT2FAST_UNROLL for (int i = 0; i < kIntSums; ++i) {
      add_product<FORMAT>(p.sums[i].lo, w, x, ones);
      add_product<FORMAT>(p.sums[i].hi, w, x, ones);
    }
  }
  // After a span the 16-bit sums are widened, each in its place.
  GPT2FAST_UNROLL for (int i = 0; FORMAT != Format::kInt8 && i < kIntSums; ++i) {
    asm volatile(
        "vpmaddwd %[ones], %[lo], %[lo]\n\t"
        "vpmaddwd %[ones], %[hi], %[hi]"
        : [lo] "+x"(p.sums[i].lo), [hi] "+x"(p.sums[i].hi)
        : [ones] "x"(ones));
  }
}

#else

// 16-bit products, widened: what compilers make of the kernel, without what prepares its operands.
constexpr int kIntSums = 2;
typedef int16_t S8 __attribute__((vector_size(16)));
struct PeakInts {
  I4 sums[4 * kIntSums];
};
GPT2FAST_INLINE PeakInts peak_ints() {
  PeakInts p;
  GPT2FAST_UNROLL for (int i = 0; i < 4 * kIntSums; ++i) p.sums[i] = I4{i, i, i, i};
  return p;
}
GPT2FAST_INLINE float total_of(const PeakInts& p) {
  I4 total = p.sums[0];
  GPT2FAST_UNROLL for (int i = 1; i < 4 * kIntSums; ++i) total = total + p.sums[i];
  return static_cast<float>(total[0] ^ total[1] ^ total[2] ^ total[3]);
}
template <Format>
GPT2FAST_INLINE void add_span(PeakInts& p) {
  const S8 three = S8{} + int16_t{3};
  S8 x = S8{} + int16_t{5};
  GPT2FAST_HIDE(x);  // products with a constant need no multiplication
  for (int round = 0; round < kSpanRounds; ++round) {
    GPT2FAST_UNROLL for (int i = 0; i < 8 * kIntSums; ++i) {
      S8 w = three;
      GPT2FAST_HIDE(w);
      const I4 pairs = (I4)(w * x);
      I4& sum = p.sums[i / 2];
      sum = sum + ((I4)((U4)pairs << 16) >> 16) + (pairs >> 16);
      GPT2FAST_HIDE(sum);
    }
  }
}

#endif

template <Format FORMAT>
GPT2FAST_PEAK float peak_int(int64_t spans) {
  PeakInts p = peak_ints();
  for (int64_t n = 0; n < spans; ++n) add_span<FORMAT>(p);
  return total_of(p);
}

// The result is of no use except that it cannot be left out. Adds the multiply-adds done to
// `multiply_adds`. `rounds` is a multiple of 16.
static float peak(Format format, int64_t rounds, int64_t* multiply_adds) {
  *multiply_adds += rounds * kLanes * (is_integer(format) ? 4 * kIntSums : kFloatSums);
  if (!is_integer(format)) return peak_float(rounds);
  const int64_t spans = rounds / kSpanRounds;
  return format == Format::kInt8 ? peak_int<Format::kInt8>(spans) : peak_int<Format::kInt4>(spans);
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
