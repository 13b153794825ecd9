// Products of 8-bit activations with 8-bit or 4-bit weights: exact integer sums over a group, then
// one fused multiply-add into the float result. The sums being exact, their order is free.
#pragma once

#include "kernels/matmul_float.h"
#include "kernels/vec_int.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

GPT2FAST_INLINE int32_t four_bytes(const int8_t* p) {
  int32_t value;
  memcpy(&value, p, sizeof(value));
  return value;
}

// Rows of integers. Their magnitudes are stored too: the instruction that takes one costs as much
// as those that multiply.
struct IntRows {
  const int8_t* values;  // rows `stride` apart
  int64_t stride;
  int64_t magnitudes;  // from a value to its magnitude
  const int8_t* row(int r) const { return values + r * stride; }
};

// sums[r][p] += sum over `count` inputs of w * x, w (count / 4, 16, 4) signed bytes, panels
// `stride` apart. What the stored weights were shifted by is taken off by the caller: kInt8Offset.
#if defined(__AVX512VNNI__)

constexpr int32_t kInt8Offset = 128;  // the instruction takes one operand as unsigned
template <int ROWS, int PANELS>
GPT2FAST_INLINE void dot_int8(const uint8_t* w, int64_t stride, const IntRows& x, int count,
                              I16 (&sums)[ROWS][PANELS]) {
  for (int k = 0; k < count; k += 4) {
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      const uint8_t* at = w + p * stride + int64_t{k} * kLanes;
      const __m512i weights =
          _mm512_xor_si512(_mm512_loadu_si512(at), _mm512_set1_epi8(static_cast<char>(0x80)));
      GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
        const __m512i input = _mm512_set1_epi32(four_bytes(x.row(r) + k));
        sums[r][p].v = _mm512_dpbusd_epi32(sums[r][p].v, weights, input);
      }
    }
  }
}

#elif defined(__AVX2__)

constexpr int32_t kInt8Offset = 0;
// a . b over each four neighbouring bytes; |a| is unsigned, and its sign moves to b. Both within
// +-127, so that two products fit 16 bits.
GPT2FAST_INLINE __m256i dot4(__m256i sum, __m256i weights, __m256i input, __m256i magnitude) {
  const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(weights, input));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
template <int ROWS, int PANELS>
GPT2FAST_INLINE void dot_int8(const uint8_t* w, int64_t stride, const IntRows& x, int count,
                              I16 (&sums)[ROWS][PANELS]) {
  for (int k = 0; k < count; k += 4) {
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      const auto* at = reinterpret_cast<const __m256i*>(w + p * stride + int64_t{k} * kLanes);
      const __m256i lo = _mm256_loadu_si256(at), hi = _mm256_loadu_si256(at + 1);
      if (ROWS == 1) __builtin_prefetch(at + kPrefetchBytes / 32);
      GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
        const __m256i input = _mm256_set1_epi32(four_bytes(x.row(r) + k));
        const __m256i magnitude = _mm256_set1_epi32(four_bytes(x.row(r) + x.magnitudes + k));
        sums[r][p].lo = dot4(sums[r][p].lo, lo, input, magnitude);
        sums[r][p].hi = dot4(sums[r][p].hi, hi, input, magnitude);
        pin(sums[r][p]);
      }
    }
  }
}

#else

constexpr int32_t kInt8Offset = 0;
template <int ROWS, int PANELS>
GPT2FAST_INLINE void dot_int8(const uint8_t* w, int64_t stride, const IntRows& x, int count,
                              I16 (&sums)[ROWS][PANELS]) {
  for (int k = 0; k < count; k += 4) {
    for (int p = 0; p < PANELS; ++p) {
      const auto* weights = reinterpret_cast<const int8_t*>(w + p * stride + int64_t{k} * kLanes);
      for (int r = 0; r < ROWS; ++r) {
        const int8_t* input = x.row(r) + k;
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int j = 0; j < 4; ++j) sums[r][p].v[lane] += weights[lane * 4 + j] * input[j];
        }
      }
    }
  }
}

#endif

// The same for w (count / 8, 16, 4) bytes of two values, each plus 8: kInt4Offset.
constexpr int32_t kInt4Offset = 8;

#if defined(__AVX512VNNI__)

template <int ROWS, int PANELS>
GPT2FAST_INLINE void dot_int4(const uint8_t* w, int64_t stride, const IntRows& x, int count,
                              I16 (&sums)[ROWS][PANELS]) {
  const __m512i low = _mm512_set1_epi8(15);
  for (int k = 0; k < count; k += 8) {
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      const __m512i bytes = _mm512_loadu_si512(w + p * stride + int64_t{k} * (kLanes / 2));
      const __m512i first = _mm512_and_si512(bytes, low);
      const __m512i second = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
      GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
        const int8_t* input = x.row(r) + k;
        I16& sum = sums[r][p];
        sum.v = _mm512_dpbusd_epi32(sum.v, first, _mm512_set1_epi32(four_bytes(input)));
        sum.v = _mm512_dpbusd_epi32(sum.v, second, _mm512_set1_epi32(four_bytes(input + 4)));
      }
    }
  }
}

#elif defined(__AVX2__)

template <int ROWS, int PANELS>
GPT2FAST_INLINE void dot_int4(const uint8_t* w, int64_t stride, const IntRows& x, int count,
                              I16 (&sums)[ROWS][PANELS]) {
  // Eight products of at most 15 * 127 in pairs fit 16 bits: 32 inputs before widening.
  constexpr int kSpan = 32;
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  for (int begin = 0; begin < count; begin += kSpan) {
    const int end = count - begin < kSpan ? count : begin + kSpan;
    I16 wide[ROWS][PANELS];  // of 16 bits each here, in pairs that the end of a span adds up
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) wide[r][p] = zero_ints();
    }
    for (int k = begin; k < end; k += 8) {
      GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
        const auto* at =
            reinterpret_cast<const __m256i*>(w + p * stride + int64_t{k} * (kLanes / 2));
        if (ROWS == 1) __builtin_prefetch(at + kPrefetchBytes / 32);
        // First the low halves, then the high ones: fewer values under way at once.
        GPT2FAST_UNROLL for (int half = 0; half < 2; ++half) {
          __m256i first = _mm256_loadu_si256(at), second = _mm256_loadu_si256(at + 1);
          if (half == 1) {
            first = _mm256_srli_epi16(first, 4);
            second = _mm256_srli_epi16(second, 4);
          }
          first = _mm256_and_si256(first, low);
          second = _mm256_and_si256(second, low);
          GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
            const __m256i input = _mm256_set1_epi32(four_bytes(x.row(r) + k + 4 * half));
            I16& sum = wide[r][p];
            sum.lo = _mm256_add_epi16(sum.lo, _mm256_maddubs_epi16(first, input));
            sum.hi = _mm256_add_epi16(sum.hi, _mm256_maddubs_epi16(second, input));
            pin(sum);
          }
        }
      }
    }
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
        I16& sum = sums[r][p];
        sum.lo = _mm256_add_epi32(sum.lo, _mm256_madd_epi16(wide[r][p].lo, ones));
        sum.hi = _mm256_add_epi32(sum.hi, _mm256_madd_epi16(wide[r][p].hi, ones));
      }
    }
  }
}

#else

template <int ROWS, int PANELS>
GPT2FAST_INLINE void dot_int4(const uint8_t* w, int64_t stride, const IntRows& x, int count,
                              I16 (&sums)[ROWS][PANELS]) {
  for (int k = 0; k < count; k += 8) {
    for (int p = 0; p < PANELS; ++p) {
      const uint8_t* bytes = w + p * stride + int64_t{k} * (kLanes / 2);
      for (int r = 0; r < ROWS; ++r) {
        const int8_t* input = x.row(r) + k;
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int j = 0; j < 4; ++j) {
            const int byte = bytes[lane * 4 + j];
            sums[r][p].v[lane] += (byte & 15) * input[j] + (byte >> 4) * input[4 + j];
          }
        }
      }
    }
  }
}

#endif

template <Format FORMAT, int ROWS, int PANELS>
static void int_tile(const MatmulArgs& a, int row, int panel, int step) {
  constexpr bool kIs8 = FORMAT == Format::kInt8;
  constexpr int32_t kOffset = kIs8 ? kInt8Offset : kInt4Offset;
  const Panels& weights = a.weights;
  const QuantizedRows& q = a.quantized;
  const int64_t stride = weights.panel_bytes() * step;
  const uint8_t* scales = weights.panel(panel);
  const uint8_t* w = scales + weights.scale_bytes();
  const int padded = weights.padded_inputs();
  float acc[ROWS][PANELS][kLanes];
  memset(acc, 0, sizeof(acc));
  for (int g = 0, begin = 0; begin < padded; ++g, begin += weights.group) {
    const int count = padded - begin < weights.group ? padded - begin : weights.group;
    I16 sums[ROWS][PANELS];
    GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
      GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) sums[r][p] = zero_ints();
    }
    const IntRows x{q.values + row * q.stride + begin, q.stride, q.stride / 2};
    const uint8_t* from = w + int64_t{begin} * kLanes / (kIs8 ? 1 : 2);
    if (kIs8) {
      dot_int8<ROWS, PANELS>(from, stride, x, count, sums);
    } else {
      dot_int4<ROWS, PANELS>(from, stride, x, count, sums);
    }
    GPT2FAST_UNROLL for (int p = 0; p < PANELS; ++p) {
      const V16 scale =
          load_bf16(reinterpret_cast<const uint16_t*>(scales + p * stride) + g * kLanes);
      GPT2FAST_UNROLL for (int r = 0; r < ROWS; ++r) {
        const int64_t at = int64_t{row + r} * q.groups + g;
        const V16 sum = to_float(sums[r][p], kOffset == 0 ? 0 : kOffset * q.sums[at]);
        store(acc[r][p], fma(sum, scale * splat(q.scales[at]), load(acc[r][p])));
      }
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    for (int p = 0; p < PANELS; ++p) finish(a, row + r, panel + p * step, load(acc[r][p]));
  }
}

template <Format FORMAT>
struct IntTile {
#if defined(__AVX512VNNI__)
  static constexpr int kRows = 12;
  static constexpr int panels_for(int rows) { return rows <= 4 ? 4 : rows <= 6 ? 2 : 1; }
#elif defined(__AVX2__)
  static constexpr int kRows = 4;
  static constexpr int panels_for(int rows) { return rows == 1 ? 4 : 1; }
#else
  static constexpr int kRows = 2;
  static constexpr int panels_for(int) { return 1; }
#endif
  template <int ROWS, int PANELS>
  static void run(const MatmulArgs& a, int row, int panel, int step) {
    int_tile<FORMAT, ROWS, PANELS>(a, row, panel, step);
  }
};

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
