"""A check as SARIF 2.1.0, which code-scanning services read (OASIS, sarif-v2.1.0)."""

import hashlib
import json
from typing import Any
from urllib.parse import quote

from bnfold import __version__
from bnfold.checking.result import CheckResult, Verdict
from bnfold.printable import visible
from bnfold.report.check_cases import Case, Rule, cases, warnings

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVEL = {Rule.OUTPUT: "error", Rule.UNVERIFIED: "error", Rule.AUDIT: "error", Rule.SKIPPED: "note"}


def render(result: CheckResult) -> str:
    """Give the JSON: one result for each case that is not verified, each skip and each warning."""
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [_run(result)]}
    return json.dumps(log, indent=2, allow_nan=False) + "\n"


def _run(result: CheckResult) -> dict[str, Any]:
    found = [case for case in cases(result) if case.verdict is not Verdict.VERIFIED]
    driver = {"name": "bnfold", "semanticVersion": __version__, "rules": [_rule(rule) for rule in Rule]}
    return {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"bnfold/check/{visible(result.reference)}"},
        "invocations": [
            {
                "executionSuccessful": result.verdict is not Verdict.UNVERIFIED,
                "exitCode": result.exit_status,
                "exitCodeDescription": str(result.verdict),
            }
        ],
        "columnKind": "unicodeCodePoints",
        "results": [_result(result, case) for case in (*found, *warnings(result))],
        "properties": {"verdict": str(result.verdict), "schema": result.schema, "truth": visible(result.truth)},
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": rule.slug,
        "shortDescription": {"text": rule.sentence},
        "defaultConfiguration": {"level": _LEVEL.get(rule, "warning")},
    }


def _result(result: CheckResult, case: Case) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": quote(case.candidate or visible(result.reference))},
            "region": {"startLine": 1},  # a model has no lines, but code scanning drops what names none
        }
    }
    if case.layer:
        location["logicalLocations"] = [{"fullyQualifiedName": case.layer, "kind": "member"}]
    about = "" if case.group == "check" else f"{case.group}: {case.name}: "
    identity = "\n".join((visible(result.reference), case.rule.id, case.group, case.name))
    return {
        "ruleId": case.rule.id,
        "ruleIndex": list(Rule).index(case.rule),
        "level": _LEVEL.get(case.rule, "warning"),
        "message": {"text": f"{about}{case.message or case.verdict}" + (f"\n{case.detail}" if case.detail else "")},
        "locations": [location],
        "partialFingerprints": {"bnfold/v1": hashlib.sha256(identity.encode()).hexdigest()},
    }
