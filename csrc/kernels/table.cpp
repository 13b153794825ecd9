// Compiled once per instruction set, with GPT2FAST_ISA naming the namespace.
#include "kernels/attention.h"
#include "kernels/layer_norm.h"
#include "kernels/matmul.h"
#include "kernels/peak.h"
#include "kernels/quantize.h"
#include "kernels/sample.h"
#include "kernels/stream.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

extern const KernelTable kTable;
const KernelTable kTable = {matmul, quantize,    layer_norm, append_kv, attention, block_maxima,
                            weigh,  logits_from, gumbel_max, perturbed, stream,    peak};

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
