"""One small Transformer, read in both directions, from left to right, or in any order.

The network is a denoiser: it maps tokens ``x: Long[B, L]`` to logits
``Float[B, L, V]`` and never gives probability to the mask, because it has no output
column for it. The masked diffusion model, its autoregressive twin and the any-order
model are the same code with the same blocks; they differ in who may look at whom.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllm_tutorial import _checks

# Kinds of attention, and what a prediction then reads.
ATTENTION = {"bidirectional": "set", "causal": "prefix", "any-order": "order"}
POSITIONS = ("rotary", "learned")
# The slowest rotary wave turns once in 2 pi 200 tokens. The usual base, 10000, is made
# for thousands of tokens: here it left masked models on the level of unigrams longer.
ROTARY_BASE = 200.0


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a :class:`Transformer`.

    Parameters
    ----------
    vocab_size
        Number V of real tokens. The mask has the id V and an embedding of its own.
    length
        Longest sequence, in tokens.
    d_model, n_layers, n_heads
        Width, depth and attention heads. A head's width must be even for rotary
        positions.
    attention
        ``"bidirectional"``: every position sees every position.
        ``"causal"``: position i sees the tokens before i, and not itself.
        ``"any-order"``: a position sees the tokens that come before it in an order
        of generation which is given with the tokens; needs learned positions.
    positions
        ``"rotary"`` (Su et al., 2021, equation 34) or ``"learned"`` absolute vectors.
    dropout
        Probability of dropping an element of each residual update in training.
    """

    vocab_size: int
    length: int
    d_model: int = 128
    n_layers: int = 3
    n_heads: int = 4
    attention: str = "bidirectional"
    positions: str = "rotary"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "length", "d_model", "n_layers", "n_heads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.d_model % self.n_heads:
            raise ValueError(
                f"d_model must be a multiple of n_heads, got {self.d_model} and "
                f"{self.n_heads}"
            )
        if self.positions == "rotary" and (self.d_model // self.n_heads) % 2:
            raise ValueError(
                "rotary positions need an even head width, got d_model / n_heads = "
                f"{self.d_model // self.n_heads}"
            )
        if self.attention not in ATTENTION:
            raise ValueError(
                f"attention must be one of {tuple(ATTENTION)}, got {self.attention!r}"
            )
        if self.positions not in POSITIONS:
            raise ValueError(
                f"positions must be one of {POSITIONS}, got {self.positions!r}"
            )
        if self.attention == "any-order" and self.positions != "learned":
            raise ValueError(
                "positions must be 'learned' for any-order attention, got "
                f"{self.positions!r}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


def attention_mask(attention: str, length: int, device=None) -> Tensor | None:
    """Who may look at whom: Bool[L, L], true where row i may read column j.

    The one place that knows: another kind of attention is another line here.
    ``None`` means that everybody sees everybody.
    """
    if attention == "bidirectional":
        return None
    i = torch.arange(length, device=device)
    return i[:, None] >= i[None, :]


def rotary_angles(positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine, Float[L, width / 2], of position times frequency.

    The frequencies are base^(-2 k / width) (Su et al., 2021, section 3.2.2).
    """
    k = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64)
    angle = positions[:, None].double() * ROTARY_BASE ** (-k / width)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_k, x_(k + width/2)) of Float[..., L, width] by its angle.

    The product of a turned query and a turned key then depends on where they stand
    only through the distance between them.
    """
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each added to its normalized input."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d = config.d_model
        self.heads = config.n_heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d, bias=False)
        self.up = nn.Linear(d, 4 * d)
        self.down = nn.Linear(4 * d, d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, h: Tensor, mask: Tensor | None, angles: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        qkv = self.qkv(self.norm1(h)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, L, width]
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = h + self.dropout(self.out(a.transpose(1, 2).flatten(2)))
        return h + self.dropout(self.down(F.gelu(self.up(self.norm2(h)))))


class Transformer(nn.Module):
    """A pre-norm Transformer that predicts every token of a sequence at once.

    With ``attention="causal"`` the input is shifted by one inside, the mask token
    standing at its start, so that ``logits[:, i]`` depends on ``x[:, :i]`` alone:
    the chain rule then reads off a normalized distribution, and decoding from left
    to right through the denoiser interface is exact sampling.

    With ``attention="any-order"`` step n reads the token of step n - 1, where that
    token stands, and which position it is to predict, and sees the steps before it
    (Pannatier et al., 2024): :meth:`in_order` scores a whole order in one pass. In
    the order from left to right it is a causal network with learned positions.

    Parameters
    ----------
    config : TransformerConfig
    dtype : torch.dtype, optional
        Of the weights, which are drawn in it; torch's default if not given. In float64
        the same seed gives the same weights on every processor, up to 1e-16. In float32
        they differ in the last digit, and after a training in the second.

    Attributes
    ----------
    config : TransformerConfig
    vocab_size, mask_id : int
        Both equal to ``config.vocab_size``.
    reads : str
        What a prediction reads, see :class:`~dllm_tutorial.denoiser.Denoiser`.
    """

    def __init__(
        self, config: TransformerConfig, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.mask_id = self.vocab_size = config.vocab_size
        self.reads = ATTENTION[config.attention]
        d = config.d_model
        self.embed = nn.Embedding(config.vocab_size + 1, d)
        self.place = (
            nn.Embedding(config.length, d) if config.positions == "learned" else None
        )
        # Any order: ``place`` is where to predict, ``source`` where the input stands;
        # its last row is the place of the start.
        self.source = nn.Embedding(config.length + 1, d) if self.any_order else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, config.vocab_size, bias=False)
        self.to(dtype or torch.get_default_dtype())
        self._init()

    @torch.no_grad()
    def _init(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):  # keeps the size of what passes through
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, Block)
            # A constant in queries and keys: attention by distance alone, from the
            # first step on. Masks all look alike, there is nothing else to go by.
            nn.init.normal_(block.qkv.bias, std=0.5)
            # The residual stream sums 2 n_layers updates: keep its size.
            for last in (block.out, block.down):
                last.weight /= (2 * self.config.n_layers) ** 0.5
        for table in (self.embed, self.place, self.source):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)  # first guess: nearly uniform

    @property
    def any_order(self) -> bool:
        """Whether :meth:`in_order` may be called."""
        return self.reads == "order"

    def forward(self, x: Tensor) -> Tensor:
        """Logits Float[B, L, V] for tokens ``x: Long[B, L]``, L <= config.length.

        An any-order network reads the revealed tokens from left to right and predicts
        each masked position as the step right after them.
        """
        length = self._length(x)
        if self.any_order:
            masked = x == self.mask_id
            order = masked.long().argsort(dim=1, stable=True)  # revealed ones first
            logits = self._steps(x, order, (~masked).sum(1, keepdim=True))
            return logits.gather(1, order.argsort(1)[..., None].expand_as(logits))
        if self.config.attention == "causal":
            x = F.pad(x[:, :-1], (1, 0), value=self.mask_id)
        positions = torch.arange(length, device=x.device)
        h = self.embed(x)  # [B, L, d]
        angles = None
        if self.place is not None:
            h = h + self.place(positions)
        else:
            width = self.config.d_model // self.config.n_heads
            angles = rotary_angles(positions, width)
        mask = attention_mask(self.config.attention, length, x.device)
        return self._predict(h, mask, angles)

    def in_order(self, x: Tensor, order: Tensor) -> Tensor:
        """Logits Float[B, L, V] of all steps of an order of generation, in one pass.

        Row n predicts ``x[order[n]]`` and depends on the tokens of the steps before it
        and on the order up to n, and on nothing else.

        Parameters
        ----------
        x : Long[B, L]
            Fully revealed tokens.
        order : Long[L] or Long[B, L]
            Entry n is the position that step n predicts.

        Raises
        ------
        TypeError
            If the network is not an any-order one.
        """
        if not self.any_order:
            raise TypeError(
                "in_order needs attention='any-order', got a network with "
                f"attention={self.config.attention!r}"
            )
        shown = torch.full_like(x[:1, :1], self._length(x))
        return self._steps(x, order.expand(x.shape), shown)

    def _steps(self, x: Tensor, order: Tensor, shown: Tensor) -> Tensor:
        """Logits in the order of the steps, of which the first ``shown`` are known.

        All others follow right after those, without seeing each other. ``shown`` is
        Long[B, 1], or Long[1, 1] for all rows.
        """
        assert self.place is not None and self.source is not None
        step = torch.arange(x.shape[1], device=x.device)
        before = torch.minimum(step, shown).expand_as(x)  # 0 is the start
        token = F.pad(x.gather(1, order), (1, 0), value=self.mask_id)
        stands = F.pad(order, (1, 0), value=self.config.length)
        h = self.embed(token.gather(1, before)) + self.place(order)
        h = h + self.source(stands.gather(1, before))
        known = (step < step[:, None]) & (step < shown[..., None])  # [B or 1, L, L]
        mask = known | (step == step[:, None])
        return self._predict(h, mask[:, None], None)

    def _predict(
        self, h: Tensor, mask: Tensor | None, angles: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        for block in self.blocks:
            h = block(h, mask, angles)
        return self.head(self.norm(h))

    def _length(self, x: Tensor) -> int:
        """Number of positions of valid tokens, which may be masks."""
        if x.dtype != torch.long or x.ndim != 2:
            raise TypeError(
                f"x must be Long[B, L], got {x.dtype} of shape {tuple(x.shape)}"
            )
        if x.shape[1] > self.config.length:
            raise ValueError(
                f"x must have at most {self.config.length} positions, got {x.shape[1]}"
            )
        _checks.token_range(x, "x", self.vocab_size, self.mask_id, wait=False)
        return x.shape[1]

    def n_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.parameters())
