"""Ranks sentences by how likely a GPT-2 finds them.

    python sentence_scoring.py gpt2 "He likes strong tea." "He likes powerful tea."

For the same scores sooner, import GPT2LMHeadModel from gpt2fast.hf.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, GPT2LMHeadModel

SENTENCES = [
    "She put the letter on the table and went out.",
    "She put the table on the letter and went out.",
    "Put letter she the on table out and went the.",
    "It rained.",
]


@torch.no_grad()
def score(model: Any, tokenizer: Any, sentences: list[str]) -> list[tuple[float, int]]:
    """Of each sentence: its log-probability, and how many tokens it has."""
    # Behind the begin-of-text token the first word is predicted as well.
    texts = [tokenizer.bos_token + sentence for sentence in sentences]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    logits = model(**batch).logits[:, :-1]
    targets, real = batch["input_ids"][:, 1:], batch["attention_mask"][:, 1:]
    nats = cross_entropy(logits.transpose(1, 2), targets, reduction="none") * real
    return list(zip((-nats.sum(dim=1)).tolist(), real.sum(dim=1).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="gpt2", help="a directory or a hub id")
    parser.add_argument("sentences", nargs="*", default=SENTENCES)
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="right")
    tokenizer.pad_token = tokenizer.eos_token
    model = GPT2LMHeadModel.from_pretrained(args.model, dtype=torch.float32).eval()

    scores = []
    for start in range(0, len(args.sentences), args.batch_size):
        scores += score(model, tokenizer, args.sentences[start : start + args.batch_size])
    rows = [
        (-total / count, total, sentence)
        for (total, count), sentence in zip(scores, args.sentences, strict=True)
    ]
    print("perplexity  log-probability")
    for nats, total, sentence in sorted(rows):
        print(f"{math.exp(nats):10.3g}  {total:15.2f}  {sentence}")


if __name__ == "__main__":
    main()
