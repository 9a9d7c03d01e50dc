"""The numbering of the unknowns: a scale and a shift for every channel of every framed tensor."""

from collections.abc import Mapping, Sequence

import numpy as np

from bnfold.graph import Graph
from bnfold.relation import Carried, Tie
from bnfold.solving.axes import channels, image_of
from bnfold.views import Indices


class Unknowns:
    """The numbering: channel c of value v is unknown starts[tensor[v]] + c, in the graph's order.

    Values whose frames are equal, channel by channel, are one tensor here. alike: (tensors,) how many values it is.
    starts: (tensors + 1,) the first unknown of each, and the number of unknowns.
    """

    def __init__(self, graph: Graph, axes: Mapping[str, int], ties: Mapping[str, Sequence[Tie]]) -> None:
        self.graph = graph
        self.axes = axes
        self.tensor: dict[str, int] = {}
        self.same: set[Carried] = set()  # ties of values that have the same unknowns, channel by channel
        leader = self._leaders(ties)
        starts = [0]
        for name, first in leader.items():
            if first == name:
                self.tensor[name] = len(starts) - 1
                starts.append(starts[-1] + self._channels(name))
            self.tensor[name] = self.tensor[first]
        self.starts = np.array(starts)
        self._starts = starts
        self.alike = np.bincount(list(self.tensor.values()), minlength=len(starts) - 1).astype(np.float64)
        self._every: Indices = np.arange(starts[-1])
        self._every.flags.writeable = False
        self._places: dict[int, Indices] = {}

    def span(self, name: str) -> slice:
        """Give the unknowns of a framed value, which follow each other."""
        number = self.tensor[name]
        return slice(self._starts[number], self._starts[number + 1])

    def of(self, name: str) -> Indices:
        """Give the unknowns of a framed value, in an array that all who ask share."""
        number = self.tensor[name]
        found = self._places.get(number)
        if found is None:
            found = self._places[number] = self._every[self.span(name)]
        return found

    def whole(self) -> dict[int, int]:
        """Give, by the identity of each array that `of` has given, the first unknown of its tensor."""
        return {id(unknowns): self._starts[number] for number, unknowns in self._places.items()}

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
