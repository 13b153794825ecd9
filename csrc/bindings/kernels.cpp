// One kernel at a time on numpy arrays, for tests and micro-benchmarks: over the packed weights,
// the cache blocks and the tasks of a decoder's step.
#include "bindings/kernels.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <system_error>

#include "bindings/arrays.h"
#include "bindings/formats.h"
#include "bindings/module.h"
#include "bindings/without_gil.h"
#include "decoder/model_shape.h"

namespace gpt2fast {
namespace {

namespace py = pybind11;
using Floats = py::array_t<float, py::array::c_style>;
using Rows = py::array_t<float, 0>;  // may lie apart; see rows_apart()
using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Ids = py::array_t<int32_t, py::array::c_style>;

void require(bool condition, const std::string& what) {
  if (!condition) throw std::invalid_argument(what);
}

void require_shape(const py::array& array, const char* name, const std::vector<int64_t>& shape) {
  bool equal = array.ndim() == static_cast<py::ssize_t>(shape.size());
  for (size_t i = 0; equal && i < shape.size(); ++i) {
    equal = array.shape(static_cast<py::ssize_t>(i)) == shape[i];
  }
  require(equal, std::string(name) + " must have the shape " + shape_text(shape));
}

// Floats from one row of x (M, K) to the next.
int64_t rows_apart(const Rows& x, int32_t columns) {
  const py::ssize_t stride = x.strides(0) / 4;
  require((columns == 1 || x.strides(1) == 4) && x.strides(0) % 4 == 0 &&
              (x.shape(0) == 1 || stride >= columns),
          "x must hold whole rows of neighbouring values");
  return stride;
}

// A size of an array, as the kernels count.
int32_t size_of(const py::array& array, const char* name, int ndim, int axis) {
  require(array.ndim() == ndim && array.size() > 0,
          std::string(name) + " needs " + std::to_string(ndim) + " dimensions, none of them 0");
  check_size(name, array.shape(axis), kMaxSize);
  return static_cast<int32_t>(array.shape(axis));
}

std::unique_ptr<Kernels> make_kernels(int num_threads) {
  require(num_threads > 0, "num_threads must be positive");
  check_size("num_threads", num_threads, kMostThreads);
  try {
    return std::make_unique<Kernels>(select_isa(), num_threads);
  } catch (const std::system_error& error) {
    throw std::invalid_argument("num_threads = " + std::to_string(num_threads) +
                                ": the system does not grant them (" + error.what() + ")");
  }
}

// In memory of the kind that a decoder's weights have: aligned, on huge pages where there are some.
Bytes pack(Kernels& kernels, const Floats& weights, const std::string& format, int32_t group) {
  const MatrixFormat form = matrix_format(format, group);
  const int32_t outputs = size_of(weights, "weights", 2, 0);
  const int32_t inputs = size_of(weights, "weights", 2, 1);
  check_size("inputs", inputs, kMaxInputs);
  require_aligned(weights, "weights");
  auto matrix = std::make_unique<PackedMatrix>();
  matrix->layout = {form.format, inputs, outputs, form.group, nullptr};
  const Panels layout = matrix->layout;
  const StoredArray array{weights.data(), StoredType::kFloat32, {outputs, inputs}};
  {
    const WithoutGil release;
    matrix->data = Buffer(static_cast<size_t>(layout.bytes()));
    require(pack_matrix(array, Orientation::kLinear, nullptr, *matrix, kernels.pool()),
            "weights hold NaN or infinity");
  }
  uint8_t* data = matrix->data.data();
  const py::capsule owner(matrix.release(), [](void* p) { delete static_cast<PackedMatrix*>(p); });
  return Bytes({int64_t{layout.count()}, layout.panel_bytes()}, data, owner);
}

// Padded to whole panels, as the kernels read it.
std::vector<float> padded(const Floats& bias, int32_t outputs) {
  std::vector<float> values(static_cast<size_t>(round_up_lanes(outputs)));
  std::copy_n(bias.data(), outputs, values.begin());
  return values;
}

// The result's rows lie apart as in a decoder's workspace.
Rows matmul(Kernels& kernels, const Rows& x, const Bytes& packed, const std::string& format,
            int32_t group, int32_t outputs, const std::optional<Floats>& bias,
            const std::string& activation, const std::vector<float>& parameters,
            const std::optional<Floats>& residual) {
  const MatrixFormat form = matrix_format(format, group);
  MatmulArgs args{};
  args.rows = size_of(x, "x", 2, 0);
  const int32_t inputs = size_of(x, "x", 2, 1);
  check_size("inputs", inputs, kMaxInputs);
  args.x_stride = rows_apart(x, inputs);
  require_aligned(x, "x");
  require(outputs > 0, "outputs must be positive");
  check_size("outputs", outputs, kMaxSize);
  args.weights = {form.format, inputs, outputs, form.group, packed.data()};
  require_shape(packed, "packed", {args.weights.count(), args.weights.panel_bytes()});
  require(reinterpret_cast<uintptr_t>(packed.data()) % alignof(float) == 0,
          "packed is not aligned; copy it first");
  args.x = x.data();
  args.activation = activation_from_name(activation);
  require(parameters.size() <= 4, "activation_parameters: four at most");
  std::copy(parameters.begin(), parameters.end(), args.activation_parameters);
  std::vector<float> padded_bias;
  if (bias) {
    require_shape(*bias, "bias", {outputs});
    require_aligned(*bias, "bias");
    if (outputs % kLanes != 0) padded_bias = padded(*bias, outputs);
    args.bias = padded_bias.empty() ? bias->data() : padded_bias.data();
  }
  args.out_stride = row_stride(outputs);
  const Floats memory({int64_t{args.rows}, args.out_stride});
  Rows out({int64_t{args.rows}, int64_t{outputs}}, {args.out_stride * 4, int64_t{4}}, memory.data(),
           memory);
  args.out = out.mutable_data();
  if (residual) {
    require_shape(*residual, "residual", {args.rows, outputs});
    require_aligned(*residual, "residual");
    for (int32_t row = 0; row < args.rows; ++row) {
      std::copy_n(residual->data(row, 0), outputs, args.out + row * args.out_stride);
    }
    args.residual = args.out;
  }
  const WithoutGil release;
  kernels.matmul(args);
  return out;
}

Floats layer_norm(Kernels& kernels, const Floats& x, const Floats& weight, const Floats& bias,
                  float epsilon) {
  const int32_t rows = size_of(x, "x", 2, 0), width = size_of(x, "x", 2, 1);
  require_shape(weight, "weight", {width});
  require_shape(bias, "bias", {width});
  require_aligned(x, "x");
  require_aligned(weight, "weight");
  require_aligned(bias, "bias");
  Floats out({rows, width});
  float* to = out.mutable_data();
  const WithoutGil release;
  kernels.layer_norm(x.data(), weight.data(), bias.data(), epsilon, rows, width, to);
  return out;
}

std::unique_ptr<SharedStorage> make_storage(const std::string& format, int32_t heads,
                                            int32_t head_size, int32_t num_blocks) {
  check_size("heads", heads, kMaxSize);
  check_size("head_size", head_size, kMaxHeadSize);
  check_size("num_blocks", num_blocks, INT32_MAX);
  return std::make_unique<SharedStorage>(std::vector<int32_t>{heads},
                                         KvLayout{kv_format(format), head_size}, num_blocks);
}

// The blocks of `count` tokens from `position` on, of a table of `width`.
int64_t blocks_used(int64_t width, int32_t position, int32_t count) {
  const int64_t end = int64_t{position} + count;
  require(position >= 0 && end <= std::min<int64_t>(width * kBlockTokens, kMaxSize),
          "the block table is too short for position " + std::to_string(end - 1));
  return round_up(end, kBlockTokens) / kBlockTokens;
}

void check_blocks(const KvStorage& storage, const int32_t* table, int64_t used) {
  for (int64_t i = 0; i < used; ++i) {
    require(table[i] >= 0 && table[i] < storage.num_blocks(),
            "no cache block " + std::to_string(table[i]));
  }
}

void append(Kernels& kernels, SharedStorage& storage, const Ids& blocks, int32_t position,
            const Floats& keys, const Floats& values) {
  const int32_t tokens = size_of(keys, "keys", 3, 0);
  const std::vector<int64_t> shape{tokens, Kernels::heads_of(storage), storage.layout().head_size};
  require_shape(keys, "keys", shape);
  require_shape(values, "values", shape);
  require_aligned(keys, "keys");
  require_aligned(values, "values");
  require(blocks.ndim() == 1, "blocks needs one dimension");
  const int64_t used = blocks_used(blocks.size(), position, tokens);
  const std::vector<int32_t> table = copied(blocks, used);
  check_blocks(storage, table.data(), used);
  const WithoutGil release;
  const std::lock_guard<std::mutex> turn(storage.turn);
  kernels.append(storage, table.data(), position, tokens, keys.data(), values.data());
}

Floats attend(Kernels& kernels, SharedStorage& storage, const Ids& block_tables,
              const Ids& context_lens, const Floats& queries, float scale) {
  const int32_t batch = size_of(queries, "queries", 4, 0), rows = size_of(queries, "queries", 4, 1);
  const int32_t heads = Kernels::heads_of(storage);
  require_shape(queries, "queries", {batch, rows, heads, storage.layout().head_size});
  require_aligned(queries, "queries");
  check_size("the number of queries", int64_t{batch} * rows * heads, kMaxSize);
  require_shape(context_lens, "context_lens", {batch});
  require_shape(block_tables, "block_tables", {batch, size_of(block_tables, "block_tables", 2, 1)});
  const std::vector<int32_t> contexts = copied(context_lens, batch);
  int64_t width = 0;
  for (const int32_t context : contexts) {
    width = std::max(width, blocks_used(block_tables.shape(1), context, rows));
  }
  const std::vector<int32_t> tables = copied(block_tables, width);
  for (int32_t i = 0; i < batch; ++i) {
    check_blocks(storage, tables.data() + i * width,
                 blocks_used(width, contexts[static_cast<size_t>(i)], rows));
  }
  Floats out({queries.shape(0), queries.shape(1), queries.shape(2), queries.shape(3)});
  float* to = out.mutable_data();
  const Attended attended{tables.data(), contexts.data(), queries.data(), batch, rows, width};
  const WithoutGil release;
  const std::lock_guard<std::mutex> turn(storage.turn);
  kernels.attend(storage, attended, scale, to);
  return out;
}

}  // namespace

void bind_kernels(py::module_& module) {
  py::class_<SharedStorage>(module, "KvStorage", "Keys and values of one layer in cache blocks.")
      .def(py::init(&make_storage), py::arg("format"), py::arg("heads"), py::arg("head_size"),
           py::arg("num_blocks"))
      .def_property_readonly("bytes", &SharedStorage::bytes);
  py::class_<Kernels>(module, "Kernels", "One kernel at a time, for tests and benchmarks.")
      .def(py::init(&make_kernels), py::arg("num_threads"))
      .def_property_readonly("isa", &Kernels::isa)
      .def("pack_matrix", &pack, py::arg("weights").noconvert(), py::arg("format"),
           py::arg("group"))
      .def("matmul", &matmul, py::arg("x").noconvert(), py::arg("packed").noconvert(),
           py::arg("format"), py::arg("group"), py::arg("outputs"),
           py::arg("bias").noconvert() = py::none(), py::arg("activation") = "linear",
           py::arg("activation_parameters") = std::vector<float>{},
           py::arg("residual").noconvert() = py::none())
      .def("layer_norm", &layer_norm, py::arg("x").noconvert(), py::arg("weight").noconvert(),
           py::arg("bias").noconvert(), py::arg("epsilon"))
      .def("append", &append, py::arg("storage"), py::arg("blocks").noconvert(),
           py::arg("position"), py::arg("keys").noconvert(), py::arg("values").noconvert())
      .def("attend", &attend, py::arg("storage"), py::arg("block_tables").noconvert(),
           py::arg("context_lens").noconvert(), py::arg("queries").noconvert(), py::arg("scale"));
}

}  // namespace gpt2fast
