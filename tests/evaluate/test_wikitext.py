"""WikiText as lm-evaluation-harness and transformers' script read it: examples by hand."""

from __future__ import annotations

import pytest

from gpt2fast.evaluate import wikitext


@pytest.mark.parametrize(
    ("tokenized", "prose"),
    [
        (
            " a guest @-@ starring role , 1 @,@ 200 and 3 @.@ 5",
            " a guest-starring role, 1,200 and 3.5",
        ),
        ("one : two ; three ! four ? five . six", "one: two; three! four? five. six"),
        ("the boys ' team", "the boys' team"),
        ("it 's , here", "it's, here"),
        ("the boys ' and it 's", "the boys'and it's"),
        ("a ( b ) and [ c ] and { d }", "a (b) and [c] and {d}"),
        ('he said " no way " twice', 'he said "no way" twice'),
        ("= = Title = = \n text \n more", "== Title ==\ntext\nmore"),
        ("20 ° C , N times", "20°C, 1 times"),
        ("ends .", "ends ."),
    ],
)
def test_detokenizer(tokenized: str, prose: str) -> None:
    assert wikitext.detokenize(tokenized) == prose


def test_pages_begin_at_titles_of_the_first_level() -> None:
    text = " \n = One = \n \n text \n = = Part = = \n more \n \n = Two = \n last \n"
    assert wikitext.pages(text) == [
        " = One = \n \n text \n = = Part = = \n more \n ",
        " = Two = \n last \n",
    ]
    assert wikitext.pages("no title at all\nbut text") == ["no title at all\nbut text"]


def test_rows_are_those_of_the_data_set() -> None:
    assert wikitext.rows(" \n = One = \n \n text \n") == "\n\n = One = \n\n\n\n\n text \n"
