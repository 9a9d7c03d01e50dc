"""The code of docs/adding-a-rule.md runs, and its cases hold."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "adding-a-rule.md"
FOLLOW = """
import importlib, re, sys
from pathlib import Path

for path, code in re.findall(r"```python\\n# (\\S+)\\.py\\n(.*?)```", Path(sys.argv[1]).read_text(), re.DOTALL):
    exec(code, vars(importlib.import_module(path.replace("/", "."))))

from tests.rules import test_pooling as family
from tests.rules.law import assert_law, assert_no_more, assert_stops

added = [case for case in family.HOLDS if "median" in case.id]
for case in added:
    assert_law(*case.values, seed=0)
    assert_no_more(*case.values[:2], seed=0)
stopped = [case for case in family.STOPS if "median" in case.id]
for case in stopped:
    assert_stops(*case.values)
print(len(added), len(stopped))
"""


def test_the_page_can_be_followed() -> None:
    """In a process of its own, since the rule must not stay."""
    command = [sys.executable, "-c", FOLLOW, str(PAGE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("2 2\n", "")


def test_the_files_that_it_names_exist() -> None:
    named = re.findall(r"`((?:bnfold|tests)/[\w/.]+)`", PAGE.read_text())
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
