"""A student begins as a part of its teacher: what is copied computes what it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gpt2fast.compress.distill.importance import important_channels  # noqa: E402
from gpt2fast.compress.distill.student import evenly_spaced, student_from  # noqa: E402
from gpt2fast.compress.state.model import Model  # noqa: E402
from gpt2fast.config import LayerShape, ModelConfig  # noqa: E402
from gpt2fast.errors import OptionError  # noqa: E402
from gpt2fast.model.gpt2 import GPT2  # noqa: E402

IDS = torch.tensor([[1, 5, 9, 60, 2, 44]])


@pytest.mark.parametrize(
    ("n_layer", "depth", "layers"),
    [
        *((12, 6, (0, 2, 4, 7, 9, 11)), (4, 2, (0, 3)), (4, 1, (0,))),
        *((3, 3, (0, 1, 2)), (2, 4, (0, 0, 1, 1))),
    ],
)
def test_layers_are_evenly_spaced(n_layer: int, depth: int, layers: tuple[int, ...]) -> None:
    assert evenly_spaced(n_layer, depth) == layers


@pytest.mark.parametrize("untied", [False, True])
def test_a_student_of_the_same_shape_is_its_teacher(
    random_model: Callable[..., Model], untied: bool
) -> None:
    teacher = random_model(tie_word_embeddings=not untied, activation_function="prelu").network
    assert torch.equal(student_from(teacher).eval()(IDS), teacher(IDS))


@pytest.mark.parametrize("flag", [False, True])
def test_a_copied_layer_computes_what_it_did(
    random_model: Callable[..., Model], flag: bool
) -> None:
    teacher = random_model(n_layer=4, scale_attn_by_inverse_layer_idx=flag).network
    student = student_from(teacher, layers=(0, 3)).eval()
    assert student.config.n_layer == 2
    x = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(student.h[1](x), teacher.h[3](x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(student.h[1](x), teacher.h[2](x), atol=1e-2)


def test_what_does_nothing_is_left_out_first(random_model: Callable[..., Model]) -> None:
    teacher = random_model(n_layer=1, n_embd=64, n_head=4, n_inner=20).network
    with torch.no_grad():
        teacher.h[0].mlp.c_proj.weight[[3, 7, 11]] = 0.0
    student = student_from(teacher, n_inner=17).eval()
    torch.testing.assert_close(student(IDS), teacher(IDS), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        teacher.wte.weight[:, 5] = teacher.wpe.weight[:, 5] = 0.0
        for projection in (teacher.h[0].attn.c_proj, teacher.h[0].mlp.c_proj):
            projection.weight[:, 5] = 0.0
    assert 5 not in important_channels(teacher, 63)


def test_smaller_heads_keep_the_dimensions_in_use(random_model: Callable[..., Model]) -> None:
    """Half of each head is silenced, another half for values than for queries and keys."""
    teacher = random_model(n_layer=1, n_embd=64, n_head=4, n_inner=20).network
    with torch.no_grad():
        attention = teacher.h[0].attn
        dead = (torch.arange(64) % 16) >= 8
        columns = torch.cat([dead, dead, ~dead])
        attention.c_attn.weight[:, columns] = 0.0
        attention.c_attn.bias[columns] = 0.0
        attention.c_proj.weight[~dead] = 0.0
    student = student_from(teacher, width=32, n_head=4).eval()
    channels = important_channels(teacher, 32)
    # Behind LayerNorms the two differ, as those see other channels; so only attention is compared.
    x = torch.zeros(1, 5, 64)
    x[..., channels] = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    mixed = teacher.h[0].attn(x)[..., channels]
    torch.testing.assert_close(student.h[0].attn(x[..., channels]), mixed, rtol=1e-4, atol=1e-5)


def test_layers_of_different_shapes(random_model: Callable[..., Model]) -> None:
    config = ModelConfig(101, 48, 32, 3, 4, 96).with_layers(
        [LayerShape(4, 96), LayerShape(1, 10), LayerShape(2, 50)]
    )
    teacher = GPT2(config).eval()
    student = student_from(teacher, layers=(1, 2)).eval()
    assert student.config.layer_shapes == (LayerShape(1, 10), LayerShape(2, 50))
    x = torch.randn(1, 7, 32)
    torch.testing.assert_close(student.h[0](x), teacher.h[1](x))
    narrow = student_from(teacher, depth=2, width=16, n_head=4).eval()
    assert narrow.config.layer_shapes == (LayerShape(4, 48), LayerShape(2, 48))
    assert narrow(IDS).isfinite().all()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"width": 64}, "exceeds the teacher's 32"),
    ({"width": 20}, "no multiple of the teacher's head size, 8; give --n-head"),
    ({"n_head": 2}, "at most the teacher's size, 8"),
    ({"width": 16, "n_head": 3}, "give a divisor of the width"),
    ({"n_inner": 97}, "give from 1 to 96"),
    ({"layers": (0, 2)}, "has layers 0 to 1"),
    ({"layers": (0, 1), "depth": 1}, "does not fit the 2 --layers"),
]


@pytest.mark.parametrize(("shape", "message"), REFUSED)
def test_what_the_teacher_cannot_give_is_refused(
    random_model: Callable[..., Model], shape: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        student_from(random_model().network, **shape)
