"""Local functions: folding sees through their calls, and replaces those inside which something changes."""

import time

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from onnx import helper, inliner, numpy_helper, parser

from bnfold.adapters.onnx_file import fold_file, fold_proto
from bnfold.errors import BnfoldError
from tests.adapters.onnx_cases import LEVELS, batch_norm, feeds_of, kinds, numbers, run

HEAD = '<ir_version: 10, opset_import: ["": 17, "local": 1]>\ng '
IMAGE = "(float[N,3,8,8] x) => (float[N,4,h,w] y) "
BLOCK = """<domain: "local", opset_import: ["": 17]>
Block (x, w, gamma, beta, mean, var) => (y) {
    c = Conv(x, w) n = BatchNormalization(c, gamma, beta, mean, var) y = Relu(n) }"""
PLAIN = """<domain: "local", opset_import: ["": 17]>
Plain (x) => (y) { a = Sigmoid(x) y = Mul(a, x) }"""
SCALED = """<domain: "local", opset_import: ["": 17]>
Scaled (x, s) => (y) { y = Mul(x, s) }"""
ONE = ", ".join(("x", "w", *batch_norm(4)))
TWO = ", ".join(("a", "v", *batch_norm(4, "2")))


def model(text: str, *functions: str, **tensors: object) -> onnx.ModelProto:
    """Parse a graph and functions; tensors: arrays, or shapes of random ones."""
    proto = parser.parse_model("\n".join((HEAD + text, *functions)))
    for name, given in tensors.items():
        array = given if isinstance(given, np.ndarray) else numbers(name, given)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def operators(proto: onnx.ModelProto) -> int:
    """Count the operators that run."""
    return len(inliner.inline_local_functions(proto).graph.node)


def folded_and_checked(proto, tmp_path, **options):
    """The same function, by ONNX Runtime's own reading of local functions; and nothing is left to fold."""
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(proto, source)
    result = fold_file(source, target, **options)
    onnx.checker.check_model(str(target), full_check=True)
    for level in LEVELS:
        for got, want in zip(run(target, feeds_of(proto), level), run(source, feeds_of(proto)), strict=True):
            assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    assert not fold_file(target, tmp_path / "again.onnx", **options).plan.folded
    folded = onnx.load(target)
    assert operators(folded) <= operators(proto)
    return folded, result


def names(proto):
    return [item.name for item in proto.functions]


def test_a_function_that_is_called_twice_folds_with_the_constants_of_each_call(tmp_path):
    text = IMAGE + f"{{ a = local.Block({ONE}) y = local.Block({TWO}) }}"
    proto = model(text, BLOCK, w=(4, 3, 3, 3), v=(4, 4, 3, 3), **batch_norm(4), **batch_norm(4, "2"))
    folded, result = folded_and_checked(proto, tmp_path)
    assert [outcome.affine for outcome in result.plan.folded] == ["a/n", "y/n"]
    assert kinds(folded) == ["Conv", "Relu", "Conv", "Relu"]
    assert not folded.functions


def test_what_is_folded_is_what_is_folded_once_another_tool_has_replaced_the_calls(tmp_path):
    text = IMAGE + f"{{ a = local.Block({ONE}) y = local.Block({TWO}) }}"
    proto = model(text, BLOCK, w=(4, 3, 3, 3), v=(4, 4, 3, 3), **batch_norm(4), **batch_norm(4, "2"))
    ours = {item.name: numpy_helper.to_array(item) for item in fold_proto(proto).model.graph.initializer}
    theirs = fold_proto(inliner.inline_local_functions(proto)).model
    for item in theirs.graph.initializer:
        if item.name in ("w", "v"):
            assert np.array_equal(numpy_helper.to_array(item), ours[item.name])


def test_a_file_in_whose_functions_nothing_changes_stays_bit_for_bit(tmp_path):
    proto = model("(float[N,4] x) => (float[N,4] y) { a = local.Plain(x) y = local.Plain(a) }", PLAIN)
    onnx.save(proto, tmp_path / "model.onnx")
    fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert (tmp_path / "folded.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


def test_only_calls_inside_which_something_changes_are_replaced(tmp_path):
    text = IMAGE + f"{{ p = local.Plain(x) a = local.Block({ONE.replace('x', 'p', 1)}) y = local.Plain(a) }}"
    proto = model(text, PLAIN, BLOCK, w=(4, 3, 3, 3), **batch_norm(4))
    folded, _ = folded_and_checked(proto, tmp_path)
    assert kinds(folded) == ["Plain", "Conv", "Relu", "Plain"]
    assert [item.SerializeToString() for item in folded.functions] == [proto.functions[0].SerializeToString()]


def test_of_two_calls_of_one_function_the_other_may_stay_a_call(tmp_path):
    text = IMAGE + f"{{ a = local.Block({ONE}) y = local.Block({TWO}) }}"
    proto = model(text, BLOCK, w=(4, 3, 3, 3), v=(4, 4, 3, 3), **batch_norm(4), **batch_norm(4, "2"))
    folded, result = folded_and_checked(proto, tmp_path, only=["a/n"])
    assert kinds(folded) == ["Conv", "Relu", "Block"]
    assert folded.functions[0].SerializeToString() == proto.functions[0].SerializeToString()
    assert len(result.plan.kept) == 1


def test_an_affine_crosses_the_border_of_a_function(tmp_path):
    text = IMAGE + "{ c = Conv(x, w) m = local.Scaled(c, s) y = Add(m, b) }"
    proto = model(text, SCALED, w=(4, 3, 3, 3), s=(4, 1, 1), b=(4, 1, 1))
    folded, _ = folded_and_checked(proto, tmp_path)
    assert kinds(folded) == ["Conv"]


def test_frames_pass_a_call_that_stays(tmp_path):
    halved = '<domain: "local", opset_import: ["": 17]>\nPooled (x) => (y) { r = Relu(x) y = GlobalAveragePool(r) }'
    text = (
        "(float[N,3,8,8] x) => (float[N,5,1,1] y) { c = Conv(x, w) p = local.Pooled(c) m = Mul(p, s) y = Conv(m, v) }"
    )
    proto = model(text, halved, w=(4, 3, 3, 3), v=(5, 4, 1, 1), s=np.exp(numbers("s", (4, 1, 1))))
    folded, _ = folded_and_checked(proto, tmp_path)
    assert kinds(folded) == ["Conv", "Pooled", "Conv"]


def test_functions_in_functions(tmp_path):
    outer = """<domain: "local", opset_import: ["": 17, "local": 1]>
    Outer (x, w, gamma, beta, mean, var) => (y) {
        p = local.Plain(x) b = local.Block(p, w, gamma, beta, mean, var) y = local.Plain(b) }"""
    text = IMAGE + f"{{ y = local.Outer({ONE}) }}"
    proto = model(text, PLAIN, BLOCK, outer, w=(4, 3, 3, 3), **batch_norm(4))
    folded, _ = folded_and_checked(proto, tmp_path)
    assert kinds(folded) == ["Plain", "Conv", "Relu", "Plain"]
    assert names(folded) == ["Plain"]


@pytest.mark.parametrize(
    ("given", "slope"),
    [("<slope: float = 0.25>", 0.25), ("", 0.125)],
    ids=["the call's", "the function's default"],
)
def test_attributes_are_those_of_the_call(given, slope, tmp_path):
    leaky = """<domain: "local", opset_import: ["": 17]>
    Leaky <slope: float = 0.125>(x, s) => (y) { m = Mul(x, s) y = LeakyRelu<alpha: float = @slope>(m) }"""
    text = IMAGE + f"{{ c = Conv(x, w) y = local.Leaky {given.replace(': float', '')} (c, s) }}"
    proto = model(text, leaky, w=(4, 3, 3, 3), s=np.exp(numbers("s", (4, 1, 1))))
    folded, _ = folded_and_checked(proto, tmp_path)
    assert kinds(folded) == ["Conv", "LeakyRelu"]
    attribute = folded.graph.node[1].attribute[0]
    assert (attribute.name, attribute.f, attribute.ref_attr_name) == ("alpha", slope, "")


def test_an_attribute_that_nothing_gives_is_the_operators_default(tmp_path):
    leaky = """<domain: "local", opset_import: ["": 17]>
    Leaky <slope>(x, s) => (y) { m = Mul(x, s) y = LeakyRelu<alpha: float = @slope>(m) }"""
    proto = model(
        IMAGE + "{ c = Conv(x, w) y = local.Leaky(c, s) }", leaky, w=(4, 3, 3, 3), s=np.exp(numbers("s", (4, 1, 1)))
    )
    result = fold_proto(proto)
    assert kinds(result.model) == ["Conv", "LeakyRelu"]
    assert not [item for node in result.model.graph.node for item in node.attribute if item.ref_attr_name]


def test_an_attribute_goes_through_two_functions(tmp_path):
    inner = """<domain: "local", opset_import: ["": 17]>
    Inner <alpha>(x, s) => (y) { m = Mul(x, s) y = LeakyRelu<alpha: float = @alpha>(m) }"""
    outer = """<domain: "local", opset_import: ["": 17, "local": 1]>
    Outer <slope>(x, s) => (y) { y = local.Inner<alpha: float = @slope>(x, s) }"""
    text = IMAGE + "{ c = Conv(x, w) y = local.Outer<slope = 0.25>(c, s) }"
    proto = model(text, inner, outer, w=(4, 3, 3, 3), s=np.exp(numbers("s", (4, 1, 1))))
    folded, _ = folded_and_checked(proto, tmp_path)
    assert folded.graph.node[1].attribute[0].f == 0.25


def test_constants_in_functions_are_weights_too(tmp_path):
    weight = numbers("w", (4, 3, 5, 5))
    proto = model(
        IMAGE + "{ y = local.Net(x, s) }",
        '<domain: "local", opset_import: ["": 17]>\nNet (x, s) => (y) { w = Constant() c = Conv(x, w) y = Mul(c, s) }',
        s=(4, 1, 1),
    )
    proto.functions[0].node[0].attribute.append(helper.make_attribute("value", numpy_helper.from_array(weight)))
    folded, _ = folded_and_checked(proto, tmp_path)
    assert kinds(folded) == ["Conv"]


def test_external_data_and_functions(tmp_path):
    text = IMAGE + f"{{ p = local.Plain(x) y = local.Block({ONE.replace('x', 'p', 1)}) }}"
    proto = model(text, PLAIN, BLOCK, w=(4, 3, 3, 3), **batch_norm(4))
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(proto, source)
    wanted = run(source, feeds_of(proto))
    onnx.save(proto, source, save_as_external_data=True, size_threshold=0, location="weights")
    fold_file(source, target)
    assert_allclose(run(target, feeds_of(proto))[0], wanted[0], rtol=0, atol=1e-5 * np.abs(wanted[0]).max())


def test_bodies_in_functions_and_calls_in_bodies(tmp_path):
    choice = """<domain: "local", opset_import: ["": 17]>
    Choice (x, w, s, which) => (y) {
        c = Conv(x, w)
        y = If(which) <then_branch = then () => (t) { t = Mul(c, s) },
                       else_branch = other () => (t) { n = Mul(c, s) t = Tanh(n) }> }"""
    text = """(float[N,3,8,8] x, bool which) => (float[N,4,h,w] y) {
        u = Relu(x) t = local.Choice(u, w, s, which) y = Neg(t) }"""
    proto = model(text, choice, w=(4, 3, 3, 3), s=(4, 1, 1))
    folded, result = folded_and_checked(proto, tmp_path)
    assert len(result.plan.folded) == 2
    assert not folded.functions

    text = """(float[N,3,8,8] x, bool which) => (float[N,4,h,w] y) {
        y = If(which) <then_branch = then () => (t) { c = Conv(x, w) t = local.Scaled(c, s) },
                       else_branch = other () => (u) { d = Conv(x, w) u = local.Plain(d) }> }"""
    folded, _ = folded_and_checked(model(text, SCALED, PLAIN, w=(4, 3, 3, 3), s=(4, 1, 1)), tmp_path)
    bodies = {item.name: [node.op_type for node in item.g.node] for item in folded.graph.node[0].attribute}
    assert bodies == {"then_branch": ["Conv"], "else_branch": ["Conv", "Plain"]}
    assert names(folded) == ["Plain"]


def test_new_names_avoid_those_that_are_there(tmp_path):
    text = "(float[N,3,8,8] x) => (float[N,4,6,6] z, float[N,4,6,6] y) {"
    text += f" [y] y = local.Block({ONE}) z = Conv(x, w) }}"
    proto = model(text, BLOCK, w=(4, 3, 3, 3), **batch_norm(4))
    proto.graph.node[1].output[0] = proto.graph.output[0].name = "y/c"
    proto.graph.node[1].name = "y/n"
    folded, _ = folded_and_checked(proto, tmp_path)
    assert "y/c" in [name for node in folded.graph.node for name in node.output]


def test_a_call_may_leave_out_operands_and_results(tmp_path):
    limited = """<domain: "local", opset_import: ["": 17]>
    Limited (x, s, low, high) => (y, z) { m = Mul(x, s) y = Clip(m, low, high) z = Exp(m) }"""
    text = IMAGE + "{ c = Conv(x, w) y = local.Limited(c, s) }"
    proto = model(text, limited, w=(4, 3, 3, 3), s=(4, 1, 1))
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(inliner.inline_local_functions(proto), source)  # ONNX Runtime itself wants all of the operands
    folded = fold_proto(proto).model
    onnx.save(folded, target)
    onnx.checker.check_model(folded, full_check=True)
    assert_allclose(run(target, feeds_of(proto))[0], run(source, feeds_of(proto))[0], rtol=1e-5, atol=1e-5)
    assert kinds(folded) == ["Conv", "Clip", "Exp"]
    assert list(folded.graph.node[1].input[1:]) == ["", ""]


def test_a_function_of_another_opset_is_seen_through_where_its_operators_are_the_same(tmp_path):
    text = IMAGE + "{ c = Conv(x, w) y = local.Scaled(c, s) }"
    same = model(text, SCALED.replace("17", "14"), w=(4, 3, 3, 3), s=(4, 1, 1))
    folded, _ = folded_and_checked(same, tmp_path)
    assert kinds(folded) == ["Conv"]
    other = model(text, SCALED.replace("17", "12"), w=(4, 3, 3, 3), s=(4, 1, 1))
    assert kinds(fold_proto(other).model) == ["Conv", "Scaled"]


def test_the_domains_of_a_body_are_imported(tmp_path):
    lost = """<domain: "local", opset_import: ["": 17, "ai.onnx.ml": 3]>
    Lost (x, s) => (y) { m = Mul(x, s) y = ai.onnx.ml.Binarizer<threshold: float = 0.5>(m) }"""
    proto = model(IMAGE + "{ c = Conv(x, w) y = local.Lost(c, s) }", lost, w=(4, 3, 3, 3), s=(4, 1, 1))
    folded, _ = folded_and_checked(proto, tmp_path)
    assert {item.domain: item.version for item in folded.opset_import}["ai.onnx.ml"] == 3


def chain(count: int, calls: int = 2) -> list[str]:
    """Functions each of which calls the one before `calls` times."""
    lines = [PLAIN.replace("Plain", "F0")]
    for number in range(1, count):
        steps = " ".join(f"t{k + 1} = local.F{number - 1}({f't{k}' if k else 'x'})" for k in range(calls))
        lines.append(
            f'<domain: "local", opset_import: ["": 17, "local": 1]>\nF{number} (x) => (t{calls}) {{ {steps} }}'
        )
    return lines


def test_calls_that_would_become_too_much_stay(tmp_path):
    proto = model("(float[N,4] x) => (float[N,4] y) { y = local.F29(x) }", *chain(30))
    begin = time.process_time()
    assert kinds(fold_proto(proto).model) == ["F29"]
    assert time.process_time() - begin < 2


def test_functions_that_never_end_are_refused():
    proto = model("(float[N,4] x) => (float[N,4] y) { y = local.F0(x) }", *chain(1))
    proto.functions[0].node[0].op_type, proto.functions[0].node[0].domain = "F0", "local"
    proto.functions[0].opset_import.append(helper.make_opsetid("local", 1))
    with pytest.raises(BnfoldError, match=r"function 'local\.F0' calls itself"):
        fold_proto(proto)
    deep = model("(float[N,4] x) => (float[N,4] y) { y = local.F1999(x) }", *chain(2000, calls=1))
    with pytest.raises(BnfoldError, match="more than 32 deep"):
        fold_proto(deep)
