"""GPUs that are not there: tensors lie on the CPU and say ``cuda:0``, and no operation may mix them.

What PyTorch refuses on a GPU is refused: operands on two devices, NumPy on a GPU's tensor. The
numbers are the CPU's: kernels, precision, memory and time are not tested by this, nor anything that
asks `torch.cuda` itself.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from staff.data.batches import Batch
from staff.scores.effort import Scorer

CPU = torch.device("cpu")
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
# What the host waits for, since the size or the value of what comes out must be known.
WAITED_FOR = {"_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal"}


class Placed(Tensor):
    """A tensor on a pretended GPU, to PyTorch one on the CPU. inside: its numbers."""

    inside: Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, inside: Tensor, place: Any = None, requires_grad: bool = False) -> Any:
        if place is None:  # accelerate makes a parameter so, of a tensor that is placed
            return nn.Parameter(inside, requires_grad=requires_grad)
        made = Tensor._make_wrapper_subclass(
            cls, inside.size(), strides=inside.stride(), dtype=inside.dtype, device=CPU,
            storage_offset=inside.storage_offset(),
        )  # fmt: skip
        made.inside, made.place = inside, torch.device(place)
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    @property
    def device(self) -> torch.device:
        return self.place

    def __repr__(self) -> str:
        return f"Placed({self.place}, {tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a pretended GPU, outside of `gpus`")

    __torch_function__ = torch._C._disabled_torch_function_impl


class _Operations(TorchDispatchMode):
    """Run what was asked for on the CPU, and say where the result lies."""

    # Of a mode like FakeTensor's PyTorch lets a GPU be named without starting CUDA.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func._overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        place = self._place(func, name, tensors, kwargs.get("device"))
        if "device" in kwargs:
            kwargs["device"] = CPU
        by_mask = name in INDEXING and any(x.dtype == torch.bool for x in tensors[1:])
        if place != CPU and (name in WAITED_FOR or by_mask):
            self.waits[name] += 1
        known = {id(_inside(x)): x for x in tensors}  # what is changed in place is still itself
        found = func(*tree_map(_inside, args), **tree_map(_inside, kwargs))
        if place == CPU:
            return found
        return tree_map(
            lambda x: known.get(id(x), Placed(x, place)) if isinstance(x, Tensor) else x, found
        )

    def _place(self, func: Any, name: str, tensors: list[Tensor], asked: Any) -> torch.device:
        if asked is not None and (name == "_to_copy" or not tensors):
            return torch.device(asked)
        if name == "copy_":
            return tensors[0].device
        places = {x.device for x in tensors if x.dim()} or {x.device for x in tensors}
        if name in INDEXING:  # by places on the CPU, as well
            places = {tensors[0].device, *(x.device for x in tensors[1:] if x.device != CPU)}
        if len(places) > 1:
            listing = ", ".join(f"{list(x.shape)} on {x.device}" for x in tensors)
            raise RuntimeError(f"{func} on different devices: {listing}")
        return places.pop() if places else CPU


class _Methods(TorchFunctionMode):
    """What PyTorch would do otherwise with a tensor of which it knows that it lies on a GPU."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and "device" in kwargs:
            place = kwargs.pop("device")
            return _Move.apply(func(*args, **kwargs), torch.device(place))
        placed = bool(args) and isinstance(args[0], Placed)
        if func in (Tensor.numpy, Tensor.__array__) and placed:
            raise TypeError(f"can't convert {args[0].device} device type tensor to numpy")
        if func is Tensor.tolist and placed:
            self.waits["tolist"] += 1
        if func in (Tensor.tolist, Tensor.data_ptr) and placed:
            return func(args[0].inside)
        if func is Tensor.cpu:
            func, args = Tensor.to, (args[0], CPU)
        if func is not Tensor.to:
            return func(*args, **kwargs)
        tensor, *how = args
        if how and isinstance(how[0], Tensor):
            how = [how[0].device, how[0].dtype, *how[1:]]
        kept = {name: kwargs.pop(name) for name in ("copy",) if name in kwargs}
        place, dtype, _, _ = torch._C._nn._parse_to(*how, **kwargs)
        if place is not None and place != tensor.device:
            if place == CPU:
                self.waits["to the host"] += 1
            tensor = _Move.apply(tensor, place)
        return tensor if dtype is None else func(tensor, dtype, **kept)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, place: torch.device) -> Tensor:
        ctx.place = tensor.device
        return torch.ops.aten._to_copy(tensor, device=place)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return torch.ops.aten._to_copy(gradient, device=ctx.place), None


def _inside(x: Any) -> Any:
    return x.inside if isinstance(x, Placed) else x


@contextmanager
def gpus() -> Iterator[Counter[str]]:
    """Inside the block there are GPUs. Yields how often the host waited for one, by operation."""
    waits: Counter[str] = Counter()
    lifted = torch._C._only_lift_cpu_tensors()
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Operations(waits), _Methods(waits):
            yield waits
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwritten)
        torch._C._set_only_lift_cpu_tensors(lifted)


def waits_of(model: nn.Module, batch: Batch, **how: Any) -> Counter[str]:
    """How often the host waits when a batch is scored on the first GPU; how: of the scorer."""
    with gpus() as waits:
        put(model, lambda name: "cuda:0")
        scorer = Scorer(model, **how)
        waits.clear()
        scorer(batch)
    return waits


def put(model: nn.Module, where: Callable[[str], str]) -> None:
    """Put each layer's weights where `where` says of its name; weights that are tied stay so."""
    placed: dict[int, nn.Parameter] = {}
    for name, module in model.named_modules():
        if (place := where(name)) == "cpu":
            continue
        for key, value in module._parameters.items():
            if value is not None:
                made = nn.Parameter(Placed(value.detach(), place), value.requires_grad)
                module._parameters[key] = placed.setdefault(id(value), made)
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = Placed(buffer, place)
