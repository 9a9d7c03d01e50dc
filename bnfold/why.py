"""Why an affine stays, or a tensor's frame is held: one member a reason, with a sentence and advice."""

from enum import Enum


class Why(Enum):
    """A reason. `code` is stable, `sentence` completes "NODE ...", `advice` says what the user can do."""

    # What holds a frame.
    INPUT = ("is an input of the model", "Fold it into the data pipeline, or give the model an unpadded layer first.")
    OUTPUT = (
        "is an output of the model",
        "Whoever reads the output wants these numbers; there is nothing to fold into.",
    )
    NO_RULE = ("is an operator without a folding rule", "Report the operator if a per-channel affine passes it.")
    FUSED = (
        "is a part of GELU or LayerNorm, which runtimes compute as one operator",
        "Leave it: in pieces it would be slower.",
    )
    KINK = ("bends at zero, so a shift can't pass", "Use --level max if the target has no BatchNorm kernel.")
    ORDER = ("keeps the order of numbers, so a negative scale can't pass", "Channels with gamma < 0 cause this.")
    PADDING = ("pads with zeros, which a shift would change", "Fold the BatchNorm backward, or pad by reflection.")
    TRANSPOSED = ("is a transposed convolution: a shift isn't spread evenly", "Only a scale can go forward here.")
    GATE = ("multiplies two tensors, so a shift can't pass", "Put the BatchNorm before a linear layer.")
    SUM = ("adds tensors, which must all have the same scale", "Fold at the operands instead.")
    BROADCAST = ("broadcasts along the channels", "An operand without channels carries no per-channel scale.")
    AXIS = ("works along another axis than the channels", "Transpose, so that the layer produces the BatchNorm's axis.")
    RESHAPE = (
        "merges the channels with another axis",
        "Keep the channels on an axis of their own up to the BatchNorm.",
    )
    BOUNDS = (
        "clips at numbers that are the same in every channel",
        "Use --level max if the target takes tensor bounds.",
    )
    FILL = ("pads with one number for every channel", "Pad by reflection or replication.")
    SPREAD = ("averages zeros from the padding, which a shift would change", "Use count_include_pad=False.")
    LENGTH = ("sums over a length that is known only when it runs", "Export with a fixed length, or take the mean.")
    NARROWS = ("casts to a narrower type", "Cast after the BatchNorm.")
    RECURRENT = (
        "reads its own output again, which a scale or a shift would change",
        "Fold the BatchNorm forward, into the layer behind.",
    )
    # What can't be rewritten.
    COMPUTED = ("has a weight or bias that is computed when the model runs", "Bake the weight first (--bake).")
    SHARED = ("shares its weight with a layer that must not change", "Untie the weights, or copy them.")
    REPEATED = ("is called more than once, and its calls want different changes", "Give each call a layer of its own.")
    HOOKED = ("has a hook that the fold would bypass", "Remove the hook, fold, and add it again.")
    PARAMETRIZED = ("has a parametrization or weight norm", "Bake it first (--bake).")
    NO_BIAS = ("has no bias and can't be given one", "Create the layer with bias=True.")
    CODE = ("exists only as code in a larger forward", "Write .pt2 or .onnx, which fold it too.")
    OVERRIDABLE = ("has a weight that is also an input of the model", "Use --freeze-inputs if nobody overrides it.")
    QUANTIZED = ("has a quantised weight that can't take this change exactly", "Fold before quantising.")
    OVERWRITTEN = (
        "would share its memory with what is updated in place",
        "Write `x = relu(x)` for `relu_(x)`, or write .pt2 or .onnx, which fold it too.",
    )
    SUBCLASS = ("has a forward of its own", "Fold it by hand, or write .pt2 or .onnx.")
    EXPOSED = ("has a constant that is also an output of the model", "Return a copy.")
    MALFORMED = (
        "has attributes or operands that its operator doesn't allow",
        "Export the model again; onnx.checker.check_model(path, full_check=True) says more.",
    )
    # What isn't an affine with constants.
    TRAINING = ("is in training mode", "Call .eval() first.")
    NO_STATISTICS = ("has no running statistics", "It normalises by its input; there is nothing constant to fold.")
    UNKNOWN_SHAPE = ("works on a tensor whose channels can't be counted", "Give the model's inputs a shape.")
    # Numbers.
    GAMMA_ZERO = ("has channels with gamma == 0, where what comes before can't be made zero", "Prune these channels.")
    NOT_FINITE = ("has statistics or weights that are NaN or infinite", "Train again, or recompute the statistics.")
    VARIANCE = ("has running_var + eps <= 0", "Recompute the running statistics.")
    OVERFLOW = ("would get weights that overflow their dtype", "Fold in float32, then convert.")
    PRECISION = ("would lose precision: a scale is too small", "Prune channels with tiny gamma, or keep the layer.")
    UNDERFLOW = ("would get weights too small for their dtype", "Fold in float32, then convert.")
    # Decisions.
    RIVAL = ("is folded, and that fixes the numbers here", "Only one of the two can be folded.")
    SKIPPED = ("was left out by --only or --skip", "Change the pattern.")
    SLOWER = ("would save no operator", "It would leave as much work as it removes.")

    @property
    def code(self) -> str:
        """The stable name, as `bnfold explain` takes it."""
        return self.name.lower().replace("_", "-")

    @property
    def sentence(self) -> str:
        """What completes "NODE ..."."""
        return self.value[0]

    @property
    def advice(self) -> str:
        """The way out."""
        return self.value[1]
