"""Writes `RECIPE.md` and its plots from the saved experiments: no figure in the page is typed by hand."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from benchmarks.report import markdown_table
from experiments.laboratory import Line, load_results, read_plan
from experiments.recipe import PLAN, RESULTS
from ftkit.common.console import clock
from ftkit.common.files import replacing
from ftkit.common.paths import kit_root
from ftkit.evaluation.intervals import seeds_interval
from ftkit.runs.documents import Evaluation, Score
from ftkit.runs.run import Run

PAGE = kit_root() / "experiments" / "RECIPE.md"
FIELDS = ("intent", "urgency", "guests", "day", "time", "allergens")
METHODS = {"full": "#b45309", "lora": "#0f766e", "qlora": "#1d4ed8", "tfidf": "#57534e"}


def with_interval(value: float, interval: Sequence[float], sign: str = "") -> str:
    """A share, or a difference of shares if `sign` is "+", in % with its interval in brackets."""
    return "{:{s}.1f} ({:{s}.1f} to {:{s}.1f})".format(*(100 * number for number in (value, *interval)), s=sign)


def results_of(line: Line, saved: dict[str, Any]) -> list[dict[str, Any]]:
    """The line's results that are there and did not fail, in the order of its seeds."""
    found = [saved["results"].get(experiment.key) for experiment in line.experiments]
    return [result for result in found if result and "failed" not in result]


def fields_right(result: dict[str, Any]) -> np.ndarray:
    """For every validation row the share of its six fields that are right: shape [rows]."""
    return np.mean([[int(digit) for digit in result["rows"][name]] for name in FIELDS], axis=0)


def difference(line: list[dict[str, Any]], centre: list[dict[str, Any]]) -> tuple[float, float, float] | None:
    """Share of right fields against the centre's, the same rows and seeds paired: (difference, low, high), in points.

    The interval counts both chances: which rows are asked, and, where both have several seeds, which seed trained.
    """
    mine, theirs = ({r["experiment"]["seed"]: fields_right(r) for r in some} for some in (line, centre))
    seeds = sorted(set(mine) & set(theirs))
    if not seeds:
        return None
    gap, (low, high) = seeds_interval([mine[seed] - theirs[seed] for seed in seeds])
    return 100 * gap, 100 * low, 100 * high


def mean(results: list[dict[str, Any]], *path: str) -> float:
    """The mean of a figure over the seeds."""
    values = []
    for result in results:
        for name in path:
            result = result[name]
        values.append(result)
    return float(np.mean(values))


def group(name: str, about: str, lines: list[Line], saved: dict[str, Any]) -> str:
    """One group's table."""
    centre = results_of(lines[0], saved)
    rows, failed = [], []
    for line in lines:
        found = results_of(line, saved)
        failed += [
            f"*{line.name}*: {saved['results'][e.key]['failed']}"
            for e in line.experiments
            if "failed" in saved["results"].get(e.key, {})
        ]
        if not found:
            continue
        gap = difference(found, centre) if line is not lines[0] else None
        rows.append((
            line.name, line.expected or "–", str(len(found)),
            f"{100 * mean(found, 'scores', 'intent'):.1f}", f"{100 * mean(found, 'scores', 'exact match'):.1f}",
            f"{100 * float(np.mean([fields_right(r) for r in found])):.1f}",
            f"{gap[0]:+.1f} ({gap[1]:+.1f} to {gap[2]:+.1f})" if gap else "–",
            f"{mean(found, 'validation_loss'):.3f}", f"{mean(found, 'tokens') / mean(found, 'examples'):.0f}",
            f"{mean(found, 'seconds'):.0f}", line.kept or "–",
        ))  # fmt: skip
    heads = ["change", "expected", "seeds", "intent, %", "whole ticket, %", "fields, %", "fields against the centre",
             "loss", "tokens an example", "seconds", "kept"]  # fmt: skip
    said = f"\n\nCould not be run: {'; '.join(dict.fromkeys(failed))}" if failed else ""
    return f"## {about}\n\n{markdown_table(heads, rows)}{said}" if rows else ""


def curve_points(lines: list[Line], saved: dict[str, Any], metric: str) -> dict[str, list[tuple[int, float, float, int]]]:
    """{method: [(rows, share, half of the 95 % interval, seeds)]}.

    The interval counts both chances: which rows are asked (variance over validation rows) and which seed trained
    (variance over seeds, where there are several).
    """
    found: dict[str, list] = {}
    for line in lines:
        results = [r for r in results_of(line, saved) if metric in r["rows"]]
        if not results:
            continue
        right = np.array([[int(digit) for digit in r["rows"][metric]] for r in results], dtype=float)
        first = line.experiments[0]
        found.setdefault(first.method, []).append((first.rows, *share_and_half(right), len(right)))
    return found


def on_test(lines: list[Line], saved: dict[str, Any]) -> list[tuple[str, ...]]:
    """Scores on the test split where it was asked, and QLoRA's less each other line's, paired by message and seed.

    Rows (method, metric, share, seeds, QLoRA's difference), with 95 % intervals over messages and seeds. A method's first
    line stands for it; its other ones are changes from that and are called so.
    """

    def scores(line: Line, metric: str) -> dict[int, list[int]]:
        found = [r for r in results_of(line, saved) if metric in r.get("test", {}).get("rows", {})]
        return {r["experiment"]["seed"]: [int(digit) for digit in r["test"]["rows"][metric]] for r in found}

    rows = []
    for metric in ("intent", "exact match"):
        by_name: dict[str, dict[int, list[int]]] = {}
        for line in lines:
            if some := scores(line, metric):
                method = line.experiments[0].method
                by_name[f"{method}, {line.name}" if method in by_name else method] = some
        ours = by_name.get("qlora", {})
        for method, some in by_name.items():
            share, (low, high) = seeds_interval(list(some.values()))
            common = sorted(set(ours) & set(some)) if method != "qlora" else []
            gap = "–"
            if common:
                difference, reach = seeds_interval([np.subtract(ours[seed], some[seed]) for seed in common])
                gap = f"{100 * difference:+.1f} ({100 * reach[0]:+.1f} to {100 * reach[1]:+.1f})"
            shown = "whole ticket" if metric == "exact match" else metric
            rows.append((method, shown, f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f})", str(len(some)), gap))
    return rows


def cut_changes(lines: list[Line], saved: dict[str, Any]) -> list[tuple[str, ...]]:
    """What full fine-tuning of the linear layers changed, whole and cut to a rank, scored on the validation split.

    Rows (what is left, share of the change's squared size, intent, whole ticket, fields, fields against the whole change,
    fields against the centre), the differences with 95 % intervals.
    """
    centre = results_of(lines[0], saved)
    rows = []
    for line in lines:
        whole = [result for result in results_of(line, saved) if "cut" in result]
        ranks = list(whole[0]["cut"]) if whole else []
        left = {"all of it": [{**result, "kept": 1} for result in whole]} if whole else {}
        left |= {f"rank {r}": [{**w["cut"][r], "experiment": w["experiment"]} for w in whole] for r in reversed(ranks)}
        for name, found in left.items():
            gaps = [difference(found, whole) if found[0]["kept"] < 1 else None, difference(found, centre)]
            rows.append((
                name, f"{100 * mean(found, 'kept'):.0f} %", f"{100 * mean(found, 'scores', 'intent'):.1f}",
                f"{100 * mean(found, 'scores', 'exact match'):.1f}",
                f"{100 * float(np.mean([fields_right(r) for r in found])):.1f}",
                *(f"{gap[0]:+.1f} ({gap[1]:+.1f} to {gap[2]:+.1f})" if gap else "–" for gap in gaps),
            ))  # fmt: skip
    return rows


def share_and_half(right: np.ndarray) -> tuple[float, float]:
    """The mean of scores [seeds, rows] and half of its 95 % interval: chance of the rows and, where there are several, seeds."""
    share, (low, high) = seeds_interval(right)
    return share, (high - low) / 2


def plot_curves(lines: list[Line], saved: dict[str, Any], target: Path) -> bool:
    """Draw intent and whole ticket over the number of training rows; False if there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "ftkit"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    drawn = False
    for axis, metric in zip(axes, ("intent", "exact match"), strict=True):
        for number, (method, points) in enumerate(curve_points(lines, saved, metric).items()):
            x, y, half, _ = map(np.array, zip(*points, strict=True))
            beside = x * 1.04 ** (number - 1.5)  # so that the bars do not hide each other
            reach = [100 * np.minimum(half, y), 100 * np.minimum(half, 1 - y)]
            axis.errorbar(beside, 100 * y, reach, marker="o", capsize=3, label=method, color=METHODS[method])
            drawn = True
        axis.set(xscale="log", xlabel="training rows", title="intent right" if metric == "intent" else "whole ticket right")
        axis.set_xticks([50, 100, 200, 400, 800, 1460], ["50", "100", "200", "400", "800", "1460"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("% of the validation split")
    if drawn:
        axes[0].legend()
        figure.tight_layout()
        with replacing(target) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return drawn


def shipped(run: Run) -> str:
    """What the recipe reaches on the test split: the run that the kit ships beside every cheap alternative."""
    result, training, profile = Evaluation.load(run.folder), run.record.training, run.profile
    metrics = ("intent", "intent macro-F1", "exact match")

    def shown(score: Score | None) -> str:
        return with_interval(score.value, score.interval) if score else "–"

    order = ("majority", "TF-IDF", "base", "few-shot", "tuned")
    rows = [(name, *(shown(result.models[name].scores.get(metric)) for metric in metrics)) for name in order]
    gap = result.comparisons["TF-IDF"]["intent macro-F1"]
    low, high = gap.interval
    sentences = (
        f"Tuned less TF-IDF trained on the same rows, macro-F1 of the intent: {100 * gap.difference:+.1f} points, paired, "
        f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}."
    )
    if low <= 0 <= high:
        power = norm.ppf(0.975) + norm.ppf(0.8)
        needed = gap.n * (power * (high - low) / 2 / norm.ppf(0.975) / gap.difference) ** 2
        sentences += (
            f" It holds zero: on the intent alone the two are not told apart. If that difference is the true one, some "
            f"{round(needed, -2):,.0f} messages would be needed to detect it in four of five tries. What TF-IDF cannot do at "
            "all is the rest of the ticket."
        )
    return (
        "## What the recipe reaches\n\n"
        f"The run in `data/reference_run`: {training.steps:,} steps of {profile.examples_per_step} examples "
        f"({profile.epochs:g} passes), rank {profile.rank}, alpha {profile.alpha}, learning rate {profile.learning_rate:g}, "
        "the batches of like length in random order, "
        f"{clock(training.seconds)} on two cores. The desk's test split, {result.n} messages, in % with 95 % intervals:\n\n"
        + markdown_table(["model", "intent", "intent macro-F1", "whole ticket"], rows)
        + f"\n\n{sentences}"
    )


def write(page: Path = PAGE) -> None:
    """Write the page, and the plot where there are curves."""
    saved = load_results(RESULTS)
    plan = tomllib.loads(PLAN.read_text(encoding="utf-8"))
    taught = f"## What the search taught\n\n{plan.pop('taught')['said'].strip()}"
    about, words = ({name: given.get(key, "") for name, given in plan.items()} for key in ("about", "said"))
    lines = read_plan(PLAN)
    parts = []
    for name, title in about.items():
        own = [line for line in lines if line.group == name]
        if name != "curves":
            parts.append(group(name, title, own, saved))
        elif plot_curves(own, saved, RESULTS.with_name("curves.svg")):
            rows = [
                (method, str(n), *(f"{100 * v[0]:.1f} ± {100 * v[1]:.1f}" if v else "–" for v in values), str(seeds))
                for method, n, values, seeds in _both(own, saved)
            ]
            parts.append(
                f"## {title}\n\n![Scores over the number of training rows, by method](results/curves.svg)\n\n"
                + markdown_table(["method", "rows", "intent, %", "whole ticket, %", "seeds"], rows)
                + "\n\n± is half of a 95 % interval: chance of the rows asked, and of the seeds where there are several."
            )
        if not any(results_of(line, saved) for line in own):
            continue
        if tested := on_test(own, saved):
            heads = ["method", "metric", "test split, %", "seeds", "QLoRA less this, points"]
            of = "the largest number of rows" if name == "curves" else "all rows"
            said = f"Trained on {of} and scored on the test split, which no choice was made by:"
            parts.append(f"{said}\n\n{markdown_table(heads, tested)}")
        if cuts := cut_changes(own, saved):
            heads = ["left of the change", "squared size", "intent, %", "whole ticket, %", "fields, %",
                     "fields against all of it", "fields against the centre"]  # fmt: skip
            said = (
                "What full fine-tuning of the linear layers changed in them, cut to its largest directions (by the singular "
                "values): the best that an adapter of that rank could hold of it. Validation split:"
            )
            parts.append(f"{said}\n\n{markdown_table(heads, cuts)}")
        if words[name]:
            parts.append(words[name].strip())
    dates = sorted({result["date"] for result in saved["results"].values()})
    head = (
        "# The recipe, looked for\n\n"
        "Written by `python -m experiments.recipe --report` from `experiments/results/recipe.json`; the plan, with what was\n"
        "expected before, is `experiments/recipe.toml`. Every experiment trains on the desk's training rows and is scored on\n"
        "its validation split (156 messages), never chosen by the test split. *Fields* is the share of all fields that are right; its\n"
        "difference from the centre is paired by message, with a 95 % interval: where that holds zero, nothing was detected.\n"
        "With one seed the interval counts the luck of the messages alone: another order of the same rows moves a short training as\n"
        "well (*One change at a time*), so a change is kept where it helps by more than that, or costs nothing.\n"
        "Most trainings are short, 100 to 800 steps, where the recipe's own has 1,460: compare within a table.\n"
        "*Seconds* were taken with one thread on a machine that did other work too: they say little.\n\n"
        f"*{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, two cores without a GPU.*"
    )
    with replacing(page) as temporary:
        whole = [head, shipped(Run(kit_root() / "data" / "reference_run")), taught, *filter(None, parts)]
        temporary.write_text("\n\n".join(whole) + "\n", encoding="utf-8")


def _both(lines: list[Line], saved: dict[str, Any]) -> list[tuple[str, int, list[tuple[float, float] | None], int]]:
    intent, whole = (curve_points(lines, saved, metric) for metric in ("intent", "exact match"))
    rows = []
    for method, points in intent.items():
        others = {n: (share, half) for n, share, half, _ in whole.get(method, [])}
        for n, share, half, seeds in points:
            rows.append((method, n, [(share, half), others.get(n)], seeds))
    return rows
