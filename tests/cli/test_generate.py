"""``gpt2fast generate`` as a process and in process: text, JSON, options, refusals."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.mock_runner import EOS, byte_tokenizer

from gpt2fast import LLM, BeamSearchParams, SamplingParams
from gpt2fast.cli import main

SIZES = {"vocab_size": 300, "n_positions": 96, "n_embd": 32, "n_layer": 2, "n_head": 4}


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[..., tuple[Path, Any]]) -> str:
    path, _ = make_checkpoint(std=0.2, seed=5, eos_token_id=EOS, bos_token_id=EOS, **SIZES)
    byte_tokenizer().save(str(path / "tokenizer.json"))
    return str(path)


def output_of(model: str, prompt: str, params: Any) -> Any:
    with LLM(model, num_threads=1) as llm:
        method = llm.beam_search if isinstance(params, BeamSearchParams) else llm.generate
        return method(prompt, params)[0]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["generate", *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_prints_prompt_and_text(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    params = SamplingParams(seed=4, max_tokens=12, temperature=0.7, top_k=50, top_p=0.9)
    expected = output_of(model, "ab", params).outputs[0].text
    options = ["--seed=4", "--max-tokens=12", "--temperature=0.7", "--top-k=50", "--top-p=0.9"]
    assert run(capsys, model, "ab", *options) == (0, f"ab{expected}\n", "")
    assert run(capsys, model, "ab", "--no-echo", *options) == (0, f"{expected}\n", "")


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_prompt_from_standard_input(
    model: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("ab"))
    piped = run(capsys, model, *arguments, "--temperature=0", "--max-tokens=5")
    assert piped == run(capsys, model, "ab", "--temperature=0", "--max-tokens=5")


def test_json_has_everything(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    params = SamplingParams(seed=1, n=2, max_tokens=6, logprobs=2, logit_bias={65: 2.5})
    expected = output_of(model, "ab", params)
    code, out, _ = run(
        capsys, model, "ab", "--json", "--seed=1", "--n=2", "--max-tokens=6", "--logprobs=2",
        "--logit-bias=65=2.5",
    )  # fmt: skip
    found = json.loads(out)
    assert code == 0
    assert (found["prompt"], found["prompt_token_ids"]) == ("ab", [97, 98])
    for ours, theirs in zip(found["outputs"], expected.outputs, strict=True):
        assert ours["token_ids"] == theirs.token_ids
        assert ours["text"] == theirs.text
        assert ours["finish_reason"] == theirs.finish_reason
        assert [step[0]["token_id"] for step in ours["logprobs"]] == theirs.token_ids
    assert found["timings"]["prompt_tokens_per_second"] > 0
    assert found["timings"]["decode_tokens_per_second"] > 0


def test_stop_strings_take_escapes(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    bias = {10: 40.0}  # newlines only
    params = SamplingParams(temperature=0, logit_bias=bias, stop="\n\n\n")
    assert output_of(model, "ab", params).outputs[0].stop_reason == "\n\n\n"
    _, out, _ = run(
        capsys, model, "ab", "--temperature=0", "--logit-bias=10=40", "--stop", r"\n\n\n", "--json"
    )
    output = json.loads(out)["outputs"][0]
    assert (output["finish_reason"], output["stop_reason"]) == ("stop", "\n\n\n")


def test_beam_search(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    params = BeamSearchParams(
        beam_width=3, n=2, max_tokens=5, length_penalty=0.5, early_stopping=True
    )
    expected = [each.text for each in output_of(model, "ab", params).outputs]
    code, out, _ = run(
        capsys, model, "ab", "--beam-width=3", "--n=2", "--max-tokens=5", "--length-penalty=0.5",
        "--early-stopping=true",
    )  # fmt: skip
    assert (code, out) == (0, f"ab{expected[0]}\n\nab{expected[1]}\n")


def test_without_max_tokens_it_ends_with_the_context(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, model, "ab", "--json", "--temperature=0", "--ignore-eos")
    assert len(json.loads(out)["outputs"][0]["token_ids"]) == 94
    _, none, _ = run(capsys, model, "ab", "--json", "--ignore-eos", "--max-tokens=none")
    assert len(json.loads(none)["outputs"][0]["token_ids"]) == 94


def test_verbose_prints_timings_to_standard_error(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, quiet, _ = run(capsys, model, "ab", "--temperature=0", "--max-tokens=5")
    code, out, err = run(capsys, model, "ab", "--temperature=0", "--max-tokens=5", "--verbose")
    assert (code, out) == (0, quiet)
    assert "prompt 2 tokens" in err
    assert "generated 5 tokens" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature=-1"], "temperature"),
        (["--top-p=0"], "top_p"),
        (["--max-tokens=0"], "max_tokens"),
        (["--max-tokens=500"], "context of 96"),
        (["--n=2", "--temperature=0"], "n = 2"),
        (["--overflow=explode"], "overflow"),
        (["--logit-bias=5"], "--logit-bias"),
        (["--stop-token-id=999"], "stop_token_ids"),
        (["--length-penalty=1"], "--beam-width"),
        (["--beam-width=2", "--top-k=5"], "--top-k"),
        (["--beam-width=2", "--stop=x"], "--stop"),
        (["--beam-width=2", "--early-stopping=maybe"], "early_stopping"),
        (["--device=tpu"], "device"),
        (["--num-threads=0"], "num_threads"),
    ],
    ids=str,
)
def test_bad_options_give_one_line_and_code_2(
    model: str, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    code, out, err = run(capsys, model, "ab", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("options", [["--best-of=3"], ["--top-k=many"], ["--max-tokens=some"]])
def test_what_the_parser_refuses(model: str, options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["generate", model, "ab", *options])
    assert caught.value.code == 2


def test_empty_prompt(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, model, "")
    assert (code, out) == (2, "")
    assert "empty" in err


def test_text_streams_and_heavy_imports_stay_away(model: str) -> None:
    program = (
        "import sys\n"
        "from gpt2fast.cli import main\n"
        "assert 'numpy' not in sys.modules\n"
        "write, pieces = sys.stdout.write, []\n"
        "sys.stdout.write = lambda text: pieces.append(text) or write(text)\n"
        f"code = main(['generate', {model!r}, 'ab', '--seed=4', '--max-tokens=30'])\n"
        "assert len(pieces) > 5, pieces\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "raise SystemExit(code)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.startswith(b"ab")
