"""Writes `RECIPE.md` and its plots from the saved experiments: no figure in the page is typed by hand."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from benchmarks.report import markdown_table
from experiments.documents import RecipeResult, RecipeResults
from experiments.laboratory import RECIPE_PLAN, Line, read_plan
from ftkit.common.console import clock
from ftkit.common.files import replacing
from ftkit.common.paths import kit_root
from ftkit.course.beliefs import FOLDER, ExperimentResult, Scores
from ftkit.evaluation.intervals import seeds_interval
from ftkit.runs.documents import Evaluation, Score
from ftkit.runs.run import Run

PAGE = Path(__file__).with_name("RECIPE.md")
FIELDS = ("intent", "urgency", "guests", "day", "time", "allergens")
METHODS = {"full": "#b45309", "lora": "#0f766e", "qlora": "#1d4ed8", "tfidf": "#57534e"}


def with_interval(value: float, interval: Sequence[float], sign: str = "") -> str:
    """A share, or a difference of shares if `sign` is "+", in % with its interval in brackets."""
    return "{:{s}.1f} ({:{s}.1f} to {:{s}.1f})".format(*(100 * number for number in (value, *interval)), s=sign)


def results_of(line: Line, results: Mapping[str, ExperimentResult]) -> list[Any]:
    """The line's results that are there and did not fail, in the order of its seeds."""
    own = [results.get(experiment.key) for experiment in line.experiments]
    return [result for result in own if result and result.failed is None]


def fields_right(result: Scores) -> np.ndarray:
    """For every validation row the share of its six fields that are right: shape [rows]."""
    return np.mean([[int(digit) for digit in result.rows[name]] for name in FIELDS], axis=0)


def fields_by_seed(results: Iterable[ExperimentResult]) -> dict[int, np.ndarray]:
    """{seed: `fields_right`}."""
    return {result.seed: fields_right(result) for result in results}


def difference(line: dict[int, np.ndarray], centre: dict[int, np.ndarray]) -> str:
    """Share of right fields (`fields_by_seed`) against the centre's, in points, with its interval; "–" without a seed in common.

    The same rows and seeds are paired. The interval counts both chances: which rows are asked, and, where both have
    several seeds, which seed trained.
    """
    seeds = sorted(set(line) & set(centre))
    return with_interval(*seeds_interval([line[seed] - centre[seed] for seed in seeds]), "+") if seeds else "–"


def mean_percent(values: Iterable[Any]) -> str:
    """A mean share in %."""
    return f"{100 * float(np.mean(list(values))):.1f}"


def group(about: str, lines: list[Line], results: Mapping[str, RecipeResult]) -> str:
    """One group's table."""
    centre = fields_by_seed(results_of(lines[0], results))
    rows, failures = [], []
    for line in lines:
        every = [results[e.key] for e in line.experiments if e.key in results]
        failures += [f"*{line.name}*: {result.failed}" for result in every if result.failed is not None]
        own = results_of(line, results)
        if not own:
            continue
        fields = fields_by_seed(own)
        tokens, examples, seconds = (np.mean([getattr(r, name) for r in own]) for name in ("tokens", "examples", "seconds"))
        rows.append((
            line.name, line.expected or "–", str(len(own)),
            mean_percent(r.scores["intent"] for r in own), mean_percent(r.scores["exact match"] for r in own),
            mean_percent(fields.values()), difference(fields, centre) if line is not lines[0] else "–",
            f"{np.mean([r.validation_loss for r in own]):.3f}", f"{tokens / examples:.0f}", f"{seconds:.0f}",
            line.kept or "–",
        ))  # fmt: skip
    heads = ["change", "expected", "seeds", "intent, %", "whole ticket, %", "fields, %", "fields against the centre",
             "loss", "tokens an example", "seconds", "kept"]  # fmt: skip
    note = f"\n\nCould not be run: {'; '.join(dict.fromkeys(failures))}" if failures else ""
    return f"## {about}\n\n{markdown_table(heads, rows)}{note}" if rows else ""


def curve_points(
    lines: list[Line], results: Mapping[str, RecipeResult], metric: str
) -> dict[str, list[tuple[int, float, float, int]]]:
    """{method: [(rows, share, half of the 95 % interval, seeds)]}.

    The interval counts both chances: which rows are asked (variance over validation rows) and which seed trained
    (variance over seeds, where there are several).
    """
    points: dict[str, list] = {}
    for line in lines:
        digits = [r.rows[metric] for r in results_of(line, results) if metric in r.rows]
        if digits:
            right = np.array([[int(digit) for digit in row] for row in digits], dtype=float)
            first = line.experiments[0]
            points.setdefault(first.method, []).append((first.rows, *share_and_half(right), len(right)))
    return points


def on_test(lines: list[Line], results: Mapping[str, RecipeResult]) -> list[tuple[str, ...]]:
    """Scores on the test split where it was asked, and QLoRA's less each other line's, paired by message and seed.

    Rows (method, metric, share, seeds, QLoRA's difference), with 95 % intervals over messages and seeds. A method's first
    line stands for it; its other ones are changes from that and are called so.
    """
    rows = []
    for metric in ("intent", "exact match"):
        by_name: dict[str, dict[int, list[int]]] = {}
        for line in lines:
            tests = {r.seed: r.test.rows[metric] for r in results_of(line, results) if r.test and metric in r.test.rows}
            if tests:
                method = line.experiments[0].method
                name = f"{method}, {line.name}" if method in by_name else method
                by_name[name] = {seed: [int(digit) for digit in digits] for seed, digits in tests.items()}
        ours = by_name.get("qlora", {})
        for name, scores in by_name.items():
            common = sorted(set(ours) & set(scores)) if name != "qlora" else []
            gaps = [np.subtract(ours[seed], scores[seed]) for seed in common]
            rows.append((
                name, "whole ticket" if metric == "exact match" else metric,
                with_interval(*seeds_interval(list(scores.values()))), str(len(scores)),
                with_interval(*seeds_interval(gaps), "+") if gaps else "–",
            ))  # fmt: skip
    return rows


def cut_changes(lines: list[Line], results: Mapping[str, RecipeResult]) -> list[tuple[str, ...]]:
    """What full fine-tuning of the linear layers changed, whole and cut to a rank, scored on the validation split.

    Rows (what is left, share of the change's squared size, intent, whole ticket, fields, fields against the whole change,
    fields against the centre), the differences with 95 % intervals.
    """
    rows = []
    for line in lines:
        whole = [result for result in results_of(line, results) if result.cut]
        centre = fields_by_seed(results_of(lines[0], results)) if whole else {}
        left = {"all of it": [(1.0, r.seed, r) for r in whole]} if whole else {}
        for rank in reversed(whole[0].cut if whole else {}):
            left[f"rank {rank}"] = [(r.cut[rank].kept, r.seed, r.cut[rank]) for r in whole]
        for name, parts in left.items():
            fields = {seed: fields_right(scores) for _, seed, scores in parts}
            rows.append((
                name, f"{100 * np.mean([kept for kept, _, _ in parts]):.0f} %",
                mean_percent(scores.scores["intent"] for _, _, scores in parts),
                mean_percent(scores.scores["exact match"] for _, _, scores in parts), mean_percent(fields.values()),
                "–" if parts[0][2] is whole[0] else difference(fields, fields_by_seed(whole)), difference(fields, centre),
            ))  # fmt: skip
    return rows


def share_and_half(right: np.ndarray) -> tuple[float, float]:
    """The mean of scores [seeds, rows] and half of its 95 % interval: chance of the rows and, where there are several, seeds."""
    share, (low, high) = seeds_interval(right)
    return share, (high - low) / 2


def plot_curves(lines: list[Line], results: Mapping[str, RecipeResult], target: Path) -> bool:
    """Draw intent and whole ticket over the number of training rows; False if there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "ftkit"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    drawn = False
    for axis, metric in zip(axes, ("intent", "exact match"), strict=True):
        for number, (method, points) in enumerate(curve_points(lines, results, metric).items()):
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


def write(page: Path = PAGE, folder: Path = FOLDER) -> None:
    """Write the page, and the plot where there are curves."""
    results = RecipeResults.load(folder).results
    plan = tomllib.loads(RECIPE_PLAN.read_text(encoding="utf-8"))
    parts = [f"## What the search taught\n\n{plan.pop('taught')['said'].strip()}"]
    lines = read_plan(RECIPE_PLAN)
    for name, about in plan.items():
        own = [line for line in lines if line.group == name]
        parts.append(
            curves(about["about"], own, results, folder) if name == "curves" else group(about["about"], own, results)
        )
        if any(results_of(line, results) for line in own):
            of = "the largest number of rows" if name == "curves" else "all rows"
            parts += [tested(own, results, of), cuts(own, results), about.get("said", "").strip()]
    dates = sorted({result.date for result in results.values()})
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
        whole = [head, shipped(Run(kit_root() / "data" / "reference_run")), *filter(None, parts)]
        temporary.write_text("\n\n".join(whole) + "\n", encoding="utf-8")


def tested(lines: list[Line], results: Mapping[str, RecipeResult], of: str) -> str:
    """The table of scores on the test split, empty if there are none."""
    heads = ["method", "metric", "test split, %", "seeds", "QLoRA less this, points"]
    rows = on_test(lines, results)
    title = f"Trained on {of} and scored on the test split, which no choice was made by:"
    return f"{title}\n\n{markdown_table(heads, rows)}" if rows else ""


def cuts(lines: list[Line], results: Mapping[str, RecipeResult]) -> str:
    """The table of full fine-tuning cut to a rank, empty if it was not done."""
    heads = ["left of the change", "squared size", "intent, %", "whole ticket, %", "fields, %",
             "fields against all of it", "fields against the centre"]  # fmt: skip
    rows = cut_changes(lines, results)
    title = (
        "What full fine-tuning of the linear layers changed in them, cut to its largest directions (by the singular "
        "values): the best that an adapter of that rank could hold of it. Validation split:"
    )
    return f"{title}\n\n{markdown_table(heads, rows)}" if rows else ""


def curves(title: str, lines: list[Line], results: Mapping[str, RecipeResult], folder: Path) -> str:
    """Scores over the number of training rows, drawn and as a table."""
    if not plot_curves(lines, results, folder / "curves.svg"):
        return ""
    intent, whole = (curve_points(lines, results, metric) for metric in ("intent", "exact match"))
    rows = []
    for method, points in intent.items():
        tickets = {n: f"{100 * share:.1f} ± {100 * half:.1f}" for n, share, half, _ in whole.get(method, [])}
        for n, share, half, seeds in points:
            rows.append((method, str(n), f"{100 * share:.1f} ± {100 * half:.1f}", tickets.get(n, "–"), str(seeds)))
    return (
        f"## {title}\n\n![Scores over the number of training rows, by method](results/curves.svg)\n\n"
        + markdown_table(["method", "rows", "intent, %", "whole ticket, %", "seeds"], rows)
        + "\n\n± is half of a 95 % interval: chance of the rows asked, and of the seeds where there are several."
    )
