"""Pages to look at in a browser: one file, plots inside, nothing loaded from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ftkit.common.errors import Finding
from ftkit.common.figures import counts_grid, figure_of, picture

if TYPE_CHECKING:
    pass


STYLE = """
:root { color-scheme: light dark; --ink: #1c1917; --paper: #fffdfa; --line: #e7e0d8; --soft: #57534e;
        --fix: #b42318; --ok: #15803d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f5f5f4; --paper: #1c1917; --line: #44403c; --soft: #a8a29e; --fix: #f97066; --ok: #4ade80; }
  figure { background: #fff; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.note { color: var(--soft); margin-top: 0; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .45rem .6rem .45rem 0; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.ok { color: var(--ok); font-weight: 600; }
.fix { color: var(--fix); font-weight: 600; }
.scroll { overflow-x: auto; }
details { margin: .3rem 0; }
summary { cursor: pointer; color: var(--soft); }
details li { font-size: .88rem; overflow-wrap: anywhere; }
figure { margin: 1rem 0; border-radius: 6px; overflow-x: auto; }
figure svg { width: 100%; height: auto; min-width: 34rem; display: block; }
figcaption { color: #57534e; padding: 0 .8rem .6rem; font-size: .9rem; }
"""


def page_of(title: str, note: str, sections: Iterable[tuple[str, str]]) -> str:
    """A whole HTML page: title, a line below it, and (heading, HTML) sections."""
    body = "".join(f"<section><h2>{html.escape(heading)}</h2>{content}</section>" for heading, content in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<h1>{html.escape(title)}</h1><p class="note">{html.escape(note)}</p>{body}</body></html>\n'
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Sequence[int] = ()) -> str:
    """An HTML table; the columns in `numeric` stand to the right."""

    def cells(tag: str, values: Sequence[Any]) -> str:
        return "".join(
            f"<{tag}{' class=number' if i in numeric else ''}>{html.escape(str(value))}</{tag}>"
            for i, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells("th", heads)}</tr></thead><tbody>{body}</tbody></table></div>'


def data_report(name: str, findings: Sequence[Finding]) -> str:
    """The page of a data check: a line for each finding, its single cases to unfold, and the plots."""
    lines = []
    for finding in findings:
        cases = "".join(f"<li>{html.escape(case)}</li>" for case in finding.cases[:500])
        more = f"<details><summary>{len(finding.cases):,} case(s)</summary><ul>{cases}</ul></details>" if cases else ""
        fix = f"<br>{html.escape(finding.fix)}" if finding.fix and not finding.ok else ""
        mark = (
            '<span class="ok">ok</span>' if finding.ok else f'<span class="fix">{"stop" if finding.gate else "look"}</span>'
        )
        lines.append(
            f"<tr><td>{mark}</td><td>{html.escape(finding.thing)}</td><td>{html.escape(finding.found)}{fix}{more}</td></tr>"
        )
    stops = sum(f.gate and not f.ok for f in findings)
    note = (
        f"{stops} finding(s) must be settled before training; the others are for you to judge."
        if stops
        else "Nothing here forbids training; what is marked “look” is for you to judge."
    )
    sections = [("Findings", f'<div class="scroll"><table><tbody>{"".join(lines)}</tbody></table></div>')]
    plots = {"balance": ("Balance", _balance_plot), "simple model": ("What a simple model confuses", _confusion_plot),
             "lengths": ("Lengths", _lengths_plot)}  # fmt: skip
    for finding in findings:
        if finding.thing in plots and finding.numbers:
            heading, draw = plots[finding.thing]
            field = finding.numbers.get("field")
            sections.append((f"{heading}: {field}" if field else heading, draw(finding)))
    return page_of(f"Data check: {name}", note, sections)


def _balance_plot(finding: Finding) -> str:
    counts = {split: values for split, values in finding.numbers["counts"].items() if values}
    names = list(counts.get("train") or next(iter(counts.values())))[:30]
    figure, axes = figure_of(8, 1.2 + 0.3 * len(names))
    height = 0.8 / len(counts)
    for n, (split, values) in enumerate(counts.items()):
        total = sum(values.values())
        shares = [100 * values.get(name, 0) / total for name in names]
        axes.barh([i + n * height for i in range(len(names))], shares, height, label=f"{split} (n = {total:,})")
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel("share of the split, %")
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return picture(figure, f"Share of each value of {finding.numbers['field']} in every split. {finding.found}.")


def _confusion_plot(finding: Finding) -> str:
    from sklearn.metrics import confusion_matrix

    names = sorted(set(finding.numbers["gold"]) | set(finding.numbers["guessed"]))
    if len(names) > 30:
        return table(["confused"], [[case] for case in finding.cases[:20]])
    matrix = confusion_matrix(finding.numbers["gold"], finding.numbers["guessed"], labels=names)
    figure, axes = figure_of(2.5 + 0.42 * len(names), 1.8 + 0.36 * len(names))
    counts_grid(axes, matrix.tolist(), names, names)
    axes.set_xlabel("the simple model's guess")
    axes.set_ylabel("label")
    most = f" Most often: {'; '.join(finding.cases[:3])}." if finding.cases else ""
    return picture(figure, f"{finding.found}. Rows are labels, columns the guesses.{most}")


def _lengths_plot(finding: Finding) -> str:
    tokens, limit = finding.numbers["tokens"], finding.numbers["limit"]
    figure, axes = figure_of(8, 2.8)
    axes.hist(tokens, bins=40, color="#c2410c")
    if max(tokens, default=0) > 0.5 * limit:
        axes.axvline(limit, color="#1c1917", linestyle="--", label=f"limit: {limit}")
        axes.legend(frameon=False)
    axes.set_xlabel("tokens of a training example, prompt and completion")
    axes.set_ylabel("rows")
    axes.spines[["top", "right"]].set_visible(False)
    return picture(figure, f"{finding.found}.")
