"""Text from a GPT-2 in the ways people ask for it.

    python generate.py gpt2 "The sea was" "Once upon a time there was"

For the same text sooner, import GPT2LMHeadModel from gpt2fast.hf.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import AutoTokenizer, GPT2LMHeadModel
from transformers.generation import LogitsProcessor, LogitsProcessorList, TextStreamer

PROMPTS = ["The sea was", "Once upon a time there was", "Dear Madam,"]


class Without(LogitsProcessor):
    """Forbids some tokens."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = torch.tensor(tokens)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(1, self.tokens, -float("inf"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="gpt2", help="a directory or a hub id")
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--new-tokens", type=int, default=30)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    # On a CPU a checkpoint in half precision is faster in single precision.
    model = GPT2LMHeadModel.from_pretrained(args.model, dtype=torch.float32).eval()
    first = tokenizer(args.prompts[:1], return_tensors="pt")
    batch = tokenizer(args.prompts, return_tensors="pt", padding=True)

    def show(title: str, prompts: Any, **options: Any) -> None:
        print(f"== {title}")
        tokens = model.generate(
            **prompts,
            max_new_tokens=args.new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **options,
        )
        if "streamer" not in options:
            for text in tokenizer.batch_decode(tokens, skip_special_tokens=True):
                print(f"> {text}")

    show("the most likely text", first, do_sample=False)
    show("a batch, padded on the left", batch, do_sample=False, repetition_penalty=1.2)
    torch.manual_seed(1)
    show("samples", first, do_sample=True, temperature=0.8, top_k=40, num_return_sequences=3)
    show("beams", batch, num_beams=4, no_repeat_ngram_size=3, do_sample=False)
    commas = [token for text, token in tokenizer.get_vocab().items() if "," in text]
    processors = LogitsProcessorList([Without(commas)])
    show("without commas", batch, logits_processor=processors, do_sample=False)
    streamer = TextStreamer(tokenizer, skip_prompt=True)
    show("as it comes", first, streamer=streamer, do_sample=True, top_p=0.9)


if __name__ == "__main__":
    main()
