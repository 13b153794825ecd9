// Random bits of the tokens of a vocabulary: Philox4x32-10 (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", 2011), a pure function of the seed, the stream, the draw and the
// token.
//
// The four words of a counter belong to four tokens, so that one evaluation serves them all: of
// each kNoiseBlock tokens, token i has the word i / 16 of the counter i % 16.
#pragma once

#include <math.h>
#include <stdint.h>

namespace gpt2fast {

constexpr int32_t kNoiseBlock = 64;  // tokens of sixteen counters

// Which noise a token gets, beside its own number.
struct NoiseKey {
  uint64_t seed;
  uint32_t stream, draw;
};

namespace philox {
constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
constexpr int kRounds = 10;
}  // namespace philox

// The bits of one token. Static: these headers are compiled for several instruction sets, and the
// linker must not choose among copies.
static inline uint32_t noise_bits(const NoiseKey& key, int32_t token) {
  uint32_t c[4] = {static_cast<uint32_t>(token / kNoiseBlock * 16 + token % 16), key.draw,
                   key.stream, 0};
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < philox::kRounds; ++round) {
    const uint64_t p0 = uint64_t{philox::kMultiplier0} * c[0],
                   p1 = uint64_t{philox::kMultiplier1} * c[2];
    c[0] = static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0;
    c[1] = static_cast<uint32_t>(p1);
    c[2] = static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1;
    c[3] = static_cast<uint32_t>(p0);
    k0 += philox::kWeyl0;
    k1 += philox::kWeyl1;
  }
  return c[token % kNoiseBlock / 16];
}

// Gumbel noise: -log(E) of an exponential variable E = -log(1 - u). What matters is where E is
// small, so u near 0, which is finely resolved, is turned into that.
static inline double gumbel_noise(uint32_t bits) {
  const double uniform = (bits + 0.5) * 0x1p-32;
  return -log(-log1p(-(uniform < 0.99999994 ? uniform : 0.99999994)));
}

constexpr double kMostNoise = 22.9;  // of bits = 0: -log(2^-33)

}  // namespace gpt2fast
