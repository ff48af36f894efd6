"""The data report as files: JSON for programs, Markdown for a terminal, HTML that needs nothing else for a
browser.

Names, reasons and examples are untrusted. In Markdown they are escaped or indented, so that nothing in them
is markup; in HTML they are escaped, and the page forbids itself scripts, requests and frames.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from plumbline.preferences.report.pictures import text
from plumbline.preferences.report.schema import DataReport
from plumbline.preferences.report.sections import Section, Table, sections

TITLE = "Data report"
QUOTED_CHARACTERS = 600
_MARKUP = re.compile(r"([\\`*\[\]<>|])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Data report</title>
<style>
:root { --paper: #ffffff; --ink: #1d2430; --soft: #5d6675; --line: #dfe3e9; --panel: #f5f7fa;
  --s0: #3b6ea8; --s1: #d98032; --s2: #4d9a6a; --s3: #9468b0; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e4e8ee; --soft: #9aa5b5;
  --line: #2c333e;
  --panel: #1b2029; --s0: #6ea3dd; --s1: #e29a58; --s2: #6cbd8b; --s3: #b78fd0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; }
p, ul { margin: .4rem 0; max-width: 46rem; } ul { padding-left: 1.2rem; }
code, pre { font: .85rem/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
nav { margin: .8rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; } nav a { color: var(--s0); }
.glance { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .6rem;
  padding: 0;
  margin: 1rem 0; max-width: none; }
.glance > div { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem;
  padding: .6rem .8rem; }
.glance dt { color: var(--soft); font-size: .85rem; } .glance dd { margin: 0; font-size: 1.05rem;
  font-weight: 600; }
.glance small { display: block; color: var(--soft); font-size: .8rem; font-weight: 400; }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr));
  gap: .8rem 2.5rem;
  align-items: start; margin: .8rem 0; }
.wide { overflow-x: auto; min-width: 0; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top;
  unicode-bidi: isolate; }
th { color: var(--soft); font-weight: 500; }
td { white-space: nowrap; } td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
.more { color: var(--soft); font-size: .85rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 1rem 2.5rem;
  margin: .8rem 0; }
figure { margin: .6rem 0; } figcaption { color: var(--soft); font-size: .85rem; } svg { width: 100%;
  max-width: 34rem; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.mid { text-anchor: middle; } .end { text-anchor: end; }
.s0 { fill: var(--s0); } .s1 { fill: var(--s1); } .s2 { fill: var(--s2); } .s3 { fill: var(--s3); }
.over { fill-opacity: .6; } .axis, .fair { stroke: var(--soft); } .fair { stroke-dasharray: 3 3; }
.reach { stroke: var(--s0); stroke-width: 2; stroke-opacity: .55; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem;
  margin: .8rem 0;
  white-space: pre-wrap; unicode-bidi: plaintext; }
</style>
</head>
<body>
"""


def write_report(report: DataReport, folder: Path) -> None:
    """Write report.json, report.md and report.html into `folder`: the same bytes for the same report."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    for name, content in (("report.json", whole), ("report.md", markdown(report)),
                          ("report.html", html(report))):
        (folder / name).write_text(content, encoding="utf-8", newline="\n")


def markdown(report: DataReport) -> str:
    """Return the report as Markdown for a terminal."""
    lines = [f"# {TITLE}", "", f"Snapshot `{report['snapshot']}`.", ""]
    for section in sections(report):
        lines += [f"## {section.title}", ""]
        for tile in section.tiles:
            lines.append(f"- {tile.name}: {tile.value}" + (f" ({tile.note})" if tile.note else ""))
        lines += [f"- {_plain(sentence)}" for sentence in section.sentences]
        lines += [""] if section.tiles or section.sentences else []
        for table in section.tables:
            lines += _markdown_table(table)
    lines += ["## Examples", ""]
    for example in report["examples"]:
        for field in _quoted(example):
            lines += ["    " + _CONTROL.sub(" ", line) for line in field.splitlines()]
        lines.append("")
    return "\n".join(lines)


def html(report: DataReport) -> str:
    """Return the report as one HTML page with style and pictures, without scripts."""
    found = sections(report)
    links = [*(section.title for section in found), "Examples"]
    body = [f"<h1>{TITLE}</h1>", f"<p>Snapshot <code>{text(report['snapshot'])}</code></p>", "<nav>",
            *(f'<a href="#{_anchor(title)}">{title}</a>' for title in links), "</nav>"]
    for section in found:
        body += _html_section(section)
    body.append('<h2 id="examples">Examples</h2>')
    body += [f"<pre>{text(chr(10).join(_quoted(example)))}</pre>" for example in report["examples"]]
    return _HEAD + "\n".join([*body, "</body>", "</html>", ""])


def _html_section(section: Section) -> Iterator[str]:
    yield f'<h2 id="{_anchor(section.title)}">{section.title}</h2>'
    if section.tiles:
        yield '<dl class="glance">'
        for tile in section.tiles:
            note = f"<small>{text(tile.note)}</small>" if tile.note else ""
            yield f"<div><dt>{text(tile.name)}</dt><dd>{text(tile.value)}{note}</dd></div>"
        yield "</dl>"
    if section.sentences:
        yield "<ul>"
        yield from (f"<li>{text(sentence)}</li>" for sentence in section.sentences)
        yield "</ul>"
    if section.pictures:
        yield '<div class="pictures">' + "\n".join(section.pictures) + "</div>"
    if section.tables:
        yield '<div class="tables">'
        for table in section.tables:
            yield from _html_table(table)
        yield "</div>"


def _html_table(table: Table) -> Iterator[str]:
    yield '<div class="wide"><table><thead><tr>' + "".join(f"<th>{text(cell)}</th>" for cell in table.header)
    yield "</tr></thead><tbody>"
    for row in table.rows:
        yield "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>"
    more = f'<p class="more">and {table.more:,} more</p>' if table.more else ""
    yield f"</tbody></table>{more}</div>"


def _markdown_table(table: Table) -> list[str]:
    more = [f"and {table.more:,} more", ""] if table.more else []
    return [f"| {' | '.join(table.header)} |", "|" + "---|" * len(table.header),
            *(f"| {' | '.join(map(_plain, row))} |" for row in table.rows), "", *more]


def _plain(untrusted: str) -> str:
    """Return a text on one line, with Markdown's special characters escaped."""
    return _MARKUP.sub(r"\\\1", _CONTROL.sub(" ", untrusted))


def _quoted(example: Mapping[str, object]) -> list[str]:
    """Return the fields of a row, one a line, long ones cut."""
    lines = [f"{name}: {value}" for name, value in example.items()]
    return [line if len(line) <= QUOTED_CHARACTERS else line[:QUOTED_CHARACTERS] + " ..." for line in lines]


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
