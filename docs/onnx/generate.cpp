// Greedy decoding of an export in C++, with a cache that is written in place.
//
//   g++ -std=c++17 -O2 -I $ORT/include generate.cpp -L $ORT/lib -lonnxruntime -o generate
//   ./generate gpt2-onnx/model.onnx 20 464 3290 318
//
// $ORT is a release of onnxruntime; the arguments are the graph, how many tokens to add, and the
// tokens of the prompt. For a graph of float32, int8 or int4 whose metadata say that its cache is
// "shared".

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

namespace {

constexpr std::int64_t kContext = 1024;  // tokens that the cache has room for: n_positions at most

using Integers = std::vector<std::int64_t>;

Ort::Value tensor(const Ort::MemoryInfo& memory, Integers& data, const Integers& shape) {
  return Ort::Value::CreateTensor<std::int64_t>(memory, data.data(), data.size(), shape.data(),
                                                shape.size());
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 4) {
    std::cerr << "usage: generate MODEL.onnx NEW_TOKENS TOKEN...\n";
    return 2;
  }
  const std::int64_t wanted = std::atoll(argv[2]);
  Integers tokens;
  for (int i = 3; i < argc; ++i) tokens.push_back(std::atoll(argv[i]));
  if (static_cast<std::int64_t>(tokens.size()) + wanted > kContext) {
    std::cerr << "generate: prompt and new tokens exceed " << kContext << "\n";
    return 2;
  }

  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "generate");
  Ort::Session session(env, argv[1], Ort::SessionOptions{});
  Ort::IoBinding binding(session);
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);

  // The past of every layer and its present are one buffer, bound once: (1, heads, kContext, size).
  Ort::AllocatorWithDefaultOptions allocator;
  std::vector<std::vector<float>> cache;
  for (std::size_t i = 0; i < session.GetInputCount(); ++i) {
    const auto owned = session.GetInputNameAllocated(i, allocator);
    const std::string past = owned.get();
    const std::string prefix = "past_key_values";
    if (past.rfind(prefix, 0) != 0) continue;
    const auto info = session.GetInputTypeInfo(i);
    Integers shape = info.GetTensorTypeAndShapeInfo().GetShape();
    shape[0] = 1;
    shape[2] = kContext;
    cache.emplace_back(static_cast<std::size_t>(shape[1] * shape[2] * shape[3]));
    const auto value = Ort::Value::CreateTensor<float>(
        memory, cache.back().data(), cache.back().size(), shape.data(), shape.size());
    binding.BindInput(past.c_str(), value);
    binding.BindOutput(("present" + past.substr(prefix.size())).c_str(), value);
  }
  binding.BindOutput("logits", memory);
  std::array<std::int64_t, 1> keep = {1};  // logits of the last token are enough
  binding.BindInput("num_logits_to_keep",
                    Ort::Value::CreateTensor<std::int64_t>(memory, keep.data(), 1, nullptr, 0));

  std::int64_t cached = 0;
  for (std::int64_t step = 0; step < wanted; ++step) {
    const auto length = static_cast<std::int64_t>(tokens.size());
    Integers ids(tokens.begin() + cached, tokens.end());
    Integers mask(tokens.size(), 1);
    Integers positions;
    for (std::int64_t position = cached; position < length; ++position)
      positions.push_back(position);
    binding.BindInput("input_ids", tensor(memory, ids, {1, length - cached}));
    binding.BindInput("position_ids", tensor(memory, positions, {1, length - cached}));
    binding.BindInput("attention_mask", tensor(memory, mask, {1, length}));
    session.Run(Ort::RunOptions{nullptr}, binding);

    const auto outputs = binding.GetOutputValues();
    const auto names = binding.GetOutputNames();
    const auto at = std::find(names.begin(), names.end(), "logits") - names.begin();
    const auto& logits = outputs[static_cast<std::size_t>(at)];
    const auto size = logits.GetTensorTypeAndShapeInfo().GetElementCount();
    const auto* first = logits.GetTensorData<float>();
    tokens.push_back(std::max_element(first, first + size) - first);
    cached = length;
    std::cout << tokens.back() << (step + 1 < wanted ? " " : "\n");
  }
  return 0;
} catch (const Ort::Exception& error) {
  std::cerr << "generate: " << error.what() << "\n";
  return 1;
}
