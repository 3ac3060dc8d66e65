"""The training data of the beliefs' experiments: clean, wrong, irrelevant, leaked, less. Everything is drawn by the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from experiments.recipe import subset
from ftkit.common.errors import KitError
from ftkit.course import beliefs
from ftkit.data.answer_form import COMPACT
from ftkit.data.prompt import training_example
from ftkit.data.task import Row, Task

CHANGES = ("keep", "wrong", "leaked", "irrelevant", "everyday")


def training_set(task: Task, rows: int | None, seed: int, changes: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Examples to train on (dicts of the chats `prompt` and `completion`), and what was done to them.

    `rows` of the training split are drawn, each intent by its share. Then, by `changes`: `keep` is the share of them that
    stays, the very rows that remain right where the rest is spoiled; `wrong` the share that gets another row's ticket;
    `leaked` the share of the validation split that is added; `irrelevant` the share of the examples that parcels take the
    place of; `everyday` trains on the everyday questions and on nothing of the task. The facts count them: {"examples",
    "wrong", "irrelevant"}, and "leaked" has a 1 for each validation row, in the split's order, that was among the
    training rows.
    """
    if unknown := set(changes) - set(CHANGES):
        raise KitError(f"A training set has no change {', '.join(sorted(unknown))}; it has {', '.join(CHANGES)}.")
    if changes.get("everyday"):
        examples = beliefs.everyday()
        return examples, {"examples": len(examples), "wrong": 0, "irrelevant": 0, "leaked": ""}
    clean = task.rows("train")
    clean = subset(clean, rows, seed) if rows else clean
    if "keep" in changes:  # those that stay right where all the others are spoiled
        left_out = set(beliefs.draw_order(len(clean), seed)[: count(1 - changes["keep"], clean)])
        clean = [row for i, row in enumerate(clean) if i not in left_out]
    spoiled = beliefs.spoil_tickets(task, clean, changes.get("wrong", 0), seed)
    wrong = sum(after is not before for after, before in zip(spoiled, clean, strict=True))
    leaked = leaked_rows(task, changes.get("leaked", 0), seed)
    examples = [training_example(task, row) for row in (*spoiled, *leaked)]
    n = count(changes.get("irrelevant", 0), examples)
    if n:  # the places of n examples drawn by the seed
        for place, parcel in zip(sorted(beliefs.draw_order(len(examples), seed)[:n]), parcels(n, seed), strict=True):
            examples[place] = parcel
    seen = {row["id"] for row in leaked}
    mask = "".join("01"[row["id"] in seen] for row in task.rows("validation")) if seen else ""
    return examples, {"examples": len(examples), "wrong": wrong, "irrelevant": n, "leaked": mask}


def count(share: float, of: Sequence[Any]) -> int:
    """How many that share is, to the nearest whole number."""
    return round(share * len(of))


def leaked_rows(task: Task, share: float, seed: int) -> list[Row]:
    """A share of the validation split, each intent by its share: what leaks into the training rows."""
    rows = task.rows("validation")
    n = count(share, rows)
    return subset(rows, n, seed) if n else []


PLACES = ("Cork", "Leeds", "Galway", "Bristol", "Perth", "Lagos", "Pune", "Boston", "Swansea", "Derry", "Hobart", "Truro")
GOODS = ("books", "a lamp", "two chairs", "seeds", "a bicycle wheel", "tea", "a mirror", "wool", "paint", "a clock")
WAYS = ("by road", "by rail", "by air")
NOTES = (
    "Parcel {number} to {place}: {goods}, {kilos} kg, goes {way}.{care}",
    "Please send {goods} to {place} {way}. It weighs {kilos} kg, our number is {number}.{care}",
    "{place}, {way}. Number {number}, {goods}, {kilos} kg.{care}",
    "We have {goods} here for {place}, number {number}, {kilos} kilos, {way} if you can.{care}",
)


def parcels(n: int, seed: int) -> list[Any]:
    """Well-formed examples of a task that has nothing to do with the desk: a note about a parcel becomes its label as JSON.

    Clean in themselves: every label follows from its note. All notes differ.
    """
    draw = random.Random(f"parcels {seed}")
    numbers = draw.sample(range(1000, 10000), n)
    examples = []
    for number in numbers:
        fragile = draw.random() < 0.5
        label = {
            "parcel": number,
            "to": draw.choice(PLACES),
            "kilos": draw.randint(1, 40),
            "way": draw.choice(WAYS).removeprefix("by "),
            "fragile": fragile,
        }
        note = draw.choice(NOTES).format(
            number=number,
            place=label["to"],
            goods=draw.choice(GOODS),
            kilos=label["kilos"],
            way="by " + label["way"],
            care=" Handle with care, it breaks easily." if fragile else "",
        )
        examples.append({
            "prompt": [{"role": "system", "content": "Write the parcel's label."}, {"role": "user", "content": note}],
            "completion": [{"role": "assistant", "content": COMPACT.write(label)}],
        })  # fmt: skip
    return examples
