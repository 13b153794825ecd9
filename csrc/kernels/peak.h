// The arithmetic of each format with everything in registers: the yardstick for prefill.
#pragma once

#include "kernels/matmul_int.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

// Sums under way, enough to hide the latency of the instruction.
#if defined(__AVX512F__)
constexpr int kPeakSums = 16;
#elif defined(__AVX2__)
constexpr int kPeakSums = 5;  // of two registers each
#else
constexpr int kPeakSums = 2;
#endif

// Sixteen multiply-adds in each of kPeakSums vectors, `repeats` times.
static float peak_float(int64_t repeats) {
  V16 sums[kPeakSums], x = splat(0.5f);
  GPT2FAST_UNROLL for (int i = 0; i < kPeakSums; ++i) sums[i] = splat(static_cast<float>(i));
  for (int64_t n = 0; n < repeats; ++n) {
    pin(x);  // a loop that repeated itself would be computed once
    GPT2FAST_UNROLL for (int i = 0; i < kPeakSums; ++i) sums[i] = fma(sums[i], x, x);
  }
  V16 total = sums[0];
  GPT2FAST_UNROLL for (int i = 1; i < kPeakSums; ++i) total = total + sums[i];
  return sum(total);
}

#if defined(__AVX512VNNI__)

static float peak_int(Format, int64_t repeats) {
  I16 sums[kPeakSums];
  GPT2FAST_UNROLL for (int i = 0; i < kPeakSums; ++i) sums[i] = zero_ints();
  __m512i w = _mm512_set1_epi8(3), x = _mm512_set1_epi8(5);
  for (int64_t n = 0; n < repeats; ++n) {
    asm volatile("" : "+v"(w));
    GPT2FAST_UNROLL for (int i = 0; i < kPeakSums; ++i) {
      sums[i].v = _mm512_dpbusd_epi32(sums[i].v, w, x);
    }
  }
  float total = 0;
  for (int i = 0; i < kPeakSums; ++i) total += sum(to_float(sums[i]));
  return total;
}

#elif defined(__AVX2__)

// What the products do to each 64 bytes of weights, without loads and unpacking: 16 times, after
// which the 4-bit ones widen their sums.
template <Format FORMAT>
static float peak_spans(int64_t repeats) {
  constexpr int kSteps = kIntSpan / 4;
  I16 sums[kPeakSums];
  GPT2FAST_UNROLL for (int i = 0; i < kPeakSums; ++i) sums[i] = zero_ints();
  I16 w{_mm256_set1_epi8(3), _mm256_set1_epi8(3)};
  __m256i x = _mm256_set1_epi8(5);
  for (int64_t n = 0; n < repeats / kSteps; ++n) {
    GPT2FAST_UNROLL for (int step = 0; step < kSteps; ++step) {
      GPT2FAST_UNROLL for (int i = 0; i < kPeakSums; ++i) {
        if (FORMAT == Format::kInt8) {
          add_int8_products(sums[i], w, w, x);
        } else {
          add_int4_products(sums[i], w, x);
        }
      }
    }
    if (FORMAT == Format::kInt4) {
      const __m256i ones = _mm256_set1_epi16(1);
      GPT2FAST_UNROLL for (int i = 0; i < kPeakSums; ++i) {
        sums[i] = {_mm256_madd_epi16(sums[i].lo, ones), _mm256_madd_epi16(sums[i].hi, ones)};
      }
    }
  }
  float total = 0;
  GPT2FAST_UNROLL for (int i = 0; i < kPeakSums; ++i) total += sum(to_float(sums[i]));
  return total;
}
static float peak_int(Format format, int64_t repeats) {
  return format == Format::kInt8 ? peak_spans<Format::kInt8>(repeats)
                                 : peak_spans<Format::kInt4>(repeats);
}

#else

static float peak_int(Format, int64_t repeats) {
  I16 sums[kPeakSums][1];
  int8_t x[4 * kPeakSums] = {};
  uint8_t w[4 * kLanes] = {};
  for (int i = 0; i < kPeakSums; ++i) sums[i][0] = zero_ints();
  for (int64_t n = 0; n < repeats; ++n) {
    asm volatile("" ::: "memory");
    dot_int8<kPeakSums, 1>(w, 0, x, 4, sums);
  }
  return to_float(sums[0][0]).q[0][0];
}

#endif

// The result is of no use except that it cannot be left out. Adds the multiply-adds done to
// `multiply_adds`.
static float peak(Format format, int64_t repeats, int64_t* multiply_adds) {
  *multiply_adds += repeats * kPeakSums * kLanes * (is_integer(format) ? 4 : 1);
  return is_integer(format) ? peak_int(format, repeats) : peak_float(repeats);
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
