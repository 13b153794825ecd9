#include "decoder/decoder.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "check.h"

namespace gpt2fast {
namespace {

using test::random_floats;

const ModelShape kShape{53,    64,
                        40,    10,
                        1e-5f, Activation::kGeluTanh,
                        false, {{4, 96, 0.3f}, {3, 50, 0.2f}}};  // layers of different shape

void load(Decoder& decoder, const std::string& name, std::vector<int64_t> shape, unsigned seed) {
  size_t count = 1;
  for (const int64_t size : shape) count *= static_cast<size_t>(size);
  const auto values = random_floats(count, seed, 0.3f);
  decoder.weights().load(name, {values.data(), StoredType::kFloat32, shape}, decoder.pool());
}

void load_all(Decoder& decoder) {
  const ModelShape& s = decoder.shape();
  load(decoder, "wte.weight", {s.vocab, s.width}, 1);
  load(decoder, "lm_head.weight", {s.vocab, s.width}, 2);
  load(decoder, "wpe.weight", {s.positions, s.width}, 3);
  unsigned seed = 10;
  for (size_t l = 0; l < s.layers.size(); ++l) {
    const std::string p = "h." + std::to_string(l) + ".";
    const int64_t attended = s.layers[l].heads * s.head_size, inner = s.layers[l].inner;
    for (const char* norm : {"ln_1", "ln_2"}) {
      load(decoder, p + norm + ".weight", {s.width}, seed++);
      load(decoder, p + norm + ".bias", {s.width}, seed++);
    }
    const auto conv = [&](const char* name, int64_t in, int64_t out) {
      load(decoder, p + name + ".weight", {in, out}, seed++);
      load(decoder, p + name + ".bias", {out}, seed++);
    };
    conv("attn.c_attn", s.width, 3 * attended);
    conv("attn.c_proj", attended, s.width);
    conv("mlp.c_fc", s.width, inner);
    conv("mlp.c_proj", inner, s.width);
  }
  load(decoder, "ln_f.weight", {s.width}, 4);
  load(decoder, "ln_f.bias", {s.width}, 5);
  CHECK(decoder.weights().complete() && decoder.weights().missing().empty());
}

// Two sequences of 40 tokens in the given chunk sizes, both in each step; all logits.
std::vector<float> run(Decoder& decoder, const std::vector<int32_t>& chunks) {
  constexpr int32_t kTokens = 40, kBlocks = 3;
  const int32_t vocab = decoder.shape().vocab;
  std::vector<float> logits(static_cast<size_t>(2 * kTokens * vocab));
  const std::vector<int32_t> tables{5, 0, 2, 1, 3, 4};
  int32_t done = 0;
  for (const int32_t chunk : chunks) {
    std::vector<int32_t> ids, rows;
    for (int32_t s = 0; s < 2; ++s) {
      for (int32_t t = done; t < done + chunk; ++t) ids.push_back((t * 7 + s * 13) % vocab);
    }
    for (int32_t r = 0; r < 2 * chunk; ++r) rows.push_back(r);
    const std::vector<int32_t> starts{0, chunk, 2 * chunk}, contexts{done, done};
    std::vector<float> out(static_cast<size_t>(2 * chunk * vocab));
    decoder.step({ids.data(), starts.data(), contexts.data(), tables.data(), rows.data(), 2 * chunk,
                  2, kBlocks, 2 * chunk},
                 out.data());
    const size_t half = out.size() / 2;
    std::memcpy(&logits[static_cast<size_t>(done * vocab)], out.data(), half * sizeof(float));
    std::memcpy(&logits[static_cast<size_t>((kTokens + done) * vocab)], &out[half],
                half * sizeof(float));
    done += chunk;
  }
  return logits;
}

// All matrices of kShape in one format.
MatrixFormats all_in(MatrixFormat format) {
  MatrixFormats formats{{"wte.weight", format}, {"lm_head.weight", format}};
  for (const char* layer : {"h.0.", "h.1."}) {
    for (const char* name : {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}) {
      formats[std::string(layer) + name + ".weight"] = format;
    }
  }
  return formats;
}

DecoderOptions options(int32_t threads, int32_t blocks, int32_t tokens) {
  DecoderOptions made;
  made.num_threads = threads;
  made.num_blocks = blocks;
  made.max_batch_tokens = tokens;
  return made;
}

void check_same_bits(Isa isa, MatrixFormat format, KvFormat kv_format) {
  std::vector<float> first;
  for (const int32_t threads : {1, 3}) {
    DecoderOptions given = options(threads, 6, 80);
    given.formats = all_in(format);
    given.kv_format = kv_format;
    Decoder decoder(kShape, isa, given);
    load_all(decoder);
    for (const auto& chunks :
         {std::vector<int32_t>{40}, {1, 38, 1}, {17, 23}, {16, 16, 2, 2, 2, 1, 1}}) {
      const auto logits = run(decoder, chunks);
      if (first.empty()) first = logits;
      CHECK(std::memcmp(first.data(), logits.data(), first.size() * sizeof(float)) == 0);
    }
  }
}

TEST(logits_are_the_same_bits_for_any_threads_and_chunks) {
  for (const Isa isa : available_isas()) {
    for (const MatrixFormat format : {MatrixFormat{Format::kFloat32, 0},
                                      {Format::kBFloat16, 0},
                                      {Format::kInt8, 32},
                                      {Format::kInt4, 64},
                                      {Format::kInt3, 32}}) {
      for (const KvFormat kv : {KvFormat::kFloat32, KvFormat::kBFloat16, KvFormat::kInt8}) {
        check_same_bits(isa, format, kv);
      }
    }
  }
}

// The last layer works on the sampled rows alone: whichever they are, and also when none is.
TEST(logits_do_not_depend_on_which_rows_are_sampled) {
  const std::vector<int32_t> tables{5, 0, 2, 1, 3, 4}, starts{0, 39, 78}, none{0, 0};
  std::vector<int32_t> ids;
  for (int32_t s = 0; s < 2; ++s) {
    for (int32_t t = 0; t < 39; ++t) ids.push_back((t * 7 + s * 13) % kShape.vocab);
  }
  for (const Isa isa : available_isas()) {
    DecoderOptions given = options(2, 6, 80);
    given.formats = all_in({Format::kInt8, 32});
    Decoder decoder(kShape, isa, given);
    load_all(decoder);
    const auto all = run(decoder, {39, 1});
    const auto row_of = [&](int32_t row) {
      const int32_t sequence = row / 39, token = row % 39;
      return &all[static_cast<size_t>((sequence * 40 + token) * kShape.vocab)];
    };
    const std::vector<std::vector<int32_t>> choices{{77}, {38, 77}, {77, 3, 77, 40}, {}};
    for (const auto& rows : choices) {
      const auto count = static_cast<int32_t>(rows.size());
      std::vector<float> logits(rows.size() * static_cast<size_t>(kShape.vocab) + 1);
      decoder.step(
          {ids.data(), starts.data(), none.data(), tables.data(), rows.data(), 78, 2, 3, count},
          logits.data());
      for (size_t r = 0; r < rows.size(); ++r) {
        CHECK(std::memcmp(&logits[r * size_t(kShape.vocab)], row_of(rows[r]),
                          size_t(kShape.vocab) * sizeof(float)) == 0);
      }
    }
    // Keys and values of the step without a sample are those of all the others.
    const std::vector<int32_t> next{39 * 7 % kShape.vocab}, one{0, 1}, seen{39}, sampled{0};
    std::vector<float> logits(static_cast<size_t>(kShape.vocab));
    decoder.step({next.data(), one.data(), seen.data(), tables.data(), sampled.data(), 1, 1, 3, 1},
                 logits.data());
    CHECK(std::memcmp(logits.data(), &all[size_t(39 * kShape.vocab)],
                      logits.size() * sizeof(float)) == 0);
  }
}

TEST(instruction_sets_agree_in_every_format) {
  for (const MatrixFormat format : {MatrixFormat{Format::kFloat32, 0},
                                    {Format::kBFloat16, 0},
                                    {Format::kInt8, 64},
                                    {Format::kInt4, 32},
                                    {Format::kInt3, 64}}) {
    std::vector<float> first;
    for (const Isa isa : available_isas()) {
      DecoderOptions given = options(2, 6, 80);
      given.formats = all_in(format);
      Decoder decoder(kShape, isa, given);
      load_all(decoder);
      const auto logits = run(decoder, {40});
      if (first.empty()) first = logits;
      double difference = 0, size = 0;
      for (size_t i = 0; i < first.size(); ++i) {
        difference += std::pow(double{first[i]} - double{logits[i]}, 2);
        size += std::pow(double{first[i]}, 2);
      }
      // A rounding may fall the other way where activations become integers.
      CHECK(std::sqrt(difference / size) < (format.group == 0 ? 1e-5 : 2e-3));
    }
  }
}

TEST(packed_weights_load_as_they_were_saved) {
  MatrixFormats formats = all_in({Format::kInt4, 32});
  formats["wte.weight"] = {Format::kInt3, 64};
  formats["h.0.mlp.c_fc.weight"] = {Format::kBFloat16, 0};
  DecoderOptions given = options(2, 6, 80);
  given.formats = formats;
  Decoder original(kShape, Isa::kGeneric, given), copy(kShape, Isa::kGeneric, given);
  load_all(original);
  for (const std::string& name : copy.weights().missing()) {
    if (formats.count(name) == 0) {
      const std::vector<float> values = original.weights().vector(name);
      std::vector<int64_t> shape{static_cast<int64_t>(values.size())};
      if (name == "wpe.weight") shape = {64, 40};
      copy.weights().load(name, {values.data(), StoredType::kFloat32, shape}, copy.pool());
      continue;
    }
    const Panels panels = original.weights().packed(name);
    CHECK_THROWS(copy.weights().load_packed(name, panels.data, panels.bytes() - 1, copy.pool()),
                 std::invalid_argument);
    copy.weights().load_packed(name, panels.data, panels.bytes(), copy.pool());
  }
  CHECK(copy.weights().missing().empty());
  CHECK(run(original, {40}) == run(copy, {40}));
  CHECK_THROWS(copy.weights().load_packed("ln_f.weight", nullptr, 0, copy.pool()),
               std::invalid_argument);
  CHECK_THROWS(copy.weights().packed("ln_f.weight"), std::invalid_argument);
  CHECK_THROWS(copy.weights().vector("wte.weight"), std::invalid_argument);
}

TEST(formats_are_of_matrices_that_exist) {
  DecoderOptions given = options(1, 6, 8);
  given.formats = {{"ln_f.weight", {Format::kInt8, 32}}};
  CHECK_THROWS(Decoder(kShape, Isa::kGeneric, given), std::invalid_argument);
}

TEST(a_batch_that_points_outside_is_refused) {
  Decoder decoder(kShape, Isa::kGeneric, options(1, 6, 8));
  load_all(decoder);
  std::vector<float> out(53);
  std::vector<int32_t> id{1}, starts{0, 1}, context{0}, table{0}, row{0};
  const auto step = [&] {
    decoder.step({id.data(), starts.data(), context.data(), table.data(), row.data(), 1, 1, 1, 1},
                 out.data());
  };
  step();
  const auto refused = [&](int32_t& field, int32_t bad) {
    const int32_t good = field;
    field = bad;
    CHECK_THROWS(step(), std::invalid_argument);
    field = good;
  };
  refused(id[0], 53);
  refused(id[0], -1);
  refused(table[0], 6);
  refused(table[0], -1);
  refused(context[0], 64);
  refused(context[0], 16);  // needs a second block
  refused(context[0], -1);
  refused(row[0], 1);
  const std::vector<int32_t> many(100, 0);
  CHECK_THROWS(decoder.step({id.data(), starts.data(), context.data(), table.data(), many.data(), 1,
                             1, 1, 100},
                            out.data()),
               std::invalid_argument);
  refused(starts[1], 2);
  refused(starts[1], 0);
  step();
}

TEST(bad_tensors_are_refused_by_name) {
  Decoder decoder(kShape, Isa::kGeneric, options(2, 6, 8));
  CHECK_THROWS(load(decoder, "h.9.ln_1.weight", {40}, 1), std::invalid_argument);
  CHECK_THROWS(load(decoder, "wte.weight", {40, 53}, 1), std::invalid_argument);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto values = random_floats(53 * 40, 1);
    values[1234] = bad;
    CHECK_THROWS(decoder.weights().load(
                     "wte.weight", {values.data(), StoredType::kFloat32, {53, 40}}, decoder.pool()),
                 std::invalid_argument);
  }
  CHECK(!decoder.weights().missing().empty());
}

TEST(sizes_that_wrap_around_are_refused) {
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  CHECK_THROWS(KvStorage({1 << 19}, {KvFormat::kFloat32, 256}, 1 << 30), std::length_error);
  const std::vector<int32_t> layers(5, 1 << 18);
  CHECK_THROWS(KvStorage(layers, {KvFormat::kFloat32, 64}, 1 << 30), std::length_error);
  CHECK_THROWS(Buffer(std::numeric_limits<size_t>::max()), std::bad_alloc);
  ModelShape shape = kShape;
  shape.positions = kMost;
  CHECK_THROWS(Decoder(shape, Isa::kGeneric, options(1, 6, 8)), std::invalid_argument);
  shape = kShape;
  shape.layers[1].heads = kMost;
  CHECK_THROWS(Decoder(shape, Isa::kGeneric, options(1, 6, 8)), std::invalid_argument);
}

TEST(copies_of_blocks_are_made_in_order) {
  Decoder decoder(kShape, Isa::kGeneric, options(2, 6, 8));
  for (int32_t layer = 0; layer < 2; ++layer) {
    for (int32_t block = 0; block < 6; ++block) {
      decoder.cache().layer(layer)[block * decoder.cache().block_stride(layer)] =
          static_cast<uint8_t>(block);
    }
  }
  CHECK_THROWS(decoder.copy_blocks({{0, 1}, {6, 0}}), std::invalid_argument);
  decoder.copy_blocks({{4, 1}, {1, 2}, {2, 2}});
  for (int32_t layer = 0; layer < 2; ++layer) {
    const int64_t stride = decoder.cache().block_stride(layer);
    CHECK(decoder.cache().layer(layer)[stride] == 4);
    CHECK(decoder.cache().layer(layer)[2 * stride] == 4);
    CHECK(decoder.cache().layer(layer)[3 * stride] == 3);
  }
}

TEST(stored_types_convert_exactly) {
  const ModelShape shape{2, 2, 8, 4, 1e-5f, Activation::kRelu, true, {{2, 8, 1.0f}}};
  const std::vector<float> zero(16, 0.0f);
  const auto loaded = [&](const void* data, StoredType type) {
    Decoder decoder(shape, Isa::kGeneric, options(1, 1, 2));
    decoder.weights().load("wte.weight", {zero.data(), StoredType::kFloat32, {2, 8}},
                           decoder.pool());
    decoder.weights().load("wpe.weight", {data, type, {2, 8}}, decoder.pool());
    std::vector<float> out(16);
    for (int32_t row = 0; row < 2; ++row)
      decoder.weights().embed(0, row, &out[static_cast<size_t>(row * 8)]);
    return out;
  };
  // 1, -2, 65504 (largest), 2^-14 (smallest normal), 2^-24 (smallest subnormal), 0.333...
  const std::vector<uint16_t> half{0x3c00, 0xc000, 0x7bff, 0x0400, 0x0001, 0x3555, 0x83ff, 0x8000,
                                   0,      0,      0,      0,      0,      0,      0,      0};
  const auto from_half = loaded(half.data(), StoredType::kFloat16);
  const std::vector<float> want{1.0f,     -2.0f,           65504.0f,         0x1p-14f,
                                0x1p-24f, 0.333251953125f, -1023 * 0x1p-24f, 0.0f};
  for (size_t i = 0; i < want.size(); ++i) CHECK(from_half[i] == want[i]);
  const std::vector<uint16_t> brain{0x3f80, 0xc000, 0x7f7f, 0x0001, 0, 0, 0, 0,
                                    0,      0,      0,      0,      0, 0, 0, 0};
  const auto from_brain = loaded(brain.data(), StoredType::kBFloat16);
  CHECK(from_brain[0] == 1.0f && from_brain[1] == -2.0f && from_brain[2] > 3.3e38f &&
        from_brain[3] == 0x1p-133f);
  const std::vector<double> wide(16, 0.1);
  CHECK(loaded(wide.data(), StoredType::kFloat64)[3] == 0.1f);
}

}  // namespace
}  // namespace gpt2fast
