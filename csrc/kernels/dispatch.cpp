#include "kernels/kernels.h"

namespace gpt2fast {

namespace generic {
extern const KernelTable kTable;
}
#if defined(GPT2FAST_X86)
namespace avx2 {
extern const KernelTable kTable;
}
namespace avx512 {
extern const KernelTable kTable;
}
namespace avx512_vnni {
extern const KernelTable kTable;
}
#endif

const KernelTable& kernel_table(Isa isa) {
  switch (isa) {
#if defined(GPT2FAST_X86)
    case Isa::kAvx2: return avx2::kTable;
    case Isa::kAvx512: return avx512::kTable;
    case Isa::kAvx512Vnni: return avx512_vnni::kTable;
#endif
    default: return generic::kTable;
  }
}

}  // namespace gpt2fast
