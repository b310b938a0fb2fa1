"""Makes ``meta["val"]`` of the nodes that a rewrite creates or resizes.

Each value is what FakeTensorMode would compute for its node: same shape (symbolic sizes as the same
expressions), stride, storage offset, dtype and device, on a storage of its own. No operator is run
for it: a sharded value is known from the full one and the ranks' share of its rows. Only where
strides are not the usual ones is that not enough: then :mod:`spfast.fxgraph.strides` asks
FakeTensorMode.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from spfast import _core
from spfast._core import Form, Values, ValueSpecs
from spfast.fxgraph.tensor_meta import Describer

__all__ = ["TokenShare", "make_values"]

_META = torch.device("meta")

Size = Any  # int | torch.SymInt


@dataclass(frozen=True)
class TokenShare:
    """How the tokens of a class of sites are shared.

    Attributes:
        tokens: Their number.
        tp_size: The number of ranks.
        local: Each rank's share.
        gathered: The number of rows in the shares of all ranks together. It equals ``tokens``, but
            torch writes a symbolic one as ``tp_size * (tokens // tp_size)``. With padding it may be
            more.
        rank: Whose share it is.
        padded: Whether the shares are rounded up, so that the last ones hold rows that nobody
            reads.
    """

    tokens: Size
    tp_size: int
    local: Size
    gathered: Size
    rank: int = 0
    padded: bool = False

    @staticmethod
    def of(tokens: Size, tp_size: int, rank: int = 0, padded: bool = False) -> TokenShare:
        """The share of each of ``tp_size`` ranks in ``tokens``.

        Example:
            >>> TokenShare.of(9, 4, padded=True).local
            3
        """
        local = (tokens + tp_size - 1 if padded else tokens) // tp_size
        return TokenShare(tokens, tp_size, local, local * tp_size, rank, padded)


def make_values(specs: ValueSpecs, shares: Sequence[TokenShare | None]) -> Values:
    """Makes the values of a plan; nothing in the graph is changed.

    Args:
        specs: What the value of each created and each resized node has to be.
        shares: The share of each class; None for a class that was refused.

    Returns:
        The values of the created nodes and of the resized ones.

    Raises:
        KeyError: A node that a spec refers to has no value. The core plans with no such node.
    """
    maker = _Maker(shares)
    # A fake tensor's __torch_function__ is disabled. Torch finds this out at each question, which
    # takes longer than the answer.
    with torch._C.DisableTorchFunctionSubclass(), _without_guards(shares):
        return _core.make_values(maker, specs)


@contextlib.contextmanager
def _without_guards(shares: Sequence[TokenShare | None]) -> Iterator[None]:
    """Drops the guards of a layout: what torch asks of a share's size must not bind the graph."""
    tokens = [share.tokens for share in shares if share is not None]
    environments = {size.node.shape_env for size in tokens if isinstance(size, torch.SymInt)}
    with contextlib.ExitStack() as stack:
        for environment in environments:
            stack.enter_context(environment.suppress_guards())
        yield


class _Maker:
    """Makes one value at a time, for cpp/fx/values.cpp, which clones those that are alike."""

    def __init__(self, shares: Sequence[TokenShare | None]) -> None:
        self._shares = shares
        self.strided = False  # whether the value that is being made has strides of its own
        # How to make one more of each fake tensor, by its id: see Prototype of cpp/fx/values.cpp.
        self.prototypes: dict[int, tuple[Any, ...]] = {}
        self.describe = Describer().describe
        # Meta tensors of symbolic size, with the number of elements in the example.
        self._bases: dict[tuple[int, tuple[int, ...], torch.dtype], tuple[torch.Tensor, int]] = {}
        # The layout behind the rows, by sizes and strides, for tensors without symbols.
        self._layouts: dict[Any, tuple[tuple[Size, ...], bool, tuple[int, ...] | None]] = {}
        # What a fresh fake tensor of a mode and device carries.
        self._states: dict[tuple[int, torch.device], dict[str, Any]] = {}

    def make(self, form: Form, node: fx.Node, share_index: int, factor: int) -> Any:
        share = self._shares[share_index]
        assert share is not None
        if form == Form.LOCAL_SIZE:
            return share.local
        if form == Form.SCALED:
            return share.local * factor
        if form == Form.TOKENS:
            return share.tokens + factor
        if form == Form.MISSING:
            return share.gathered - share.tokens
        full = node.meta["val"]
        if form == Form.DIM_SIZE:
            return full.shape[factor]
        if form == Form.LOCAL:
            return self._rows(full, share.local, factor)
        rows_of = {
            Form.GATHERED: share.gathered,
            Form.FRESH: share.local,
            Form.CUT: share.tokens,
        }
        if form in rows_of:
            return self._rows(full, rows_of[form], factor, fresh=True)
        if form == Form.PADDED:
            return self._padded(full, share.gathered, factor)
        if form == Form.OWN:
            return self._own(full, share, factor)
        if form == Form.ONE or form == Form.SPREAD:
            # Torch has rules of its own for the strides of expansions and of reshapes of dims of 1.
            self.strided = True
            return self._rows(full, 1 if form == Form.ONE else share.tokens, factor, fresh=True)
        if form in (Form.PART, Form.TOTAL):
            rank = full.dim() - factor
            sizes = (*((1,) * rank if form == Form.TOTAL else ()), *full.shape[rank:])
            return self._wrap(full, torch.empty(sizes, dtype=full.dtype, device=_device(full)))
        if form in (Form.LOCAL_BYTES, Form.GATHERED_BYTES):
            rows = share.local if form == Form.LOCAL_BYTES else share.gathered
            last = full.shape[full.dim() - factor :]
            meta = torch.empty((rows, *last), dtype=torch.uint8, device=_device(full))
            return self._wrap(full, meta)
        if form == Form.FLAT:
            return self._rows(full, share.tokens, factor)
        return self._wrap(full, torch.empty(full.shape, dtype=full.dtype, device=_device(full)))

    def _rows(self, full: Any, rows: Size, features: int, fresh: bool = False) -> Any:
        if isinstance(full, (tuple, list)):
            return type(full)(
                None if part is None else self._rows(part, rows, features) for part in full
            )
        return self._fresh(full, rows, features, fresh)

    def _own(self, full: Any, share: TokenShare, features: int) -> Any:
        """The rank's rows of a full value: a view that begins where these rows lie."""
        if share.padded:
            value = self._padded(full, share.local, features)
        else:
            value = self._rows(full, share.local, features)
        if not isinstance(value, torch.Tensor) or not share.rank or self.strided:
            return value
        # Its storage is as large as that of all rows.
        last = value.shape[1:]
        rows = share.gathered if share.padded else share.tokens
        whole = torch.empty((rows, *last), dtype=value.dtype, device=_device(full))
        start = share.local * share.rank * math.prod(last)
        return self._wrap(full, whole.as_strided(value.shape, value.stride(), start))

    def _padded(self, full: Any, rows: Size, features: int) -> Any:
        """The rows after padding: a fresh tensor in the memory format of the value before."""
        value = self._rows(full, rows, features)
        return value if self.strided else self._rows(full, rows, features, fresh=True)

    def _fresh(self, like: torch.Tensor, rows: Size, features: int, fresh: bool) -> torch.Tensor:
        last, whole, strides = self._features(like, features)
        dtype = like.dtype
        if fresh:
            strides = None
        guessed = not whole and not fresh and not _rows_side_by_side(like, last)
        self.strided = self.strided or strides is not None or guessed
        if strides is not None:
            meta = torch.empty_strided((rows, *last), strides, dtype=dtype, device=_device(like))
            return self._wrap(like, meta)
        if type(rows) is int or not whole or not isinstance(like, FakeTensor):
            meta = torch.empty((rows, *last), dtype=dtype, device=_device(like))
            numbers = type(rows) is int and whole
            return self._wrap(like, meta, rows * math.prod(last) if numbers else None)
        # A meta tensor of symbolic size takes longer to make than all else here. So one is made for
        # each size, and each value is an alias of it that is moved to a storage of its own. The
        # size of a storage is a number, so it is that of the example.
        key = (id(rows), last, dtype)
        base = self._bases.get(key)
        if base is None:
            size = rows.node.hint * math.prod(last) if rows.node.has_hint() else 0
            base = torch.empty((rows, *last), dtype=dtype, device=_META), size
            self._bases[key] = base
        alias = base[0].detach()
        own = torch.empty(base[1], dtype=dtype, device=_META)
        torch._functionalize_unsafe_set(alias, own)
        return self._wrap(like, alias, base[1])

    def _features(
        self, like: torch.Tensor, features: int
    ) -> tuple[tuple[Size, ...], bool, tuple[int, ...] | None]:
        """The sizes behind the rows, whether all are numbers, and strides other than the usual."""
        key: Any
        row = _row_dim(like, features)
        if not like._has_symbolic_sizes_strides:
            key = (like.shape, like.stride(), features)
        elif row >= 0:
            # The dims are asked for one by one: of a whole shape torch makes each symbolic size
            # anew.
            dims = [row, *range(like.dim() - features, like.dim())]
            sizes, strides = [like.size(i) for i in dims], [like.stride(i) for i in dims]
            # The number of rows matters only where it is one.
            key = (features, type(sizes[0]) is int and sizes[0], *sizes[1:], *strides)
        else:
            key = None
        try:
            known = self._layouts.get(key)
        except TypeError:  # symbolic features or strides do not hash
            key, known = None, None
        if known is None:
            last = tuple(like.size(i) for i in range(like.dim() - features, like.dim()))
            whole = all(type(size) is int for size in last)
            known = last, whole, _row_strides(like, last) if whole else None
            if key is not None:
                self._layouts[key] = known
        return known

    def _wrap(
        self, like: torch.Tensor, meta: torch.Tensor, size: int | None = None
    ) -> torch.Tensor:
        """The fake tensor around a meta tensor; a tensor of another kind is what it is.

        ``size`` is how many elements its storage has, where more of its kind may be made.
        """
        if not isinstance(like, FakeTensor):
            return meta
        mode, device = like.fake_mode, like.fake_device
        if mode._allow_unsafe_data_ptr_access:
            seal = torch._C._set_warn_deprecated_on_mutable_data_ptr
        else:
            seal = torch._C._set_throw_on_mutable_data_ptr
        key = (id(mode), device)
        state = self._states.get(key)
        if state is None:
            fake: torch.Tensor = FakeTensor(mode, meta, device)
            state = self._states[key] = dict(fake.__dict__)
        else:
            # Does what the constructor does, with the attributes of the first fake tensor.
            fake = torch.Tensor._make_subclass(
                FakeTensor, meta, False, dispatch_device=True, device_for_backend_keys=device
            )
            seal(fake)
            fake.__dict__.update(state)
        if size is not None:
            how = (FakeTensor, meta, size, meta.dtype, device, mode, seal, state)
            self.prototypes[id(fake)] = (*how, fake)  # itself, so that its id stays its own
        return fake


def _row_dim(like: torch.Tensor, features: int) -> int:
    """The dim whose stride leads from row to row: of the leading ones, the last that is not 1."""
    last = like.dim() - features - 1
    row = last
    while row > 0 and type(like.size(row)) is int and like.size(row) == 1:
        row -= 1
    return row if row >= 0 else last


def _rows_side_by_side(like: torch.Tensor, last: tuple[Size, ...]) -> bool:
    """Whether the strides of a value whose features are symbols are the usual ones."""
    row = _row_dim(like, len(last))
    expected: Size = 1
    for at in (*range(like.dim() - 1, like.dim() - len(last) - 1, -1), row):
        if str(like.stride(at)) != str(expected):
            return False
        expected = expected * like.size(at)
    return True


def _row_strides(like: torch.Tensor, last: tuple[int, ...]) -> tuple[int, ...] | None:
    """The strides of a shard of a value whose rows do not lie side by side; None: they do.

    ``last`` are the sizes of its feature dims, the dims behind the row.
    """
    row = _row_dim(like, len(last))
    if row < 0:
        return None
    behind = range(like.dim() - len(last), like.dim())
    strides = tuple(like.stride(i) for i in (row, *behind))
    usual = tuple(math.prod(last[i:]) for i in range(len(last) + 1))
    if strides == usual:
        return None
    # A symbolic stride is not compared, for that would add a guard. The usual strides are numbers.
    if any(type(stride) is not int for stride in strides):
        return usual
    for size, stride, expected in zip((like.size(row), *last), strides, usual, strict=True):
        # A dim of size 1 has whatever stride.
        if stride != expected and not (type(size) is int and size == 1):
            return strides
    return None


def _device(like: torch.Tensor) -> Any:
    return _META if isinstance(like, FakeTensor) else like.device
