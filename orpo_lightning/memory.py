"""What a training step holds on one device, as arithmetic: no model, no tensor, bytes in and bytes out.

A :class:`Footprint` is what a step holds in one process that has all of the weights. A :class:`Sharing` says what of it
a device holds when several processes take the step together, and :func:`need` where in the step that is most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

GIB = 2**30


@dataclass(frozen=True)
class Parts:
    """Bytes of what belongs to the weights of a model, by what is gathered together.

    Args:
        root: of the embeddings, the last norm and the head.
        layers: of all decoder layers.
        largest: of the largest decoder layer.

    Example:
        >>> Parts(root=10, layers=60, largest=20).total
        70
    """

    root: int = 0
    layers: int = 0
    largest: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.root + self.layers


class Moment(NamedTuple):
    """What is there beside weights and the optimizer's state at a moment of a micro-batch, bytes.

    Args:
        when: ``forward``, ``head``, ``reference`` or ``backward``.
        activations: what the decoder has made.
        head: blocks of logits, what comes of them, and the gradient of the output embedding until it is added up.
        reference: what a reference makes while it runs.
        root_gradients: of the embeddings, the last norm and the head.
        layer_gradients: of the decoder layers.
    """

    when: str
    activations: int = 0
    head: int = 0
    reference: int = 0
    root_gradients: int = 0
    layer_gradients: int = 0


@dataclass(frozen=True)
class Footprint:
    """What a training step holds in one process with all of the weights, bytes.

    Args:
        weights: the weights as they are kept.
        gathered: the same in the dtype that they compute in, where they are gathered for it; else as `weights`.
        gradients: those of the trained weights as they are kept.
        arriving: the same as the backward pass makes them.
        reduced: the same in the dtype in which processes average them.
        state: of the optimizer, after its first step.
        stepping: what the optimizer makes while it steps, and frees again.
        reference: the weights of a second model, if there is one.
        gathered_reference: the same in the dtype that they compute in, where they are gathered for it.
        moments: of the last micro-batch of a step, in their order.
        adds_up: whether gradients of earlier micro-batches are there from the first moment on.
    """

    weights: Parts
    gathered: Parts
    gradients: Parts
    arriving: Parts
    reduced: Parts
    state: int
    stepping: int
    reference: Parts
    gathered_reference: Parts
    moments: Sequence[Moment]
    adds_up: bool = False


@dataclass(frozen=True)
class Need:
    """What one device holds at one moment, bytes.

    Args:
        when: the moment, as in :class:`Moment`, or ``step``: the optimizer steps.
        weights: of the policy.
        gradients: of the trained weights.
        optimizer: its state, and what it makes while it steps.
        activations: of the decoder.
        head: of the log-probabilities.
        reference: weights and activations of a second model, or activations of the policy without its adapter.
        exchange: what processes gather from each other, or send.
        host: what is kept in the memory of the host instead, and not counted in the total.
    """

    when: str
    weights: int
    gradients: int
    optimizer: int
    activations: int = 0
    head: int = 0
    reference: int = 0
    exchange: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        """All that the device holds."""
        return sum(getattr(self, name) for name in COMPONENTS)


COMPONENTS = ("weights", "gradients", "optimizer", "activations", "head", "reference", "exchange")


class Sharing(Protocol):
    """How several processes take a step together."""

    @property
    def processes(self) -> int:
        """How many there are."""

    def needs(self, footprint: Footprint) -> Iterator[Need]:
        """What a device holds at each moment of a step."""


@dataclass(frozen=True)
class Copies:
    """Each process has all of the weights (one process, or DDP).

    Example:
        >>> of, none = Parts(root=10, layers=60, largest=20), Parts()
        >>> step = Footprint(of, of, of, of, of, 140, 0, none, none, [Moment("backward", 5)])
        >>> [need(step, Copies(processes)).total for processes in (1, 2)]
        [280, 350]
    """

    processes: int = 1

    def _buckets(self, footprint: Footprint) -> int:
        """Those that DDP copies gradients into, to send them."""
        return footprint.gradients.total if self.processes > 1 else 0

    def needs(self, footprint: Footprint) -> Iterator[Need]:
        """What a device holds at each moment of a step."""
        weights, exchange = footprint.weights.total, self._buckets(footprint)
        for moment in footprint.moments:
            yield Need(
                when=moment.when,
                weights=weights,
                gradients=moment.root_gradients + moment.layer_gradients,
                optimizer=footprint.state,
                activations=moment.activations,
                head=moment.head,
                reference=footprint.reference.total + moment.reference,
                exchange=exchange,
            )
        yield Need(
            when="step",
            weights=weights,
            gradients=footprint.gradients.total,
            optimizer=footprint.state + footprint.stepping,
            reference=footprint.reference.total,
            exchange=exchange,
        )


@dataclass(frozen=True)
class Shares:
    """Each process has a part of the weights, gathers what computes, and keeps its part of gradients and state (FSDP).

    Args:
        processes: how many there are.
        each_micro_batch: whether gradients are averaged after each micro-batch; else whole ones add up in each process.
        offload: whether the parts are kept in the memory of the host.
        gathers_as_computed: whether layers are gathered in the dtype of the products; else in that of the weights.
    """

    processes: int = 1
    each_micro_batch: bool = False
    offload: bool = False
    gathers_as_computed: bool = False

    def needs(self, footprint: Footprint) -> Iterator[Need]:
        """What a device holds at each moment of a step."""
        root, layer = footprint.gathered.root, footprint.gathered.largest
        first, last = footprint.moments[0], footprint.moments[-1]
        # the root is copied out of what was gathered, which stays until the first layer has come too
        yield self._at(footprint, first, 2 * root + layer)
        for moment in footprint.moments:
            # a layer computes while the next one is on its way
            yield self._at(footprint, moment, root + 2 * layer + self._on_the_way(footprint, moment))
        # the gradients of the root come last: they are copied to be averaged when its weights are given back
        parts = footprint.gradients.total if self._keeps_parts(footprint) else footprint.gradients.layers
        whole = footprint.reduced.root if self._keeps_whole(footprint) else footprint.arriving.root
        yield self._need(footprint, Moment("backward", last.activations), whole, parts, footprint.reduced.root)
        stepping = footprint.state + footprint.stepping
        yield self._need(footprint, Moment("step"), 0, footprint.gradients.total, 0, stepping)

    def _keeps_whole(self, footprint: Footprint) -> bool:
        return footprint.adds_up and not self.each_micro_batch

    def _keeps_parts(self, footprint: Footprint) -> bool:
        return footprint.adds_up and self.each_micro_batch

    def _on_the_way(self, footprint: Footprint, moment: Moment) -> int:
        """What else is gathered, and gradients on their way to the processes that keep them."""
        if moment.when == "reference":
            return footprint.gathered_reference.root + 2 * footprint.gathered_reference.largest
        if moment.when != "backward":
            return 0
        # those that are added to others of their dtype are so one weight at a time
        is_added = self._keeps_whole(footprint) and footprint.arriving == footprint.reduced
        return footprint.reduced.largest + (0 if is_added else footprint.arriving.largest)

    def _at(self, footprint: Footprint, moment: Moment, exchange: int) -> Need:
        if self._keeps_whole(footprint):
            return self._need(footprint, moment, footprint.reduced.total, 0, exchange)
        if self._keeps_parts(footprint):
            whole = footprint.arriving.root if moment.when == "backward" else 0
            return self._need(footprint, moment, whole, footprint.gradients.total, exchange)
        # a part is kept in the dtype of the weights, whatever it came in
        kept = moment.layer_gradients * footprint.gradients.layers // max(1, footprint.arriving.layers)
        return self._need(footprint, moment, moment.root_gradients, kept, exchange)

    def _need(
        self, footprint: Footprint, moment: Moment, whole: int, kept: int, exchange: int, state: int | None = None
    ) -> Need:
        """What a device holds.

        Args:
            footprint: of the step.
            moment: of the micro-batch.
            whole: bytes of gradients that no process has taken its part of yet.
            kept: bytes of the gradients of which each process has its part.
            exchange: what is gathered and sent.
            state: of the optimizer, with what it makes to step; None is what stays of it.
        """
        weights, optimizer, gradients, reference = (
            -(-size // self.processes)
            for size in (
                footprint.weights.total,
                footprint.state if state is None else state,
                kept,
                footprint.reference.total,
            )
        )
        need = Need(
            when=moment.when,
            weights=weights,
            gradients=whole + gradients,
            optimizer=optimizer,
            activations=moment.activations,
            head=moment.head,
            reference=reference + moment.reference,
            exchange=exchange,
        )
        if not self.offload:
            return need
        return replace(
            need,
            weights=0,
            gradients=whole,
            optimizer=0,
            reference=moment.reference,
            host=weights + gradients + optimizer + reference,
        )


def need(footprint: Footprint, sharing: Sharing) -> Need:
    """What a device holds where that is most."""
    return max(sharing.needs(footprint), key=lambda each: each.total)


def most(footprint: Footprint, sharing: Sharing) -> dict[str, int]:
    """The most that each component comes to, which need not be at the same moment, bytes."""
    needs = [*sharing.needs(footprint)]
    return {name: max(getattr(each, name) for each in needs) for name in COMPONENTS}


def in_gib(size: int) -> str:
    """A size as people read it.

    Example:
        >>> in_gib(3 * 2**29), in_gib(5 * 2**20)
        ('1.50 GiB', '5.0 MiB')
    """
    return f"{size / GIB:,.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.1f} MiB"


def extrapolated(two: Sequence[Moment], three: Sequence[Moment], layers: int) -> list[Moment] | None:
    """The moments of a model of many layers, from those of the same model with two and with three.

    Each layer adds the same to every moment. None where the moments are not those of the same model.

    Args:
        two: the moments at two layers, those of a layer between the first and the last left out.
        three: the same at three.
        layers: how many the model has.

    Example:
        >>> extrapolated([Moment("head", 20)], [Moment("head", 25)], 32)
        [Moment(when='head', activations=170, head=0, reference=0, root_gradients=0, layer_gradients=0)]
    """
    if [each.when for each in two] != [each.when for each in three]:
        return None
    return [
        Moment(after.when, *(new + (layers - 3) * (new - old) for old, new in zip(before[1:], after[1:], strict=True)))
        for before, after in zip(two, three, strict=True)
    ]
