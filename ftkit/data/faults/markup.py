"""What programs put around a message: HTML, a mail program's signature, the mail that was answered."""

from __future__ import annotations

import html
import re

INLINE = "a abbr acronym b bdi bdo big cite code del dfn em font i ins kbd label mark q s samp small span strike strong sub sup tt u var"
BLOCKS = (
    "address article aside blockquote body button caption center colgroup dd details div dl dt fieldset figcaption figure footer "
    "form h1 h2 h3 h4 h5 h6 head header html iframe legend li main menu nav noscript ol optgroup option p pre script section "
    "select style summary svg table tbody td textarea tfoot th thead title tr ul video"
)
ALONE = "area base br col embed hr img input link meta source track wbr"  # HTML's void elements: they have no closing tag
TAG = re.compile(
    r"<(/?)([a-z][a-z0-9]*(?::[a-z]+)?)((?:\s+[a-z:_-]+(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'<>=]+))?)*)\s*(/?)>", re.I
)
AROUND = re.compile(r"<!--.*?-->|<!doctype[^>]*>|<(script|style|title)\b[^>]*>.*?</\1\s*>", re.I | re.S)
ENTITY = re.compile(r"&(?:[a-z]{2,8}\d?|#\d{2,6}|#x[0-9a-f]{2,5});", re.I)
# a text about HTML, or one that tells what a page shows: its tags and entities are what it says
ABOUT = re.compile(
    r"\b(?:x?html|xml|xsd|css|json|markup|markdown|tags?|entit(?:y|ies)|escap\w+|unescap\w+|encod\w+|decod\w+|render\w*|raw|ampersands?"
    r"|code|snippet|source|syntax|pars\w+|literally|instead|shows?|showing|shown|displays?|displayed|prints?|printed|printing|appears?"
    r"|appeared|becomes?|became|turns? into|turned into|reads|says|spell\w*|writ\w+|wrote|typ\w+|characters?|symbols?|placeholder)\b",
    re.I,
)


def find_markup(text: str) -> list[str]:
    """Name what a message holds that nobody wrote for its reader: HTML (tags or entities), a mail program's signature."""
    return ["HTML"] * (remove_markup(text) != text) + ["signature or quoted mail"] * (remove_signature(text) != text)


# --- HTML ---


def remove_markup(text: str) -> str:
    """Remove HTML: tags of blocks become spaces, other tags nothing, entities the characters they stand for.

    A tag counts as HTML with a name of HTML and its closing tag. It stays where other tags stand beside it (XML, code), and
    where the text is about markup unless a block's tag opens and closes the whole.
    """
    for _ in range(3):  # an entity may stand for the beginning of another one
        mended = _remove_once(text)
        if mended == text:
            break
        text = mended
    return text


def _remove_once(text: str) -> str:
    if "<" in text:
        bare = AROUND.sub("", text)
        tags = [(match[1], match[2].casefold(), match[4]) for match in TAG.finditer(bare)]
        wrapped = bool(tags) and bool(re.match(r"\s*<", text)) and text.rstrip().endswith(">") and _block(tags)
        lone = len(tags) == 1 and re.search(r"\S <[^>]*> \S", bare)  # "the <br> in Brno"
        if tags and not lone and _is_html(tags) and (wrapped or not ABOUT.search(TAG.sub(" ", bare))):
            return _unescape(_drop(text))
    if "&" in text and _is_escaped(text):
        return _unescape(text)
    return text


def _is_html(tags: list[tuple[str, str, str]]) -> bool:
    """Whether these tags (slash, name, closing slash) are HTML's, and each that needs one has its partner."""
    waiting: dict[str, int] = {}
    for slash, name, _ in tags:
        if name in ALONE.split():
            continue
        if name not in INLINE.split() and name not in BLOCKS.split() and ":" not in name:
            return False
        waiting[name] = waiting.get(name, 0) + (-1 if slash else 1)
    optional = {"p", "li", "td", "tr", "th", "dd", "dt", "option"}  # HTML lets their closing tags be left out
    paired = {name for slash, name, _ in tags if slash}
    return all(n == 0 or (n > 0 and name in optional and (name in paired or _block(tags))) for name, n in waiting.items())


def _block(tags: list[tuple[str, str, str]]) -> bool:
    """Whether one block opens and closes among the tags."""
    opened = {name for slash, name, _ in tags if not slash}
    return any(slash and name in opened and name in BLOCKS.split() for slash, name, _ in tags)


def _drop(text: str) -> str:
    """Without tags; what blocks part stays parted by a space, or by the line end that stood there."""
    text = AROUND.sub("", text)
    apart = TAG.sub(lambda m: "" if m[2].casefold() in (*INLINE.split(), "wbr") else "\0", text.replace("\0", ""))
    return re.sub(r"\s*\0[\s\0]*", lambda m: "\n" if "\n" in m[0] else " ", apart).strip()


def _unescape(text: str) -> str:
    return ENTITY.sub(lambda match: html.unescape(match[0]).replace("\xa0", " "), text)


def _is_escaped(text: str) -> bool:
    """Whether a text without tags was escaped for HTML: each & begins an entity that is used, not talked about."""
    entities = list(ENTITY.finditer(text))
    if not entities or text.count("&") != len(entities) or re.search(r"[<>]", text) or ABOUT.search(text):
        return False
    if any(html.unescape(match[0]) == match[0] for match in entities):
        return False
    return all(_is_used(text, match.start(), match.end()) for match in entities)


def _is_used(text: str, start: int, end: int) -> bool:
    """Whether an entity stands like the character that it is: at a word, or as "and" between two words."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if before[-1:] in tuple("\"'`“‘«(") and after[:1] in tuple("\"'`”’»)"):
        return before[-1:] == "" or after[:1] == ""
    return bool(re.search(r"[\w;,.!?]$|\w $", before) or re.match(r"[\w&]", after)) and bool(before.strip() or after.strip())


# --- mail programs ---

LINE = r"(?:\A|\n)[ \t]*"  # a signature begins a line
END = r"[ \t]*(?=\n|\Z)"
MODEL = r"(?: (?:pro|max|plus|mini|ultra|lite|note|tab|edge|fold|flip|air|se|x[rs]?|[45]g|lte|smartphone|phone|tablet|device|[a-z]?\d{1,4}[a-z]{0,2}\+?))*"
DEVICE = (
    r"(?:my )?(?:(?:apple |samsung |google |windows |mobile |smart|verizon[^\n]{0,12} |t-mobile[^\n]{0,12} |at&t )*"
    r"(?:i-?phone|i-?pad|i-?pod|android|galaxy|blackberry|huawei|xiaomi|oneplus|pixel|nokia|motorola|phone|smartphone|tablet|mobile|"
    r"device|mac ?book|laptop))" + MODEL
)
EXCUSE = r"(?:[,.;–-]+ ?(?:please )?(?:so )?(?:excuse|sorry|forgive|apolog|pardon|ignore)[^\n]{0,60})?"
PROGRAM = (
    r"(?:yahoo mail|outlook|aol|gmail|proton ?mail|mail|mailbox|spark|airmail|blue ?mail|thunderbird|mail\.ru|gmx|web\.de)"
)
FOR = r"(?: (?:for|on|auf|pour|para|per|voor) (?:i-?phone|i-?os|i-?pad|android|windows(?: 1[01])?|mac(?: ?os)?|mobile|desktop))"
DEVICES_ABROAD = (
    r"von meinem {d} gesendet|gesendet von (?:meinem )?{d}|envoy[ée] (?:de|depuis) mon {d}|enviado (?:desde|do|de) (?:mi|meu) {d}|"
    r"inviato da(?:l mio)? {d}|verstuurd vanaf (?:mijn )?{d}|skickat fr[åa]n min {d}|sendt fra min {d}|lähetetty {d}\w*|"
    r"wysłane z (?:mojego )?{d}['’]?\w*|отправлено с (?:моего )?{d}|{d}から送信|从我的 ?{d} ?发送|發自我的 ?{d}|나의 {d}에서 보냄"
).format(d=r"(?:i-?phone|i-?pad|android|samsung(?: galaxy)?|galaxy|smartphone|handy|huawei|xiaomi)" + MODEL)
LAST_LINES = re.compile(
    LINE
    + "(?:"
    + "|".join(
        (
            rf"sent (?:from|via|using|with) {DEVICE}{EXCUSE}",
            rf"sent (?:from|with|via|using) (?:the )?{PROGRAM}(?: (?:secure )?e?-?mail|(?: mobile)? app)?{FOR}?",
            rf"get outlook{FOR}(?: ?<[^>\n]*>| ?\(?https?://\S+)?",
            rf"(?:{DEVICES_ABROAD})",
            r"(?:please )?(?:consider|think of) the environment before (?:you )?print[^\n]{0,60}",
        )
    )
    + r")[.!]?"
    + END,
    re.I,
)
DISCLAIMER = re.compile(
    LINE
    + r"(?:\*+ ?)?(?:(?:confidentiality|legal) notice|disclaimer\b|th(?:is|e|ese) (?:e-?mail|message|transmission|communication|"
    r"information(?: contained)? in this (?:e-?mail|message)|contents of this (?:e-?mail|message))s?\b)(?:[^\n]|\n(?![ \t]*\n))*"
    + END,
    re.I,
)
LEGAL = re.compile(
    r"confidential|privileged|intended|recipient|addressee|unauthori[sz]ed|notify the sender|delete|liabilit", re.I
)
LAWYERS = re.compile(
    r"confidential|privileged|unauthori[sz]ed|addressee|intended recipient|intended (?:only|solely) for", re.I
)
SEPARATED = re.compile(
    r"\n-- \n(?P<block>(?:[^\n]{0,100}(?:\n|\Z)){1,10})\Z"
)  # RFC 3676, section 4.3: two dashes and a space
DASHED = re.compile(r"\n[ \t]*(?:--|_{2,}|—)[ \t]*\n(?P<block>(?:[^\n]{0,100}(?:\n|\Z)){1,8})\Z")
CONTACT = re.compile(
    r"[\w.+-]+@[\w-]+\.\w|\bwww\.|https?://|\b(?:tel|phone|mobile|fax|t|m)\b[.: ]*\+?[\d(]|\+\d[\d ()-]{7,}", re.I
)
# the mail that was answered: a line that names date and writer, then lines with ">", or a program's block of heads
WROTE = r"(?:wrote|schrieb[^\n]*|a écrit ?|escribió|ha scritto|escreveu|schreef[^\n]*|skrev[^\n]*|napisał(?:\(a\)|a)?|пишет|написал\w*)"
INTRODUCED = re.compile(
    r"\n[ \t]*(?P<head>(?:on|am|le|el|il|em|op|den|w dniu|dnia|\d)\b[^\n]{5,150}(?:\n(?!>)[^\n]{1,100})?\b"
    + WROTE
    + r"[ \t]*:)[ \t]*\n"
    r"(?P<rest>.*)\Z",
    re.I | re.S,
)
DATED = re.compile(r"\d{1,2}[:.h]\d{2}|\b(?:19|20)\d\d\b|<[^<>\s]+@[^<>\s]+>")
HEADS = (
    "from|sent|date|to|cc|subject|von|gesendet|datum|an|betreff|de|envoyé|à|objet|enviado|para|asunto|da|inviato|a|oggetto"
)
ORIGINAL = re.compile(
    r"\n[ \t>]*(?:-{2,} ?(?:original message|forwarded message|ursprüngliche nachricht|message d'origine|mensaje original) ?-{2,}[ \t]*|"
    rf"_{{5,}}[ \t]*)?\n?[ \t]*(?:\*?(?:{HEADS})\*?[ \t]*:[^\n]*\n){{3,}}.*\Z",
    re.I | re.S,
)
SENT = re.compile(r"\n[ \t]*\*?(?:sent|date|gesendet|datum|envoyé|enviado|fecha|inviato|data)\*?[ \t]*:", re.I)
SUBJECT = re.compile(r"\n[ \t]*\*?(?:subject|betreff|objet|asunto|oggetto)\*?[ \t]*:", re.I)


def remove_signature(text: str) -> str:
    """Cut a text off at a mail program's signature or at the mail that it answers, if all that follows belongs to it.

    These begin a line and have the form that programs give them. A text stays as it is if nothing else would be left.
    """
    while True:
        start = min(start for start in (*_quoted(text), *_signed(text), len(text)))
        before = text[:start].rstrip()
        if start == len(text) or not before or before.endswith((":", "：")):  # "I got this:" is followed by what is meant
            return text
        text = before


def _signed(text: str) -> list[int]:
    """Where signatures begin that reach to the end of the text."""
    starts = []
    tail = text.rstrip()
    for match in LAST_LINES.finditer(tail, max(0, len(tail) - 400)):
        if match.end() == len(tail):
            starts.append(match.start())
    for match in DISCLAIMER.finditer(tail, max(0, len(tail) - 4000)):
        words = {word.casefold() for word in LEGAL.findall(match[0])}
        if match.end() == len(tail) and len(words) >= 2 and LAWYERS.search(match[0]) and "?" not in match[0]:
            starts.append(match.start())
    for form in (SEPARATED, DASHED):
        block = form.search(text, max(0, len(text) - 1100))
        if block and (CONTACT.search(block["block"]) or (form is SEPARATED and _names(block["block"]))):
            starts.append(block.start())
    return starts


def _names(block: str) -> bool:
    """Whether lines look like a writer's name, post and address: none begins with a small letter or asks."""
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    return bool(lines) and not any(line[0].islower() or line.endswith("?") for line in lines)


def _quoted(text: str) -> list[int]:
    """Where quoted mails begin that reach to the end of the text."""
    starts = []
    if (match := INTRODUCED.search(text)) and DATED.search(match["head"]):
        lines = [line.strip() for line in match["rest"].splitlines() if line.strip()]
        if lines and (all(line.startswith(">") for line in lines) or re.search(r"<[^<>\s]+@[^<>\s]+>", match["head"])):
            starts.append(match.start())
    if (match := ORIGINAL.search(text)) and SUBJECT.search(match[0]) and SENT.search(match[0]):
        starts.append(match.start())
    return starts
