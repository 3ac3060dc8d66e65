"""Characters that nobody wrote for a reader: control characters, a byte order mark, soft hyphens, letters in parts."""

from __future__ import annotations

import re
import unicodedata

# Scripts that are written without spaces, where a zero-width space parts words: Thai, Lao, Tibetan, Myanmar, Khmer, Javanese
UNSPACED = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u1aaf\ua980-\ua9ff\uaa60-\uaadf"
INVISIBLE = re.compile(rf"[\ufeff\u00ad]|(?<![{UNSPACED}])\u200b(?![{UNSPACED}])")
LINE_ENDS = re.compile(r"\r\n?|\x85")
SPACES = re.compile(r"[ ]?[\v\f\x1c-\x1f]+[ ]?")  # part words or pages
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]+")


def normalize_text(text: str) -> str:
    """Mend the characters of a text; what a reader sees stays as it is.

    Composed are letters in parts (e and an accent; Unicode's NFC, where it makes the text shorter). Removed are control
    characters, byte order marks, soft hyphens, zero-width spaces (but not in scripts that are written without spaces), and
    spaces around the text. Joiners, direction marks, variation selectors and tags of flags are letters of their scripts.
    """
    text = LINE_ENDS.sub("\n", text)
    text = INVISIBLE.sub("", CONTROLS.sub("", SPACES.sub(" ", text)))
    if not unicodedata.is_normalized("NFC", text):
        text = "".join(map(_compose, _clusters(text)))
    return _strip(text)


def name_removed(text: str) -> str:
    """ ": without U+FEFF, U+00AD": the invisible characters that `normalize_text` takes out of a text, or nothing."""
    gone = [character for pattern in (INVISIBLE, CONTROLS) for match in pattern.findall(text) for character in match]
    return f": without {', '.join(f'U+{ord(character):04X}' for character in dict.fromkeys(gone))}" if gone else ""


def _clusters(text: str) -> list[str]:
    """The text in pieces: a character with the marks that follow it, letters of one Korean syllable."""
    pieces: list[str] = []
    for character in text:
        follows = unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff"
        if follows and pieces:
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


def _compose(cluster: str) -> str:
    composed = unicodedata.normalize("NFC", cluster)
    return composed if len(composed) < len(cluster) else cluster


def _strip(text: str) -> str:
    """Without spaces at both ends; the first line keeps its indentation where others are indented too."""
    text = re.sub(r"\A(?:[^\S\n]*\n)+", "", text.rstrip())
    return text if re.search(r"\n[ \t]", text) and text[:1] in " \t" else text.lstrip()
