"""lm-evaluation-harness finds the same scores for our class as for transformers' (`make test-slow`,
whose environment has the harness)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

from gpt2fast import hf  # noqa: E402
from gpt2fast.checkpoint.resolve import resolve  # noqa: E402

# A call that runs in transformers, and says so, fails the test.
pytestmark = pytest.mark.filterwarnings("error:gpt2fast leaves")

DEMO = resolve("demo")
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "transformers" / "lm_eval_example.py"
CONTEXTS = [
    "def read_lines(path):\n",
    "import",
    "class Parser:\n    def __init__(self, text, position=0):\n",
    "    except (OSError, ValueError) as error:\n        raise",
    "for name in sorted(names):\n",
]
SAMPLING = {"do_sample": True, "temperature": 0.8, "top_k": 20}


@pytest.fixture(scope="module")
def pair() -> list[Any]:
    """Our model and transformers', as the harness takes a model that is in hand."""
    kinds = hf.GPT2LMHeadModel, transformers.GPT2LMHeadModel
    models = [kind.from_pretrained(DEMO, dtype=torch.float32).eval() for kind in kinds]
    return [HFLM(pretrained=each, tokenizer=tokenizer(), batch_size=3) for each in models]


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(DEMO)


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, each, at) for at, each in enumerate(arguments)]


def test_log_likelihoods(pair: list[Any]) -> None:
    """Batches padded on the right; continuations of one token, which share a context's logits."""
    ends = [" sys", " os\nimport sys", "return None", "    pass\n"]
    asked = requests("loglikelihood", [(context, end) for context in CONTEXTS for end in ends])
    found, want = (each.loglikelihood(asked, disable_tqdm=True) for each in pair)
    assert [total for total, _ in found] == pytest.approx([total for total, _ in want], rel=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in want]
    assert len({total for total, _ in want}) == len(asked)


def test_whole_texts(pair: list[Any]) -> None:
    """Of one window, and of several."""
    text = EXAMPLE.read_text()
    asked = requests("loglikelihood_rolling", [(text[:9],), (text[:4000],), (text[500:900],)])
    found, want = (each.loglikelihood_rolling(asked, disable_tqdm=True) for each in pair)
    assert found == pytest.approx(want, rel=1e-5)
    assert len(pair[0].tok_encode(text[:4000])) > 2 * pair[0].max_length


@pytest.mark.parametrize("options", [{"do_sample": False}, SAMPLING, {"num_beams": 3}], ids=str)
def test_free_text(options: dict[str, Any], pair: list[Any]) -> None:
    """Batches padded on the left, and stop texts of several tokens."""
    options = {"until": ["\n\n", "self.x"], "max_gen_toks": 48, **options}
    asked = requests("generate_until", [(context, options) for context in CONTEXTS])
    texts = []
    for each in pair:
        torch.manual_seed(0)
        texts.append(each.generate_until(asked, disable_tqdm=True))
    assert texts[0] == texts[1]
    assert len(set(texts[1])) > 2
    assert max(map(len, texts[1])) > 20


def test_the_example(pair: list[Any], example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The scores of whole tasks, and the table that is printed."""
    found, want = (
        example.measure(each.model, tokenizer(), EXAMPLE.read_text(), batch_size=4) for each in pair
    )
    rows = example.rows_of(want)
    for row, value in example.rows_of(found).items():
        if not row.endswith(" seconds"):
            tolerance = 1e-5 if row.endswith(" bits_per_byte") else 0
            assert value == pytest.approx(rows[row], rel=tolerance, abs=0), row
    texts, wanted = (
        [row["resps"] for row in each["answers"]["samples"]["answers"]] for each in (found, want)
    )
    assert texts == wanted
    example.main([str(DEMO)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["transformers", "gpt2fast"]
    assert [line.rsplit(maxsplit=2)[0] for line in lines[1:]] == list(rows)
    assert len(rows) == 7
