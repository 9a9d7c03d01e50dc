"""[tool.bnfold]: the nearest table counts, and nothing in it is ignored."""

import re

import pytest

from bnfold import settings
from bnfold.errors import BnfoldError
from bnfold.settings import Lint, Settings

FULL = """
[tool.other]
x = 1
[tool.bnfold]
level = "max"
only = "backbone.*"
skip = ["head", "neck"]
providers = ["cpu", "cuda:use_tf32=0"]
inputs = "samples"
seed = 3
search = 20
allow-missing = true
allow-fallback = true
report = ["junit=a.xml", "html=b.html"]
[tool.bnfold.budget]
rms = 4
[tool.bnfold.lint]
paths = ["models"]
allow = ["models/old/*"]
"""


def write(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_every_key(tmp_path):
    write(tmp_path, FULL)
    assert settings.load(tmp_path) == Settings(
        file=tmp_path / "pyproject.toml", level="max", only=("backbone.*",), skip=("head", "neck"),
        providers=("cpu", "cuda:use_tf32=0"), inputs=tmp_path / "samples", seed=3, search=20, allow_missing=True,
        allow_fallback=True, report="junit=a.xml,html=b.html", budget={"rms": 4.0},
        lint=Lint((tmp_path / "models",), ("models/old/*",)),
    )  # fmt: skip


def test_what_check_takes_is_what_was_set(tmp_path):
    assert settings.load(write(tmp_path, FULL)).for_check() == {
        "inputs": tmp_path / "samples", "providers": ("cpu", "cuda:use_tf32=0"), "seed": 3, "search": 20,
        "allow_missing": True, "allow_fallback": True, "budget": {"rms": 4.0},
    }  # fmt: skip
    assert Settings().for_check() == {}


def test_the_nearest_table_counts(tmp_path):
    write(tmp_path, "[tool.bnfold]\nseed = 1")
    near = write(tmp_path / "a", "[tool.bnfold]\nseed = 2")
    without = write(tmp_path / "b", "[tool.other]\nseed = 3")
    (near / "deep").mkdir()
    assert settings.load(near / "deep").seed == 2
    assert settings.load(without).seed == 1
    assert settings.load(without / "model.onnx").seed == 1


def test_no_table_is_the_defaults(tmp_path):
    found = settings.load(write(tmp_path, "[project]\nname = 'x'"))
    assert found == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.bnfold]\nprovider = 'cpu'", "has no key 'provider'; did you mean providers?"),
        ("[tool.bnfold]\nallow_missing = true", "did you mean allow-missing?"),
        ("[tool.bnfold]\nxyz = 1", "has no key 'xyz'; there are level, only"),
        ("[tool.bnfold.budget]\nrsm = 1", "[tool.bnfold.budget] has no key 'rsm'; did you mean rms?"),
        ("[tool.bnfold.lint]\npath = 'x'", "[tool.bnfold.lint] has no key 'path'; did you mean paths?"),
        ("[tool.bnfold]\nlevel = 'most'", "level = 'most'; wanted default or max"),
        ("[tool.bnfold]\nlevel = []", "level = []; wanted default or max"),
        ("[tool.bnfold]\nproviders = [1]", "wanted a string or a list of strings"),
        ("[tool.bnfold]\ninputs = 1", "inputs = 1; wanted a string"),
        ("[tool.bnfold]\nseed = -1", "seed = -1; wanted a whole number"),
        ("[tool.bnfold]\nseed = true", "seed = True; wanted a whole number"),
        ("[tool.bnfold]\nallow-missing = 'no'", "allow-missing = 'no'; wanted true or false"),
        ("[tool.bnfold.budget]\nrms = 0", "rms = 0; wanted a positive number"),
        ("[tool.bnfold.budget]\nrms = nan", "rms = nan; wanted a positive number"),
        ("[tool]\nbnfold = 1", "[tool.bnfold] is 1; wanted a table"),
        ("[tool.bnfold]\nlint = 1", "[tool.bnfold.lint] is 1; wanted a table"),
        ("[tool.bnfold", "can't be read as TOML"),
    ],
)
def test_what_is_not_known_is_an_error(tmp_path, text, message):
    with pytest.raises(BnfoldError, match=re.escape(message)) as caught:
        settings.load(write(tmp_path, text))
    assert str(tmp_path / "pyproject.toml") in str(caught.value)
