"""The data check as a page to look at in a browser: one file, plots inside, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from ftkit.common.errors import Finding
from ftkit.common.figures import counts_grid, figure_of, picture
from ftkit.common.templates import render


def render_data_report(name: str, findings: Sequence[Finding]) -> str:
    """The page of a data check: a line for each finding, its single cases to unfold, and the plots."""
    stops = sum(finding.gate and not finding.ok for finding in findings)
    note = (
        f"{stops} finding(s) must be settled before training; the others are for you to judge."
        if stops
        else "Nothing here forbids training; what is marked “look” is for you to judge."
    )
    drawn = {"balance": ("Balance", _balance_plot), "simple model": ("What a simple model confuses", _confusion_plot),
             "lengths": ("Lengths", _lengths_plot)}  # fmt: skip
    plots = []
    for finding in findings:
        if finding.thing in drawn and finding.numbers:
            heading, draw = drawn[finding.thing]
            field = finding.numbers.get("field")
            plots.append((f"{heading}: {field}" if field else heading, draw(finding), finding.cases[:20]))
    title = f"Data check: {name}"
    return render("data/templates/report.html", title=title, note=note, findings=findings, plots=plots)


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
    return picture(figure, f"Share of each value of {finding.numbers['field']} in every split. {finding.text}.")


def _confusion_plot(finding: Finding) -> str:
    """The confusion matrix; nothing where it would have more than 30 rows: the page then lists the cases."""
    from sklearn.metrics import confusion_matrix

    names = sorted(set(finding.numbers["gold"]) | set(finding.numbers["guessed"]))
    if len(names) > 30:
        return ""
    matrix = confusion_matrix(finding.numbers["gold"], finding.numbers["guessed"], labels=names)
    figure, axes = figure_of(2.5 + 0.42 * len(names), 1.8 + 0.36 * len(names))
    counts_grid(axes, matrix.tolist(), names, names)
    axes.set_xlabel("the simple model's guess")
    axes.set_ylabel("label")
    most = f" Most often: {'; '.join(finding.cases[:3])}." if finding.cases else ""
    return picture(figure, f"{finding.text}. Rows are labels, columns the guesses.{most}")


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
    return picture(figure, f"{finding.text}.")
