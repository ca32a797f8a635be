"""Muon: momentum whose matrices are made orthogonal before they are applied."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dllm_tutorial import _checks

__all__ = ["Muon", "orthogonalized"]

# Quintic Newton-Schulz coefficients of Jordan et al. 2024: steep at zero, so that five
# rounds bring every singular value near one (0.7 to 1.2), and no further.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


def orthogonalized(matrix: Tensor) -> Tensor:
    r"""Nearly :math:`U V^\top` of ``matrix`` :math:`= U S V^\top`, Float[m, n].

    Five rounds of :math:`X \leftarrow a X + (b A + c A^2) X`, :math:`A = X X^\top`: an
    odd polynomial of the singular values, which keeps the singular vectors.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    r"""Muon (Jordan et al. 2024) with Nesterov momentum and decoupled weight decay.

    The update of an m x n matrix is scaled by :math:`0.2 \sqrt{\max(m, n)}`, which
    gives it the size of AdamW's, so that both share a learning rate (Liu et al. 2025,
    eq. 4). The rule of ``torch.optim.Muon``, but in the precision of the weights
    (float32 at least), or of autocast where that is on: that one always works in
    bfloat16, which takes a CPU without units for it several times as long.

    Parameters
    ----------
    params : iterable of matrices
    lr, momentum, weight_decay : float
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ) -> None:
        listed = list(params)
        if any(p.ndim != 2 for p in listed):
            shapes = [tuple(p.shape) for p in listed]
            raise ValueError(f"params must be matrices, got shapes {shapes}")
        defaults = {
            "lr": _checks.number(lr, "lr", 0),
            "momentum": _checks.in_unit_interval(momentum, "momentum"),
            "weight_decay": _checks.number(weight_decay, "weight_decay", 0),
        }
        super().__init__(listed, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, beta = group["lr"], group["momentum"]
            for p in (p for p in group["params"] if p.grad is not None):
                # half precision would round away what a mean takes in
                grad = p.grad.to(torch.promote_types(p.dtype, torch.float32))
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(grad)
                momentum = state["momentum"].lerp_(grad, 1 - beta)
                update = orthogonalized(grad.lerp(momentum, beta))
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(update, alpha=-lr * 0.2 * max(p.shape) ** 0.5)
        return loss
