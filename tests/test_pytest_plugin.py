"""The pytest plugin in real pytest runs, on real models."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfold import golden, golden_file
from bnfold.checking import check
from bnfold.checking.result import Verdict
from bnfold.errors import BnfoldError
from tests.checking.building import networks

pytest_plugins = ["pytester"]

NETWORK = next(iter(networks()))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A network, its fold, and the fold with one weight scaled."""
    folder = tmp_path_factory.mktemp("models")
    onnx.save(NETWORK.model(), folder / "plain.onnx")
    onnx.save(NETWORK.model(fold=True), folder / "folded.onnx")
    onnx.save(NETWORK.model(fold=True, change=_scaled), folder / "wrong.onnx")
    return folder


def _scaled(name, array):
    return array * np.float32(1.01) if name == "c2.weight" else array


@pytest.fixture(scope="module", autouse=True)
def everything_is_loaded(models):
    """pytester forgets what an inner run imports, and neither torch nor numpy.fft can be imported twice."""
    assert not check(models / "plain.onnx", models / "wrong.onnx", search=1).passed
    golden.check(golden.record(models / "plain.onnx", most_bytes=1), models / "folded.onnx")


@pytest.fixture
def project(pytester, models):
    """A project of a user, with the three models in it."""
    for file in models.iterdir():
        pytester.path.joinpath(file.name).write_bytes(file.read_bytes())
    return pytester


def outcomes(project, source, *arguments):
    project.makepyfile(test_it=source)
    result = project.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:xdist", *arguments)
    counts = result.parseoutcomes()
    counts.pop("warnings", None)  # bnfold is imported already, so the inner pytest can't rewrite its asserts
    counts.pop("warning", None)
    return counts, result.stdout.str()


def test_the_fixture_passes_a_right_fold_and_fails_a_wrong_one(project):
    counts, text = outcomes(project, """
        def test_right(bnfold_check):
            result = bnfold_check("plain.onnx", "folded.onnx")
            assert result.passed
        def test_wrong(bnfold_check):
            bnfold_check("plain.onnx", "wrong.onnx")
    """)  # fmt: skip
    assert counts == {"passed": 1, "failed": 1}
    assert "AssertionError: bnfold check: different" in text
    assert "wrong.onnx on cpu" in text


def test_the_verdict_stands_in_pytests_own_report(project):
    outcomes(project, """
        def test_right(bnfold_check):
            bnfold_check("plain.onnx", "folded.onnx")
    """, "--junitxml=out.xml")  # fmt: skip
    assert 'name="bnfold" value="folded.onnx on cpu: verified"' in (project.path / "out.xml").read_text()


def test_a_missing_provider_fails_unless_it_may_be_missing(project):
    counts, text = outcomes(project, """
        def test_strict(bnfold_check):
            bnfold_check("plain.onnx", "folded.onnx", providers="tensorrt")
        def test_lenient(bnfold_check):
            bnfold_check("plain.onnx", "folded.onnx", providers="tensorrt", allow_missing=True)
        def test_command_line(bnfold_check):
            bnfold_check("plain.onnx", "folded.onnx")
    """, "--bnfold-providers=tensorrt", "-rs")  # fmt: skip
    assert counts == {"failed": 2, "skipped": 1}
    assert "SKIPPED" in text


def test_settings_of_the_project_are_the_defaults(project):
    project.makepyprojecttoml("[tool.bnfold]\nproviders = 'cpu:level=basic'\nseed = 5\n")
    counts, _ = outcomes(project, """
        def test_defaults(bnfold_check):
            result = bnfold_check("plain.onnx", "folded.onnx")
            assert result.runs[0].options == (("level", "basic"),)
            assert result.seed == 5
        def test_overridden(bnfold_check):
            assert bnfold_check("plain.onnx", "folded.onnx", providers="cpu").runs[0].options == ()
    """)  # fmt: skip
    assert counts == {"passed": 2}


GOLDEN = """
    def test_today(bnfold_check):
        bnfold_check.golden("{candidate}", reference={reference})
"""


def golden_run(project, candidate="folded.onnx", reference="'plain.onnx'", *arguments):
    return outcomes(project, GOLDEN.format(candidate=candidate, reference=reference), *arguments)


def test_a_golden_file_is_missing_then_made_then_held_to(project):
    counts, text = golden_run(project)
    assert counts == {"failed": 1}
    assert "golden file: missing" in text
    assert "--bnfold-update" in text
    assert golden_run(project, "folded.onnx", "'plain.onnx'", "--bnfold-update")[0] == {"passed": 1}
    assert [file.name for file in (project.path / "golden").iterdir()] == ["test_it-test_today.npz"]
    assert golden_run(project)[0] == {"passed": 1}
    assert golden_run(project, reference=None)[0] == {"passed": 1}
    counts, text = golden_run(project, "wrong.onnx")
    assert counts == {"failed": 1}
    assert "bnfold check: different" in text


def test_a_golden_file_of_another_model_is_stale(project):
    golden_run(project, "folded.onnx", "'plain.onnx'", "--bnfold-update")
    counts, text = golden_run(project, "wrong.onnx", "'wrong.onnx'")
    assert counts == {"failed": 1}
    assert "golden file: stale: the reference's float64 outputs moved by" in text


def test_a_golden_file_is_not_renewed_without_its_reference(project):
    counts, text = golden_run(project, "folded.onnx", None, "--bnfold-update")
    assert counts == {"failed": 1}
    assert "--bnfold-update needs the reference" in text
    assert not (project.path / "golden").exists()


def test_a_damaged_golden_file_fails(project):
    golden_run(project, "folded.onnx", "'plain.onnx'", "--bnfold-update")
    (project.path / "golden" / "test_it-test_today.npz").write_bytes(b"PK\x03\x04 nothing")
    counts, text = golden_run(project)
    assert counts == {"failed": 1}
    assert "golden file: not a golden file" in text
    assert "During handling" not in text


def test_parametrized_tests_have_golden_files_of_their_own(project):
    outcomes(project, """
        import pytest
        @pytest.mark.parametrize("name", ["a/b", "c d"])
        def test_each(bnfold_check, name):
            bnfold_check.golden("folded.onnx", reference="plain.onnx", name="x")
    """, "--bnfold-update")  # fmt: skip
    found = sorted(file.name for file in (project.path / "golden").iterdir())
    assert [name[:-13] for name in found] == ["test_it-test_each_a_b-x", "test_it-test_each_c_d-x"]


def test_no_two_tests_share_a_golden_file(project):
    source = """
        import pytest
        class TestOne:
            def test_it(self, bnfold_check):
                bnfold_check.golden("folded.onnx", reference="plain.onnx")
        class TestTwo:
            def test_it(self, bnfold_check):
                bnfold_check.golden("wrong.onnx", reference="wrong.onnx")
        def test_it(bnfold_check):
            bnfold_check.golden("folded.onnx", reference="plain.onnx")
        @pytest.mark.parametrize("sign", ["+", "-", "a b", "a-b"])
        def test_sign(bnfold_check, sign):
            bnfold_check.golden("folded.onnx", reference="plain.onnx")
    """
    assert outcomes(project, source, "--bnfold-update")[0] == {"passed": 7}
    assert len(list((project.path / "golden").iterdir())) == 7
    assert outcomes(project, source)[0] == {"passed": 7}


def test_the_plugin_comes_with_the_package_and_is_light(tmp_path):
    (tmp_path / "test_light.py").write_text(
        "import sys\n"
        "def test_light(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.get_plugin('bnfold') is sys.modules['bnfold.pytest_plugin']\n"
        "    assert not {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    run = subprocess.run([*command, tmp_path / "test_light.py"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.fixture(scope="module")
def recorded(models):
    return golden.record(models / "plain.onnx", most_bytes=100_000)


def test_a_golden_file_holds_what_was_recorded(recorded, tmp_path):
    path = tmp_path / "deep" / "a.npz"
    golden_file.save(recorded, path)
    again = golden_file.load(path)
    assert again.inputs == recorded.inputs
    assert again.budget == recorded.budget
    assert again.environment == recorded.environment
    assert len(again.records) == len(recorded.records) > 3
    for ours, theirs in zip(recorded.records, again.records, strict=True):
        assert ours.sample.name == theirs.sample.name
        for a, b in zip(ours.sample.feed, theirs.sample.feed, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
        for side in ("truth", "own", "nudged"):
            for name, array in getattr(ours.facts, side).items():
                np.testing.assert_array_equal(array, getattr(theirs.facts, side)[name], strict=True)
    assert recorded.records[0].facts.truth["fc"].dtype == np.float64


def test_a_golden_file_is_small(models):
    small = golden.record(models / "plain.onnx", most_bytes=1)
    assert len(small.records) == 1


def test_numbers_that_were_changed_are_noticed(recorded, tmp_path):
    path = tmp_path / "a.npz"
    golden_file.save(recorded, path)
    with np.load(path) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    arrays["0/truth/0"] = arrays["0/truth/0"] * (1 + 1e-15)
    np.savez(path, **arrays)
    with pytest.raises(BnfoldError, match="its content is not what was recorded"):
        golden_file.load(path)


def test_a_golden_file_says_nothing_of_other_inputs(recorded):
    feed = tuple(array + 1 for array in recorded.records[0].sample.feed)
    with pytest.raises(BnfoldError, match="did not record"):
        golden.Recorded(recorded).truth(feed)


def test_another_budget_makes_it_stale(recorded):
    from dataclasses import replace

    assert golden.stale(recorded) == ""
    other = replace(recorded, budget=replace(recorded.budget, rms=99.0))
    assert golden.stale(other) == "it was made for another budget of float32"


def test_a_change_far_below_the_budget_makes_it_stale(recorded, models):
    assert golden.stale(recorded, models / "plain.onnx") == ""
    model = onnx.load(models / "plain.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.bias")
    array = numpy_helper.to_array(weight).copy()
    array[3] += np.float32(1e-7)
    weight.CopyFrom(numpy_helper.from_array(array, "fc.bias"))
    assert "moved by" in golden.stale(recorded, model)


def test_judged_as_a_check_would(recorded, models):
    assert golden.check(recorded, models / "folded.onnx").verdict is Verdict.VERIFIED
    assert golden.check(recorded, models / "wrong.onnx").verdict is Verdict.DIFFERENT
