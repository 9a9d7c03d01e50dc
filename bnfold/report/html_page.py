"""One HTML page that needs nothing but itself: no script, no request, light and dark."""

import html
from collections.abc import Iterable, Sequence

from bnfold.printable import visible

# The policy forbids what the page doesn't do anyway, should a name ever slip through the escaping.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

_STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --line: #d9dde3; --text: #1c2128; --soft: #5b6572; --track: #e9ecf0;
  --reference: #5b7fb8; --candidate: #d9772b; --allowed: #1c2128;
  --verified: #1a7f37; --different: #c62828; --unverified: #8a6100; --skipped: #5b6572; }
@media (prefers-color-scheme: dark) { :root {
  --page: #0f1318; --card: #171c23; --line: #2e3640; --text: #e4e8ee; --soft: #9aa5b3; --track: #262d36;
  --reference: #7ea3dd; --candidate: #f0944d; --allowed: #e4e8ee;
  --verified: #4cc26a; --different: #ff7b72; --unverified: #e0b04a; --skipped: #9aa5b3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: .95rem; margin: 0 0 .5rem; } p { margin: .4rem 0; } ul { margin: .5rem 0; padding-left: 1.2rem; }
code, .number { font-family: ui-monospace, "SF Mono", Consolas, monospace; font-size: .9em; }
.soft { color: var(--soft); } .small { font-size: .85rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.15rem;
  margin: 0 0 1rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.tiles { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); margin: 1.25rem 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .7rem 1rem; }
.tile b { display: block; font-size: 1.35rem; font-weight: 650; }
.verdict { display: inline-block; border: 1.5px solid currentColor; border-radius: 999px; padding: .05rem .65rem;
  font-weight: 650; font-size: .85rem; white-space: nowrap; }
h1 .verdict { font-size: 1rem; padding: .15rem .9rem; vertical-align: .2em; margin-left: .4rem; }
.verified { color: var(--verified); } .different { color: var(--different); }
.unverified { color: var(--unverified); } .skipped { color: var(--skipped); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
summary { cursor: pointer; font-weight: 600; } details[open] > summary { margin-bottom: .75rem; }
figure { margin: 0; } figcaption { font-size: .85rem; color: var(--soft); margin-bottom: .35rem; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 11px; }
svg .axis { stroke: var(--line); } svg .track { fill: var(--track); }
svg .reference { fill: var(--reference); } svg .candidate { fill: var(--candidate); }
svg .over { fill: var(--different); } svg .allowed { stroke: var(--allowed); stroke-dasharray: 4 3; fill: none; }
svg .path { fill: none; stroke-width: 2; } svg .path.reference { stroke: var(--reference); fill: none; }
svg .path.candidate { stroke: var(--candidate); fill: none; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 .8em; }
.key.reference { background: var(--reference); } .key.candidate { background: var(--candidate); }
.key.allowed { height: 0; border-top: 2px dashed var(--allowed); border-radius: 0; width: 1.9em;
  vertical-align: middle; }
@media print { body { background: #fff; max-width: none; } .card { break-inside: avoid; } }
"""


def page(title: str, body: str) -> str:
    """Wrap ready HTML into a page."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def text(raw: str) -> str:
    """Escape: what comes out is text in HTML, in SVG and inside a quoted attribute."""
    return html.escape(visible(raw), quote=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Iterable[int] = (), most: int = 200) -> str:
    """Lay out ready HTML cells. numbers: columns that are set to the right. Rows beyond `most` are counted."""
    if not rows:
        return ""
    right = frozenset(numbers)
    head = _row("th", header, right)
    body = "".join(_row("td", row, right) for row in rows[:most])
    more = f'<p class="soft small">and {len(rows) - most:,} more</p>' if len(rows) > most else ""
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>{more}'


def section(title: str, *parts: str) -> str:
    """Give a heading with what follows it; nothing where there is nothing."""
    inner = "\n".join(filter(None, parts))
    return f"<section>\n<h2>{text(title)}</h2>\n{inner}\n</section>" if inner else ""


def details(title: str, inner: str, *, is_open: bool = False) -> str:
    """Put ready HTML behind a triangle. title: ready HTML."""
    state = " open" if is_open else ""
    return f'<details class="card"{state}><summary>{title}</summary>\n{inner}\n</details>' if inner else ""


def bullets(items: Iterable[str], most: int = 30) -> str:
    """List ready HTML."""
    entries = list(items)
    more = [f"and {len(entries) - most:,} more"] if len(entries) > most else []
    inner = "".join(f"<li>{entry}</li>" for entry in entries[:most] + more)
    return f"<ul>{inner}</ul>" if inner else ""


def _row(cell: str, entries: Sequence[str], right: frozenset[int]) -> str:
    numbered = (' class="number"' if i in right else "" for i in range(len(entries)))
    return (
        "<tr>"
        + "".join(f"<{cell}{kind}>{entry}</{cell}>" for kind, entry in zip(numbered, entries, strict=True))
        + "</tr>"
    )
