"""ONNX's own tests of its operators, each a small model with inputs and the outputs that are right."""

import warnings
from functools import cache


@cache
def node_tests():
    """Give them all, in an order that stays; collecting takes seconds."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sorted(collect_testcases(None), key=lambda case: case.name)
