"""An einsum with one constant operand, read as a linear operator."""

from bnfold.ops import Einsum
from bnfold.relation import Contracted, Site
from bnfold.rules.linear import contracted_by
from bnfold.why import Why


@contracted_by.register(Einsum)
def _einsum(op: Einsum, site: Site) -> Contracted | None:
    """Linear along the one label that is summed over (in) and the one that only the weight brings (out).

    A label of x and y alone passes by; one that all three share makes a stack of weights, as in MatMul.
    """
    if op.equation.count(",") != 1:
        return None
    constant = 1 if site.constant(1) is not None else 0
    if site.constant(constant) is None:
        return None
    source, weight = site.input(1 - constant), site.input(constant)
    labels = _labels(op.equation, len(site.shape(site.x)), len(site.shape(site.input(1))))
    if labels is None:
        return None
    x, w, y = labels[1 - constant], labels[constant], labels[2]
    summed = [label for label in x if label in w and label not in y]
    brought = [label for label in w if label in y and label not in x]
    stacked = [label for label in x if label in w and label in y]
    lone = [label for label in x + w if (x + w + y).count(label) == 1]
    if len(summed) != 1 or len(brought) != 1 or lone:
        return None
    return Contracted(
        source,
        site.y,
        weight,
        site.input(2),
        x.index(summed[0]),
        y.index(brought[0]),
        w.index(brought[0]),
        w.index(summed[0]),
        still=Why.AXIS if stacked else None,
        passes=tuple((x.index(label), y.index(label)) for label in x if label in y),
    )


def _labels(equation: str, *ranks: int) -> tuple[str, str, str] | None:
    """Write out `...` and an implied output; None where a tensor has a label twice (a diagonal)."""
    terms, arrow, output = equation.replace(" ", "").partition("->")
    parts = terms.split(",")
    if not arrow:
        named = terms.replace(",", "").replace(".", "")
        output = "..." * ("..." in terms) + "".join(sorted(label for label in named if named.count(label) == 1))
    from string import ascii_letters  # which compiles a template engine, for an operator that few models have

    free = [label for label in ascii_letters if label not in equation]
    hidden = max(rank - len(part.replace("...", "")) for part, rank in zip(parts, ranks, strict=True))
    written = [
        part.replace("...", "".join(free[hidden - (rank - len(part.replace("...", ""))) : hidden]))
        for part, rank in zip(parts, ranks, strict=True)
    ]
    written.append(output.replace("...", "".join(free[:hidden])))
    if any(len(set(part)) < len(part) for part in written):
        return None
    return written[0], written[1], written[2]
