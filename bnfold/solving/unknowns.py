"""The numbering of the unknowns: a scale and a shift for every channel of every framed tensor."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bnfold.graph import Graph
from bnfold.relation import Carried, Tie
from bnfold.solving.axes import channels, image_of
from bnfold.views import Indices


class Unknowns:
    """The numbering: channel c of value v is unknown offset[v] + c, in the graph's order.

    Values whose frames are equal, channel by channel, have the same unknowns. tensors: (count,) how many they are.
    starts: the offsets in order, and `count`.
    """

    def __init__(self, graph: Graph, axes: Mapping[str, int], ties: Mapping[str, Sequence[Tie]]) -> None:
        self.graph = graph
        self.axes = axes
        self.offset: dict[str, int] = {}
        self.same: set[Carried] = set()  # ties of values that have the same unknowns, channel by channel
        leader = self._leaders(ties)
        count = 0
        for name in leader:
            first = leader[name]
            if first == name:
                self.offset[name] = count
                count += self._channels(name)
            self.offset[name] = self.offset[first]
        self.count = count
        alike = Counter(self.offset.values())
        self.starts = np.array(sorted({*alike, count}))
        self.tensors = np.repeat([float(alike[start]) for start in self.starts[:-1]], np.diff(self.starts))
        self._places: dict[int, Indices] = {}

    def span(self, name: str) -> slice:
        """Give the unknowns of a framed value, which follow each other."""
        start = self.offset[name]
        return slice(start, start + self._channels(name))

    def of(self, name: str) -> Indices:
        """Give the unknowns of a framed value, in an array that all who ask share."""
        start = self.offset[name]
        if start not in self._places:
            self._places[start] = np.arange(start, start + self._channels(name))
            self._places[start].flags.writeable = False
        return self._places[start]

    def values_with(self, marked: NDArray[np.bool_]) -> list[str]:
        """Give the framed values that have a marked unknown, in the graph's order. marked: (count,)."""
        if not self.count:
            return []
        begin = self.starts[:-1]
        found = set(begin[np.logical_or.reduceat(marked, begin)].tolist())
        return [name for name, start in self.offset.items() if start in found]

    def _channels(self, name: str) -> int:
        return channels(self.graph, name, self.axes[name])

    def _leaders(self, ties: Mapping[str, Sequence[Tie]]) -> dict[str, str]:
        """Give each framed value, in the graph's order, the first value that has the same frame."""
        order = [*self.graph.inputs, *(name for node in self.graph.nodes for name in node.outputs)]
        leader = {name: name for name in order if name in self.axes}
        place = {name: index for index, name in enumerate(leader)}

        def find(name: str) -> str:
            while leader[name] != name:
                leader[name] = leader[leader[name]]
                name = leader[name]
            return name

        for node in self.graph.nodes:
            for tie in ties[node.name]:
                if isinstance(tie, Carried) and self._is_same(tie):
                    self.same.add(tie)
                    one, two = sorted((find(tie.source), find(tie.target)), key=place.__getitem__)
                    leader[two] = one
        return {name: find(name) for name in leader}

    def _is_same(self, tie: Carried) -> bool:
        if tie.source not in self.axes or tie.target not in self.axes or tie.times != 1:
            return False
        image = image_of(self.graph, tie.view, tie.source, self.axes[tie.source])
        if image is None or image.axis != self.axes[tie.target]:
            return False
        size = self._channels(tie.source)
        if size != self._channels(tie.target):
            return False
        if image.is_whole:
            return True
        every = np.arange(size)
        return all(np.array_equal(side, every) for side in (image.source, image.target))
