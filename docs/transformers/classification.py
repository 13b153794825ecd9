"""Sentences of different lengths, classified in one batch.

    python classification.py ./my-sentiment-model "What a day!" "I want my money back."

A model without a classification head, as gpt2 is, gets a random one: its answers mean nothing, but
they are the same each time. For the same answers sooner, import GPT2ForSequenceClassification from
gpt2fast.hf.
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoTokenizer, GPT2ForSequenceClassification

SENTENCES = [
    "What a day!",
    "I waited an hour for a soup that was cold, and nobody said that they were sorry.",
    "The rooms are clean, and breakfast is served until ten.",
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="gpt2", help="a directory or a hub id")
    parser.add_argument("sentences", nargs="*", default=SENTENCES)
    parser.add_argument("--num-labels", type=int, help="by default as many as the model has")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="right")
    tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(0)  # for the head, where the model has none
    labels = {} if args.num_labels is None else {"num_labels": args.num_labels}
    model = GPT2ForSequenceClassification.from_pretrained(args.model, dtype=torch.float32, **labels)
    model.eval()
    # The model looks at the last token that is no padding.
    model.config.pad_token_id = tokenizer.pad_token_id

    batch = tokenizer(args.sentences, return_tensors="pt", padding=True)
    with torch.inference_mode():
        probabilities = model(**batch).logits.softmax(dim=-1)
    for sentence, row in zip(args.sentences, probabilities, strict=True):
        best = int(row.argmax())
        print(f"{model.config.id2label[best]}  {row[best]:.3f}  {sentence}")


if __name__ == "__main__":
    main()
