"""SARIF and JUnit hold what their schemas allow and nothing else: both forbid what they don't name."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

from bnfold import report
from tests.report import results

RESULTS = [results.verified, results.different, results.unverified, results.skipped]

# sarif-schema-2.1.0.json (OASIS): the objects that a log of ours has. name: (required, allowed).
SARIF = {
    "log": ({"version", "runs"}, {"$schema", "inlineExternalProperties", "properties"}),
    "run": (
        {"tool"},
        {"automationDetails", "invocations", "columnKind", "results", "properties", "artifacts", "taxonomies"},
    ),
    "tool": ({"driver"}, {"extensions", "properties"}),
    "driver": ({"name"}, {"semanticVersion", "version", "informationUri", "rules", "fullName", "properties"}),
    "rule": (
        {"id"},
        {"name", "shortDescription", "fullDescription", "help", "helpUri", "defaultConfiguration", "properties"},
    ),
    "invocation": ({"executionSuccessful"}, {"exitCode", "exitCodeDescription", "commandLine", "properties"}),
    "result": (
        {"message"},
        {"ruleId", "ruleIndex", "level", "kind", "locations", "partialFingerprints", "fingerprints", "properties"},
    ),
    "location": (set(), {"id", "physicalLocation", "logicalLocations", "message", "properties"}),
    "physicalLocation": ({"artifactLocation"}, {"region", "contextRegion", "properties"}),
    "artifactLocation": ({"uri"}, {"uriBaseId", "index", "description", "properties"}),
    "region": ({"startLine"}, {"startColumn", "endLine", "endColumn", "snippet", "message", "properties"}),
    "logicalLocation": (set(), {"name", "fullyQualifiedName", "decoratedName", "kind", "index", "properties"}),
    "text": ({"text"}, {"markdown", "id", "arguments", "properties"}),
    "configuration": (set(), {"enabled", "level", "rank", "parameters", "properties"}),
}
LEVELS = {"none", "note", "warning", "error"}
URI_REFERENCE = re.compile(r"([A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")  # RFC 3986


def has(kind, item):
    required, allowed = SARIF[kind]
    assert isinstance(item, dict)
    assert required <= set(item) <= required | allowed, kind
    return item


@pytest.mark.parametrize("make", RESULTS)
def test_sarif_holds_what_its_schema_allows(make):
    log = has("log", json.loads(report.render(make(), "sarif"), parse_constant=pytest.fail))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    has("run", run)
    assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
    driver = has("driver", has("tool", run["tool"])["driver"])
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", driver["semanticVersion"])
    ids = [has("rule", rule)["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        assert has("text", rule["shortDescription"])["text"]
        assert has("configuration", rule["defaultConfiguration"])["level"] in LEVELS
    for invocation in run["invocations"]:
        assert isinstance(has("invocation", invocation)["executionSuccessful"], bool)
        assert isinstance(invocation["exitCode"], int)
    for item in run["results"]:
        sarif_result(item, ids)


def sarif_result(item, ids):
    has("result", item)
    assert ids[item["ruleIndex"]] == item["ruleId"]
    assert item["level"] in LEVELS
    assert has("text", item["message"])["text"]
    assert all(isinstance(value, str) for value in item["partialFingerprints"].values())
    for location in item["locations"]:
        physical = has("physicalLocation", has("location", location)["physicalLocation"])
        assert URI_REFERENCE.fullmatch(has("artifactLocation", physical["artifactLocation"])["uri"])
        assert has("region", physical["region"])["startLine"] >= 1
        for logical in location.get("logicalLocations", ()):
            assert has("logicalLocation", logical)["fullyQualifiedName"]


# The XSD that Jenkins' xUnit plugin and GitLab read. name: (required attributes, optional ones, children).
JUNIT = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors", "skipped", "disabled"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests"},
        {"failures", "errors", "skipped", "time", "timestamp", "hostname", "id", "package", "disabled", "file"},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": (
        {"name", "classname"},
        {"time", "status", "assertions", "file", "line"},
        {"skipped", "error", "failure", "system-out", "system-err", "properties"},
    ),
    "failure": (set(), {"message", "type"}, set()),
    "error": (set(), {"message", "type"}, set()),
    "skipped": (set(), {"message", "type"}, set()),
    "system-out": (set(), set(), set()),
    "system-err": (set(), set(), set()),
}
COUNTED = {"failures": "failure", "errors": "error", "skipped": "skipped"}


@pytest.mark.parametrize("make", RESULTS)
def test_junit_holds_what_its_schema_allows(make):
    root = ET.fromstring(report.render(make(), "junit"))
    assert root.tag == "testsuites"
    for element in root.iter():
        required, optional, children = JUNIT[element.tag]
        assert required <= set(element.attrib) <= required | optional, element.tag
        assert {child.tag for child in element} <= children
    for suite in root.iter("testsuite"):
        order = [child.tag for child in suite]
        assert order == sorted(order, key=["properties", "testcase", "system-out", "system-err"].index)
        assert int(suite.get("tests")) == len(suite.findall("testcase"))
    for element in (root, *root.iter("testsuite")):
        for attribute, tag in COUNTED.items():
            assert int(element.get(attribute)) == len(element.findall(f".//testcase/{tag}"))
        assert float(element.get("time")) >= 0
    cases = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert len(set(cases)) == len(cases)  # CI joins cases of one name
