"""The twelve ways in which other tools pass without having checked anything. None may end with exit status 0."""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bnfold.checking.torch_onnx as subjects
from bnfold.checking import check, ort
from bnfold.errors import UnverifiedError
from tests.checking.building import networks, weights_of, with_weight

NETWORKS = {network.name: network for network in networks()}
PLAIN = NETWORKS["mlp"]


def graph(nodes, inputs, outputs, constants=()):
    """A model from nodes; `inputs` and `outputs`: (name, kind, shape)."""
    values = [[helper.make_tensor_value_info(*value) for value in side] for side in (inputs, outputs)]
    tensors = [numpy_helper.from_array(array, name) for name, array in dict(constants).items()]
    made = helper.make_graph(nodes, "g", *values, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class FakeRuntime:
    """ONNX Runtime with a CUDA provider that is listed and does not load, or loads and leaves nodes to the CPU."""

    CPU = ("CPUExecutionProvider",)

    def __init__(self, real, loads, on_cpu=None):
        self.real, self.loads, self.on_cpu = real, loads, on_cpu
        self.SessionOptions, self.GraphOptimizationLevel = real.SessionOptions, real.GraphOptimizationLevel

    def get_all_providers(self):
        return self.real.get_all_providers()

    def get_available_providers(self):
        return ["CUDAExecutionProvider", *self.CPU]

    def InferenceSession(self, model, options, providers):
        session = self.real.InferenceSession(model, options, providers=list(self.CPU))
        return FakeSession(
            session,
            ["CUDAExecutionProvider", *self.CPU] if self.loads and providers[0][0] != self.CPU[0] else self.CPU,
            self.on_cpu,
        )


class FakeSession:
    """`on_cpu`: names of the nodes that it says run on the CPU, the others on CUDA; None for what is true."""

    def __init__(self, session, providers, on_cpu):
        self.session, self.providers, self.on_cpu = session, providers, on_cpu

    def __getattr__(self, name):
        return getattr(self.session, name)

    def get_providers(self):
        return self.providers

    def get_provider_graph_assignment_info(self):
        parts = self.session.get_provider_graph_assignment_info()
        if self.on_cpu is None or len(self.providers) == 1:
            return parts
        return [
            FakePart("CPUExecutionProvider" if node.name in self.on_cpu else "CUDAExecutionProvider", [node])
            for part in parts
            for node in part.get_nodes()
        ]


@dataclass
class FakePart:
    ep_name: str
    nodes: list

    def get_nodes(self):
        return self.nodes


@pytest.fixture
def fake_runtime(monkeypatch):
    onnxruntime = ort.runtime()

    def install(*, loads, on_cpu=None):
        monkeypatch.setattr(ort, "runtime", lambda: FakeRuntime(onnxruntime, loads, on_cpu))

    return install


def checked(reference, candidate, **options):
    return check(reference, candidate, localise=False, **options)


def test_1_provider_listed_but_not_loaded(fake_runtime):
    fake_runtime(loads=False)
    result = checked(PLAIN.model(), PLAIN.model(fold=True), providers="cuda:use_tf32=0")
    assert result.exit_status == 3
    assert "did not load" in result.reasons[0]


def test_1_nodes_fell_back(fake_runtime):
    fake_runtime(loads=True)
    result = checked(PLAIN.model(), PLAIN.model(fold=True), providers="cuda:use_tf32=0")
    assert result.exit_status == 3
    assert "fell back" in result.reasons[0]
    allowed = checked(PLAIN.model(), PLAIN.model(fold=True), providers="cuda:use_tf32=0", allow_fallback=True)
    assert allowed.passed
    assert {node.provider for node in allowed.runs[0].nodes} == {"cpu"}


def flattened_by_shape():
    """x -> conv -> Reshape to (its own batch, -1): five nodes of which three compute a shape."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        helper.make_node("Shape", ["h"], ["s"], name="shape"),
        helper.make_node("Gather", ["s", "zero"], ["n"], name="gather"),
        helper.make_node("Concat", ["n", "rest"], ["t"], name="concat", axis=0),
        helper.make_node("Reshape", ["h", "t"], ["y"], name="reshape"),
    ]
    constants = {
        "w": np.random.default_rng(0).normal(size=(3, 2, 3, 3)).astype("f"),
        "zero": np.zeros(1, np.int64), "rest": np.full(1, -1, np.int64),
    }  # fmt: skip
    return graph(nodes, [("x", TensorProto.FLOAT, ["N", 2, 5, 5])], [("y", TensorProto.FLOAT, None)], constants)


def test_shape_arithmetic_on_the_cpu_is_no_fallback(fake_runtime):
    model = flattened_by_shape()
    fake_runtime(loads=True, on_cpu={"shape", "gather", "concat"})
    result = checked(model, model, providers="cuda:use_tf32=0,level=disable")
    assert result.passed, result.reasons
    assert any("3 of 5 nodes compute shapes only" in note for note in result.assumptions)
    assert {node.name for node in result.runs[0].nodes if node.provider == "cpu"} == {"shape", "gather", "concat"}
    assert result.runs[0].nodes_proven
    fake_runtime(loads=True, on_cpu={"shape", "gather", "concat", "reshape"})
    result = checked(model, model, providers="cuda:use_tf32=0,level=disable")
    assert result.exit_status == 3
    assert "1 of 5 nodes fell back from cuda: reshape" in result.reasons[0]


def test_cuda_is_judged_by_two_budgets(fake_runtime):
    fake_runtime(loads=True)
    result = checked(PLAIN.model(), PLAIN.model(fold=True), providers="cuda", allow_fallback=True)
    assert [(run.options, run.mode) for run in result.runs] == [((("use_tf32", "0"),), "float32"), ((), "tf32")]
    off = with_weight(PLAIN.model(fold=True), "fc.bias", weights_of(PLAIN.model())["fc.bias"] * np.float32(1 + 2e-5))
    result = checked(PLAIN.model(), off, providers="cuda", allow_fallback=True, audit=())
    assert [run.verdict for run in result.runs] == ["different", "verified"]


def test_2_misspelt_provider():
    result = checked(PLAIN.model(), PLAIN.model(fold=True), providers="cdua", allow_missing=True)
    assert result.exit_status == 3
    assert "did you mean cuda" in result.reasons[0]


def test_3_both_sides_optimised(monkeypatch):
    """ONNX Runtime folds BN itself from its basic level up: the reference runs with optimisation off."""
    levels = []
    original = subjects.open_session

    def spy(source, target, **options):
        levels.append(target.option("level", "all"))
        return original(source, target, **options)

    monkeypatch.setattr(subjects, "open_session", spy)
    checked(PLAIN.model(), PLAIN.model(fold=True))
    assert sorted(levels) == ["all", "disable"]


def test_4_reference_was_folded_by_its_exporter():
    model = PLAIN.model(fold=True)
    model.producer_name = "pytorch"
    entry = model.graph.metadata_props.add()
    entry.key = "pkg.torch.export.ExportedProgram.graph_signature"
    entry.value = "b_bn_running_var: BUFFER target='bn.running_var' persistent=True"
    result = checked(model, model)
    assert result.exit_status == 3
    assert "folded when it was exported" in result.reasons[0]
    assert checked(model, model, allow_folded_reference=True).passed


@pytest.mark.parametrize("side", ["candidate", "reference", "both"])
def test_5_nan_in_an_output(side):
    good = PLAIN.model(fold=True)
    weight = weights_of(good)["fc.bias"].copy()
    weight[0] = np.nan
    bad = with_weight(good, "fc.bias", weight)
    nan_reference = with_weight(PLAIN.model(), "fc.bias", weight)
    pair = {"candidate": (PLAIN.model(), bad), "reference": (nan_reference, good), "both": (nan_reference, bad)}[side]
    result = checked(*pair)
    assert result.exit_status == (3 if side == "both" else 1)
    assert "NaN" in result.reasons[0]


def test_6_shapes_that_broadcast():
    x = [("x", TensorProto.FLOAT, [3, 4])]
    row = np.arange(4, dtype=np.float32)
    zero = {"zero": np.zeros(1, np.float32), "row": row}
    whole = graph(
        [helper.make_node("Mul", ["x", "zero"], ["a"]), helper.make_node("Add", ["a", "row"], ["y"])],
        x, [("y", TensorProto.FLOAT, None)], zero,
    )  # fmt: skip
    part = graph(
        [helper.make_node("Mul", ["x", "zero"], ["a"]), helper.make_node("Identity", ["row"], ["y"])],
        x, [("y", TensorProto.FLOAT, None)], zero,
    )  # fmt: skip
    result = checked(whole, part)
    assert result.exit_status == 1
    assert "shape (4,)" in result.reasons[0]


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT64, TensorProto.BOOL])
def test_7_integer_outputs(kind):
    def model(condition):
        nodes = [helper.make_node(condition, ["x", "zero"], ["a"]), helper.make_node("Cast", ["a"], ["y"], to=kind)]
        return graph(
            nodes, [("x", TensorProto.FLOAT, ["N", 4])], [("y", kind, None)], {"zero": np.zeros(1, np.float32)}
        )

    assert checked(model("Greater"), model("Greater")).passed
    assert checked(model("Greater"), model("Less")).exit_status == 1
    assert checked(model("Greater"), model("GreaterOrEqual")).exit_status == 1  # differ at zeros only


@pytest.mark.parametrize("missing_side", ["candidate", "reference"])
def test_8_an_output_without_counterpart(missing_side):
    two = NETWORKS["two outputs"].model()
    one = NETWORKS["two outputs"].model(fold=True)
    del one.graph.output[1]
    result = checked(two, one) if missing_side == "candidate" else checked(one, two)
    assert result.exit_status == 1
    assert "output depth" in result.reasons[0]


def test_9_no_output_name_matches():
    other = PLAIN.model(fold=True)
    other.graph.node.append(helper.make_node("Identity", ["fc"], ["logits"]))
    other.graph.output[0].name = "logits"
    result = checked(PLAIN.model(), other)
    assert result.exit_status == 3
    assert "--by-position" in result.reasons[0]
    by_position = checked(PLAIN.model(), other, by_position=True)
    assert by_position.passed
    assert any("by position" in line for line in by_position.assumptions)


def test_10_inputs_of_both_signs():
    """A ReLU on the input that was lost is seen on negative inputs only."""

    def model(first):
        nodes = [helper.make_node(first, ["x"], ["a"]), helper.make_node("Add", ["a", "b"], ["y"])]
        return graph(
            nodes, [("x", TensorProto.FLOAT, ["N", 4])], [("y", TensorProto.FLOAT, None)], {"b": np.ones(4, np.float32)}
        )

    assert checked(model("Relu"), model("Identity")).exit_status == 1


def test_11_a_difference_is_exit_status_1(tmp_path):
    bad = with_weight(PLAIN.model(fold=True), "l1.bias", np.zeros(32, np.float32))
    for name, model in (("a", PLAIN.model()), ("b", bad)):
        onnx.save(model, tmp_path / f"{name}.onnx")
    done = subprocess.run(
        [sys.executable, "-m", "bnfold", "check", "a.onnx", "b.onnx"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "DIFFERENT" in done.stdout


def test_12_nothing_compared():
    def empty(operator):
        nodes = [
            helper.make_node(operator, ["x"], ["a"]),
            helper.make_node("Slice", ["a", "zero", "zero"], ["y"]),
        ]
        return graph(
            nodes,
            [("x", TensorProto.FLOAT, ["N", 4])],
            [("y", TensorProto.FLOAT, None)],
            {"zero": np.zeros(1, np.int64)},
        )

    result = checked(empty("Relu"), empty("Neg"))
    assert result.exit_status == 3
    assert "no element" in result.reasons[0]


def test_outputs_that_are_one_number_whatever_the_input_verify_nothing():
    """A network whose last ReLU is dead gives zeros, and so does any other."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    sides = [("x", TensorProto.FLOAT, ["N", 3])], [("y", TensorProto.FLOAT, ["N", 4])]
    random = np.random.default_rng(0)
    first, second = (
        graph(nodes, *sides, {"w": random.normal(size=(3, 4)).astype("f"), "b": np.full(4, -1e6, "f")}) for _ in "ab"
    )
    result = check(first, second)
    assert result.verdict.value == "unverified"
    assert "no output changes" in str(result.runs[0].why)


X = [("x", TensorProto.FLOAT, ["N", 3])]
Y = [("y", TensorProto.FLOAT, None)]
PRODUCT = {"w": np.random.default_rng(0).normal(size=(3, 4)).astype("f")}


def product(nodes=(), inputs=X, outputs=Y):
    return graph([helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm"), *nodes], inputs, outputs, PRODUCT)


def made(*nodes, constants=None, kind=TensorProto.FLOAT):
    return graph(list(nodes), X, [("y", kind, None)], constants or {})


def sequence():
    model = graph([helper.make_node("SequenceConstruct", ["x", "x"], ["y"])], X, [], {})
    model.graph.output.append(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None))
    return model


def noise(**seed):
    return made(helper.make_node("RandomNormalLike", ["x"], ["r"], **seed), helper.make_node("Add", ["x", "r"], ["y"]))


SAME = [
    pytest.param(product(outputs=[]), "At least one output", id="no outputs"),
    pytest.param(
        made(helper.make_node("Slice", ["x", "s", "s"], ["y"]), constants={"s": np.array([0])}),
        "no element was compared", id="an output without elements",
    ),
    pytest.param(
        made(helper.make_node("Identity", ["k"], ["y"]), constants={"k": np.arange(3, dtype="f")}),
        "no output changes", id="an output that is a constant",
    ),
    pytest.param(
        made(
            helper.make_node("Mul", ["x", "z"], ["m"]), helper.make_node("Add", ["m", "k"], ["y"]),
            constants={"z": np.zeros(1, "f"), "k": np.arange(3, dtype="f")},
        ),
        "no output changes", id="an input that counts for nothing",
    ),
    pytest.param(made(helper.make_node("Sqrt", ["x"], ["y"])), "NaN", id="NaN on both sides"),
    pytest.param(noise(), "two results for one input", id="random"),
    pytest.param(noise(seed=1.0), "two results for one input", id="random from a seed"),
    pytest.param(sequence(), "no tensor", id="a sequence"),
    pytest.param(
        made(helper.make_node("Dropout", ["x", "p", "t"], ["y"]),
             constants={"p": np.array(0.5, "f"), "t": np.array(True)}),
        "Dropout in training mode", id="dropout in training mode",
    ),
    pytest.param(graph([helper.make_node("Identity", ["x"], ["y"])], [("x", TensorProto.FLOAT, [0, 3])], Y, {}),
                 "no element was compared", id="an empty batch"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "why"), SAME)
def test_a_model_against_itself_that_proves_nothing(model, why):
    result = check(model, model)
    assert result.exit_status == 3
    assert any(why in reason for reason in result.reasons)


def test_a_model_without_inputs_proves_nothing():
    value = numpy_helper.from_array(np.arange(3, dtype="f"))
    model = graph([helper.make_node("Constant", [], ["y"], value=value)], [], Y, {})
    with pytest.raises(UnverifiedError, match="takes no input"):
        check(model, model)


OTHERS = [
    pytest.param(
        made(helper.make_node("Greater", ["x", "k"], ["y"]), constants={"k": np.zeros(1, "f")}, kind=TensorProto.BOOL),
        made(helper.make_node("Greater", ["x", "k"], ["y"]), constants={"k": np.ones(1, "f")}, kind=TensorProto.BOOL),
        id="booleans",
    ),
    pytest.param(product(), product(inputs=[*X, ("e", TensorProto.FLOAT, ["N"])]), id="an input more"),
    pytest.param(product(inputs=[*X, ("e", TensorProto.FLOAT, ["N"])]), product(), id="an input less"),
    pytest.param(made(helper.make_node("Identity", ["x"], ["y"])), noise(), id="a random candidate"),
]


@pytest.mark.parametrize(("reference", "candidate"), OTHERS)
def test_other_functions_and_interfaces_differ(reference, candidate):
    assert check(reference, candidate, save=None).exit_status == 1
