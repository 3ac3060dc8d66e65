"""Bytes to text: which encoding a file is in, said where it is a guess."""

from __future__ import annotations

import codecs
import contextlib
import re
from pathlib import Path

from ftkit.common.errors import KitError

BOMS = {  # the longer ones first: UTF-32's begins as UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
LIKELY = "cp1252 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 cp1257 koi8_r shift_jis euc_jp gb18030 big5 euc_kr mac_roman"
SAMPLE = 200_000  # bytes that a guess is made on
TAKEN = "Taken are CSV and its kin, JSON, JSON lines, .xlsx and .parquet"
OTHERS = {  # how files begin that hold no rows of text, and what they are
    b"PK": "an archive (zip), or a document of an office program: unpack it, or save its table as .xlsx or CSV",
    b"\x1f\x8b": "compressed (gzip): unpack it first",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file: save it as .xlsx or CSV",
    b"%PDF": "a PDF: copy its table into a spreadsheet, and save that as .xlsx or CSV",
    b"{\\rtf": "a document of a text program: save its table as .xlsx or CSV",
    b"SQLite format 3": "a database (SQLite): export its table as CSV",
}
MARKUP = re.compile(r"\s*<(\?xml|!doctype|html)\b", re.IGNORECASE)
# in a wrong code page letters become signs in the middle of words; those of ASCII are the same in all of them
SIGN_IN_WORD = re.compile(r"[^\W\d_][^\w\s\x00-\x7f’‘“”„…–—€£´][^\W\d_]|[a-zà-ÿ][À-Þ]")


def decode(path: Path, data: bytes, encoding: str | None = None) -> tuple[str, list[str]]:
    """(text, what was guessed). Raises `KitError` if the file is no text, or not in the `encoding` that was named.

    A file in UTF-8 with a few bad bytes is read, and each bad byte becomes half a character (a lone surrogate): rows that
    hold one are set aside later.
    """
    if encoding:
        return _strictly(path, data, encoding), []
    if what := next((what for start, what in OTHERS.items() if data.startswith(start)), None):
        raise KitError(f"{path} is {what}. {TAKEN}.")
    mark = next((bom for bom in BOMS if data.startswith(bom)), None)
    if mark:
        text = _strictly(path, data, BOMS[mark])
        return text, [] if BOMS[mark] == "utf-8-sig" else [f"encoding {BOMS[mark]}: its first bytes say so"]
    if b"\0" in data[:65536]:
        return _without_mark(path, data)
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError as error:
        first = error
    if _mostly_utf8(data):
        return data.decode("utf-8", errors="surrogateescape"), []
    return _guess(path, data, first)


def _strictly(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise KitError(f"There is no encoding {encoding!r}; try utf-8, cp1252 or utf-16.") from None
    except UnicodeDecodeError as error:
        raise KitError(
            f"{_place(path, data, error)} is not {encoding}. Name the file's encoding: --encoding NAME."
        ) from None


def _place(path: Path, data: bytes, error: UnicodeDecodeError) -> str:
    line = data.count(b"\n", 0, error.start) + 1
    return f"{path}, line {line}: byte 0x{data[error.start : error.start + 1].hex() or '?'}"


def _without_mark(path: Path, data: bytes) -> tuple[str, list[str]]:
    """UTF-16 without its mark: in most scripts every other byte of it is zero, or nearly so."""
    sample = data[: 4096 - 4096 % 2]
    zeros = [sample[start::2].count(0) for start in (0, 1)]
    odd = max(zeros) > 0.3 * len(sample) / 2 and min(zeros) < 0.02 * len(sample)
    if odd:
        name = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
        try:
            return data.decode(name), [f"encoding {name}: every other byte is zero"]
        except UnicodeDecodeError:
            pass
    if data.count(0) < len(data) / 1000:  # a text with a few bytes that do not belong there: their rows are set aside later
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("utf-8"), []
    raise KitError(f"{path} is a binary file, not text. {TAKEN}.")


def _mostly_utf8(data: bytes) -> bool:
    """Whether lines with letters outside ASCII are UTF-8 more often than not: a single code page hardly ever is."""
    good = bad = 0
    for line in data[: 50 * SAMPLE].split(b"\n"):
        if not line.isascii():
            try:
                line.decode("utf-8")
                good += 1
            except UnicodeDecodeError:
                bad += 1
    return good > bad


def _reads_as_western(text: str) -> bool:
    """Whether a text could be of western Europe: no signs inside words, and most letters without accents."""
    letters = [c for line in text.splitlines() if not line.isascii() for c in line if c.isalpha()]
    accented = sum(not c.isascii() for c in letters)
    return "\ufffd" not in text and not SIGN_IN_WORD.search(text) and accented <= 0.3 * len(letters)


def _guess(path: Path, data: bytes, first: UnicodeDecodeError) -> tuple[str, list[str]]:
    """cp1252 if it reads well, as files from Windows in western Europe do; else what charset-normalizer finds likeliest."""
    from charset_normalizer import from_bytes

    names = []
    if _reads_as_western(data.decode("cp1252", errors="replace")):
        names = ["cp1252"]
    elif best := from_bytes(data[:SAMPLE], cp_isolation=LIKELY.split(" ")).best():
        names = [best.encoding]
    for name in names:
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            continue
        shown = next(line for line in text.splitlines() if not line.isascii()).strip()
        return text, [f"encoding {name}: a guess, it is not UTF-8. Is this right? {shown[:80]!r} If not: --encoding NAME"]
    raise KitError(
        f"{_place(path, data, first)} is not utf-8. Save the file as UTF-8, or name its encoding "
        "(--encoding cp1252 for files from Windows)."
    )
