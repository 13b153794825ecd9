#include "kernels/kernels.h"

#include <cmath>
#include <cstring>

#include "check.h"

namespace gpt2fast {
namespace {

using test::random_floats;

// (K, N) row-major into panels of 16 outputs.
std::vector<float> pack(const std::vector<float>& w, int inputs, int outputs) {
  std::vector<float> panels(static_cast<size_t>(round_up_lanes(outputs)) *
                            static_cast<size_t>(inputs));
  for (int k = 0; k < inputs; ++k) {
    for (int n = 0; n < outputs; ++n) {
      panels[static_cast<size_t>((n / kLanes * inputs + k) * kLanes + n % kLanes)] =
          w[static_cast<size_t>(k * outputs + n)];
    }
  }
  return panels;
}

bool same_bits(const float* a, const float* b, size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

void check_matmul(Isa isa, int rows, int inputs, int outputs) {
  const KernelTable& kernels = kernel_table(isa);
  const auto x = random_floats(static_cast<size_t>(rows * inputs), 1);
  const auto w = random_floats(static_cast<size_t>(inputs * outputs), 2);
  const auto panels = pack(w, inputs, outputs);
  auto bias = random_floats(static_cast<size_t>(round_up_lanes(outputs)), 3);
  const auto residual = random_floats(static_cast<size_t>(rows * outputs), 4);
  std::vector<float> out(static_cast<size_t>(rows * outputs + 1), 77.0f);
  MatmulArgs args{x.data(),
                  inputs,
                  rows,
                  inputs,
                  outputs,
                  panels.data(),
                  bias.data(),
                  residual.data(),
                  out.data(),
                  outputs,
                  Activation::kIdentity,
                  {}};
  const auto num_panels = static_cast<int32_t>(round_up_lanes(outputs) / kLanes);
  kernels.matmul(args, 0, num_panels);
  CHECK(out.back() == 77.0f);  // nothing beyond N
  for (int m = 0; m < rows; ++m) {
    for (int n = 0; n < outputs; ++n) {
      double sum = bias[static_cast<size_t>(n)] + residual[static_cast<size_t>(m * outputs + n)];
      double magnitude = std::abs(sum);
      for (int k = 0; k < inputs; ++k) {
        const double product = double{x[static_cast<size_t>(m * inputs + k)]} *
                               double{w[static_cast<size_t>(k * outputs + n)]};
        sum += product;
        magnitude += std::abs(product);
      }
      CHECK(std::abs(out[static_cast<size_t>(m * outputs + n)] - sum) <= 1e-6 * magnitude + 1e-6);
    }
  }
  // One row at a time, one panel at a time: the same bits.
  std::vector<float> alone(static_cast<size_t>(outputs));
  for (int m = 0; m < rows; ++m) {
    MatmulArgs one = args;
    one.rows = 1;
    one.x += m * inputs;
    one.residual += m * outputs;
    one.out = alone.data();
    for (int32_t p = 0; p < num_panels; ++p) kernels.matmul(one, p, p + 1);
    CHECK(same_bits(alone.data(), out.data() + m * outputs, alone.size()));
  }
}

TEST(matmul_is_right_and_its_bits_do_not_depend_on_the_tile) {
  for (const Isa isa : available_isas()) {
    for (const int rows : {1, 2, 3, 5, 6, 7, 12, 13, 25, 31}) check_matmul(isa, rows, 37, 50);
    check_matmul(isa, 1, 768, 257);
    check_matmul(isa, 4, 1, 1);
  }
}

TEST(layer_norm_matches_double_precision) {
  for (const Isa isa : available_isas()) {
    for (const int width : {1, 7, 16, 48, 768, 1600, 1601}) {
      const auto n = static_cast<size_t>(width);
      const auto x = random_floats(n, 5, 10.0f), w = random_floats(n, 6), b = random_floats(n, 7);
      std::vector<float> out(n + 1, 77.0f);
      kernel_table(isa).layer_norm(x.data(), w.data(), b.data(), 1e-5f, width, out.data());
      double mean = 0, variance = 0;
      for (const float v : x) mean += v / double(width);
      for (const float v : x) variance += (v - mean) * (v - mean) / double(width);
      for (size_t c = 0; c < n; ++c) {
        const double want = (x[c] - mean) / std::sqrt(variance + 1e-5) * w[c] + b[c];
        CHECK(std::abs(out[c] - want) < 2e-5);
      }
      CHECK(out.back() == 77.0f);
    }
  }
}

constexpr float kParameters[4] = {0.8f, 1.1f, 0.5f, -1e-6f};

double exact(Activation kind, double x) {
  const double gelu = 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
  const double sigmoid = 1 / (1 + std::exp(-x));
  switch (kind) {
    case Activation::kIdentity: return x;
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf: return gelu;
    case Activation::kGeluQuick: return x / (1 + std::exp(-1.702 * x));
    case Activation::kGelu10: return std::fmin(std::fmax(gelu, -10), 10);
    case Activation::kRelu: return std::fmax(x, 0);
    case Activation::kRelu2: return std::fmax(x, 0) * std::fmax(x, 0);
    case Activation::kRelu6: return std::fmin(std::fmax(x, 0), 6);
    case Activation::kLeakyRelu: return x < 0 ? 0.01 * x : x;
    case Activation::kSilu: return x * sigmoid;
    case Activation::kSigmoid: return sigmoid;
    case Activation::kTanh: return std::tanh(x);
    case Activation::kMish: return x * std::tanh(std::log1p(std::exp(x)));
    case Activation::kPRelu: return x < 0 ? kParameters[0] * x : x;
    case Activation::kXIelu: {
      const double linear = kParameters[2] * x;
      return x > 0 ? kParameters[0] * x * x + linear
                   : (std::expm1(std::fmin(x, kParameters[3])) - x) * kParameters[1] + linear;
    }
    case Activation::kHardSwish: return x * std::fmin(std::fmax(x + 3, 0), 6) / 6;
    case Activation::kSqrtSoftplus: return std::sqrt(std::log1p(std::exp(x)));
    case Activation::kLaplace:
      return 0.5 * (1 + std::erf((x - 0.707107) / (0.282095 * std::sqrt(2.0))));
  }
  return 0;
}

// Through the epilogue of a product with the identity, which is where activations run.
TEST(activations_match_double_precision) {
  constexpr int kCount = 4001;
  std::vector<float> x(kCount), out(kCount);
  for (int i = 0; i < kCount; ++i)
    x[static_cast<size_t>(i)] = static_cast<float>(i - 2000) * 0.015f;
  x[0] = -300.0f;
  x[kCount - 1] = 300.0f;
  const std::vector<float> panels = pack({1.0f}, 1, 1);
  for (const Isa isa : available_isas()) {
    for (int kind = 0; kind <= static_cast<int>(Activation::kXIelu); ++kind) {
      const auto activation = static_cast<Activation>(kind);
      const MatmulArgs args{
          x.data(), 1,          kCount,
          1,        1,          panels.data(),
          nullptr,  nullptr,    out.data(),
          1,        activation, {kParameters[0], kParameters[1], kParameters[2], kParameters[3]}};
      kernel_table(isa).matmul(args, 0, 1);
      for (int i = 0; i < kCount; ++i) {
        const double want = exact(activation, x[static_cast<size_t>(i)]);
        CHECK(std::abs(out[static_cast<size_t>(i)] - want) <= 1e-6 * std::fmax(1, std::abs(want)));
      }
    }
  }
}

void check_attention(Isa isa, int head_size, int tokens) {
  const KernelTable& kernels = kernel_table(isa);
  const auto n = static_cast<size_t>(tokens * head_size);
  const auto q = random_floats(n, 8), k = random_floats(n, 9), v = random_floats(n, 10);
  const int blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
  const int64_t stride = kBlockTokens * (head_size + round_up_lanes(head_size));
  // What a recycled block may hold must not matter, except that a kernel may not fault on it.
  std::vector<float> storage(static_cast<size_t>(blocks * stride), 1e30f);
  std::vector<int32_t> table;
  for (int b = blocks - 1; b >= 0; --b) table.push_back(b);
  const HeadCache cache{storage.data(), stride, table.data(), head_size};
  const float scale = 0.3f;
  std::vector<float> whole(n), single(n);
  for (int t = 0; t < tokens; ++t)
    kernels.append_kv(cache, t, &k[static_cast<size_t>(t * head_size)],
                      &v[static_cast<size_t>(t * head_size)]);
  kernels.attention({q.data(), head_size, tokens, 0, scale, cache, whole.data(), head_size});
  for (int t = 0; t < tokens; ++t) {
    const auto row = static_cast<size_t>(t * head_size);
    kernels.attention({&q[row], head_size, 1, t, scale, cache, &single[row], head_size});
    std::vector<double> weights;
    double total = 0;
    for (int s = 0; s <= t; ++s) {
      double score = 0;
      for (int d = 0; d < head_size; ++d)
        score +=
            double{q[row + static_cast<size_t>(d)]} * k[static_cast<size_t>(s * head_size + d)];
      weights.push_back(std::exp(score * scale));
      total += weights.back();
    }
    for (int d = 0; d < head_size; ++d) {
      double want = 0;
      for (int s = 0; s <= t; ++s)
        want += weights[static_cast<size_t>(s)] / total * v[static_cast<size_t>(s * head_size + d)];
      CHECK(std::abs(whole[row + static_cast<size_t>(d)] - want) < 1e-5);
    }
  }
  CHECK(same_bits(whole.data(), single.data(), n));
}

TEST(attention_does_not_hide_overflow) {
  for (const Isa isa : available_isas()) {
    std::vector<float> storage(2 * kBlockTokens * kLanes, 0.0f);
    const int32_t table = 0;
    const HeadCache cache{storage.data(), 2 * kBlockTokens * kLanes, &table, 16};
    const std::vector<float> huge(16, 1e30f), value(16, 1.0f);
    kernel_table(isa).append_kv(cache, 0, huge.data(), value.data());
    kernel_table(isa).append_kv(cache, 1, huge.data(), value.data());
    std::vector<float> out(16);
    kernel_table(isa).attention({huge.data(), 16, 1, 1, 1.0f, cache, out.data(), 16});
    CHECK(std::isnan(out[0]));  // infinity minus infinity, as in transformers
  }
}

TEST(attention_is_right_and_its_bits_do_not_depend_on_the_chunk) {
  for (const Isa isa : available_isas()) {
    check_attention(isa, 64, 70);
    check_attention(isa, 7, 33);
    check_attention(isa, 20, 16);
    check_attention(isa, 256, 5);
  }
}

}  // namespace
}  // namespace gpt2fast
