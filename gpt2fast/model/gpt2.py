"""GPT-2 as a readable torch network (Radford et al. 2019), for training and for reading.

Parameters carry exactly the canonical names of a checkpoint: ``wte.weight``, ``h.0.ln_1.weight``,
``h.0.attn.c_attn.weight`` and so on; ``lm_head.weight`` exists only where it is untied.
Shapes: B batch, T tokens, C width, H heads, D head size, V vocabulary, L layers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2fast.config import ACTIVATION_PARAMETERS, ModelConfig
from gpt2fast.errors import RequestError
from gpt2fast.kernels import reference

_INITIAL_STD = 0.02
_TANH_GELUS = ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh")
_INITIAL_ACTIVATION = {
    "prelu": {"weight": 0.25},
    "xielu": {
        "alpha_p": math.log(math.expm1(0.8)),
        "alpha_n": math.log(math.expm1(0.8 - 0.5)),
        "beta": 0.5,
        "eps": -1e-6,
    },
}


class Conv1D(nn.Module):
    """A linear layer in GPT-2's layout: weight (in, out), bias (out,)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.empty(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, in) -> (B, T, out)."""
        rows = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return rows.view(*x.shape[:-1], -1)


class Attention(nn.Module):
    """Causal self-attention over H heads, with the scale that the layer's flags ask for."""

    def __init__(self, config: ModelConfig, layer: int, dropout: float) -> None:
        super().__init__()
        self.n_head = config.layer_shape(layer).n_head
        self.scale = config.attention_scale(layer)
        self.upcast = config.reorder_and_upcast_attn
        self.dropout = dropout
        attended = self.n_head * config.head_size  # C, or less where heads were removed
        self.c_attn = Conv1D(config.n_embd, 3 * attended)
        self.c_proj = Conv1D(attended, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        q, k, v = (
            part.unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (B, H, T, D)
            for part in self.c_attn(x).chunk(3, dim=-1)
        )
        mixed = self._attend(q, k, v).transpose(1, 2).flatten(-2)
        return F.dropout(self.c_proj(mixed), self.dropout, self.training)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if not self.upcast:
            return F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=True, scale=self.scale
            )
        # Autocast would round the operands to its low precision again.
        with torch.autocast(q.device.type, enabled=False):
            mixed = F.scaled_dot_product_attention(
                q.float(), k.float(), v.float(), dropout_p=dropout, is_causal=True, scale=self.scale
            )
        return mixed.to(v.dtype)


class Activation(nn.Module):
    """The activation of one layer, with the parameters it learns or stores, if any."""

    def __init__(self, name: str) -> None:
        super().__init__()
        # The tanh GELUs in torch's fused form: the same formula in one pass over memory instead of
        # eight, which training feels.
        self.name = "gelu_pytorch_tanh" if name in _TANH_GELUS else name
        for parameter in ACTIVATION_PARAMETERS.get(name, {}):
            value = torch.tensor(_INITIAL_ACTIVATION[name][parameter])
            if parameter in ("beta", "eps"):  # stored, but not learned
                self.register_buffer(parameter, value)
            else:
                self.register_parameter(parameter, nn.Parameter(value[None]))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., n_inner) -> (..., n_inner)."""
        own = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return reference.activation(self.name, own)(x)


class MLP(nn.Module):
    """``c_proj(act(c_fc(x)))``."""

    def __init__(self, config: ModelConfig, layer: int, dropout: float) -> None:
        super().__init__()
        inner = config.layer_shape(layer).n_inner
        self.c_fc = Conv1D(config.n_embd, inner)
        self.c_proj = Conv1D(inner, config.n_embd)
        self.act = Activation(config.activation_function)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        return F.dropout(self.c_proj(self.act(self.c_fc(x))), self.dropout, self.training)


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, config: ModelConfig, layer: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, layer, dropout)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config, layer, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT2(nn.Module):
    """The whole network. ``dropout`` is a matter of training and applies in ``train()`` mode."""

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer, dropout) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.initialize()

    def forward(self, token_ids: Tensor) -> Tensor:
        """token_ids (B, T) -> logits (B, T, V). Raises RequestError if T exceeds the context."""
        length = token_ids.shape[-1]
        if length > self.config.n_positions:
            raise RequestError(
                f"{length} tokens exceed the context of {self.config.n_positions}; pass fewer"
            )
        positions = torch.arange(length, device=token_ids.device)
        x = F.dropout(self.wte(token_ids) + self.wpe(positions), self.dropout, self.training)
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.head_weight)

    @property
    def head_weight(self) -> Tensor:
        """(V, C): the token embedding itself unless the head is untied."""
        return self.wte.weight if self.config.tie_word_embeddings else self.lm_head.weight

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw weights as GPT-2 does: normal(0, 0.02), zero biases, and both projections into the
        residual stream smaller by sqrt(2 L), so that its variance does not grow with depth."""
        residual_std = _INITIAL_STD / math.sqrt(2 * self.config.n_layer)
        for name, parameter in self.named_parameters():
            if ".act." in name:
                continue  # set where it was made
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                residual = name.endswith("c_proj.weight")
                parameter.normal_(0.0, residual_std if residual else _INITIAL_STD)
