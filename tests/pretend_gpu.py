"""A GPU that is played by the CPU, for machines without one.

Under :class:`PretendGpu` tensors can be put on ``GPU``. Their numbers stay on the CPU,
so everything can be computed, but they refuse what tensors on a GPU refuse: to meet
tensors on the CPU, to become numpy arrays, to be drawn by a generator on the CPU. While
``waits`` is False the host must not wait for the device either, as under
``torch.cuda.set_sync_debug_mode("error")``.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
GPU = torch.device("meta")  # every build of torch knows it
ANSWERS = {  # operations whose shape or value the host has to be told
    aten._local_scalar_dense,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten._unique2,
    aten.unique_dim,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class OnGpu(torch.Tensor):
    """A tensor on the pretended GPU; ``held`` has its numbers."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=GPU,
        )
        made.held = held
        return made

    def tolist(self):
        return self.cpu().tolist()

    def __format__(self, how):
        return format(self.cpu(), how)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} of a tensor on the GPU after its life ended")


class PretendGpu(TorchDispatchMode):
    """Where ``GPU`` is a device; operations on it are counted in ``calls``."""

    def __init__(self, *, waits: bool = True) -> None:
        super().__init__()
        self.waits, self.calls = waits, 0

    def __enter__(self):
        make = torch.tensor

        def tensor(data, *, device=None, **options):
            return make(data, **options).to(device or "cpu", non_blocking=False)

        self.patches = ExitStack()
        for name, stand_in in (("tensor", tensor), ("autocast", _off)):
            self.patches.enter_context(mock.patch.object(torch, name, stand_in))
        return super().__enter__()

    def __exit__(self, *error):
        self.patches.close()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        flat = tree_flatten((args, kwargs))[0]
        wrappers = {id(x.held): x for x in flat if isinstance(x, OnGpu)}
        target = kwargs.get("device")
        target = target and torch.device(target).type
        to_gpu = target == GPU.type
        if not wrappers and not to_gpu:
            return func(*args, **kwargs)
        op = func.overloadpacket
        if op is aten._fused_sdp_choice:
            return 0  # plain products of matrices, which all devices have
        if op in (aten._to_copy, aten.copy_):
            source = args[1] if op is aten.copy_ else args[0]
            to_gpu = isinstance(args[0], OnGpu) if target is None else to_gpu
            crosses = isinstance(source, OnGpu) != to_gpu
            quick = to_gpu and (kwargs.get("non_blocking") or args[2:] == (True,))
            waits = crosses and not quick
        else:
            self._check(op, flat)
            to_gpu = to_gpu or target is None
            by_flag = op is aten.index and any(
                x is not None and x.dtype == torch.bool for x in args[1]
            )
            waits = op in ANSWERS or by_flag
        if waits and not self.waits:
            raise RuntimeError(f"called a synchronizing CUDA operation: {func}")
        self.calls += to_gpu

        plain = lambda x: x.held if isinstance(x, OnGpu) else x  # noqa: E731
        args, kwargs = tree_map(plain, (args, kwargs))
        if to_gpu and "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        if op is aten._to_copy:
            found = func(*args, **{**kwargs, "non_blocking": False})
            if found is args[0]:
                found = found.clone()
        else:
            found = func(*args, **kwargs)

        def wrapped(x):
            if not (to_gpu and isinstance(x, torch.Tensor)):
                return x
            return wrappers[id(x)] if id(x) in wrappers else OnGpu(x)

        return tree_map(wrapped, found)

    def _check(self, op, flat) -> None:
        on_cpu = [
            x
            for x in flat
            if isinstance(x, torch.Tensor) and not isinstance(x, OnGpu) and x.ndim
        ]
        if op in INDEXING and isinstance(flat[0], OnGpu) and self.waits:
            on_cpu = []  # indices may lie on the CPU
        if on_cpu:
            raise RuntimeError(
                f"Expected all tensors to be on the same device: {op} met cuda and cpu"
            )
        if any(isinstance(x, torch.Generator) for x in flat):
            raise RuntimeError(
                "Expected a 'cuda' device type for generator but found 'cpu'"
            )


def _off(*_):
    """Autocast, of which the CPU that plays knows nothing."""
    return nullcontext()
