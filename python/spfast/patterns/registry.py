"""The registry: which rules are known, in which dialects, and how their collectives are spelled."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from spfast.errors import PatternError
from spfast.patterns.dialect import CollectiveFamily, Dialect
from spfast.patterns.entries import Entry, Key
from spfast.patterns.families import check_dialect, check_spelling
from spfast.patterns.rowwise import RowRule
from spfast.patterns.unify import unify

if TYPE_CHECKING:
    from spfast.patterns.model import Pattern
    from spfast.patterns.stored import Stored

__all__ = ["Registry"]

F = TypeVar("F", bound=Callable[..., Any])
_versions = itertools.count(1)


class Registry:
    """Rules and dialects; every change gives it a new :attr:`version`.

    Example:
        >>> from spfast.patterns import Dialect, Registry, ops
        >>> registry = Registry()
        >>> registry.add_dialect(Dialect("mine"))
        >>> @registry.register("all_reduce_relu", dialect="mine")
        ... def all_reduce_relu(x):
        ...     return ops.aten.relu(x)
        >>> registry.rules()
        ('all_reduce_relu',)
    """

    # The dicts are replaced, never changed. So a thread that reads one sees it whole.
    def __init__(self) -> None:
        self._dialects: dict[str, Dialect] = {}
        self._entries: dict[Key, Entry] = {}
        self._rowwise: dict[str, RowRule] = {}
        self._version = next(_versions)
        self._digest: tuple[int, str] = (0, "")
        self._stored: Stored | None = None

    def __repr__(self) -> str:
        rules, dialects = len(self._entries), ", ".join(sorted(self._dialects))
        return f"<Registry of {rules} rules, dialects {dialects or 'none'}>"

    @property
    def version(self) -> int:
        """A number that no other state of any registry in this process has."""
        return self._version

    # --- changing ---------------------------------------------------------------------------------

    def add_dialect(self, dialect: Dialect, *, replace: bool = False) -> None:
        """Adds a dialect.

        Raises:
            PatternError: There is one of its name and ``replace`` is false; a family of collectives
                is described so that it cannot be rewritten; or one of its all_reduces is spelled
                otherwise by another dialect.
        """
        if dialect.name in self._dialects and not replace:
            raise PatternError(
                f"dialect '{dialect.name}' is registered already: "
                f"choose another name or pass replace=True"
            )
        check_dialect(dialect)
        for other in self._dialects.values():
            if other.name != dialect.name:
                check_spelling(dialect, other)
        self._dialects = {**self._dialects, dialect.name: dialect}
        self._version = next(_versions)

    def register(
        self,
        name: str,
        *,
        dialect: str,
        priority: int = 0,
        quantises: bool | None = None,
        variant: str = "",
        variants: Mapping[str, Sequence[Any]] | None = None,
        replace: bool = False,
    ) -> Callable[[F], F]:
        """Registers the decorated pattern function as a rule.

        Args:
            name: name of the rule. It may have variants, in this dialect and in others.
            dialect: one that was added before.
            priority: at one all_reduce the rule of highest priority wins, then the longest variant.
            quantises: whether the rule ends in a quantisation: ``gather_quantized=False`` leaves it
                out. None: whether its name ends in ``_fp8`` or ``_int8``, with a
                ``FutureWarning`` where it does; after 0.2 names say nothing.
            variant: tells several functions of one rule and dialect apart.
            variants: values for each keyword-only parameter of the function, which is traced once
                for each combination.
            replace: whether an earlier registration of the same name, dialect and variant goes.

        Raises:
            PatternError: The name is taken, the dialect unknown, the function describes no pattern
                or holds a constant that none can hold, or the rule's other variants disagree about
                its priority, about whether it quantises or about a parameter's role.
        """
        if not isinstance(name, str) or not name:
            raise PatternError(f"the name of a rule is a text, not {name!r}")

        def decorate(function: F) -> F:
            key = Key(dialect, name, variant)
            if dialect not in self._dialects:
                known = ", ".join(sorted(self._dialects)) or "none"
                raise PatternError(
                    f"there is no dialect '{dialect}': add it first (known: {known})"
                )
            if key in self._entries and not replace:
                raise PatternError(
                    f"rule '{name}' is registered already for dialect '{dialect}': choose another "
                    f"name, name a variant, or pass replace=True"
                )
            from spfast.patterns.tracing import trace_variants

            if not isinstance(priority, int) or abs(priority) >= 1 << 31:
                raise PatternError(
                    f"rule '{name}' has priority {priority!r}: pass a whole number below 2**31"
                )
            ends = _quantises_by_name(name) if quantises is None else quantises
            patterns = trace_variants(function, name, priority, variants, ends)
            unify([*self._patterns_of(name, but=key), *patterns])
            self._entries = {**self._entries, key: Entry(patterns)}
            self._version = next(_versions)
            return function

        return decorate

    def register_rowwise(self, *rules: RowRule, replace: bool = False) -> None:
        """Teaches the row-wise recogniser operators that treat every token alone.

        Raises:
            PatternError: An operator is known already, by another rule, and ``replace`` is false;
                a ``"rows"`` rule names no operand that has rows; or a position is no number.

        Example:
            >>> from spfast.patterns import Registry, RowRule
            >>> registry = Registry()
            >>> registry.register_rowwise(RowRule("mylib.quant.default", "rows", rows=(0,)))
            >>> registry.rowwise()[0].op
            'mylib.quant.default'
        """
        for rule in rules:
            if (rule.family == "rows") != bool(rule.rows):
                raise PatternError(
                    f"the row-wise rule of '{rule.op}' is of family '{rule.family}' with "
                    f"rows={rule.rows!r}: name the operands that have rows where the family is "
                    f"'rows', and nowhere else"
                )
            named = (*rule.rows, *rule.block_if)
            numbers = (rule.position, *(at for at in named if not isinstance(at, str)))
            for number in (*numbers, rule.default_dim, rule.block):
                if not isinstance(number, int) or abs(number) >= 1 << 31:
                    raise PatternError(
                        f"the row-wise rule of '{rule.op}' has {number!r} where a position or a "
                        f"dim is expected: pass a whole number"
                    )
            known = self._rowwise.get(rule.op)
            if known not in (None, rule) and not replace:
                raise PatternError(
                    f"operator '{rule.op}' has a row-wise rule already: pass replace=True"
                )
        self._rowwise = {**self._rowwise, **{rule.op: rule for rule in rules}}
        self._version = next(_versions)

    def unregister(self, name: str, *, dialect: str | None = None) -> None:
        """Removes a rule, from one dialect or from all.

        Raises:
            PatternError: There is no such rule.
        """
        found = [
            key for key in self._entries if key.rule == name and dialect in (None, key.dialect)
        ]
        if not found:
            where = "" if dialect is None else f" in dialect '{dialect}'"
            raise PatternError(f"there is no rule '{name}'{where}")
        self._entries = {key: each for key, each in self._entries.items() if key not in found}
        self._version = next(_versions)

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Registry]:
        """Undoes at its end whatever was registered or removed inside.

        Example:
            >>> from spfast.patterns import Dialect, Registry
            >>> registry = Registry()
            >>> with registry.temporary():
            ...     registry.add_dialect(Dialect("mine"))
            >>> registry.dialects()
            ()
        """
        state = self._dialects, self._entries, self._rowwise, self._version
        try:
            yield self
        finally:
            self._dialects, self._entries, self._rowwise, self._version = state

    @classmethod
    def of(cls, stored: Stored) -> Registry:
        """A registry with the dialects and rules of a file."""
        made = cls()
        made._stored = stored
        made._dialects, made._entries = stored.dialects, stored.entries
        return made

    def copy(self) -> Registry:
        """A registry of its own with the same content."""
        other = Registry()
        other.__setstate__(self.__getstate__())
        return other

    def __getstate__(self) -> tuple[Any, Any, Any]:
        return self._dialects, self._entries, self._rowwise

    def __setstate__(self, state: tuple[Any, Any, Any]) -> None:
        # The version of another process means nothing in this one.
        self.__init__()  # type: ignore[misc]
        self._dialects, self._entries, self._rowwise = state

    # --- reading ----------------------------------------------------------------------------------

    def dialects(self) -> tuple[Dialect, ...]:
        """The dialects, in the order in which they were added."""
        return tuple(self._dialects.values())

    def rules(self, dialects: Iterable[str] | None = None) -> tuple[str, ...]:
        """Names of the rules of these dialects, or of all."""
        return tuple(dict.fromkeys(pattern.rule for pattern in self.variants(dialects)))

    def variants(self, dialects: Iterable[str] | None = None) -> tuple[Pattern, ...]:
        """The patterns of these dialects, or of all, each with the parameters that it uses itself.

        Raises:
            PatternError: There is no dialect of such a name.
        """
        names = set(self._names(dialects))
        return tuple(
            pattern
            for key, entry in self._entries.items()
            if key.dialect in names
            for pattern in entry.patterns
        )

    def patterns(self, dialects: Iterable[str] | None = None) -> tuple[Pattern, ...]:
        """The patterns of these dialects, or of all, as the core takes them.

        All patterns of a rule have the same parameters: those that any of its variants has.

        Raises:
            PatternError: There is no dialect of such a name.
        """
        by_rule: dict[str, list[Pattern]] = {}
        for pattern in self.variants(dialects):
            by_rule.setdefault(pattern.rule, []).append(pattern)
        unified = (unify(patterns) for patterns in by_rule.values())
        return tuple(itertools.chain.from_iterable(unified))

    def families(self, dialects: Iterable[str] | None = None) -> tuple[CollectiveFamily, ...]:
        """The families of collectives of these dialects, or of all."""
        by_all_reduce: dict[str, CollectiveFamily] = {}
        for name in self._names(dialects):
            for family in self._dialects[name].families:
                by_all_reduce.setdefault(family.all_reduce, family)
        return tuple(by_all_reduce.values())

    def rowwise(self) -> tuple[RowRule, ...]:
        """The operators that the row-wise recogniser knows."""
        return tuple(self._rowwise.values())

    def entries(self) -> Mapping[Key, Entry]:
        """What was registered, by dialect, rule and variant."""
        return self._entries

    def stored(self) -> Stored | None:
        """The file that all rules are from; None where one was added, removed or replaced."""
        stored = self._stored
        return stored if stored is not None and self._entries is stored.entries else None

    def digest(self) -> str:
        """A hash of everything registered: equal in every process that registered the same.

        Example:
            >>> from spfast.patterns import Registry
            >>> Registry().digest() == Registry().digest()
            True
        """
        if self._digest[0] != self._version:
            # The digests of stored registrations are known: their patterns need not be made.
            rules = [(key, entry.digest) for key, entry in self._entries.items()]
            content = repr((rules, self.families(), self.rowwise())).encode()
            self._digest = (self._version, hashlib.sha256(content).hexdigest())
        return self._digest[1]

    def describe(self, dialects: Iterable[str] | None = None) -> str:
        """Every pattern as readable Python, one function a variant."""
        from spfast.patterns.describing import describe

        return "\n\n\n".join(
            f"# rule {pattern.rule}, priority {pattern.priority}"
            f"{', quantises' if pattern.quantises else ''}\n{describe(pattern)}"
            for pattern in self.variants(dialects)
        )

    def _names(self, dialects: Iterable[str] | None) -> list[str]:
        if dialects is None:
            return list(self._dialects)
        names = list(dialects)
        for name in names:
            if name not in self._dialects:
                known = ", ".join(sorted(self._dialects)) or "none"
                raise PatternError(f"there is no dialect '{name}' (known: {known})")
        return names

    def _patterns_of(self, rule: str, but: Key) -> list[Pattern]:
        return [
            pattern
            for key, entry in self._entries.items()
            if key.rule == rule and key != but
            for pattern in entry.patterns
        ]


def _quantises_by_name(rule: str) -> bool:
    """Whether the name of a rule says that it quantises, for rules registered without the flag."""
    if not rule.endswith(("_fp8", "_int8")):
        return False
    warnings.warn(
        f"rule '{rule}' is taken to end in a quantisation for its name: say quantises=True, "
        f"or quantises=False",
        FutureWarning,
        stacklevel=3,
    )
    return True
