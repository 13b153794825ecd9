// The activations, sixteen lanes at a time. The common ones are vectorised; the others call the C
// library lane by lane, which a memory-bound step does not notice.
#pragma once

#include <math.h>

#include "kernels/kernels.h"
#include "kernels/vec.h"

namespace gpt2fast {
namespace GPT2FAST_ISA {

GPT2FAST_INLINE V16 sigmoid(V16 x) { return splat(1.0f) / (splat(1.0f) + exp(splat(0.0f) - x)); }

// 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
GPT2FAST_INLINE V16 gelu_tanh(V16 x) {
  const V16 cubic = fma(x * x * x, splat(0.044715f), x);
  return x * sigmoid(cubic * splat(2.0f * 0.7978845608028654f));
}

// x Phi(x), Phi(-z) = erfc(z / sqrt(2)) / 2. The logarithm of erfc is so smooth that a polynomial
// of degree 9 (least squares, reweighted towards the largest error of erfc itself) keeps erfc
// within 5e-9 on [0, 4.1]; beyond that it is below half an ulp of the result.
GPT2FAST_INLINE V16 gelu_erf(V16 x) {
  const V16 z = max(x, splat(0.0f) - x) * splat(0.70710678118654752f);
  V16 p = splat(8.04605042503681e-06f);
  p = fma(p, z, splat(-0.00010604933777358383f));
  p = fma(p, z, splat(0.0005880456883460283f));
  p = fma(p, z, splat(-0.001576968003064394f));
  p = fma(p, z, splat(5.9035133745055646e-05f));
  p = fma(p, z, splat(0.01921697147190571f));
  p = fma(p, z, splat(-0.10279914736747742f));
  p = fma(p, z, splat(-0.6366161108016968f));
  p = fma(p, z, splat(-1.1283793449401855f));
  const V16 erfc = select_less(z, splat(4.1f), exp(p * z), splat(0.0f));
  const V16 tail = x * erfc * splat(0.5f);
  return select_less(x, splat(0.0f), tail, x - tail);
}

// log(1 + e^x), which is x itself, to float precision, from 20 on.
static inline float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

static inline float activate_scalar(Activation kind, const float* p, float x) {
  switch (kind) {
    case Activation::kTanh: return tanhf(x);
    case Activation::kMish: return x * tanhf(softplus(x));
    case Activation::kSqrtSoftplus: return sqrtf(softplus(x));
    case Activation::kXIelu:
      return x > 0.0f ? p[0] * x * x + p[2] * x : (expm1f(fminf(x, p[3])) - x) * p[1] + p[2] * x;
    case Activation::kLaplace:
      return 0.5f * (1.0f + erff((x - 0.707107f) / (0.282095f * 1.41421356237309505f)));
    default: return x;
  }
}

static inline V16 activate_lanes(Activation kind, const float* p, V16 x) {
  float lanes[16];
  store(lanes, x);
  for (int i = 0; i < 16; ++i) lanes[i] = activate_scalar(kind, p, lanes[i]);
  return load(lanes);
}

// p: activation_parameters of MatmulArgs
// In max and min the argument that may be NaN comes second: it is then what they return.
GPT2FAST_INLINE V16 activate_vector(Activation kind, const float* p, V16 x) {
  const V16 zero = splat(0.0f);
  switch (kind) {
    case Activation::kGelu10: return min(max(gelu_erf(x), splat(-10.0f)), splat(10.0f));
    case Activation::kGeluQuick: return x * sigmoid(x * splat(1.702f));
    case Activation::kRelu: return max(zero, x);
    case Activation::kRelu2: return max(zero, x) * max(zero, x);
    case Activation::kRelu6: return min(splat(6.0f), max(zero, x));
    case Activation::kHardSwish:
      return x * min(max(x + splat(3.0f), zero), splat(6.0f)) / splat(6.0f);
    case Activation::kLeakyRelu: return select_less(x, zero, x * splat(0.01f), x);
    case Activation::kPRelu: return select_less(x, zero, x * splat(p[0]), x);
    case Activation::kSilu: return x * sigmoid(x);
    case Activation::kSigmoid: return sigmoid(x);
    default: return activate_lanes(kind, p, x);
  }
}

// x (vectors, 16) in place. The usual two have loops of their own, in which the CPU works on
// several vectors at once.
static void activate(Activation kind, const float* p, int vectors, float* x) {
  float* const end = x + vectors * kLanes;
  switch (kind) {
    case Activation::kIdentity: return;
    case Activation::kGeluTanh:
      for (; x < end; x += kLanes) store(x, gelu_tanh(load(x)));
      return;
    case Activation::kGeluErf:
      for (; x < end; x += kLanes) store(x, gelu_erf(load(x)));
      return;
    default:
      for (; x < end; x += kLanes) store(x, activate_vector(kind, p, load(x)));
  }
}

}  // namespace GPT2FAST_ISA
}  // namespace gpt2fast
