"""Small random tensor-parallel graphs, irregular as real ones are, runnable on every rank.

``draw_case(SeededChooser(7))`` always gives the same graph; ``cases()`` is a hypothesis strategy
over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from spfast.config import SequenceParallelConfig
from spfast.testing.builder import TOKENS, Dim, GraphBuilder, InputSpec
from spfast.testing.choose import Chooser, DrawnChooser, SeededChooser
from spfast.testing.dialects import DIALECTS, FP8, LayerWriter, make_writer
from spfast.testing.taps import Stream, add_noise, tap

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

aten = torch.ops.aten


@dataclass(frozen=True)
class GraphOptions:
    """What may be drawn; a field with one value fixes it.

    Attributes:
        dialects: names from :data:`spfast.testing.dialects.DIALECTS`.
        world_sizes: numbers of ranks.
        max_layers: at most so many layers of two sites each; most graphs have fewer than four.
        dtypes: dtypes of the residual stream.
        three_d: whether the stream of the functional dialect may be [B, S, H].
        dynamic: whether the token count may be symbolic.
        irregular: probability, for each place, of a tap, noise, a site without norm, a dead node.
        odd_tokens: probability of a token count that is not divisible.
        fp8: probability that a graph has quantised sites.
        several_groups: probability that two groups take part.
        reductions: probability that an all_reduce of the functional dialect takes an average or a
            maximum.
    """

    dialects: tuple[str, ...] = DIALECTS
    world_sizes: tuple[int, ...] = (2, 4)
    max_layers: int = 8
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float32, torch.float32, torch.bfloat16)
    three_d: bool = True
    dynamic: bool = True
    irregular: float = 0.2
    odd_tokens: float = 0.12
    fp8: float = 0.4
    several_groups: float = 0.15
    reductions: float = 0.1


@dataclass(frozen=True)
class DrawnAllReduce:
    """One all_reduce of a drawn graph.

    Attributes:
        node: its name in the graph.
        group: its group.
        has_norm: whether a norm follows, so that it can be rewritten where the token count allows.
        quantised: whether a quantisation follows the norm.
        norm: what the norm yields; "" where there is none.
    """

    node: str
    group: str
    has_norm: bool
    quantised: bool = False
    norm: str = ""


@dataclass(frozen=True)
class TensorParallelCase:
    """A graph, the same on every rank, with what is needed to run it.

    Attributes:
        graph: nodes carry FakeTensor meta["val"].
        world_size: the number of ranks; each group holds them all.
        groups: for each group name its ranks.
        specs: how the placeholders are filled.
        sites: its all_reduces in order.
        tokens: the token count (the hint when ``dynamic``).
        rows: rows of the flattened stream, for ``tokens``.
        dynamic: whether the token count is symbolic.
        dtype: dtype of the stream.
        quantised_to_fp8: whether values are rounded to float8, so that an ulp of noise may flip
            one.
        notes: what was drawn, for a failure's message.
    """

    graph: fx.Graph
    world_size: int
    groups: dict[str, tuple[int, ...]]
    specs: tuple[InputSpec, ...]
    sites: tuple[DrawnAllReduce, ...]
    tokens: int
    rows: int
    dynamic: bool
    dtype: torch.dtype
    quantised_to_fp8: bool
    notes: tuple[str, ...]

    def inputs(self, tokens: int | None = None, seed: int = 0) -> list[list[Any]]:
        """The inputs of each rank, for another token count than the hint if ``tokens`` says so."""
        count = self.tokens if tokens is None else tokens
        return [
            [spec.make(rank, count, seed) for spec in self.specs] for rank in range(self.world_size)
        ]

    def config(self, rank: int, **fields: Any) -> SequenceParallelConfig:
        """The config of one rank, with these fields besides: its place in each group."""
        if len(self.groups) == 1:
            return SequenceParallelConfig(tp_size=self.world_size, tp_rank=rank, **fields)
        groups = {name: (len(ranks), ranks.index(rank)) for name, ranks in self.groups.items()}
        return SequenceParallelConfig(groups=groups, **fields)

    def admits(self, tokens: int) -> bool:
        """Whether the graph may be run with so many tokens: shapes may have added guards."""
        if not self.dynamic:
            return tokens == self.tokens
        values = (node.meta.get("val") for node in self.graph.nodes)
        env = next(v.fake_mode.shape_env for v in values if isinstance(v, FakeTensor))
        assert env is not None
        point = dict.fromkeys(env.var_to_range, tokens)
        return all(tokens in known for known in env.var_to_range.values()) and all(
            bool(guard.expr.xreplace(point)) for guard in env.guards
        )

    @property
    def divisible(self) -> bool:
        """Whether each rank can take an equal share of the rows."""
        return self.rows % self.world_size == 0

    @property
    def rtol(self) -> float:
        """How far a rewrite may move an output, by the coarsest rounding in the graph."""
        if self.quantised_to_fp8:
            return 0.13
        return 4e-2 if self.dtype == torch.bfloat16 else 2e-6


class _Drawing:
    """One graph being drawn."""

    def __init__(self, choose: Chooser, options: GraphOptions) -> None:
        self.choose, self.options = choose, options
        self.world = choose.pick(options.world_sizes)
        name = choose.pick(options.dialects)
        self.dtype = choose.pick(options.dtypes)
        self.hidden = choose.pick((8, 16, 24, 32))
        self.three_d = options.three_d and name == "functional" and choose.chance(0.5)
        self.batch = choose.integer(1, 3) if self.three_d else 1
        dynamic = options.dynamic and choose.chance(0.35)
        tokens = self.world * choose.integer(1, 3)
        if choose.chance(options.odd_tokens):
            tokens += choose.integer(1, self.world - 1)
        # A backed symbol whose hint is 0 or 1 is specialised by torch.
        self.build = GraphBuilder(max(tokens, 2), dynamic)
        self.dynamic = dynamic
        self.writer: LayerWriter = make_writer(name, self.build, choose)
        self.groups = ["tp:0"] if name != "functional" else ["0"]
        if choose.chance(options.several_groups):
            self.groups.append("other:0")
        self.quantises = choose.chance(options.fp8)
        self.native = name == "functional" or choose.chance(0.4)
        self.quant_dtype = torch.float32 if not self.native and choose.chance(0.7) else FP8
        self.epsilon = (
            choose.pick((1e-5, 1e-6, 3e-6, 1e-8))
            if choose.chance(0.6)
            else choose.integer(1, 999) * 10.0 ** -choose.integer(4, 12)
        )
        self.shared_gain: fx.Node | None = None
        self.shared_weights: dict[tuple[int, int], fx.Node] = {}
        self.fp8_used = False
        self.sites: list[DrawnAllReduce] = []
        self.notes: list[str] = [name, f"world {self.world}", f"tokens {self.build.hint}"]
        if self.three_d:
            self.size_node = (
                self.build.placeholder("size", (), torch.int64, "size") if dynamic else None
            )
            self.notes.append(f"3D batch {self.batch}")
        self.notes.extend(["dynamic"] if dynamic else [])

    # --- pieces ---

    def irregular(self) -> bool:
        return self.choose.chance(self.options.irregular)

    @property
    def stream_shape(self) -> tuple[Dim, ...]:
        tokens: Dim = TOKENS if self.dynamic else self.build.hint
        return (self.batch, tokens, self.hidden) if self.three_d else (tokens, self.hidden)

    def full_input(self, name: str) -> fx.Node:
        return self.build.placeholder(name, self.stream_shape, self.dtype)

    def gain(self) -> fx.Node:
        if self.shared_gain is not None and self.irregular():
            return self.shared_gain
        self.shared_gain = self.build.placeholder("gain", (self.hidden,), self.dtype, "gain")
        return self.shared_gain

    def flat(self, x: fx.Node) -> fx.Node:
        """``x`` as [tokens, hidden]."""
        if not self.three_d:
            return x
        rows: Any = -1 if self.dynamic or self.choose.chance(0.3) else self.batch * self.build.hint
        return self.build.call(aten.reshape.default, x, [rows, self.hidden])

    def shaped(self, x: fx.Node) -> fx.Node:
        """[tokens, hidden] as the stream is shaped."""
        if not self.three_d:
            return x
        middle: Any = self.size_node if self.dynamic else self.build.hint
        return self.build.call(aten.reshape.default, x, [self.batch, middle, self.hidden])

    def linear(self, x: fx.Node, inner: int, name: str) -> fx.Node:
        fan_in = int(x.meta["val"].shape[-1])
        weight = self.shared_weights.get((fan_in, inner))
        if weight is None or not self.irregular():
            weight = self.build.placeholder(
                name, (fan_in, inner), self.dtype, "per_rank", fan_in**-0.5
            )
            self.shared_weights[fan_in, inner] = weight
        return self.build.call(aten.mm.default, x, weight)

    def partial(self, normed: fx.Node) -> fx.Node:
        """A block of a layer, up to where its all_reduce goes: each rank has its own weights."""
        if normed.meta["val"].dtype != self.dtype:
            normed = self.writer.cast(normed, self.dtype)
        inner = self.choose.pick((8, 12))
        branches = [
            self.linear(self.flat(normed), inner, "w_in") for _ in range(self.choose.integer(1, 2))
        ]
        value = self.build.call(aten.silu.default, branches[0])
        for other in branches[1:]:
            value = self.build.call(aten.mul.Tensor, value, other)
        return self.shaped(self.linear(value, self.hidden, "w_out"))

    def reduce(self, x: fx.Node, has_norm: bool, quantised: bool = False) -> fx.Node:
        group = self.choose.pick(self.groups)
        kind = "sum"
        if self.writer.name == "functional" and self.choose.chance(self.options.reductions):
            kind = self.choose.pick(("avg", "max"))
            self.notes.append(f"{kind} reduction")
        reduced = self.writer.all_reduce(x, group, kind)
        anchor = reduced.args[0] if self.writer.name == "functional" else reduced
        assert isinstance(anchor, fx.Node)
        self.sites.append(DrawnAllReduce(anchor.name, group, has_norm, quantised))
        return add_noise(self, reduced) if self.irregular() else reduced

    def note_norm(self, normed: fx.Node) -> None:
        """Tells the latest site what its norm yields."""
        self.sites[-1] = replace(self.sites[-1], norm=normed.name)

    def quantise(self, normed: fx.Node) -> fx.Node:
        scale = self.build.placeholder("scale", (1,), torch.float32, "constant", 0.02)
        self.fp8_used = self.fp8_used or self.native or self.quant_dtype == FP8
        return self.writer.quantise(normed, scale, self.native, self.quant_dtype)

    # --- the layers ---

    def first(self) -> Stream:
        x = self.full_input("x")
        if self.choose.chance(0.3):
            self.notes.append("no first site")
            return Stream(x, self.writer.norm(x, self.gain(), self.epsilon))
        quantised = self.quantises and self.choose.chance(0.5)
        embedded = self.shaped(self.linear(self.flat(x), self.hidden, "embedding"))
        reduced = self.reduce(embedded, True, quantised)
        normed = self.writer.norm(reduced, self.gain(), self.epsilon)
        self.note_norm(normed)
        return Stream(reduced, self.quantise(normed) if quantised else normed)

    def half_layer(self, stream: Stream) -> None:
        partial = self.partial(stream.normed)
        if self.irregular() and self.irregular():
            self.notes.append("site without a norm")
            reduced = self.reduce(partial, False)
            stream.residual = self.writer.add(stream.residual, reduced)
            stream.normed = self.build.call(aten.tanh.default, stream.residual)
            return
        quantised = self.quantises and self.choose.chance(0.6)
        reduced = self.reduce(partial, True, quantised)
        normed, residual = self.writer.add_norm(reduced, stream.residual, self.gain(), self.epsilon)
        self.note_norm(normed)
        plain = normed
        if self.irregular():
            normed = add_noise(self, normed)
        stream.normed = self.quantise(normed) if quantised else normed
        stream.earlier, stream.residual = stream.residual, residual
        tapped = [residual, plain, stream.normed]
        if self.writer.name != "vllm_custom_ops":
            # There the norm overwrites what was reduced: nothing reads it afterwards.
            tapped.append(reduced)
        for value in tapped:
            if self.irregular():
                tap(self, stream, value)
        if self.irregular() and self.irregular():
            self.notes.append("dead site")
            self.note_norm(self.writer.norm(self.reduce(partial, True), self.gain(), self.epsilon))

    def draw(self) -> TensorParallelCase:
        stream = self.first()
        few = min(3, self.options.max_layers)
        layers = self.choose.integer(1, few)
        if few < self.options.max_layers and self.choose.chance(0.08):
            layers = self.choose.integer(few + 1, self.options.max_layers)
        for _ in range(2 * layers):
            self.half_layer(stream)
        last = stream.normed
        if last.meta["val"].dtype != self.dtype:
            last = self.writer.cast(last, self.dtype)
        outputs = [
            last if self.choose.chance(0.5) else self.linear(self.flat(last), 8, "head"),
            *stream.outputs,
        ]
        if self.irregular():
            outputs.append(stream.residual)
        self.build.output(outputs)
        rows = self.batch * self.build.hint
        return TensorParallelCase(
            graph=self.build.graph,
            world_size=self.world,
            groups={name: tuple(range(self.world)) for name in self.groups},
            specs=tuple(self.build.inputs),
            sites=tuple(self.sites),
            tokens=self.build.hint,
            rows=rows,
            dynamic=self.dynamic,
            dtype=self.dtype,
            quantised_to_fp8=self.fp8_used,
            notes=tuple(self.notes),
        )


def draw_case(choose: Chooser, options: GraphOptions | None = None) -> TensorParallelCase:
    """Draws one graph.

    Args:
        choose: the source of the choices.
        options: what may be drawn; everything by default.

    Example:
        >>> from spfast.testing.choose import SeededChooser
        >>> from spfast.testing.graphs import draw_case
        >>> draw_case(SeededChooser(1)).world_size in (2, 4)
        True
    """
    return _Drawing(choose, options or GraphOptions()).draw()


def seeded_case(seed: int, options: GraphOptions | None = None) -> TensorParallelCase:
    """The graph of a seed."""
    return draw_case(SeededChooser(seed), options)


def cases(options: GraphOptions | None = None) -> SearchStrategy[TensorParallelCase]:
    """A hypothesis strategy over the graphs; needs hypothesis."""
    from hypothesis import strategies

    @strategies.composite
    def drawn(draw: Callable[[Any], Any]) -> TensorParallelCase:
        return draw_case(DrawnChooser(draw), options)

    return drawn()
