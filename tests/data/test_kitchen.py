"""The kitchen's pairs: the Spanish holds what the English says, by the rules of the task; the datasheet counts right."""

import re
from collections import Counter

import pytest

from ftkit.common.paths import kit_root
from ftkit.data.kept import check_answer, things_in
from ftkit.data.task import SPLITS, load_task

KITCHEN = load_task("kitchen")
ROWS = {split: KITCHEN.rows(split) for split in SPLITS}
EVERY = [row for rows in ROWS.values() for row in rows]
SHEET = (KITCHEN.folder / "DATASHEET.md").read_text(encoding="utf-8")
# pairs that were read and are right, where the rule for the English sees another thing than the Spanish has
READ = {
    "numbers": {"1221": "is there one at all", "1265": "nineteen hundred", "1348": "twelves steak"},
    "allergens": {"0482": "mussles", "0671": "almons", "0930": "musterd", "0956": "wallnuts", "1333": "fish man"},
    "negation": {
        "0059": "no sauce whatsoever",  # sin nada de
        "0378": "got plain",  # sin empanar
        "0606": "I'd skip",
        "0817": "canot",
        "0833": "won't eat pink",  # no come nada rosado
        "0904": "dislikes",
        "1032": "Noboddy",
        "1077": "wont eat molluscs or squid",  # no ... ni
        "1215": "no taste",  # no sabe a nada
        "1231": "is out",  # nada de
        "1261": "hasnt",
        "1292": "no mustard in either",  # sin ... en ninguno
        "1306": "havent",
        "1356": "I hate to be",
    },
}
# English and Spanish of the menu and the kitchen, as GUIDE.md has them; what stands in the English stands in the Spanish
GLOSSARY = {
    "onion soups?": "sopas? de cebolla",
    "beetroot dips?": "cremas? de remolacha",
    "flatbreads?": "pan(es)? planos?",
    "cassoulets?": "cassoulets?",
    "chips": "patatas fritas",
    "mustard butter": "mantequilla de mostaza",
    "trouts?": "truchas?",
    "mushroom pies?": "pastel(es)? de setas",
    "lentil stews?": "guisos? de lentejas",
    "green salads?": "ensaladas? verdes?",
    "onion tarts?": "tartas? de cebolla",
    "children.s pastas?": "pastas? infantil(es)?",
    "chocolate pots?": "cremas? de chocolate",
    "apple tarts?": "tartas? de manzana",
    "sorbets?": "sorbetes?",
    "dish(es)? of the day": "platos? del día",
    "gluten[- ]free bread": "pan sin gluten",
    "medium rare": "al punto menos",
    "medium(?! rare)": "al punto(?! menos)",
    "well done": "muy hech[oa]s?",
    "starters?": "entrantes?",
    "desserts?": "postres?",
    "fryers?": "freidoras?",
    "high chairs?": "tronas?",
    "vegans?": "vegan[oa]s?",
    "vegetarians?": "vegetarian[oa]s?",
    "severe(ly)?": "graves?|gravemente",
    "traces?": "trazas?",
    "allerg(y|ies|ic)": "alergias?|alérgic[oa]s?",
}


@pytest.mark.parametrize("name", KITCHEN.kept)
def test_numbers_allergens_and_negations_of_the_english_stand_in_the_spanish(name):
    differ = {}
    for row in EVERY:
        (check,) = (c for c in check_answer(KITCHEN, row["target"], message=row["message"]) if c.name == name)
        if check.known and not check.kept:
            differ[row["id"].removeprefix("kitchen-")] = row["message"]
    assert set(differ) == set(READ[name])
    assert all(words in differ[number] for number, words in READ[name].items())


def test_the_menus_words_are_those_of_the_glossary():
    for row in EVERY:
        for english, spanish in GLOSSARY.items():
            if re.search(rf"\b({english})\b", row["message"], re.IGNORECASE):
                assert re.search(rf"\b({spanish})\b", row["target"], re.IGNORECASE), (row, spanish)


def test_the_datasheet_counts_what_is_there():
    for split, rows in ROWS.items():
        counts = [sum(bool(things_in(row["target"], entries)) for row in rows) for entries in KITCHEN.kept.values()]
        cells = [f"{n} ({n / len(rows):.0%})".replace("%", " %") for n in counts]
        assert f"| `{split}` | {len(rows):,} | {' | '.join(cells)} |" in SHEET
    topics = Counter(row["topic"] for row in EVERY)
    assert ", ".join(f"{topic} {n}" for topic, n in topics.most_common()).replace("\n", " ") in " ".join(SHEET.split())
    for name in KITCHEN.kept:
        checks = [check_answer(KITCHEN, row["target"], message=row["message"]) for row in EVERY]
        known = [check for row in checks for check in row if check.name == name and check.known]
        agreed = sum(check.kept for check in known)
        assert f"| {name} | {len(known):,} of {len(EVERY):,} | {agreed:,} |" in SHEET
    assert len(EVERY) == len({row["id"] for row in EVERY}) == len({row["message"] for row in EVERY}) == 1420
    assert (kit_root() / "data" / "kitchen" / "GUIDE.md").is_file()
