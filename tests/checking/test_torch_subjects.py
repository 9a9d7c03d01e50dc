"""Modules and ONNX models as sides of a check: the truth in double, nothing of the user's changed."""

import copy
import os

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from bnfold.checking import Frame, check
from bnfold.checking.subject import load_subject
from bnfold.checking.torch_module import ModuleSubject, copy_module
from bnfold.checking.torch_outputs import flatten
from bnfold.errors import BnfoldError, UnsafeError, UnverifiedError
from tests.checking.building import Layer, Network, networks, weights_of, with_weight

X = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)


def calibrated(module):
    generator = torch.Generator().manual_seed(1)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            for tensor in (child.weight, child.bias, child.running_mean):
                tensor.data.normal_(generator=generator)
            child.running_var.uniform_(0.3, 2, generator=generator)
    return module.eval()


def small():
    torch.manual_seed(0)
    return calibrated(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
        )
    )


def folded(module, factor=1.0):
    """The same network with its BNs in the convolutions, by a plain formula."""
    layers = []
    for child in copy.deepcopy(module):
        if isinstance(child, nn.BatchNorm2d):
            scale = child.weight.double() / (child.running_var.double() + child.eps).sqrt()
            conv = layers[-1]
            conv.weight.data = (conv.weight.double() * scale.reshape(-1, 1, 1, 1) * factor).float()
            conv.bias.data = ((conv.bias.double() - child.running_mean) * scale + child.bias).float()
        else:
            layers.append(child)
    return nn.Sequential(*layers).eval()


def test_modules_are_compared_and_left_alone():
    module = small()
    before = copy.deepcopy(module.state_dict())
    assert check(module, folded(module), X).passed
    assert check(module, folded(module, 1.0001), X).exit_status == 1
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_divergence_in_modules_is_named_by_path():
    module = small()
    wrong = folded(module)
    wrong[2].bias.data[3] += 0.01
    (divergence,) = check(module, wrong, X).divergences
    assert (divergence.layer, divergence.operator, divergence.channel) == ("4", "BatchNorm2d", 3)
    assert divergence.candidate_value == "2"


def test_training_mode():
    module = small().train()
    result = check(module, folded(small()), X)
    assert result.passed
    assert "its eval mode is what was checked" in result.assumptions[0]
    assert module.training


def test_a_float_cast_inside_the_forward_does_not_spoil_the_truth():
    class Casting(nn.Module):
        def forward(self, x):
            return (x.float() / 3).to(torch.float32) + torch.ones(1, dtype=torch.float32)

    truth = ModuleSubject(Casting(), "c", [X]).truth((X,))["output"]
    assert truth.dtype == np.float64
    assert np.array_equal(truth, X.astype(np.float64) / 3 + 1)


def test_old_weight_norm_can_be_copied():
    with pytest.warns(FutureWarning):
        module = nn.utils.weight_norm(nn.Linear(3, 2))
    x = torch.ones(1, 3)
    expected = module(x)
    assert torch.equal(copy_module(module)(x), expected)
    double = ModuleSubject(module, "w", [x.numpy()]).truth((x.numpy(),))["output"]
    assert double.dtype == np.float64
    assert np.allclose(double, expected.detach().numpy(), atol=1e-6)


def test_plain_tensor_attributes_become_double():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = torch.tensor([[0.1, 0.2, 0.3]])

        def forward(self, x):
            return torch.cat([x, self.shift.expand(len(x), 3)])

    x = np.ones((2, 3), np.float32)
    assert ModuleSubject(Shifted(), "s", [x]).truth((x,))["output"].dtype == np.float64


def test_outputs_are_flattened():
    one, two = torch.zeros(1), torch.ones(1)
    assert set(flatten((one, {"a": two, "b": [one, None]}))) == {"output_0", "output_1.a", "output_1.b_0"}
    assert set(flatten({"logits": one})) == {"logits"}
    with pytest.raises(BnfoldError, match="wanted tensors"):
        flatten("text")


def test_a_failing_module_is_not_verified():
    class Failing(nn.Module):
        def forward(self, x):
            raise KeyError("missing")

    result = check(Failing(), small(), X)
    assert result.exit_status == 3
    assert "could not be run" in result.why[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    module = small().to(dtype)
    result = check(module, copy.deepcopy(module), X)
    assert result.passed, result.reasons
    assert result.runs[0].mode == str(dtype).removeprefix("torch.")


def test_a_narrower_candidate_earns_no_wider_budget():
    module = small()
    assert check(module, copy.deepcopy(module).half(), X).exit_status == 1


def test_coverage_of_modules():
    module = small()
    module[1].bias.data.zero_()
    module[1].running_mean.zero_()
    module[1].bias.data[0] = -100  # its ReLU never opens
    (layer,) = check(module, copy.deepcopy(module), X).coverage.layers
    assert (layer.operator, layer.channels, layer.branches, layer.branches_reached) == ("relu", 6, 12, 11)


def test_what_can_not_be_checked():
    with pytest.raises(BnfoldError, match="can't check a dict"):
        check({}, small(), X)
    with pytest.raises(BnfoldError, match="no candidate"):
        check(small(), [], X)
    with pytest.raises(BnfoldError, match="no node and no output"):
        load_subject(onnx.ModelProto())
    assert check(small(), small(), X, "tensorrt").exit_status == 3


RESIDUAL = next(network for network in networks() if network.name == "residual")


def test_the_plan_maps_values_with_their_frames():
    """A divergence is seen through the frame of the plan, and a value in another frame is none."""
    reference = RESIDUAL.model()
    scale, shift = np.full(8, 2.0), np.full(8, -1.0)
    good = RESIDUAL.model(fold=True)
    # The candidate holds c1's result in another frame: T_ref = 2 T_cand - 1.
    weights = weights_of(good)
    framed = with_weight(good, "c4.bias", weights["c4.bias"] * np.float32(1.01))
    for node in framed.graph.node:
        node.input[:] = ["c1.mapped" if name == "c1" else name for name in node.input]
    for name, value in (("half", 0.5), ("one", 1.0), ("two", 2.0), ("minus", -1.0)):
        framed.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    place = next(i for i, node in enumerate(framed.graph.node) if node.output[0] == "c1") + 1
    for i, node in enumerate(
        (
            helper.make_node("Add", ["c1", "one"], ["c1.shifted"]),
            helper.make_node("Mul", ["c1.shifted", "half"], ["c1.framed"]),
            helper.make_node("Mul", ["c1.framed", "two"], ["c1.twice"]),
            helper.make_node("Add", ["c1.twice", "minus"], ["c1.mapped"]),
        )
    ):
        framed.graph.node.insert(place + i, node)
    plan = {"c1": Frame("c1.framed", 1, scale, shift), "c3": Frame("c3"), "c4.0.batchnormalization": Frame("c4.linear")}
    (divergence,) = check(reference, framed, correspondence=plan).divergences
    assert divergence.mapped_by == "plan"
    assert divergence.reference_value == "c4.0.batchnormalization"
    assert [layer.reference for layer in divergence.layers] == ["c1", "c3", "c4.0.batchnormalization"]
    wrong_plan = {**plan, "c1": Frame("c1.framed", 1, scale, shift + 1)}
    (divergence,) = check(reference, framed, correspondence=wrong_plan).divergences
    assert divergence.reference_value == "c1"


def test_search_finds_a_difference_that_a_sample_does_not_show():
    """One wrong weight among 64: the search turns the input towards it."""
    weight = np.random.default_rng(1).normal(size=(2, 64))
    wrong = weight.copy()
    wrong[0, 5] += 2.2e-6
    layers = [Layer("y", "Gemm", w, np.zeros(2)) for w in (weight, wrong)]
    pair = [Network("n", (64,), [layer], ("y",)).model() for layer in layers]
    x = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    options = {"only_given": True, "audit": ()}
    assert check(*pair, x, **options).passed
    found = check(*pair, x, search=40, **options)
    assert found.exit_status == 1
    assert found.inputs[-1].kind == "search"
    assert check(pair[0], pair[0], x, search=40, **options).passed


def test_an_operator_that_the_executor_lacks_widens_the_budget():
    def model(offset):
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Det", ["a"], ["b"]),
            helper.make_node("Unique", ["flat"], ["u"]),
            helper.make_node("ReduceSum", ["u"], ["s"], keepdims=0),
            helper.make_node("Add", ["b", "s"], ["y"]),
        ]
        nodes.insert(2, helper.make_node("Flatten", ["a"], ["flat2"]))
        nodes.insert(3, helper.make_node("Reshape", ["flat2", "all"], ["flat"]))
        weight = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
        weight[0, 0] += np.float32(offset)
        constants = [
            onnx.numpy_helper.from_array(weight, "w"),
            onnx.numpy_helper.from_array(np.array([-1], np.int64), "all"),
        ]
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 5, 5])
        y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "g", [x], [y], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    result = check(model(0), model(0))
    assert result.passed, result.reasons
    assert result.runs[0].mode == "runtime"
    assert "the executor has no Unique" in result.warnings[0]
    assert check(model(0), model(1e-2)).exit_status == 1


def test_no_truth_and_no_runtime_is_not_verified():
    node = helper.make_node("Fancy", ["x"], ["y"], domain="my.own")
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.own", 1)]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    assert check(model, model).exit_status == 3
    with pytest.raises(UnverifiedError, match=r"my\.own"):
        check(model, model).raise_for_failure()


def one_node(dims, dtype=onnx.TensorProto.FLOAT, operator="Relu"):
    x = helper.make_tensor_value_info("x", dtype, dims)
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_scalar_stays_one():
    assert check(one_node([]), one_node([])).passed


def test_a_size_of_minus_one_is_free():
    shapes = {record.shapes[0][1][0] for record in check(one_node([-1, 4]), one_node([-1, 4])).inputs}
    assert shapes == {1, 3, 8}


def test_an_input_without_a_rank_takes_that_of_the_samples():
    with pytest.raises(UnverifiedError, match="x has no shape; give inputs"):
        check(one_node(None), one_node(None))
    result = check(one_node(None), one_node(None), np.ones((2, 3), np.float32))
    assert result.passed
    assert all(len(record.shapes[0][1]) == 2 for record in result.inputs)


def test_an_input_without_a_dtype():
    with pytest.raises(UnverifiedError, match="x has no dtype"):
        check(one_node(["N", 4], onnx.TensorProto.UNDEFINED), one_node(["N", 4]))


def test_another_dtype_of_an_input_is_told():
    cast = helper.make_node("Cast", ["x"], ["z"], to=onnx.TensorProto.FLOAT)
    model = one_node(["N", 4], onnx.TensorProto.DOUBLE)
    model.graph.node[0].input[0] = "z"
    model.graph.node.insert(0, cast)
    (assumption,) = check(one_node(["N", 4]), model).assumptions
    assert assumption == "g was given x as float64, which the reference takes as float32"


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (1.25, 1)])
def test_bfloat16_goes_in_and_out(factor, status):
    def model(factor):
        nodes = [
            helper.make_node("Cast", ["x"], ["a"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", ["a", "f"], ["b"]),
            helper.make_node("Cast", ["b"], ["y"], to=onnx.TensorProto.BFLOAT16),
        ]
        values = [helper.make_tensor_value_info(name, onnx.TensorProto.BFLOAT16, ["N", 4]) for name in "xy"]
        constant = onnx.numpy_helper.from_array(np.array(factor, np.float32), "f")
        graph = helper.make_graph(nodes, "g", values[:1], values[1:], [constant])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    result = check(model(1.0), model(factor))
    assert result.exit_status == status, result.reasons
    assert result.runs[0].outputs[0].dtype == "bfloat16"


def test_texts_are_not_compared():
    model = one_node(["N", 4])
    model.graph.node[0].CopyFrom(helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.STRING))
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.STRING
    result = check(model, model)
    assert result.exit_status == 3
    assert "y holds texts" in result.reasons[0]


def test_nan_reaches_no_channel_and_hides_none():
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    odd = np.where(np.arange(4) == 0, np.nan, x).astype(np.float32)
    coverage = check(one_node(["N", 4]), one_node(["N", 4]), [x, odd], only_given=True).coverage
    assert coverage is not None
    assert coverage.channels == 1


class TestFiles:
    def saved(self, folder, **options):
        path = folder / "model.onnx"
        onnx.save(RESIDUAL.model(fold=True), path, save_as_external_data=True, size_threshold=0, **options)
        return path

    def test_external_data(self, tmp_path):
        assert check(RESIDUAL.model(), self.saved(tmp_path, location="weights")).passed

    def test_data_outside_the_folder_is_unsafe(self, tmp_path):
        path = self.saved(tmp_path, location="weights")
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            tensor.external_data[0].value = "../weights"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(UnsafeError, match="outside the model's folder"):
            check(RESIDUAL.model(), path)

    def test_truncated_data(self, tmp_path):
        path = self.saved(tmp_path, location="weights")
        (tmp_path / "weights").write_bytes(b"\0" * 100)
        with pytest.raises(BnfoldError, match=r"wants .* bytes of 'weights', which has"):
            check(RESIDUAL.model(), path)

    @pytest.mark.parametrize(
        "entries",
        [
            pytest.param({"length": "abc"}, id="a length that is no number"),
            pytest.param({"offset": "-4"}, id="before the file"),
            pytest.param({"offset": "9" * 30}, id="beyond any file"),
            pytest.param({"length": "9" * 15}, id="longer than the file"),
        ],
    )
    def test_places_in_the_data_that_are_none(self, tmp_path, entries):
        path = self.saved(tmp_path, location="weights")
        model = onnx.load(path, load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            entry.value = entries.get(entry.key, entry.value)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(BnfoldError, match=r"tensor .* (is at offset|wants)") as caught:
            check(RESIDUAL.model(), path)
        assert caught.value.exit_status == 2

    def test_a_name_that_is_no_text(self, tmp_path):
        path = tmp_path / os.fsdecode(b"\xff.onnx")
        path.write_bytes(RESIDUAL.model(fold=True).SerializeToString())
        assert check(RESIDUAL.model(), path).passed

    def test_truncated_model(self, tmp_path):
        path = tmp_path / "model.onnx"
        path.write_bytes(RESIDUAL.model().SerializeToString()[:-100])
        with pytest.raises(BnfoldError, match="can't be read as ONNX"):
            check(RESIDUAL.model(), path)

    def test_an_exported_program(self, tmp_path):
        module = small()
        program = torch.export.export(module, (torch.from_numpy(X),))
        torch.export.save(program, tmp_path / "m.pt2")
        result = check(tmp_path / "m.pt2", folded(module), X)
        assert result.passed, result.reasons
        assert not result.assumptions


class TestArgMax:
    """Indices are compared where the truth's margin exceeds the budget, and only there."""

    def model(self, tie, wrong=0.0):
        weight = np.random.default_rng(0).normal(size=(6, 4))
        weight[1] = weight[0] * (1 + tie)
        weight[4] += wrong
        layer = Layer("logits", "Gemm", weight, np.zeros(6), after=[("ArgMax", {"axis": 1})])
        model = Network("n", (4,), [layer], ("logits",)).model()
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
        return model

    def test_a_tie_may_fall_either_way(self):
        x = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
        result = check(self.model(2e-7), self.model(-2e-7), x, audit=())
        assert result.passed, result.reasons

    def test_a_clear_flip_counts(self):
        x = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
        assert check(self.model(2e-7), self.model(2e-7, wrong=0.5), x, audit=()).exit_status == 1


def test_samples_alone_suffice_where_no_drawn_size_is_accepted():
    class Picky(nn.Module):
        def forward(self, x):
            if x.shape[0] != 5:
                raise ValueError("wants 5")
            return 2 * x

    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    result = check(Picky().eval(), Picky().eval(), x)
    assert result.passed
    assert "only the samples that were given" in result.assumptions[0]


class TokenNorm(nn.BatchNorm1d):
    """Normalises (N, L, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class ByName(nn.Module):
    """Calls its norm by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(input=x)


@pytest.mark.parametrize(
    ("module", "shape"), [(nn.Sequential(nn.Linear(3, 4), TokenNorm(4)), (5, 7, 3)), (ByName(), (5, 4))]
)
def test_norms_that_tell_nothing_of_the_input_s_scale(module, shape):
    found = load_subject(module.eval())
    assert found.input_scale((np.random.default_rng(0).normal(size=shape).astype(np.float32),)) == 1.0


class Started(nn.Module):
    """Its program for a batch of two gives two rows for one, too: what it starts from has two, and broadcasts."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        start = torch.zeros(x.shape[0], 4)
        return self.head(self.rnn(x)[:, -1] + start)


@pytest.mark.parametrize(("dynamic", "dims"), [(False, (2, 5, 3)), (True, ("batch", 5, 3))])
def test_a_program_of_one_batch_size_is_run_at_that_one(dynamic, dims, tmp_path):
    torch.manual_seed(0)
    x, path = torch.randn(2, 5, 3), tmp_path / "program.pt2"
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    torch.export.save(torch.export.export(Started().eval(), (x,), dynamic_shapes=shapes), path)
    assert load_subject(path).inputs[0].dims == dims
    result = check(path, path)
    assert result.passed
    assert {shape[0] for record in result.inputs for _, shape in record.shapes} == ({8, 1, 3} if dynamic else {2})


def test_sizes_that_onnx_runtime_refuses_are_told():
    def network(*nodes):
        x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3, "s"]) for name in "xy")
        five = onnx.numpy_helper.from_array(np.array([0, 3, 5]), "five")
        graph = helper.make_graph(nodes, "g", [x], [y], [five])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    free = network(helper.make_node("Relu", ["x"], ["y"]))
    fixed = network(helper.make_node("Reshape", ["x", "five"], ["z"]), helper.make_node("Relu", ["z"], ["y"]))
    (run,) = check(free, fixed).runs
    assert "while running Reshape node" in " ".join(run.why)
