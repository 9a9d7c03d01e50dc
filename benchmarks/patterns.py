"""Which affines are folded, by bnfold and by the tools beside it: every pattern, every tool, right or wrong.

    python benchmarks/patterns.py                            everything that can be imported here
    python benchmarks/patterns.py --python OTHER/bin/python  tools that are installed there
    python benchmarks/patterns.py --only onnx --tool bnfold --write-only

Writes benchmarks/results/patterns.json, and docs/patterns.md from it. A tool runs in a process of its own, which is
started anew behind the pattern that killed it or took too long.
"""

import argparse
import json
import sys
from pathlib import Path

from pattern_suite.report import written
from pattern_suite.running import onnx_results, torch_results

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "patterns.json"
PAGE = HERE.parent / "docs" / "patterns.md"


def main() -> None:
    """Run, and write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], help="another interpreter that has tools; repeatable")
    parser.add_argument("--only", choices=("torch", "onnx"), help="one side; the other keeps its results")
    parser.add_argument("--tool", action="append", help="one tool; the others keep their results; repeatable")
    parser.add_argument("--timeout", type=float, default=20, help="seconds for one pattern")
    parser.add_argument("--write-only", action="store_true", help="run nothing; write the page from the results")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not options.write_only:
        pythons = [sys.executable, *options.python]
        for side, run in (("torch", torch_results), ("onnx", onnx_results)):
            if options.only in (None, side):
                for found in run(pythons, results.get(side, {}), options.tool, options.timeout):
                    results[side] = found
                    RESULTS.parent.mkdir(exist_ok=True)
                    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(written(results))


if __name__ == "__main__":
    main()
