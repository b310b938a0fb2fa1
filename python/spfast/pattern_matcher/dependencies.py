"""What a traced function depends on besides its arguments, and whether it is still the same.

A function may read anything: what it closes over, globals, defaults, attributes of objects, other
functions that read in turn. `dependencies_of` finds all of it, or says why it cannot; afterwards
`Dependencies.unchanged` compares each of them by identity. Torch's own functions are taken for
functions of their arguments and of the settings in `ambient`.
"""

from __future__ import annotations

import builtins
import functools
import importlib.util
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any

import torch

from spfast.pattern_matcher.bytecode import Read, Scope, reads_of

__all__ = ["Dependencies", "Unproved", "dependencies_of"]

_MISSING: Any = object()
_MOST = 4000
# CPython's flags of a type: it is on the heap, and Python code cannot make values of it.
_MADE_AT_RUN_TIME, _MADE_BY_C_ALONE = 1 << 9, 1 << 7

# Modules whose functions and classes keep no state that a trace could see.
_STATELESS = frozenset(
    "torch torchgen builtins operator _operator math cmath functools _functools itertools "
    "collections _collections _collections_abc typing types enum dataclasses abc _abc numbers "
    "fractions copy re string sympy".split()
)
_STATEFUL_BUILTINS = frozenset(
    "open input print exec eval compile globals id breakpoint __import__ hash".split()
)
_ATOMS = (
    *(bool, int, float, complex, str, bytes, range, slice, type(None), type(...)),
    *(type(NotImplemented), torch.dtype, torch.device, torch.layout, torch.memory_format),
    *(torch.Size, torch.finfo, torch.iinfo),
)
_OPERATORS = (
    torch._ops.OperatorBase,
    torch._ops.OpOverloadPacket,
    torch._ops._OpNamespace,
    torch._ops._Ops,
)
# Classes written in C whose values are known whole from their items.
_CONTAINERS = (tuple, list, dict, set, frozenset, deque, OrderedDict)
_DESCRIPTORS = (
    *(types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType),
    *(types.GetSetDescriptorType, types.MemberDescriptorType),
)


class Unproved(Exception):  # noqa: N818 - an outcome, not an error that a user sees
    """It cannot be told what a function depends on; the message is the reason."""


class Dependencies:
    """Everything that a set of functions reads from outside, with the values at that time."""

    def __init__(self) -> None:
        self._names: list[tuple[Mapping[Any, Any], Any, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._attributes: list[tuple[Any, str, Any]] = []
        self._items: list[tuple[Iterable[Any], list[Any]]] = []

    def __len__(self) -> int:
        return len(self._names) + len(self._cells) + len(self._attributes) + len(self._items)

    def unchanged(self) -> bool:
        """Whether every value is still the same."""
        try:
            return (
                all(_same(place.get(name, _MISSING), was) for place, name, was in self._names)
                and all(_same(cell.cell_contents, was) for cell, was in self._cells)
                and all(
                    _same(getattr(of, name, _MISSING), was) for of, name, was in self._attributes
                )
                and all(_same_items(_items(of), was) for of, was in self._items)
            )
        except (ValueError, RuntimeError):  # an emptied cell, a container that changes meanwhile
            return False

    def watch_name(self, place: Mapping[Any, Any], name: Any) -> Any:
        """Notes a value in a namespace, and returns it."""
        found = place.get(name, _MISSING)
        self._names.append((place, name, found))
        return found

    def watch_cell(self, cell: CellType, name: str) -> Any:
        """Notes what a closure holds, and returns it."""
        try:
            found = cell.cell_contents
        except ValueError:
            raise Unproved(f"it reads {name!r}, which has no value yet") from None
        self._cells.append((cell, found))
        return found

    def watch_attribute(self, of: Any, name: str) -> Any:
        """Notes an attribute, and returns it."""
        found = getattr(of, name, _MISSING)
        self._attributes.append((of, name, found))
        return found

    def watch_items(self, of: Any) -> list[Any]:
        """Notes what a container holds, and returns its keys and values."""
        found = _items(of)
        self._items.append((of, found))
        return found


def dependencies_of(functions: Iterable[Callable[..., Any] | None]) -> Dependencies:
    """Everything that these functions read besides their arguments.

    Args:
        functions: Functions, methods, or other callables; None is left out.

    Raises:
        Unproved: A function reads something that cannot be compared.
    """
    walk = _Walk()
    try:
        for function in functions:
            walk.value(function)
    except RecursionError:
        raise Unproved("what it reads is nested too deeply") from None
    return walk.found


def _items(of: Any) -> list[Any]:
    if isinstance(of, (dict, MappingProxyType)):
        return [part for pair in of.items() for part in pair]
    return list(of)


def _same(now: Any, was: Any) -> bool:
    # Identity comes first: 0.0 equals -0.0, and "not a number" does not equal itself.
    if now is was:
        return True
    return type(now) is type(was) and type(now) in (int, str, float) and now == was and now != 0


def _same_items(now: list[Any], was: list[Any]) -> bool:
    return len(now) == len(was) and all(map(_same, now, was))


def _stateless(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in _STATELESS


def _kind(value: Any) -> str:
    kind = type(value)
    return f"a value of type {kind.__module__}.{kind.__qualname__}"


class _Walk:
    """Follows what is read from function to function."""

    def __init__(self) -> None:
        self.found = Dependencies()
        self._seen: dict[Any, Any] = {}  # the values are kept alive, for ids are reused

    def _is_new(self, *values: Any) -> bool:
        key = tuple(id(value) for value in values)
        if key in self._seen:
            return False
        if len(self.found) > _MOST:
            raise Unproved(f"it reads more than {_MOST} values")
        self._seen[key] = values
        return True

    # --- a value that is used whole -------------------------------------------------------

    def value(self, value: Any) -> None:
        """Notes a value of which every part may matter."""
        if type(value) in _ATOMS or isinstance(value, (*_OPERATORS, *_DESCRIPTORS)):
            return
        if not self._is_new(value):
            return
        if isinstance(value, FunctionType):
            self.function(value)
        elif isinstance(value, MethodType):
            self._method(value)
        elif isinstance(value, BuiltinFunctionType):
            self._builtin(value)
        elif isinstance(value, types.MethodWrapperType):
            self.value(value.__self__)
        elif isinstance(value, ModuleType):
            if not _stateless(value.__name__):
                raise Unproved(f"it uses the module {value.__name__!r} as a value")
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, functools.partial):
            self._values([value.func, *value.args, value.keywords])
        elif isinstance(value, (staticmethod, classmethod)):
            self.value(value.__func__)
        elif isinstance(value, property):
            self._values([value.fget, value.fset, value.fdel])
        elif isinstance(value, functools._lru_cache_wrapper):
            self.value(value.__wrapped__)
        elif isinstance(value, MappingProxyType):
            self._values(self.found.watch_items(value))
        else:
            self._instance(value)

    def _values(self, values: Iterable[Any]) -> None:
        for value in values:
            self.value(value)

    def _builtin(self, value: BuiltinFunctionType) -> None:
        owner = value.__self__
        if owner is None or isinstance(owner, (ModuleType, type)):
            module = value.__module__ or getattr(owner, "__module__", None)
            impure = module == "builtins" and value.__name__ in _STATEFUL_BUILTINS
            if impure or not _stateless(module):
                raise Unproved(f"it calls {value.__name__!r} of {module}")
        elif not _stateless(type(owner).__module__) or type(owner) in _CONTAINERS:
            self.value(owner)

    def _method(self, value: MethodType) -> None:
        if isinstance(value.__func__, FunctionType):
            self.function(value.__func__, value.__self__)
        else:
            self._values([value.__func__, value.__self__])

    def _class(self, value: type) -> None:
        for kind in value.__mro__:
            if _stateless(kind.__module__):
                continue
            if kind is not value and not self._is_new(kind):
                continue
            members = vars(kind)
            self.found.watch_items(members)
            for name, member in members.items():
                plain = name.startswith("__") and not isinstance(member, FunctionType)
                if not plain and name != "_abc_impl":
                    self.value(member)
        self.value(type(value))

    def _instance(self, value: Any) -> None:
        kind = type(value)
        if isinstance(value, (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)):
            raise Unproved(f"it reads {_kind(value)} that is no argument")
        if not all(_is_written_in_python(base) for base in kind.__mro__):
            raise Unproved(f"it reads {_kind(value)}")
        if isinstance(value, _CONTAINERS):
            self._values(self.found.watch_items(value))
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            self._values(self.found.watch_items(own))
        for name in _slots(kind):
            self.value(self.found.watch_attribute(value, name))
        self.value(kind)

    # --- a function -----------------------------------------------------------------------

    def function(self, function: FunctionType, receiver: Any = _MISSING) -> None:
        """Notes what a function reads. The first argument of a method comes from outside, too."""
        if not self._is_new(function, "called on", receiver):
            return
        watch = self.found.watch_attribute
        code = watch(function, "__code__")
        for name in ("__defaults__", "__kwdefaults__"):
            self.value(watch(function, name))
        if _stateless(function.__globals__.get("__name__")):
            for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
                self.value(self.found.watch_cell(cell, name))
            if receiver is not _MISSING:
                self.value(receiver)
            return
        for read in reads_of(code):
            self._follow(function, read, receiver)

    def _follow(self, function: FunctionType, read: Read, receiver: Any) -> None:
        if read.scope is Scope.RECEIVER:
            value = receiver
        elif read.scope is Scope.FREE:
            place = function.__code__.co_freevars.index(read.name)
            value = self.found.watch_cell((function.__closure__ or ())[place], read.name)
        elif read.scope is Scope.IMPORT:
            value = self._module(read.name, function.__globals__)
        else:
            value = self.found.watch_name(function.__globals__, read.name)
            if value is _MISSING:
                value = self.found.watch_name(vars(builtins), read.name)
                if value is _MISSING:
                    raise Unproved(f"it reads {read.name!r}, which is not defined")
        for name in read.chain:
            if value is _MISSING:
                return
            value = self._attribute(value, name)
        if value is not _MISSING:
            self.value(value)

    def _module(self, name: str, place: Mapping[str, Any]) -> Any:
        if name.startswith("."):
            package = place.get("__package__") or ""
            try:
                name = importlib.util.resolve_name(name, package)
            except ImportError:
                raise Unproved(f"it imports {name!r} from no package") from None
        if _stateless(name):
            return sys.modules.get(name, _MISSING)
        found = self.found.watch_name(sys.modules, name)
        if found is _MISSING:
            raise Unproved(f"it imports {name!r}, which is not loaded yet")
        return found

    # --- an attribute that is read off a value --------------------------------------------

    def _attribute(self, of: Any, name: str) -> Any:
        """The attribute's value; _MISSING if all that it may depend on is noted already."""
        kind = type(of)
        if kind in _ATOMS or isinstance(of, _CONTAINERS) or isinstance(of, FunctionType):
            self.value(of)
            return _MISSING
        if isinstance(of, (ModuleType, type, *_OPERATORS)) or _stateless(kind.__module__):
            found = getattr(of, name, _MISSING)
            if found is _MISSING:
                raise Unproved(f"it reads {name!r} of {_kind(of)}, which has none")
            if _same(getattr(of, name, _MISSING), found):
                return self.found.watch_attribute(of, name)
            if not isinstance(found, (MethodType, BuiltinFunctionType)):
                raise Unproved(f"it reads {name!r} of {_kind(of)}, which is made anew each time")
            self.value(found)
            return _MISSING
        if "__getattr__" in _python_members(kind) or "__getattribute__" in _python_members(kind):
            self.value(of)
            return _MISSING
        return self._plain_attribute(of, name)

    def _plain_attribute(self, of: Any, name: str) -> Any:
        own = getattr(of, "__dict__", None)
        own = own if isinstance(own, dict) else {}
        holder = next((base for base in type(of).__mro__ if name in vars(base)), None)
        member = None if holder is None else vars(holder)[name]
        if holder is not None:
            self.found.watch_name(vars(holder), name)
        if isinstance(member, property):
            if isinstance(member.fget, FunctionType):
                self.function(member.fget, of)
            return _MISSING
        if name in own:
            return self.found.watch_name(own, name)
        if isinstance(member, functools.cached_property):
            self.function(member.func, of)  # type: ignore[arg-type]
            return _MISSING
        self.found.watch_name(own, name)
        if isinstance(member, FunctionType):
            self.function(member, of)
            return _MISSING
        if isinstance(member, classmethod):
            self._method(MethodType(member.__func__, type(of)))
            return _MISSING
        if holder is None:
            raise Unproved(f"it reads {name!r} of {_kind(of)}, which has none")
        return getattr(of, name) if hasattr(member, "__get__") else member


def _is_written_in_python(kind: type) -> bool:
    """Whether values of a class have no state but their attributes, or are known from items."""
    if kind in (object, types.SimpleNamespace, *_CONTAINERS, *_ATOMS):
        return True
    if not kind.__flags__ & _MADE_AT_RUN_TIME or kind.__flags__ & _MADE_BY_C_ALONE:
        return False
    made = vars(kind).get("__new__")
    return made is None or isinstance(made, (staticmethod, FunctionType))


def _slots(kind: type) -> list[str]:
    found: list[str] = []
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        found += [names] if isinstance(names, str) else list(names)
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def _python_members(kind: type) -> set[str]:
    return {name for base in kind.__mro__[:-1] for name in vars(base)}
