"""A check as JUnit XML: one test case for each (candidate, provider, options, output)."""

from collections.abc import Sequence
from xml.etree import ElementTree as ET  # only written here, never parsed

from bnfold.checking.result import CheckResult, Verdict
from bnfold.printable import visible
from bnfold.report.check_cases import Case, cases

_ELEMENT = {Verdict.DIFFERENT: "failure", Verdict.UNVERIFIED: "error", Verdict.SKIPPED: "skipped"}
_COUNT = {Verdict.DIFFERENT: "failures", Verdict.UNVERIFIED: "errors", Verdict.SKIPPED: "skipped"}


def render(result: CheckResult) -> str:
    """Give the XML. A difference is a <failure>, what could not be verified an <error>, a skip <skipped>."""
    found = cases(result)
    root = ET.Element("testsuites", {"name": f"bnfold check {visible(result.reference)}", **_totals(found)})
    for group in dict.fromkeys(case.group for case in found):
        suite = [case for case in found if case.group == group]
        element = ET.SubElement(root, "testsuite", {"name": group, **_totals(suite)})
        _properties(element, result)
        for case in suite:
            element.append(_testcase(case))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _totals(found: Sequence[Case]) -> dict[str, str]:
    totals = {"tests": str(len(found))}
    totals |= {name: str(sum(case.verdict is verdict for case in found)) for verdict, name in _COUNT.items()}
    return totals | {"time": f"{sum(case.seconds for case in found):.3f}"}


def _properties(suite: ET.Element, result: CheckResult) -> None:
    facts = {
        "schema": result.schema,
        "reference": result.reference,
        "verdict": str(result.verdict),
        "truth": result.truth,
        "seed": str(result.seed),
        **{f"version.{name}": version for name, version in result.environment.versions},
    }
    properties = ET.SubElement(suite, "properties")
    for name, value in facts.items():
        ET.SubElement(properties, "property", name=visible(name), value=visible(value))


def _testcase(case: Case) -> ET.Element:
    element = ET.Element("testcase", classname=case.group, name=case.name, time=f"{case.seconds:.3f}")
    if case.verdict in _ELEMENT:
        outcome = ET.SubElement(element, _ELEMENT[case.verdict], message=case.message, type=case.rule.id)
        outcome.text = case.detail
    return element
