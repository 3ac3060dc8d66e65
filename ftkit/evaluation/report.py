"""The evaluation as a page to look at in a browser: one file, plots inside, nothing loaded from elsewhere (lesson 04)."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ftkit.common.console import clock
from ftkit.common.figures import confusion_figure, figure_of, picture
from ftkit.common.files import write_text
from ftkit.data.report import page_of, table
from ftkit.evaluation.tables import describe_evaluation, in_order
from ftkit.runs.documents import Calibration, Evaluation, Forgetting, RunRecord, Score, Slice, WrongAnswer
from ftkit.runs.run import Run

GREY, ORANGE = "#78716c", "#c2410c"


def write_report(run: Run) -> None:
    """Write the page of a run's evaluation, `report.html`, into the run."""
    result = Evaluation.load(run.folder)
    write_text(run.folder / "report.html", page(run.record, result, describe_evaluation(result)))


def page(record: RunRecord, result: Evaluation, said: Sequence[str]) -> str:
    """The page of a run's evaluation: `record` is `run.json`, `result` is `evaluation.json`, `said` its sentences."""
    n = f"the first {result.n} of {result.of}" if result.n < result.of else f"all {result.n}"
    note = (
        f"{result.task}, {n} messages of the {result.split} split, none of them used in training. Every model decodes "
        f"greedily. Model: {record.profile.model}."
    )
    sections = [("In words", "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in said) + "</ul>")]
    sections += [
        ("Before and after", _bars(result)),
        ("All figures", _figures(result)),
        ("Was it worth it?", _costs(result)),
    ]
    if result.general:
        sections.append(("What it cost elsewhere", _general(result.general)))
    for name, found in result.confusions.items():
        if len(found.values) <= 30:
            sections.append(
                (f"What is taken for what: {name}", picture(*confusion_figure(found.values, found.matrix, name)))
            )
    sections.append(("Where it is good and where not", _slices(result.slices)))
    if result.calibration:
        sections.append(("Does it know when it is wrong?", _calibration(result.calibration)))
    sections.append(("The worst answers", _worst(result.worst)))
    return page_of(f"Evaluation: {result.run}", note, sections)


def _share(score: Score | None) -> str:
    if not score:
        return "–"
    low, high = score.interval
    return f"{100 * score.value:.1f} ({100 * low:.0f} to {100 * high:.0f})"


def _bars(result: Evaluation) -> str:
    """Every metric by base and tuned, with intervals."""
    metrics = list(result.models["tuned"].scores)
    figure, axes = figure_of(8, 0.8 + 0.42 * len(metrics))
    for offset, name, color in ((-0.18, "base", GREY), (0.18, "tuned", ORANGE)):
        scores = [result.models[name].scores[metric] for metric in metrics]
        values = [100 * score.value for score in scores]
        gaps = [[max(0.0, value - 100 * s.interval[0]) for value, s in zip(values, scores, strict=True)],
                [max(0.0, 100 * s.interval[1] - value) for value, s in zip(values, scores, strict=True)]]  # fmt: skip
        places = [i + offset for i in range(len(metrics))]
        axes.barh(places, values, 0.34, xerr=gaps, color=color, label=name, error_kw={"ecolor": "#1c1917", "lw": 1})
    axes.set_yticks(range(len(metrics)), metrics)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of messages (F1 in %), bars with 95 % intervals")
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    tuned, base = (result.models[name].scores["exact match"] for name in ("tuned", "base"))
    return picture(figure, f"Exact match: base {_share(base)} %, tuned {_share(tuned)} %; the other metrics likewise.")


def _figures(result: Evaluation) -> str:
    names = in_order(result.models)
    metrics = result.models["tuned"].scores
    rows = [[metric, *(_share(result.models[name].scores.get(metric)) for name in names)] for metric in metrics]
    about = "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(result.models[name].about)}</li>" for name in names)
    return table(["metric, %", *names], rows, range(1, len(names) + 1)) + (
        f"<p>In brackets the 95 % interval (Wilson; bootstrap for F1).</p><ul>{about}</ul>"
    )


def _costs(result: Evaluation) -> str:
    """Each model's price beside its worth, and the paired difference from tuned."""
    rows = []
    for name in in_order(result.models):
        model = result.models[name]
        metric = "exact match" if "exact match" in model.scores else next(iter(model.scores))
        compared = result.comparisons.get(name, {}).get(metric)
        gap = "–"
        if compared:
            low, high = compared.interval
            gap = f"{100 * compared.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        trained = clock(model.training_seconds) if model.training_seconds else "none"
        rows.append([name, metric, _share(model.scores[metric]), gap, trained,
                     f"{1000 * model.seconds_per_message:,.0f} ms", f"{model.memory_mb:,.0f} MB"])  # fmt: skip
    heads = ["model", "judged by", "score, %", "tuned minus this one, points", "training", "a message", "memory"]
    return table(heads, rows, range(2, 7)) + "<p>Memory is that of the loaded weights, or of the fitted model.</p>"


def _general(found: Forgetting) -> str:
    rows = [[kind, f"{c.base} of {c.of}", f"{c.tuned} of {c.of}"] for kind, c in found.by_kind.items()]
    p = found.perplexity
    rows.append(["perplexity of plain English", f"{p.first:.1f}", f"{p.second:.1f}"])
    return table(["general check", "base", "tuned"], rows, (1, 2)) + (
        "<p>Questions and text have nothing to do with the task: what got worse here was forgotten.</p>"
    )


def _slices(found: Sequence[Slice]) -> str:
    fields = list(found[0].fields) if found else []
    rows = [
        [f"{part.by}: {part.value}", f"{part.n}{' (few)' if part.small else ''}",
         _share(Score(value=part.exact_match, interval=part.interval)),
         *(f"{100 * part.fields[name]:.0f}" for name in fields)]
        for part in found
    ]  # fmt: skip
    heads = ["part", "n", "exact match, %", *(f"{name}, %" for name in fields)]
    return (
        table(heads, rows, range(1, len(heads))) + "<p>Parts marked “few” are too small to say much; see the interval.</p>"
    )


def _calibration(found: Calibration) -> str:
    figure, axes = figure_of(5, 4.4)
    certain = [100 * group.certainty for group in found.bins]
    right = [100 * group.right for group in found.bins]
    gaps = [[max(0.0, r - 100 * g.interval[0]) for r, g in zip(right, found.bins, strict=True)],
            [max(0.0, 100 * g.interval[1] - r) for r, g in zip(right, found.bins, strict=True)]]  # fmt: skip
    axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", label="certainty that can be believed")
    axes.errorbar(certain, right, gaps, marker="o", linestyle="none", color=ORANGE, capsize=3, label="groups of equal size")
    axes.set(xlim=(0, 101), ylim=(0, 101), xlabel="certainty of the model, %", ylabel=f"{found.field} right, %")
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    caption = (
        f"Reliability of {found.field}, n = {found.n}: mean certainty {found.certainty:.1%}, right "
        f"{found.accuracy:.1%}; expected calibration error {100 * found.ece:.1f} points over {len(found.bins)} "
        "groups. Read it with care: it depends on the number of groups, and chance alone makes it larger than 0."
    )
    return picture(figure, caption)


def _worst(found: Sequence[WrongAnswer]) -> str:
    if not found:
        return "<p>No answer was wrong.</p>"
    rows = [[entry.message, entry.target, entry.prediction, ", ".join(entry.wrong)] for entry in found]
    return table(["message", "right answer", "the tuned model's answer", "wrong"], rows)
