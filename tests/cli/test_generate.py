"""``gpt2fast generate`` as a process and in process: text, JSON, options, refusals."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import LLM, BeamSearchParams, SamplingParams
from gpt2fast.cli import main
from support.engine.mock_runner import EOS, byte_tokenizer

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
        (["--temperature=-1"], "--temperature -1.0 is not"),
        (["--top-p=0"], "--top-p 0.0 is not"),
        (["--max-tokens=0"], "--max-tokens 0 is not"),
        (["--max-tokens=500"], "or set --overflow stop (end there) or --overflow slide"),
        (["--n=2", "--temperature=0"], "--n 2 with --temperature 0"),
        (["--overflow=explode"], "--overflow explode is not"),
        (["--logit-bias=5"], "--logit-bias"),
        (["--stop-token-id=999"], "--stop-token-id holds token 999"),
        (["--length-penalty=1"], "--beam-width"),
        (["--beam-width=2", "--top-k=5"], "--top-k"),
        (["--beam-width=2", "--stop=x"], "--stop"),
        (["--beam-width=2", "--early-stopping=maybe"], "--early-stopping maybe"),
        (["--device=tpu"], "--device tpu is not"),
        (["--num-threads=0"], "--num-threads 0 is not"),
        (["--logprobs=2"], "--json"),
        (["--include-stop-str-in-output"], "--stop"),
        (["--logit-bias=5=1", "--logit-bias=5=2"], "token 5 two biases"),
        (["--kv-cache-tokens=99999999999999"], "[1, 2147483647]"),
        (
            ["--kv-cache-tokens=32", "--max-tokens=90"],
            "raise --kv-cache-tokens, or lower --max-tokens to at most 31",
        ),
        (["--repetition-penalty=1e-308"], "[0.01, 100]"),
        (["--temperature=1e300"], "[0, 1000000]"),
        (["--beam-width=100000"], "[1, 256]"),
        (["--prompt-ids=1,2"], "--prompt-ids"),
        (["--device=torch:meta"], "torch:meta"),
        (["--device=torch:xla"], "torch:xla"),
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
    assert len(err) < 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--best-of=3"], "--best-of=3"),
        (["--temp=1"], "--temp=1"),
        (["--top-k=many"], "--top-k"),
        (["--max-tokens=some"], "'some' is neither an integer nor 'none'"),
        (["--prompt-ids=1,b"], "'1,b' is not a list of ids"),
    ],
)
def test_what_the_parser_refuses(
    model: str, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["generate", model, "ab", *options])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("gpt2fast generate: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_filters_at_temperature_0_are_named_in_a_warning(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--temperature=0", "--max-tokens=5"]
    _, plain, _ = run(capsys, model, "ab", *options)
    code, out, err = run(capsys, model, "ab", *options, "--top-k=5", "--top-p=0.5")
    assert (code, out) == (0, plain)
    assert err.startswith("gpt2fast: warning: --top-k, --top-p: no effect at temperature 0")


def test_more_threads_than_cpus_give_a_warning(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2fast.runners.options.num_cpus", lambda: 1)
    code, _, err = run(capsys, model, "ab", "--max-tokens=2", "--num-threads=2")
    assert code == 0
    assert err.startswith("gpt2fast: warning: --num-threads 2 exceeds the 1 CPUs")
    assert err.count("\n") == 1


def test_prompt_ids(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--temperature=0", "--max-tokens=5"]
    text = run(capsys, model, "ab", *options)
    assert run(capsys, model, "--prompt-ids=97,98", *options) == text


def test_without_tokenizer_ids_go_in_and_out(
    make_checkpoint: Callable[..., tuple[Path, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = make_checkpoint(seed=1, **SIZES)
    options = ["--temperature=0", "--max-tokens=3", "--ignore-eos", "--prompt-ids=1,2"]
    with LLM(path, num_threads=1) as llm:
        params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
        ids = llm.generate([1, 2], params)[0].outputs[0].token_ids
    shown = ",".join(map(str, ids))
    capsys.readouterr()  # what making the checkpoint printed
    assert run(capsys, str(path), *options) == (0, f"1,2,{shown}\n", "")
    assert run(capsys, str(path), *options, "--no-echo") == (0, f"{shown}\n", "")


def test_an_encoding_without_the_characters(model: str) -> None:
    command = [sys.executable, "-m", "gpt2fast", "generate", model, "é日", "--max-tokens=1"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(rb"\xe9\u65e5")
    done = subprocess.run([*command, "--json"], capture_output=True, env=environment)
    assert json.loads(done.stdout)["prompt"] == "é日"


def test_empty_prompt(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    greedy = ["--temperature=0", "--max-tokens=5"]
    expected = run(capsys, model, f"--prompt-ids={EOS}", *greedy)
    assert expected[0] == 0
    assert run(capsys, model, "", *greedy) == expected


def test_empty_standard_input_is_named(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = run(capsys, model, "-", "--max-tokens=1")
    assert code == 0
    assert err == (
        "gpt2fast: standard input is empty; the text begins with the model's first token\n"
    )


def test_one_token_is_singular(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = run(capsys, model, "a", "--max-tokens=1", "--verbose")
    assert "prompt 1 token, " in err
    assert err.endswith("generated 1 token\n")


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
