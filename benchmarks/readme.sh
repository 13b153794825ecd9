#!/bin/sh
# The benchmarks behind the README's tables: sh benchmarks/readme.sh "gpt2fast bench ..." OUT [PART...]
# Parts: decode prefill batch context medium xl onnx onnx-context. Each writes rows, plots and a report to OUT/PART.
set -e
bench=$1 out=$2
shift 2
ours=gpt2fast:float32,bfloat16,int8,int4

part() {
  name=$1
  shift
  echo "== $name"
  $bench "$@" --out "$out/$name" --overwrite
}

for name in ${*:-decode prefill batch context medium xl onnx onnx-context}; do
  case $name in
    decode) part decode --random gpt2 --rounds 5 --starts 2 --baseline gpt2fast:int8 -s $ours \
      transformers-eager:float32 transformers-sdpa:float32 transformers-compile:float32 \
      llama_cpp:float16,int8,int4 \
      onnxruntime:float32,int8,int4 openvino:float32,int8,int4 ctranslate2:float32,int8 ;;
    prefill) part prefill --random gpt2 --rounds 7 --starts 1 --prompt 512 --tokens 4 \
      -s $ours llama_cpp-flash:float32,float16,int8,int4 ;;
    batch) part batch --random gpt2 --rounds 5 --starts 1 --batch 1 8 16 --tokens 64 \
      -s $ours llama_cpp:float16,int8,int4 ;;
    context) part context --random gpt2 --rounds 7 --starts 1 --prompt 104 976 --tokens 48 \
      -s gpt2fast:float32,int8,int4 --kv-cache-dtype int8 ;;
    medium) part medium --random gpt2-medium --rounds 3 --starts 1 --baseline gpt2fast:int8 \
      -s $ours transformers-sdpa:float32 llama_cpp:float16,int8,int4 ;;
    xl) part xl --random gpt2-xl --rounds 3 --starts 1 --tokens 64 -s gpt2fast:int4 llama_cpp:int4 ;;
    onnx) part onnx --random gpt2 --rounds 7 --starts 1 --baseline onnxruntime:float32 \
      -s gpt2fast-onnx:float32,int8,int4 onnxruntime:float32,int8,int4 openvino:float32,int8,int4 \
      gpt2fast:float32,int8,int4 ;;
    onnx-context) part onnx-context --random gpt2 --rounds 7 --starts 1 --prompt 104 876 --tokens 48 \
      -s gpt2fast-onnx:float32,int8,int4 onnxruntime:float32,int8,int4 ;;
    *) echo "unknown part $name" >&2; exit 2 ;;
  esac
done
