#include "kernels/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "check.h"
#include "decoder/packing.h"
#include "kernels/limits.h"

namespace gpt2fast {
namespace {

using test::random_floats;

bool same_bits(const float* a, const float* b, size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

// A random (K, N) matrix in a format, and what its panels stand for.
struct Matrix {
  PackedMatrix packed;
  std::vector<std::vector<float>> outputs;  // [n][k]

  Matrix(const std::vector<float>& w, Format format, int group, int inputs, int outputs_count) {
    packed.layout = {format, inputs, outputs_count, group, nullptr};
    packed.data = Buffer(static_cast<size_t>(packed.layout.bytes()));
    ThreadPool pool(1);
    CHECK(pack_matrix({w.data(), StoredType::kFloat32, {inputs, outputs_count}},
                      Orientation::kConv1d, nullptr, packed, pool));
    outputs.resize(static_cast<size_t>(outputs_count));
    for (int n = 0; n < outputs_count; ++n) {
      outputs[static_cast<size_t>(n)].resize(static_cast<size_t>(inputs));
      unpack_output(packed.panels(), n, outputs[static_cast<size_t>(n)].data());
    }
  }
};

// Rows quantized by the kernel for weights of a format, and what they stand for.
struct Rows {
  std::vector<int8_t> values;
  std::vector<float> scales;
  std::vector<int32_t> starts;
  QuantizedRows view;

  Rows(const KernelTable& kernels, const float* x, int rows, int inputs, Format format, int group)
      : view{nullptr, nullptr, nullptr, format, inputs, group, rows} {
    values.resize(static_cast<size_t>(rows * view.value_bytes()), 77);
    scales.resize(static_cast<size_t>(rows * view.groups()));
    starts.resize(static_cast<size_t>(rows * view.spans()));
    view.values = values.data();
    view.scales = scales.data();
    view.starts = starts.data();
    for (int m = 0; m < rows; ++m) kernels.quantize(x + m * inputs, view, m);
  }
  int value(int m, int k) const {
    const RowTiles tiles = view.tiles();
    const int tile = tiles.of(m), begin = tiles.begin(tile), height = tiles.height(tile);
    return tile_at(view, begin).values[k / 4 * 4 * height + (m - begin) * 4 + k % 4];
  }
  float scale(int m, int g) const {
    const RowTiles tiles = view.tiles();
    const int tile = tiles.of(m), begin = tiles.begin(tile);
    return tile_at(view, begin).scales[g * tiles.height(tile) + m - begin];
  }
  float at(int m, int k) const {
    return scale(m, k / view.group) * static_cast<float>(value(m, k));
  }
};

TEST(row_tiles_cover_all_rows_evenly) {
  for (int rows = 1; rows < 60; ++rows) {
    for (int most = 1; most < 14; ++most) {
      const RowTiles tiles{rows, most};
      CHECK(tiles.begin(0) == 0 && tiles.begin(tiles.count()) == rows);
      for (int tile = 0; tile < tiles.count(); ++tile) {
        CHECK(tiles.height(tile) >= 1 && tiles.height(tile) <= most);
        for (int r = tiles.begin(tile); r < tiles.begin(tile + 1); ++r) CHECK(tiles.of(r) == tile);
      }
    }
  }
}

// Each group within half a step of x, whose largest magnitude is 127 steps, and zeros after it.
void check_rows(const Rows& rows, const std::vector<float>& x) {
  const int inputs = rows.view.inputs, group = rows.view.group;
  for (int m = 0; m < rows.view.rows; ++m) {
    for (int begin = 0; begin < inputs; begin += group) {
      float most = 0;
      const int end = std::min(begin + group, inputs);
      for (int k = begin; k < end; ++k) most = std::max(most, std::fabs(x[size_t(m * inputs + k)]));
      for (int k = begin; k < end; ++k) {
        CHECK(std::fabs(rows.at(m, k) - x[size_t(m * inputs + k)]) <= most / 253.0f);
      }
    }
    for (int k = inputs; k % kInt3Unit != 0; ++k) CHECK(rows.value(m, k) == 0);
  }
}

void check_matmul(Isa isa, Format format, int group, int rows, int inputs, int outputs) {
  const KernelTable& kernels = kernel_table(isa);
  const auto x = random_floats(static_cast<size_t>(rows * inputs), 1);
  const Matrix w(random_floats(static_cast<size_t>(inputs * outputs), 2), format, group, inputs,
                 outputs);
  auto bias = random_floats(static_cast<size_t>(round_up_lanes(outputs)), 3);
  const auto residual = random_floats(static_cast<size_t>(rows * outputs), 4);
  std::vector<float> out(static_cast<size_t>(rows * outputs + 1), 77.0f);
  const int any_group = group == 0 ? 32 : group;
  const Rows quantized(kernels, x.data(), rows, inputs, format, any_group);
  if (group != 0) check_rows(quantized, x);
  MatmulArgs args{};
  args.weights = w.packed.panels();
  args.rows = rows;
  args.x = x.data();
  args.x_stride = inputs;
  args.quantized = quantized.view;
  args.bias = bias.data();
  args.residual = residual.data();
  args.out = out.data();
  args.out_stride = outputs;
  kernels.matmul(args, 0, args.weights.count());
  CHECK(out.back() == 77.0f);  // nothing beyond N
  for (int m = 0; m < rows; ++m) {
    for (int n = 0; n < outputs; ++n) {
      double sum = bias[static_cast<size_t>(n)] + residual[static_cast<size_t>(m * outputs + n)];
      double magnitude = std::abs(sum);
      for (int k = 0; k < inputs; ++k) {
        const float left = group == 0 ? x[size_t(m * inputs + k)] : quantized.at(m, k);
        const double product = double{left} * double{w.outputs[size_t(n)][size_t(k)]};
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
    const Rows row(kernels, &x[size_t(m * inputs)], 1, inputs, format, any_group);
    one.rows = 1;
    one.x += m * inputs;
    one.quantized = row.view;
    one.residual += m * outputs;
    one.out = alone.data();
    for (int32_t p = 0; p < args.weights.count(); ++p) kernels.matmul(one, p, p + 1);
    CHECK(same_bits(alone.data(), out.data() + m * outputs, alone.size()));
  }
}

TEST(matmul_is_right_and_its_bits_do_not_depend_on_the_tile) {
  const std::vector<std::pair<Format, int>> formats{
      {Format::kFloat32, 0}, {Format::kBFloat16, 0}, {Format::kInt8, 32},  {Format::kInt8, 64},
      {Format::kInt4, 32},   {Format::kInt4, 64},    {Format::kInt4, 128}, {Format::kInt4, 96},
      {Format::kInt8, 160},  {Format::kInt3, 32},    {Format::kInt3, 64},  {Format::kInt3, 128},
      {Format::kInt3, 96}};
  for (const Isa isa : available_isas()) {
    for (const auto& [format, group] : formats) {
      for (const int rows : {1, 2, 3, 4, 5, 6, 7, 12, 13, 25}) {
        check_matmul(isa, format, group, rows, 37, 50);
      }
      check_matmul(isa, format, group, 130, 70, 50);  // enough rows to unpack for
      check_matmul(isa, format, group, 1, 768, 257);
      check_matmul(isa, format, group, 3, 200, 150);
      check_matmul(isa, format, group, 4, 1, 1);
    }
  }
}

// 127 * 127 in every place: the largest sums that the integer kernels can meet.
TEST(integer_sums_do_not_saturate) {
  for (const Isa isa : available_isas()) {
    for (const Format format : {Format::kInt8, Format::kInt4, Format::kInt3}) {
      for (const float sign : {1.0f, -1.0f}) {
        const int inputs = 1024;
        const Matrix w(std::vector<float>(inputs * 16, 127.0f), format, 128, inputs, 16);
        const std::vector<float> x(inputs, sign);
        const Rows quantized(kernel_table(isa), x.data(), 1, inputs, format, 128);
        std::vector<float> out(16);
        MatmulArgs args{};
        args.weights = w.packed.panels();
        args.rows = 1;
        args.quantized = quantized.view;
        args.out = out.data();
        args.out_stride = 16;
        kernel_table(isa).matmul(args, 0, 1);
        for (const float value : out)
          CHECK(std::fabs(value - sign * 127 * inputs) < 0.01f * inputs);
      }
    }
  }
}

TEST(quantizing_does_not_hide_overflow) {
  for (const Isa isa : available_isas()) {
    for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
      std::vector<float> x(96, 1.0f);
      x[40] = bad;
      const Rows rows(kernel_table(isa), x.data(), 1, 96, Format::kInt4, 32);
      CHECK(std::isnan(rows.scales[1]));
      CHECK(rows.scales[0] == 1.0f / 127.0f && rows.scales[2] == 1.0f / 127.0f);
    }
    const std::vector<float> nothing(32, 0.0f);
    const Rows zeros(kernel_table(isa), nothing.data(), 1, 32, Format::kInt8, 32);
    CHECK(zeros.scales[0] == 0.0f && zeros.values[5] == 0);
  }
}

TEST(packing_rounds_to_nearest_within_a_group) {
  const int inputs = 100, outputs = 20;
  const auto w = random_floats(inputs * outputs, 11);
  for (const int group : {32, 64, 128}) {
    for (const Format format : {Format::kInt8, Format::kInt4, Format::kInt3}) {
      const Matrix m(w, format, group, inputs, outputs);
      for (int n = 0; n < outputs; ++n) {
        for (int begin = 0; begin < inputs; begin += group) {
          float most = 0;
          const int end = std::min(begin + group, inputs);
          for (int k = begin; k < end; ++k) most = std::max(most, std::fabs(w[size_t(k * 20 + n)]));
          // Half a step; at the far end of 4 and 3 bits, where +8 or +4 is missing, a whole one.
          // The step is itself rounded to eight bits.
          const float steps = format == Format::kInt8   ? 2 * 126.0f
                              : format == Format::kInt4 ? 7.9f
                                                        : 3.95f;
          const float bound = most / steps;
          for (int k = begin; k < end; ++k) {
            const float error = m.outputs[size_t(n)][size_t(k)] - w[size_t(k * 20 + n)];
            CHECK(std::fabs(error) <= bound);
          }
        }
      }
    }
  }
}

TEST(layer_norm_does_not_hide_overflow) {
  for (const Isa isa : available_isas()) {
    for (const int width : {1, 7, 16, 40}) {
      for (const float bad : {1e20f, -3e38f, HUGE_VALF, std::nanf("")}) {
        if (width == 1 && std::fabs(bad) < HUGE_VALF) continue;  // its own mean
        auto x = random_floats(static_cast<size_t>(width), 1);
        const std::vector<float> ones(48, 1.0f);
        std::vector<float> out(static_cast<size_t>(width));
        x[static_cast<size_t>(width / 2)] = bad;
        kernel_table(isa).layer_norm(x.data(), ones.data(), ones.data(), 1e-5f, width, out.data());
        for (const float value : out) CHECK(std::isnan(value));
      }
    }
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
  const Matrix identity({1.0f}, Format::kFloat32, 0, 1, 1);
  for (const Isa isa : available_isas()) {
    for (int kind = 0; kind <= static_cast<int>(Activation::kXIelu); ++kind) {
      const auto activation = static_cast<Activation>(kind);
      MatmulArgs args{};
      args.weights = identity.packed.panels();
      args.rows = kCount;
      args.x = x.data();
      args.x_stride = 1;
      args.out = out.data();
      args.out_stride = 1;
      args.activation = activation;
      std::memcpy(args.activation_parameters, kParameters, sizeof(kParameters));
      kernel_table(isa).matmul(args, 0, 1);
      for (int i = 0; i < kCount; ++i) {
        const double want = exact(activation, x[static_cast<size_t>(i)]);
        CHECK(std::abs(out[static_cast<size_t>(i)] - want) <= 1e-6 * std::fmax(1, std::abs(want)));
      }
    }
  }
}

// A cache of `blocks` blocks of one head.
struct Cache {
  KvLayout layout;
  std::vector<uint8_t> storage;
  std::vector<int32_t> table;

  Cache(KvFormat format, int head_size, int blocks) : layout{format, head_size} {
    // What a recycled block may hold must not matter, except that a kernel may not fault on it.
    storage.assign(static_cast<size_t>(blocks * layout.bytes()), 0x7f);
    for (int b = blocks - 1; b >= 0; --b) table.push_back(b);
  }
  HeadCache view() { return {storage.data(), layout.bytes(), table.data(), layout}; }
};

// Half a step of what a cache format does to a vector.
float rounding(KvFormat format, const float* x, int count) {
  float most = 0;
  for (int i = 0; i < count; ++i) most = std::max(most, std::fabs(x[i]));
  return format == KvFormat::kFloat32 ? 0.0f : most / (format == KvFormat::kInt8 ? 254 : 256);
}

void check_attention(Isa isa, KvFormat format, int head_size, int tokens) {
  const KernelTable& kernels = kernel_table(isa);
  const auto n = static_cast<size_t>(tokens * head_size);
  const auto q = random_floats(n, 8), k = random_floats(n, 9), v = random_floats(n, 10);
  Cache cache(format, head_size, (tokens + kBlockTokens - 1) / kBlockTokens);
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_size));
  std::vector<float> whole(n), single(n);
  for (int t = 0; t < tokens; ++t)
    kernels.append_kv(cache.view(), t, &k[static_cast<size_t>(t * head_size)],
                      &v[static_cast<size_t>(t * head_size)]);
  kernels.attention({q.data(), head_size, tokens, 0, scale, cache.view(), whole.data(), head_size});
  for (int t = 0; t < tokens; ++t) {
    const auto row = static_cast<size_t>(t * head_size);
    kernels.attention({&q[row], head_size, 1, t, scale, cache.view(), &single[row], head_size});
    std::vector<double> weights;
    double total = 0, slack = 0;
    for (int s = 0; s <= t; ++s) {
      double score = 0, keys = 0, queries = 0;
      const float* key = &k[static_cast<size_t>(s * head_size)];
      for (int d = 0; d < head_size; ++d) {
        score += double{q[row + static_cast<size_t>(d)]} * key[d];
        keys += std::fabs(key[d]);
        queries += std::fabs(q[row + static_cast<size_t>(d)]);
      }
      weights.push_back(std::exp(score * scale));
      total += weights.back();
      // What rounding the key, and for 8 bits the query, can move a score by, at most.
      double moved = queries * rounding(format, key, head_size);
      if (format == KvFormat::kInt8) moved += 1.01 * keys * rounding(format, &q[row], head_size);
      slack = std::max(slack, moved * scale);
    }
    double most_v = 0, value_slack = 0;
    for (int s = 0; s <= t; ++s) {
      const float* value = &v[static_cast<size_t>(s * head_size)];
      for (int d = 0; d < head_size; ++d) most_v = std::max(most_v, double{std::fabs(value[d])});
      value_slack = std::max(value_slack, double{rounding(format, value, head_size)});
    }
    for (int d = 0; d < head_size; ++d) {
      double want = 0;
      for (int s = 0; s <= t; ++s)
        want += weights[static_cast<size_t>(s)] / total * v[static_cast<size_t>(s * head_size + d)];
      // The weights become integers too: half a step of the largest, for each token.
      const double top = *std::max_element(weights.begin(), weights.end()) / total;
      const double weight_slack = format == KvFormat::kInt8 ? (t + 1) * top / 254 * most_v : 0;
      const double bound = 1e-5 + value_slack + weight_slack + 2 * std::expm1(2 * slack) * most_v;
      CHECK(std::abs(whole[row + static_cast<size_t>(d)] - want) < bound);
    }
  }
  CHECK(same_bits(whole.data(), single.data(), n));
}

constexpr KvFormat kKvFormats[] = {KvFormat::kFloat32, KvFormat::kBFloat16, KvFormat::kInt8};

TEST(attention_does_not_hide_overflow) {
  for (const Isa isa : available_isas()) {
    for (const KvFormat format : kKvFormats) {
      Cache cache(format, 16, 1);
      const std::vector<float> huge(16, 1e30f), value(16, 1.0f);
      kernel_table(isa).append_kv(cache.view(), 0, huge.data(), value.data());
      kernel_table(isa).append_kv(cache.view(), 1, huge.data(), value.data());
      std::vector<float> out(16);
      kernel_table(isa).attention({huge.data(), 16, 1, 1, 1.0f, cache.view(), out.data(), 16});
      CHECK(std::isnan(out[0]));  // infinity minus infinity, as in transformers
      std::vector<float> broken(16, 0.5f);
      broken[3] = std::nanf("");
      kernel_table(isa).append_kv(cache.view(), 1, broken.data(), broken.data());
      kernel_table(isa).attention({value.data(), 16, 1, 1, 1.0f, cache.view(), out.data(), 16});
      CHECK(std::isnan(out[3]));
    }
  }
}

TEST(attention_is_right_and_its_bits_do_not_depend_on_the_chunk) {
  for (const Isa isa : available_isas()) {
    for (const KvFormat format : kKvFormats) {
      check_attention(isa, format, 64, 150);
      check_attention(isa, format, 7, 33);
      check_attention(isa, format, 20, 16);
      check_attention(isa, format, 100, 70);
      check_attention(isa, format, 256, 5);
    }
  }
}

TEST(limits_are_measured) {
  for (const Isa isa : available_isas()) {
    CHECK(measure_read_bandwidth(isa, 1, 8, 2)[1] > 1e7);
    for (const Format format :
         {Format::kFloat32, Format::kBFloat16, Format::kInt8, Format::kInt4, Format::kInt3}) {
      CHECK(measure_arithmetic_peak(isa, format, 1, 1)[0] > 1e7);
      const CyclePass pass = measure_peak_per_cycle(isa, format, 1)[0];
      CHECK(pass.operations_per_second > 1e7);
      CHECK(pass.clock_before > 1e7 && pass.clock_after > 1e7);
    }
  }
}

}  // namespace
}  // namespace gpt2fast
