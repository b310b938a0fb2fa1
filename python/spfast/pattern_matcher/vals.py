"""What meta["val"] of a replacement's nodes looks like, kept apart from any one graph.

A traced replacement carries fake tensors of the graph that it was traced for. A template must
serve every later match, also in other graphs, so it keeps descriptions: sizes and strides as
integers or symbolic expressions, and which values share a storage. `Builder` turns them back into
fresh fake tensors: values of different nodes share storage only where the trace made them share.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.fx.passes.shape_prop import TensorMetadata
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

__all__ = ["Builder", "Describer", "SymSpec", "TensorSpec", "Unshareable", "ValSpec", "dim_of"]

Dim: TypeAlias = int | sympy.Expr


class Unshareable(Exception):  # noqa: N818 - an outcome, not an error that a user sees
    """A trace or a key that cannot serve another match; the message is the reason."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: what FakeTensor needs, and which other values of the template it aliases."""

    size: tuple[Dim, ...]
    stride: tuple[Dim, ...]
    offset: Dim
    dtype: torch.dtype
    device: torch.device
    storage: int
    storage_bytes: Dim


@dataclass(frozen=True)
class SymSpec:
    """A symbolic number."""

    expr: sympy.Expr


@dataclass(frozen=True)
class SequenceSpec:
    """The values of an operator with several results."""

    kind: type
    items: tuple[Any, ...]


@dataclass(frozen=True)
class ConstantSpec:
    """A plain number, bool, string or None."""

    value: Any


@dataclass(frozen=True)
class MappingSpec:
    """Values by name."""

    kind: type
    items: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class RecordSpec:
    """A TensorMetadata record."""

    record: TensorMetadata
    shape: tuple[Dim, ...]
    stride: tuple[Dim, ...]


ValSpec = TensorSpec | SymSpec | SequenceSpec | MappingSpec | RecordSpec | ConstantSpec


def dim_of(value: Any) -> Dim:
    """The integer or expression behind a size.

    Raises:
        Unshareable: The size is neither (a nested int, a symbolic float).
    """
    if type(value) is int:
        return value
    if isinstance(value, torch.SymInt):
        expr = getattr(value.node, "expr", None)
        if isinstance(expr, sympy.Expr) and hasattr(value.node, "shape_env"):
            return expr
    raise Unshareable(f"a size of type {type(value).__name__} has no expression")


_SEQUENCES = (list, tuple, immutable_list)
_MAPPINGS = (dict, immutable_dict)


class Describer:
    """Describes the values of one trace; `rename` maps its symbols to the canonical ones."""

    def __init__(self, rename: Callable[[sympy.Expr], sympy.Expr]) -> None:
        self._rename = rename
        self._storages: dict[int, int] = {}

    def dim(self, value: Any) -> Dim:
        """A size in canonical symbols; an int if the expression is constant."""
        found = dim_of(value)
        return found if isinstance(found, int) else self._rename(found)

    def describe(self, value: Any) -> ValSpec:
        """The description of one meta value.

        Raises:
            Unshareable: It is of a kind that a template cannot hold.
        """
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, torch.SymInt):
            dim = self.dim(value)
            return SymSpec(dim if isinstance(dim, sympy.Expr) else sympy.Integer(dim))
        if isinstance(value, TensorMetadata):
            shape = tuple(self.dim(n) for n in value.shape)
            stride = tuple(self.dim(n) for n in value.stride)
            if value.is_quantized:
                raise Unshareable("a quantized tensor in the replacement")
            return RecordSpec(value._replace(shape=torch.Size([]), stride=()), shape, stride)
        if type(value) in _SEQUENCES:
            return SequenceSpec(type(value), tuple(self.describe(item) for item in value))
        if type(value) in _MAPPINGS:
            items = tuple((key, self.describe(item)) for key, item in value.items())
            return MappingSpec(type(value), items)
        if value is None or type(value) in (int, float, bool, str):
            return ConstantSpec(value)
        raise Unshareable(f"a value of type {type(value).__name__} in the replacement")

    def _tensor(self, value: torch.Tensor) -> TensorSpec:
        if type(value) is not FakeTensor:
            raise Unshareable(f"a {type(value).__name__} in the replacement is not a fake tensor")
        if value.layout is not torch.strided or value.is_quantized:
            raise Unshareable(f"a tensor of layout {value.layout} in the replacement")
        if value.constant is not None or value.is_conj() or value.is_neg() or value.requires_grad:
            raise Unshareable("a constant, conjugate or differentiable tensor in the replacement")
        storage = value.untyped_storage()
        group = self._storages.setdefault(storage._cdata, len(self._storages))
        return TensorSpec(
            size=tuple(self.dim(n) for n in value.shape),
            stride=tuple(self.dim(n) for n in value.stride()),
            offset=self.dim(value.storage_offset()),
            dtype=value.dtype,
            device=value.device,
            storage=group,
            storage_bytes=self.dim(storage.nbytes()),
        )


class Builder:
    """Builds fresh values for the nodes of one graph.

    Args:
        mode: The fake mode of the graph.
        symbols: The graph's own symbolic number for each canonical symbol.
    """

    def __init__(self, mode: FakeTensorMode, symbols: Mapping[sympy.Symbol, Any]) -> None:
        self.mode = mode
        self._symbols = dict(symbols)
        self._dims: dict[sympy.Expr, Any] = {}
        self._common: dict[int, Any] = {}  # by the identity of a spec, which its template keeps
        self._geometries: dict[int, tuple[torch.Tensor, int]] = {}  # by identity, as `_common`
        self._shapes: dict[Hashable, tuple[torch.Tensor, int]] = {}
        self._states: dict[torch.device, dict[str, Any]] = {}  # what a fresh fake tensor carries

    def common(self, spec: ValSpec) -> Any:
        """A value that all matches of this graph share, for records that nothing writes to."""
        found = self._common.get(id(spec))
        if found is None:
            found = self._common[id(spec)] = self.instance()(spec)
        return found

    def dim(self, dim: Dim) -> Any:
        """The size in this graph: an int or a SymInt."""
        if isinstance(dim, int):
            return dim
        found = self._dims.get(dim)
        if found is None:
            if dim.is_Integer:
                found = int(dim)
            else:
                found = sympy_interp(PythonReferenceAnalysis, self._symbols, dim)
            self._dims[dim] = found
        return found

    def _geometry(self, spec: TensorSpec) -> tuple[torch.Tensor, int]:
        """A meta tensor of a spec's sizes and strides, and the bytes of its storage.

        A meta tensor of symbolic size takes longer to make than all else here. So one is made for
        each spec, and each value is an alias of it that is moved to a storage of its own. The size
        of a storage is a number: where it is symbolic, the number of the example values is taken.
        """
        known = self._geometries.get(id(spec))
        if known is not None:
            return known
        # The template of another pattern may describe the same tensor by a spec of its own.
        shape = (spec.size, spec.stride, spec.offset, spec.storage_bytes, spec.dtype)
        known = self._shapes.get(shape)
        if known is None:
            size = [self.dim(n) for n in spec.size]
            stride = [self.dim(n) for n in spec.stride]
            nbytes = self.dim(spec.storage_bytes)
            if spec.offset == 0:
                meta = torch.empty_strided(size, stride, dtype=spec.dtype, device="meta")
            else:
                whole = torch.empty(
                    [nbytes // spec.dtype.itemsize], dtype=spec.dtype, device="meta"
                )
                meta = whole.as_strided(size, stride, self.dim(spec.offset))
            if not isinstance(nbytes, int):
                nbytes = nbytes.node.hint if nbytes.node.has_hint() else 0
            known = self._shapes[shape] = (meta, nbytes)
        self._geometries[id(spec)] = known
        return known

    def _wrap(self, meta: torch.Tensor, device: torch.device) -> FakeTensor:
        """The fake tensor around a meta tensor."""
        state = self._states.get(device)
        if state is None:
            fake = FakeTensor(self.mode, meta, device)
            self._states[device] = dict(fake.__dict__)
            return fake
        # Does what the constructor of FakeTensor does, with the attributes of the first fake tensor
        # on this device. This takes a fifth of the time.
        fake = torch.Tensor._make_subclass(
            FakeTensor, meta, False, dispatch_device=True, device_for_backend_keys=device
        )
        if self.mode._allow_unsafe_data_ptr_access:
            torch._C._set_warn_deprecated_on_mutable_data_ptr(fake)
        else:
            torch._C._set_throw_on_mutable_data_ptr(fake)
        fake.__dict__.update(state)
        return fake

    def instance(self) -> Callable[[ValSpec], Any]:
        """A function from descriptions to values, for the nodes of one match."""
        storages: dict[int, torch.Tensor] = {}

        def tensor(spec: TensorSpec) -> FakeTensor:
            meta, nbytes = self._geometry(spec)
            storage = storages.get(spec.storage)
            if storage is None:
                storage = torch.empty(nbytes, dtype=torch.uint8, device="meta")
                storages[spec.storage] = storage
            alias = meta.detach()
            torch._functionalize_unsafe_set(alias, storage)
            return self._wrap(alias, spec.device)

        def build(spec: ValSpec) -> Any:
            if isinstance(spec, TensorSpec):
                return tensor(spec)
            if isinstance(spec, SymSpec):
                return self.dim(spec.expr)
            if isinstance(spec, SequenceSpec):
                return spec.kind(build(item) for item in spec.items)
            if isinstance(spec, RecordSpec):
                shape = torch.Size([self.dim(n) for n in spec.shape])
                stride = tuple([self.dim(n) for n in spec.stride])
                return spec.record._replace(shape=shape, stride=stride)
            if isinstance(spec, MappingSpec):
                return spec.kind((key, build(item)) for key, item in spec.items)
            return spec.value

        def build_unfaked(spec: ValSpec) -> Any:
            with unset_fake_temporarily():
                return build(spec)

        return build_unfaked if torch._C._len_torch_dispatch_stack() else build
