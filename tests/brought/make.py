"""Makes the files of this folder that are no plain text, or too large to keep: python -m tests.brought.make FOLDER"""

import argparse
import csv
import datetime
import io
import json
import random
import re
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE / "sources"
WEATHER = ["storm", "fog", "rain", "heat", "frost"]  # not in the alphabet's order: a label's number is its place here
TICKETS = 50_000
STRAY = '"Unknown device is all the screen says when I plug it in. It was fine until noon and I need it for a talk.'
LONG = 37_000  # characters of the longest ticket, at least


def labelled(name: str, seed: int) -> list[tuple[str, str]]:
    """(label, text) of each line of a source, shuffled."""
    lines = (SOURCES / name).read_text(encoding="utf-8").splitlines()
    rows = [(label.strip(), text.strip()) for label, text in (line.split("|", 1) for line in lines)]
    random.Random(seed).shuffle(rows)
    return rows


# --- job advertisements: a workbook ---


def job_advertisements(folder: Path) -> Path:
    """Two sheets, a column without a name and without values, references with leading zeros, dates, one empty row."""
    import openpyxl

    rng = random.Random(2)
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Advertisements"
    sheet.append(["Ref", "Posted", "Advertisement", None, "Sector"])
    day = datetime.date(2025, 2, 3)
    for number, (sector, text) in enumerate(labelled("job_advertisements.txt", 6), 1):
        day += datetime.timedelta(days=rng.choice((0, 0, 1, 3)))
        sheet.append([f"{417 + 3 * number:05d}", day, text, None, sector or None])
        if number == 60:
            sheet.append([])
    notes = book.create_sheet("Sectors")
    notes.append(["Sector", "What belongs to it"])
    for row in (
        ("Health", "The sick and the old: also who drives, cleans and plays there"),
        ("Building", "From the drawing to the last coat of paint"),
        ("Hospitality", "Beds, meals and drinks for guests, canteens too"),
        ("IT", "Machines that compute, wherever they stand"),
        ("Education", "Whoever teaches or helps to learn, at any age"),
        ("Transport", "People and goods on the way, and those who send them"),
    ):
        notes.append(row)
    path = folder / "job_advertisements.xlsx"
    buffer = io.BytesIO()
    book.save(buffer)
    _without_times(buffer, path)
    return path


def _without_times(buffer: io.BytesIO, path: Path) -> None:
    """Write a zip again with one fixed time in it, so that it is the same file on every day."""
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename == "docProps/core.xml":
                data = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", b"2025-06-01T00:00:00Z", data)
            new.writestr(zipfile.ZipInfo(item.filename), data, zipfile.ZIP_DEFLATED)


# --- remarks on the weather: Parquet and a folder, both with the labels' names in their metadata ---


def weather(folder: Path) -> tuple[Path, Path]:
    """Numbers 0 to 4 whose names stand in the file's features; -1 is the sign of `datasets` for "not labelled"."""
    from datasets import ClassLabel, Dataset, Features, Value

    rows = labelled("weather_remarks.txt", 8)
    data = Dataset.from_dict(
        {
            "remark": [text for _, text in rows],
            "label": [WEATHER.index(label) if label in WEATHER else -1 for label, _ in rows],
        },
        features=Features({"remark": Value("string"), "label": ClassLabel(names=WEATHER)}),
    )
    parquet, saved = folder / "weather_remarks.parquet", folder / "weather_remarks"
    data.to_parquet(parquet)
    data.save_to_disk(saved)
    return parquet, saved


# --- 50,000 tickets ---


def _slots(part: dict[str, list[str]], rng: random.Random) -> dict[str, str]:
    """What stands in the braces of a part."""
    date = f"{rng.randint(1, 28)} {rng.choice(part['month'])}"
    minutes, gap = rng.choice(("00", "05", "15", "30", "40", "45")), rng.choice((" ", "", "-", "."))
    return {
        "day": rng.choice([*part["weekday"], date, f"the {rng.randint(4, 20)}th"]),
        "time": rng.choice([f"{rng.randint(7, 19)}:{minutes}", "noon", "nine", "half past ten"]),
        "n": str(rng.choice((2, 3, 4, 5, 6, 7, 9, 12, 14, 17, 20, 25, 38, 44, 60, 73))),
        "room": f"{rng.choice('ABCDEHKLR')}{gap}{rng.randint(0, 5)}{rng.randint(0, 3)}{rng.randint(1, 9)}",
        "name": rng.choice(part["name"]) + rng.choice(("", "", f" {rng.choice('ABDFGKLMNPRSTW')}.")),
    }


def _mistyped(text: str, rng: random.Random) -> str:
    """One to three letters left out, doubled or in the wrong order."""
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(1, len(text) - 2)
        if text[i : i + 2].isalpha():
            text = text[:i] + rng.choice((text[i + 1], text[i + 1] + text[i], text[i] * 2 + text[i + 1])) + text[i + 2 :]
    return text


def parts() -> dict[str, list[str]]:
    """The hand-written parts by their heading: those that all tickets share, and two lists for each queue."""
    found: dict[str, list[str]] = {}
    for line in (SOURCES / "support_tickets.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            here = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            here.append(line)
    return found


def _ticket(queue: str, queues: list[str], part: dict[str, list[str]], rng: random.Random) -> str:
    """One ticket: a matter, details in changing order, now and then a second matter of another queue (the first counts)."""

    def maybe(share: float, name: str) -> list[str]:
        return [rng.choice(part[name])] if rng.random() < share else []

    problem = maybe(0.93, f"{queue} problem")
    middle = maybe(0.65, f"{queue} detail") if problem else rng.sample(part[f"{queue} detail"], 2)
    middle += maybe(0.75, "since") + maybe(0.45, "tried")
    rng.shuffle(middle)
    if rng.random() < 0.1:
        other = rng.choice([name for name in queues if name != queue])
        middle += [
            rng.choice(("By the way:", "One more thing.", "And while I am at it,")),
            rng.choice(part[f"{other} problem"]),
        ]
    pieces = maybe(0.55, "opening") + problem + middle + maybe(0.6, "ask")
    end = maybe(0.5, "closing")
    if len(pieces) + len(end) < 2:
        pieces += [rng.choice(part["since"])]
    text = " ".join(pieces) + (rng.choice(("\n", "\n\n", " ", " ")) if end else "") + "".join(end)
    slots = _slots(part, rng)
    text = re.sub(r"\{(\w+)\}", lambda match: slots[match[1]], text)
    if rng.random() < 0.12:
        text = _mistyped(text, rng)
    return text.lower() if rng.random() < 0.07 else text


def tickets() -> tuple[list[tuple[str, str, str, str]], dict]:
    """(number, day, text, queue) of all tickets, and which rows (from 1) are faulty in which way."""
    rng = random.Random(50_000)
    part = parts()
    queues = sorted({name.split()[0] for name in part if name.endswith("problem")})
    weights = [9, 4, 8, 5, 7, 10, 5, 3, 6, 7, 9, 8]
    texts: dict[str, str] = {}
    while len(texts) < TICKETS:
        queue = rng.choices(queues, weights)[0]
        texts.setdefault(_ticket(queue, queues, part, rng), queue)
    rows = [[text, queue] for text, queue in texts.items()]
    faults = _break(rows, queues, rng)
    day, table = datetime.date(2021, 10, 1), []
    for number, (text, queue) in enumerate(rows, 1):
        day += datetime.timedelta(days=rng.random() < 0.03)
        table.append((f"T-{number:06d}", day.isoformat(), text, queue))
    return table, faults


def _break(rows: list[list[str]], queues: list[str], rng: random.Random) -> dict:
    """Faults as they come in real files, each row with one at most. Row numbers count from 1, without the header."""
    drawn = rng.sample(range(5_000, TICKETS), 200 + 60 + 750 + 2 + 1 + 1)
    copies, blank, wrong = drawn[:200], drawn[200:260], drawn[260:1010]
    originals = rng.sample(range(5_000), 202)
    pairs = list(zip(originals, [*copies, *drawn[1010:1012]], strict=True))
    for first, second in pairs:
        rows[second][:] = rows[first]
    for i in (pair[1] for pair in pairs[200:]):
        rows[i][1] = rng.choice([name for name in queues if name != rows[i][1]])
    for n, i in enumerate(blank):
        rows[i][1] = "" if n % 6 else "  "
    for i in wrong:
        rows[i][1] = rng.choice([name for name in queues if name != rows[i][1]])
    stray, long = drawn[1012:]
    rows[stray][:] = STRAY, "hardware"
    thread = []
    while sum(map(len, thread)) < LONG:
        thread += ["> You wrote:", "> " + rows[rng.randrange(5_000)][0].replace("\n", "\n> ")]
    rows[long][0] = "The whole exchange, so that you have it in one place.\n" + "\n".join(thread)
    return {
        "copies": sorted([second + 1, first + 1] for first, second in pairs[:200]),
        "contradictions": sorted([first + 1, second + 1] for first, second in pairs[200:]),
        "blank_queue": sorted(i + 1 for i in blank),
        "filed_wrongly": sorted(i + 1 for i in wrong),
        "stray_quote": stray + 1,
        "very_long": long + 1,
    }


def support_tickets(folder: Path) -> tuple[Path, Path]:
    """The CSV file, and beside it which rows are faulty; of the rows in question also the line on which each begins."""
    table, faults = tickets()
    path, sidecar = folder / "support_tickets.csv", folder / "support_tickets.faults.json"
    line, begins = 2, {}
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("ticket,received,text,queue\n")
        for number, row in enumerate(table, 1):
            begins[number] = line
            buffer = io.StringIO(newline="")
            if number == faults["stray_quote"]:
                buffer.write(",".join(row) + "\n")  # a program that does not know about quotes wrote this one
            else:
                csv.writer(buffer, lineterminator="\n").writerow(row)
            line += buffer.getvalue().count("\n")
            file.write(buffer.getvalue())
    named = [faults["stray_quote"], faults["very_long"], *faults["blank_queue"]]
    faults["lines"] = {str(number): begins[number] for number in sorted(named)}
    sidecar.write_text(json.dumps(faults, indent=1) + "\n", encoding="utf-8")
    return path, sidecar


def make(folder: Path) -> Path:
    """Make all of them in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for maker in (job_advertisements, weather, support_tickets):
        maker(folder)
    return folder


if __name__ == "__main__":
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("folder", type=Path)
    print(make(reader.parse_args().folder))
