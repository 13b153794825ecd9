"""Names of models: directories win, and every name that leads nowhere gets one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt2fast.checkpoint import resolve as module
from gpt2fast.checkpoint.resolve import resolve
from gpt2fast.errors import CheckpointError, MissingDependencyError, OptionError


def test_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(tmp_path / "gpt2") == tmp_path / "gpt2"
    assert resolve("gpt2") == Path("gpt2")
    assert resolve("~/gpt2") == tmp_path / "gpt2"
    with pytest.raises(OptionError, match="revision = 'main' applies to hub ids"):
        resolve("gpt2", "main")


def test_a_directory_called_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = resolve("demo")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert resolve("demo") == bundled  # it is no model
    (tmp_path / "demo" / "config.json").write_text("{}")
    with pytest.warns(UserWarning, match=f"'demo' is your directory {tmp_path}/demo here"):
        assert resolve("demo") == Path("demo")


def test_file_instead_of_directory(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="is a file; give the directory") as caught:
        resolve(tmp_path / "model.safetensors")
    assert str(caught.value).endswith(str(tmp_path))


@pytest.mark.parametrize(
    "name",
    ["", "/no/such", "./no", "a/b/c", "../x", "a b", "x\0y", "-x", "a/..", "x" * 5000, "é/b"],
)
def test_neither_directory_nor_hub_id(name: str) -> None:
    with pytest.raises(CheckpointError, match="no such directory, and not a hub id"):
        resolve(name)


def test_path_object_is_never_a_hub_id() -> None:
    with pytest.raises(CheckpointError, match="no such directory, and not a hub id"):
        resolve(Path("owner/name"))


@pytest.mark.parametrize("name", [None, b"demo", 5, ["demo"]], ids=repr)
def test_neither_string_nor_path(name: Any) -> None:
    with pytest.raises(OptionError, match=r"model = .* give 'demo', a directory or a hub id"):
        resolve(name)


def cached(cache: Path, files: list[str]) -> Path:
    """A snapshot as huggingface_hub lays it out."""
    repository = cache / "models--owner--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    for name in files:
        (snapshot / name).write_text("{}")
    return snapshot


@pytest.fixture
def offline_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of huggingface_hub, with HF_HUB_OFFLINE in effect."""
    constants = pytest.importorskip("huggingface_hub.constants")
    # Both are read from the environment when huggingface_hub is first imported.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.usefixtures("offline_cache")
@pytest.mark.parametrize("revision", [None, "v2"])
def test_offline_and_not_cached(revision: str | None) -> None:
    with pytest.raises(CheckpointError, match=r"'owner/name'.*not in the local cache"):
        resolve("owner/name", revision)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_offline_and_cached(offline_cache: Path, weights: str) -> None:
    if weights.endswith(".bin"):
        pytest.importorskip("torch")
    snapshot = cached(offline_cache, ["config.json", weights])
    assert resolve("owner/name").resolve() == snapshot.resolve()


class Hub:
    """Stands for huggingface_hub's snapshot_download; the repository holds ``files``."""

    def __init__(self, root: Path, files: dict[str, str]) -> None:
        self.root, self.files = root, files
        self.fetched: list[str] = []

    def __call__(self, repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        for name in self.files.keys() & set(allow_patterns):
            self.fetched.append(name)
            (self.root / name).write_text(self.files[name])
        return str(self.root)


INDEX = '{"weight_map": {"wte.weight": "s1", "wpe.weight": "s2"}}'
REPOSITORIES: dict[str, tuple[dict[str, str], set[str]]] = {
    "one file": ({"model.safetensors": "", "pytorch_model.bin": ""}, {"model.safetensors"}),
    "shards": (
        {"model.safetensors.index.json": INDEX, "s1": "", "s2": "", "s3": "", "flax.msgpack": ""},
        {"model.safetensors.index.json", "s1", "s2"},
    ),
    "bin": ({"pytorch_model.bin": "", "tf_model.h5": ""}, {"pytorch_model.bin"}),
    "bin shards": (
        {"pytorch_model.bin.index.json": INDEX, "s1": "", "s2": ""},
        {"pytorch_model.bin.index.json", "s1", "s2"},
    ),
}


@pytest.mark.parametrize(("files", "wanted"), REPOSITORIES.values(), ids=REPOSITORIES.keys())
def test_only_what_is_needed_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], wanted: set[str]
) -> None:
    pytest.importorskip("torch")
    hub = Hub(tmp_path, {"config.json": "{}", "README.md": "", **files})
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    assert resolve("owner/name") == tmp_path
    assert sorted(hub.fetched) == sorted({"config.json"} | wanted)


def test_bin_is_not_fetched_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path, {"config.json": "{}", "pytorch_model.bin": ""})
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'gpt2fast\[torch\]'"):
        resolve("owner/name")
    assert hub.fetched == ["config.json"]


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("RepositoryNotFoundError", "no such repository on the Hugging Face hub"),
        ("GatedRepoError", "accept its terms"),
        ("RevisionNotFoundError", "at revision 'v9': the repository has no such revision"),
        ("LocalEntryNotFoundError", "cannot be reached"),
        (None, "the download failed: No space left"),
    ],
)
def test_failed_downloads(monkeypatch: pytest.MonkeyPatch, kind: str | None, match: str) -> None:
    utils = pytest.importorskip("huggingface_hub.utils")
    error: Exception = OSError("No space left on device")
    if kind is not None:
        # Their constructors ask for a server's response, which differs between versions.
        error = getattr(utils, kind).__new__(getattr(utils, kind))

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CheckpointError, match=match):
        resolve("owner/name", "v9")
