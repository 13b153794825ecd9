"""``gpt2fast generate``: continue a prompt, printing the text as it comes."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from gpt2fast.cli import streams
from gpt2fast.cli.format_options import add_format_options
from gpt2fast.cli.generation_options import add_options, read_params
from gpt2fast.errors import OptionError, counted

if TYPE_CHECKING:
    from gpt2fast.engine.llm import LLM
    from gpt2fast.engine.outputs import RequestOutput

_EXAMPLES = """\
examples:
  gpt2fast generate demo "import os"
  gpt2fast generate gpt2 "Once upon a time" --temperature 0.8 --top-p 0.95 --max-tokens 200
  cat prompt.txt | gpt2fast generate ./my-model - --temperature 0 --stop "\\n\\n" --json
  gpt2fast generate gpt2 "The capital of France is" --beam-width 4 --max-tokens 8
  gpt2fast generate gpt2 "Once upon a time" --quantization int8 --kv-cache-dtype int8
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "generate",
        help="continue a prompt, printing the text as it comes",
        description="Continue a prompt. Text goes to standard output as it is generated.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.too_many = "; put a prompt of several words in quotes"
    parser.add_argument("model", metavar="MODEL", help="'demo', a directory, or a hub id")
    parser.add_argument(
        "prompt", metavar="PROMPT", nargs="?", help="'-' or nothing: read from standard input"
    )
    parser.add_argument(
        "--prompt-ids",
        dest="prompt_token_ids",
        type=_token_ids,
        metavar="IDS",
        help="the prompt as token ids, such as 1,2,3; without a tokenizer, ids are printed too",
    )
    add_options(parser)
    running = parser.add_argument_group("running")
    running.add_argument(
        "--device", default="auto", help="auto, cpu, cuda[:<index>] or torch[:<device>]"
    )
    add_format_options(running)
    running.add_argument("--num-threads", type=int, help="default: the physical cores")
    running.add_argument("--kv-cache-tokens", type=int, help="tokens that the KV cache holds")
    running.add_argument("--revision", help="branch, tag or commit of a hub id")
    running.add_argument("--no-echo", action="store_true", help="do not print the prompt first")
    running.add_argument("--json", action="store_true", help="print one JSON object at the end")
    running.add_argument("--verbose", action="store_true", help="print timings to standard error")


def run(args: argparse.Namespace) -> int:
    """Generate; print text, or one JSON object with text, ids, reasons and timings."""
    from time import perf_counter

    start = perf_counter()
    params = read_params(args)
    prompt = args.prompt_token_ids
    if prompt is None:
        prompt = streams.read_prompt(args.prompt)
    elif args.prompt is not None:
        raise OptionError("PROMPT and --prompt-ids are both given; keep one of them")
    from gpt2fast.engine.llm import LLM

    llm = LLM(
        args.model,
        device=args.device,
        dtype=args.dtype,
        quantization=args.quantization,
        kv_cache_dtype=args.kv_cache_dtype,
        num_threads=args.num_threads,
        revision=args.revision,
        kv_cache_tokens=args.kv_cache_tokens,
    )
    with llm:
        load_seconds = perf_counter() - start
        output = _generate(llm, prompt, params, args)
    timings = _timings(output, load_seconds)
    if args.json:
        found = _as_json(output, timings)
        streams.write(json.dumps(found, ensure_ascii=not streams.can_hold_unicode()) + "\n")
    if args.verbose:
        streams.say(_timing_line(output, timings))
    return 0


def _generate(
    llm: LLM, prompt: str | list[int], params: Any, args: argparse.Namespace
) -> RequestOutput:
    from gpt2fast.sampling_params import BeamSearchParams

    search = isinstance(params, BeamSearchParams)
    # Without a tokenizer there are no pieces of text that could come one by one.
    if not search and params.n == 1 and not args.json and llm.tokenizer is not None:
        stream = llm.stream(prompt, params)
        _print_stream(_echo(llm, prompt, args), stream)
        assert stream.output is not None
        return stream.output
    (output,) = (llm.beam_search if search else llm.generate)(prompt, params)
    if not args.json:
        echo = _echo(llm, prompt, args)
        texts = [_show_ids(each.token_ids) for each in output.outputs]
        if llm.tokenizer is not None:
            texts = [each.text for each in output.outputs]
        elif echo:
            echo += ","
        streams.write("\n\n".join(echo + text for text in texts) + "\n")
    return output


def _print_stream(echo: str, stream: Any) -> None:
    # The prompt goes out with the first piece: a request that is refused prints nothing.
    for piece in stream:
        streams.write(echo + piece)
        echo = ""
    streams.write(echo + "\n")


def _echo(llm: LLM, prompt: str | list[int], args: argparse.Namespace) -> str:
    """The prompt as it is printed before the text."""
    from gpt2fast.engine.detokenizer import Detokenizer

    if args.no_echo:
        return ""
    if isinstance(prompt, str):
        return prompt
    if llm.tokenizer is None:
        return _show_ids(prompt)
    return Detokenizer(llm.tokenizer).decode(prompt, not args.keep_special_tokens)


def _show_ids(token_ids: list[int]) -> str:
    return ",".join(map(str, token_ids))


def _token_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of ids such as 1,2,3") from None


def _timings(output: RequestOutput, load_seconds: float) -> dict[str, float | None]:
    """Seconds, and tokens per second of the prompt and of the tokens after the first."""
    metrics = output.metrics
    prompt_seconds = metrics.first_token_time - metrics.arrival_time
    decode_seconds = metrics.finished_time - metrics.first_token_time
    decoded = sum(len(each.token_ids) - 1 for each in output.outputs)
    return {
        "load_seconds": load_seconds,
        "prompt_seconds": prompt_seconds,
        "decode_seconds": decode_seconds,
        "prompt_tokens_per_second": len(output.prompt_token_ids) / prompt_seconds,
        "decode_tokens_per_second": decoded / decode_seconds if decoded else None,
    }


def _timing_line(output: RequestOutput, timings: dict[str, float | None]) -> str:
    speed = timings["decode_tokens_per_second"]
    generated = sum(len(each.token_ids) for each in output.outputs)
    decode = "" if speed is None else f" ({speed:.1f} tok/s after the first)"
    return (
        f"load {timings['load_seconds']:.2f} s; prompt "
        f"{counted(len(output.prompt_token_ids), 'token')}, "
        f"{timings['prompt_tokens_per_second']:.1f} tok/s; generated "
        f"{counted(generated, 'token')}{decode}"
    )


def _as_json(output: RequestOutput, timings: dict[str, float | None]) -> dict[str, Any]:
    return {
        "prompt": output.prompt,
        "prompt_token_ids": output.prompt_token_ids,
        "outputs": [
            {
                "index": each.index,
                "text": each.text,
                "token_ids": each.token_ids,
                "finish_reason": each.finish_reason,
                "stop_reason": each.stop_reason,
                "cumulative_logprob": each.cumulative_logprob,
                "logprobs": None
                if each.logprobs is None
                else [
                    [{"token_id": token, **found._asdict()} for token, found in step.items()]
                    for step in each.logprobs
                ],
            }
            for each in output.outputs
        ],
        "timings": timings,
    }
