// What choosing a token takes over a whole vocabulary: the largest logits, the probability from
// some logit on, and the largest of logits with Gumbel noise on them (Gumbel-max).
//
// Everything goes by blocks of kNoiseBlock tokens, whose largest logits are known: a block that
// cannot matter is not looked at. Results do not depend on how blocks are shared out.
#pragma once

#include "kernels/kernels.h"
#include "kernels/philox.h"
#include "kernels/vec.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

#if defined(__AVX512F__)

// Bit i: lane i of a is less than that of b. No NaN is.
GPT2FAST_INLINE uint32_t mask_less(V16 a, V16 b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ);
}
// Of the bits of each lane as an unsigned integer, halved; and as a signed one.
GPT2FAST_INLINE V16 half_of_bits(V16 a) {
  return {_mm512_cvtepi32_ps(_mm512_srli_epi32(_mm512_castps_si512(a.v), 1))};
}
GPT2FAST_INLINE V16 float_of_bits(V16 a) { return {_mm512_cvtepi32_ps(_mm512_castps_si512(a.v))}; }
// Sums of lanes that are not negative and below 2^31, rounded to integers.
struct RoundedSum {
  __m512i v = _mm512_setzero_si512();
};
GPT2FAST_INLINE void add_rounded(RoundedSum& sum, V16 a) {
  const __m512i rounded = _mm512_cvtps_epi32(a.v);
  const __m512i low = _mm512_and_si512(rounded, _mm512_set1_epi64(0xFFFFFFFF));
  sum.v = _mm512_add_epi64(sum.v, _mm512_add_epi64(low, _mm512_srli_epi64(rounded, 32)));
}
GPT2FAST_INLINE int64_t total(const RoundedSum& sum) { return _mm512_reduce_add_epi64(sum.v); }

// The low halves of eight 64-bit lanes.
struct Words {
  __m512i v;
};
constexpr int kWordVectors = 2;
GPT2FAST_INLINE Words splat_word(uint32_t x) { return {_mm512_set1_epi64(x)}; }
// first, first + 2, ..., first + 14
GPT2FAST_INLINE Words every_second(uint32_t first) {
  return {_mm512_add_epi64(_mm512_set1_epi64(first), _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0))};
}
GPT2FAST_INLINE Words product(Words a, Words b) { return {_mm512_mul_epu32(a.v, b.v)}; }
// A shuffle: shifts share the port of products.
GPT2FAST_INLINE Words high(Words a) { return {_mm512_shuffle_epi32(a.v, _MM_PERM_DDBB)}; }
GPT2FAST_INLINE Words xor3(Words a, Words b, Words c) {
  return {_mm512_ternarylogic_epi64(a.v, b.v, c.v, 0x96)};
}
GPT2FAST_INLINE V16 interleave(const Words* a) {
  return {
      _mm512_castsi512_ps(_mm512_mask_blend_epi32(0xAAAA, a[0].v, _mm512_slli_epi64(a[1].v, 32)))};
}
GPT2FAST_INLINE void counters(uint32_t first, Words* c) {
  c[0] = every_second(first);
  c[1] = every_second(first + 1);
}

#elif defined(__AVX2__)

GPT2FAST_INLINE uint32_t mask_less(V16 a, V16 b) {
  const int lo = _mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ));
  const int hi = _mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ));
  return static_cast<uint32_t>(lo | hi << 8);
}
GPT2FAST_INLINE __m256 half_of_bits(__m256 a) {
  return _mm256_cvtepi32_ps(_mm256_srli_epi32(_mm256_castps_si256(a), 1));
}
GPT2FAST_INLINE V16 half_of_bits(V16 a) { return {half_of_bits(a.lo), half_of_bits(a.hi)}; }
GPT2FAST_INLINE V16 float_of_bits(V16 a) {
  return {_mm256_cvtepi32_ps(_mm256_castps_si256(a.lo)),
          _mm256_cvtepi32_ps(_mm256_castps_si256(a.hi))};
}
GPT2FAST_INLINE __m256i sums_of_pairs(__m256 a) {
  const __m256i rounded = _mm256_cvtps_epi32(a);
  return _mm256_add_epi64(_mm256_and_si256(rounded, _mm256_set1_epi64x(0xFFFFFFFF)),
                          _mm256_srli_epi64(rounded, 32));
}
struct RoundedSum {
  __m256i v = _mm256_setzero_si256();
};
GPT2FAST_INLINE void add_rounded(RoundedSum& sum, V16 a) {
  sum.v = _mm256_add_epi64(sum.v, _mm256_add_epi64(sums_of_pairs(a.lo), sums_of_pairs(a.hi)));
}
GPT2FAST_INLINE int64_t total(const RoundedSum& sum) {
  int64_t lanes[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sum.v);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

// The low halves of four 64-bit lanes.
struct Words {
  __m256i v;
};
constexpr int kWordVectors = 4;
GPT2FAST_INLINE Words splat_word(uint32_t x) { return {_mm256_set1_epi64x(x)}; }
GPT2FAST_INLINE Words every_second(uint32_t first) {
  return {_mm256_add_epi64(_mm256_set1_epi64x(first), _mm256_set_epi64x(6, 4, 2, 0))};
}
GPT2FAST_INLINE Words product(Words a, Words b) { return {_mm256_mul_epu32(a.v, b.v)}; }
GPT2FAST_INLINE Words high(Words a) { return {_mm256_srli_epi64(a.v, 32)}; }
GPT2FAST_INLINE Words xor3(Words a, Words b, Words c) {
  return {_mm256_xor_si256(_mm256_xor_si256(a.v, b.v), c.v)};
}
GPT2FAST_INLINE __m256 interleave_half(Words even, Words odd) {
  return _mm256_castsi256_ps(_mm256_blend_epi32(even.v, _mm256_slli_epi64(odd.v, 32), 0xAA));
}
GPT2FAST_INLINE V16 interleave(const Words* a) {
  return {interleave_half(a[0], a[1]), interleave_half(a[2], a[3])};
}
GPT2FAST_INLINE void counters(uint32_t first, Words* c) {
  c[0] = every_second(first);
  c[1] = every_second(first + 1);
  c[2] = every_second(first + 8);
  c[3] = every_second(first + 9);
}

#else

GPT2FAST_INLINE uint32_t mask_less(V16 a, V16 b) {
  float x[16], y[16];
  store(x, a);
  store(y, b);
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<uint32_t>(x[i] < y[i]) << i;
  return mask;
}
GPT2FAST_INLINE V16 half_of_bits(V16 a) {
  uint32_t bits[16];
  float lanes[16];
  memcpy(bits, &a, sizeof(bits));
  for (int i = 0; i < 16; ++i) lanes[i] = static_cast<float>(static_cast<int32_t>(bits[i] >> 1));
  return load(lanes);
}
GPT2FAST_INLINE V16 float_of_bits(V16 a) {
  int32_t bits[16];
  float lanes[16];
  memcpy(bits, &a, sizeof(bits));
  for (int i = 0; i < 16; ++i) lanes[i] = static_cast<float>(bits[i]);
  return load(lanes);
}
struct RoundedSum {
  int64_t v = 0;
};
GPT2FAST_INLINE void add_rounded(RoundedSum& sum, V16 a) {
  float lanes[16];
  store(lanes, a);
  for (int i = 0; i < 16; ++i) sum.v += lrintf(lanes[i]);
}
GPT2FAST_INLINE int64_t total(const RoundedSum& sum) { return sum.v; }

struct Words {
  uint64_t v[16];
};
constexpr int kWordVectors = 1;
#define GPT2FAST_EACH_WORD(expression)                \
  Words r;                                            \
  for (int i = 0; i < 16; ++i) r.v[i] = (expression); \
  return r
GPT2FAST_INLINE Words splat_word(uint32_t x) { GPT2FAST_EACH_WORD(x); }
GPT2FAST_INLINE Words product(const Words& a, const Words& b) {
  GPT2FAST_EACH_WORD((a.v[i] & 0xFFFFFFFF) * (b.v[i] & 0xFFFFFFFF));
}
GPT2FAST_INLINE Words high(const Words& a) { GPT2FAST_EACH_WORD(a.v[i] >> 32); }
GPT2FAST_INLINE Words xor3(const Words& a, const Words& b, const Words& c) {
  GPT2FAST_EACH_WORD(a.v[i] ^ b.v[i] ^ c.v[i]);
}
GPT2FAST_INLINE V16 interleave(const Words* a) {
  uint32_t bits[16];
  for (int i = 0; i < 16; ++i) bits[i] = static_cast<uint32_t>(a->v[i]);
  V16 r;
  memcpy(&r, bits, sizeof(bits));
  return r;
}
GPT2FAST_INLINE void counters(uint32_t first, Words* c) {
  for (int i = 0; i < 16; ++i) c->v[i] = first + static_cast<uint32_t>(i);
}

#endif

// Blocks whose noise is made together. The rounds are a chain of latencies: two blocks fill the
// gaps, where there are registers for them.
#if defined(__AVX512F__)
constexpr int kBlocksAtOnce = 2;
#else
constexpr int kBlocksAtOnce = 1;
#endif

// noise_bits() of the tokens of kBlocksAtOnce blocks, sixteen a vector.
GPT2FAST_INLINE void block_noise_bits(const NoiseKey& key, int32_t block, V16* out) {
  constexpr int kVectors = kWordVectors * kBlocksAtOnce;
  Words c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
  for (int b = 0; b < kBlocksAtOnce; ++b) {
    counters(static_cast<uint32_t>(block + b) * 16, c0 + b * kWordVectors);
  }
  for (int i = 0; i < kVectors; ++i) {
    c1[i] = splat_word(key.draw);
    c2[i] = splat_word(key.stream);
    c3[i] = splat_word(0);
  }
  const Words m0 = splat_word(philox::kMultiplier0), m1 = splat_word(philox::kMultiplier1);
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  GPT2FAST_UNROLL
  for (int round = 0; round < philox::kRounds; ++round) {
    const Words key0 = splat_word(k0), key1 = splat_word(k1);
    GPT2FAST_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      const Words p0 = product(c0[i], m0), p1 = product(c2[i], m1);
      c0[i] = xor3(high(p1), c1[i], key0);
      c1[i] = p1;
      c2[i] = xor3(high(p0), c3[i], key1);
      c3[i] = p0;
    }
    k0 += philox::kWeyl0;
    k1 += philox::kWeyl1;
  }
  for (int b = 0; b < kBlocksAtOnce; ++b) {
    const int first = b * kWordVectors;
    out[4 * b] = interleave(c0 + first);
    out[4 * b + 1] = interleave(c1 + first);
    out[4 * b + 2] = interleave(c2 + first);
    out[4 * b + 3] = interleave(c3 + first);
  }
}

// At least gumbel_noise(bits), and at most 0.09 more where the uniform variable is small: log2 of a
// float is at least what its bits say when they are read as an integer, and E is at least u.
GPT2FAST_INLINE V16 noise_bound(V16 bits) {
  // Half of the bits, u * 2^31 without its last one, has the exponent of u plus 127 + 31.
  constexpr float kLn2 = 0.69314718f;
  return fma(float_of_bits(half_of_bits(bits)), splat(-kLn2 * 0x1p-23f),
             splat(kLn2 * (127.0f + 31.0f) + 1e-3f));
}

// A vector of the logits of a vocabulary; what is past its end is -inf.
GPT2FAST_INLINE V16 logits_at(const float* logits, int32_t vocab, int32_t token) {
  const int32_t left = vocab - token;
  if (left >= 16) return load(logits + token);
  return load_partial(logits + (left > 0 ? token : 0), left > 0 ? left : 0, -INFINITY);
}

static void block_maxima(const float* logits, int32_t vocab, int32_t begin, int32_t end,
                         float* maxima) {
  const V16 infinity = splat(INFINITY);
  for (int32_t block = begin; block < end; ++block) {
    V16 most = splat(-INFINITY);
    uint32_t finite = 0xFFFF;
    for (int32_t i = 0; i < kNoiseBlock; i += 16) {
      const V16 x = logits_at(logits, vocab, block * kNoiseBlock + i);
      finite &= mask_less(x, infinity);
      most = max(x, most);
    }
    maxima[block] = finite == 0xFFFF ? max_lane(most) : INFINITY;
  }
}

static void weigh(const SampleArgs& args, float above, int32_t begin, int32_t end,
                  WeightSums* sums) {
  const V16 most = splat(args.most), inverse = splat(args.inverse_temperature);
  const V16 bound = splat(args.bound), second = splat(above);
  const V16 unit = splat(static_cast<float>(kWeightOfMost)), zero = splat(0.0f);
  RoundedSum all, larger;
  for (int32_t block = begin; block < end; ++block) {
    if (args.maxima[block] < args.bound) continue;
    const bool has_larger = args.maxima[block] >= above;
    for (int32_t i = 0; i < kNoiseBlock; i += 16) {
      const V16 x = logits_at(args.logits, args.vocab, block * kNoiseBlock + i);
      const V16 weight = select_less(x, bound, zero, exp((x - most) * inverse) * unit);
      add_rounded(all, weight);
      if (has_larger) add_rounded(larger, select_less(x, second, zero, weight));
    }
  }
  *sums = {total(all), total(larger)};
}

static int32_t logits_from(const SampleArgs& args, float* out) {
  const int32_t blocks = (args.vocab + kNoiseBlock - 1) / kNoiseBlock;
  const V16 bound = splat(args.bound);
  int32_t count = 0;
  for (int32_t block = 0; block < blocks; ++block) {
    if (args.maxima[block] < args.bound) continue;
    for (int32_t i = 0; i < kNoiseBlock; i += 16) {
      const int32_t first = block * kNoiseBlock + i, left = args.vocab - first;
      const V16 x = logits_at(args.logits, args.vocab, first);
      uint32_t found = ~mask_less(x, bound) & (left >= 16 ? 0xFFFF
                                               : left > 0 ? (1u << left) - 1
                                                          : 0);
      for (; found != 0; found &= found - 1) {
        out[count++] = args.logits[first + __builtin_ctz(found)];
      }
    }
  }
  return count;
}

static double perturbed(const SampleArgs& args, int32_t token) {
  const double logit = static_cast<double>(args.logits[token]) - static_cast<double>(args.most);
  return logit / static_cast<double>(args.temperature) +
         gumbel_noise(noise_bits(args.noise, token));
}

static void gumbel_max(const SampleArgs& args, int32_t begin, int32_t end, Perturbed* best) {
  const V16 most = splat(args.most), inverse = splat(args.inverse_temperature);
  // Below the best by more than float32 can be wrong about.
  auto floor_of = [](double score) {
    return static_cast<float>(score - 1e-3 - 1e-5 * fabs(score));
  };
  float floor = floor_of(best->score);
  for (int32_t block = begin; block < end; block += kBlocksAtOnce) {
    float largest = args.maxima[block];
    const int32_t last = block + kBlocksAtOnce < end ? block + kBlocksAtOnce : end;
    for (int32_t b = block + 1; b < last; ++b) {
      largest = args.maxima[b] > largest ? args.maxima[b] : largest;
    }
    const float scaled = (largest - args.most) * args.inverse_temperature;
    if (largest < args.bound || scaled + static_cast<float>(kMostNoise) < floor) continue;
    V16 bits[4 * kBlocksAtOnce];
    block_noise_bits(args.noise, block, bits);
    for (int32_t i = 0; i < 4 * (last - block); ++i) {
      const int32_t first = block * kNoiseBlock + 16 * i;
      const V16 x = logits_at(args.logits, args.vocab, first);
      const V16 bound = fma(x - most, inverse, noise_bound(bits[i]));
      uint32_t candidates = mask_less(splat(floor), bound) & ~mask_less(x, splat(args.bound));
      for (; candidates != 0; candidates &= candidates - 1) {
        const int32_t token = first + __builtin_ctz(candidates);
        const double score = perturbed(args, token);
        if (score > best->score || (score == best->score && token < best->token)) {
          *best = {score, token};
          floor = floor_of(score);
        }
      }
    }
  }
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
