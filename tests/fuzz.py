"""Folds random networks until the time is up, and prints the smallest part of one that goes wrong: `make fuzz`."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, product

from bnfold.graph import Graph
from tests.networks import network
from tests.test_random_networks import assert_honest, assert_sound, small

Check = Callable[[Graph, str], None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=int, default=1_000_000, help="the first seed")
    parser.add_argument("--seconds", type=float, default=300.0)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    wrong = 0
    for seed in count(arguments.start):
        if time.monotonic() > end:
            _say(f"{seed - arguments.start} seeds, {wrong} wrong; go on with --start {seed}")
            return 1 if wrong else 0
        for (make, check), level in product(((network, assert_sound), (small, assert_honest)), ("default", "max")):
            graph = make(seed)
            error = failure(graph, check, level)
            if error is not None:
                wrong += 1
                least = next(part for part in prefixes(graph) if failure(part, check, level) is not None)
                _say(f"{make.__name__}({seed}), level {level}: {type(error).__name__} {error}\n{least}\n")
    raise AssertionError("unreachable")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def failure(graph: Graph, check: Check, level: str) -> Exception | None:
    try:
        check(graph, level)
    except Exception as error:  # noqa: BLE001  whatever goes wrong is a find
        return error
    return None


def prefixes(graph: Graph) -> Iterator[Graph]:
    """Give the first node, the first two and so on; what nobody reads is an output."""
    for stop in range(1, len(graph.nodes)):
        nodes = graph.nodes[:stop]
        read = {name for node in nodes for name in node.inputs}
        outputs = tuple(name for node in nodes for name in node.outputs if name not in read)
        yield replace(graph, nodes=nodes, outputs=outputs)
    yield graph


if __name__ == "__main__":
    raise SystemExit(main())
