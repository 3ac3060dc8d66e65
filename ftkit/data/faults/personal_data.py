"""Personal data in a text: e-mail addresses, payment cards, phone numbers, each masked alike in message and answer.

A number is a phone number by its form (international, or a country's own with its groups) or by the word before it; a date,
an order or a tracking number is none. A number that could be either stays.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

MASKS = {"e-mail address": "[e-mail]", "card number": "[card]", "phone number": "[phone]"}
FILES = "png|jpe?g|gif|svg|webp|pdf|css|js|ts|py|json|html?|txt|csv|zip"
MAIL = re.compile(rf"[\w.+-]+@(?![\w.-]+\.(?:{FILES})\b)[\w-]+(?:\.[\w-]+)*\.[^\W\d_]{{2,}}(?!:[\w/])\b")
SOLID = r"\d{13,19}"
GROUPED = r"\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|3\d{3}([ -])\d{6}\2\d{4,5}"
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
# length and first digits of the large networks' cards (ISO/IEC 7812)
NETWORKS = re.compile(
    r"4(?:\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|(?:6(?:011|4[4-9]\d|5\d\d)|35\d\d|62\d\d)\d{12}"
)

GAP = r"[ \u00a0\u2009\u202f.\u2011/-]?"
WORD = r"[^\W\u2e80-\u9fff\uac00-\ud7af\u0e00-\u0eff]"  # a letter or digit of a script that parts words by spaces
BEFORE = rf"(?<!{WORD})(?<![+#])(?<![\w)][./:,-])"
AFTER = rf"(?!{WORD})(?![%€$£°])(?![.,:/-]\d)(?! ?(?:kg|km|cm|mm|m|g|eur|usd|gbp)\b)"
CARD = re.compile(BEFORE + rf"(?:{SOLID}|{GROUPED})" + AFTER)
INTERNATIONAL = re.compile(
    BEFORE + rf"(?:\+|00(?= ?[1-9]))[ ]?[1-9]\d{{0,2}}(?:{GAP}(?:\(\d{{1,5}}\)|\d{{1,13}})){{1,6}}" + AFTER
)
NATIONAL = (
    r"(?:\+?1[-. ])?(?:\([2-9]\d\d\)[ -]?|[2-9]\d\d[-.])[2-9]\d\d[-.]\d{4}",  # North America
    r"\([2-9]\d\d\)[ ]?[2-9]\d\d[ ]\d{4}",
    r"\(0\d{1,5}\)[ ]?\d{2,5}(?:[ -]?\d{2,5}){0,3}",  # an area in brackets
    r"0[1-9](?:([ .-])\d\d)(?:\1\d\d){3}",  # France, Belgium: five pairs
    r"0\d{2,5}[ ]\d{3}[ ]?\d{3,4}(?:[ ]?\d{2})?",  # Britain, Ireland, Australia, South Africa, Turkey ...
    r"0\d{2,4}[ ]\d{5,8}|0\d{4}[ ]\d{5,6}",
    r"0[1-9][ ]\d{4}[ ]\d{4}|020[ ]\d{4}[ ]\d{4}|0\d{2,4}[ ]\d{3}[ ]\d{2}[ ]\d{2}",
    r"0\d{2,4}[/-][ ]?\d{3,8}(?:[ -]\d{2,5}){0,3}|0\d{2,4}[ ]?/[ ]?\d{2,4}(?: ?\d{2,4}){1,3}",  # Germany, Italy, Netherlands, Austria
    r"0\d{1,3}-\d{3,4}-\d{4}",  # Japan, Korea
)
BY_FORM = re.compile(BEFORE + "(?:" + "|".join(NATIONAL) + ")" + AFTER + r"(?! \d)")
BY_WORD = re.compile(BEFORE + r"(?:\+|\()?\d(?:[ ()./-]{0,2}\d){6,12}" + AFTER)
CODES = re.compile(  # country codes of the ITU (E.164)
    r"1|7|2[07]|2[1-689]\d|3[0-469]|3[578]\d|4[013-9]|42\d|5[1-8]|5[09]\d|6[0-6]|6[7-9]\d|8[1246]|8[0578]\d|9[0-58]|9[679]\d"
)
CALLS = re.compile(
    r"(?:\b(?:call|calls|called|phone|phones|phoned|ring|dial|tel|telephone|mobile|mob|cell|cellphone|whats ?app|text me|sms|fax|landline|"
    r"reach(?: me| us| him| her)?|my number|telefon\w*|teléfono|telefono|téléphone|téléphoner|telefoon|telefone|móvil|movil|celular|"
    r"portable|cellulare|handy|mobil\w*|mobiel|rufnummer|anrufen|appel\w*|llam\w+|chiam\w+|bel me|numer|gsm|"
    r"телефон\w*|тел|моб|мобильн\w*|звон\w*|позвон\w*|τηλ\w*|κινητό)\b|هاتف|جوال|موبايل|اتصل|تلفن|موبایل|شماره تماس|טלפון|נייד|"
    r"फ़ोन|फोन|मोबाइल|ফোন|মোবাইল|โทร|เบอร์|电话|電話|手机|手機|携帯|전화|휴대폰|연락처|ტელეფონ\w*|հեռախոս\w*|ስልክ)",
    re.I,
)
OTHERS = re.compile(
    r"(?:#|№|\b(?:order|orders|tracking|track|parcel|package|shipment|consignment|waybill|awb|ref|reference|invoice|receipt|bill|account|acct|"
    r"iban|bic|isbn|issn|ean|upc|gtin|sku|imei|serial|part|item|article|model|batch|lot|case|ticket|claim|policy|contract|customer|client|"
    r"member|membership|passport|licen[cs]e|id|code|codes|pin|version|build|lottery|lotto|score|sequence|vin|vat|tax|eori|hs|po|booking|"
    r"reservation|confirmation|container|meter|bestell\w*|sendung\w*|rechnung\w*|auftrag\w*|commande|facture|colis|pedido|factura|envío|"
    r"ordine|fattura|bestelling|zamówieni\w*|zamówienia|faktur\w*|przesyłk\w*|заказ\w*|трек\w*|накладн\w*|счет\w*|numéro de suivi)\b|"
    r"订单|訂單|单号|運單|运单|注文|追跡|伝票|주문|송장|운송장|طلب|سفارش|הזמנה|ऑर्डर|অর্ডার|คำสั่งซื้อ|พัสดุ)",
    re.I,
)

CARDS = re.compile(
    r"\b(?:cards?|visa|master ?card|amex|american express|credit|debit|karte|kreditkarte|carte|tarjeta|carta|карт\w*)\b",
    re.I,
)
WORDS = {"phone": CALLS, "card": CARDS, "other": OTHERS}


def find_personal_data(text: str) -> list[str]:
    """Name the kinds of personal data that a text seems to hold: e-mail address, card number, phone number."""
    found = {kind for kind, _, _ in _places(text)}
    return [kind for kind in MASKS if kind in found]


def mask_personal_data(text: str) -> str:
    """Replace personal data in a text with a mask such as `[phone]`.

    A card number has a network's length and first digits and passes the check sum on cards (Luhn, ISO/IEC 7812-1).
    """
    for kind, start, end in sorted(_places(text), key=lambda place: -place[1]):
        text = text[:start] + MASKS[kind] + text[end:]
    return text


def personal_values(text: str) -> dict[str, str]:
    """The personal data in a text: {what stands there: its mask}."""
    return {text[start:end]: MASKS[kind] for kind, start, end in _places(text)}


def _places(text: str) -> list[tuple[str, int, int]]:
    """(kind, start, end) of what is personal; none overlaps another."""
    places: list[tuple[str, int, int]] = []
    if "@" in text:
        places += [("e-mail address", *match.span()) for match in MAIL.finditer(text)]
    if sum(map(str.isdigit, text)) >= 7:
        ibans = [match.span() for match in IBAN.finditer(text)]
        for kind, start, end in (*_cards(text), *_phones(text)):
            taken = (*ibans, *(place[1:] for place in places))
            if all(end <= a or b <= start for a, b in taken):
                places.append((kind, start, end))
    return places


def _cards(text: str) -> Iterator[tuple[str, int, int]]:
    for match in CARD.finditer(text):
        digits = _digits(match[0])
        if NETWORKS.fullmatch(digits) and _luhn(digits) and _said(text, match.start()) != "other":
            yield "card number", *match.span()


def _phones(text: str) -> Iterator[tuple[str, int, int]]:
    for form in (INTERNATIONAL, BY_FORM, BY_WORD):
        for match in form.finditer(text):
            said, digits = _said(text, match.start()), _digits(match[0])
            if said == "other" or _is_date(match[0]) or re.search(r"(\d)\1{5}$|0{5}$", digits):
                continue
            if form is INTERNATIONAL:
                solid = match[0].startswith("00") and (match[0].isdigit() or match[0][2] == " ")
                digits = digits.removeprefix("00")
                good = 8 < len(digits) < 16 and bool(CODES.match(digits)) and not (solid and said != "phone")
            elif form is BY_FORM:
                good = 8 < len(digits) < 13
            else:
                good = said == "phone" and 6 < len(digits) < 14
            if good:
                yield "phone number", match.start(), match.end()


def _said(text: str, start: int) -> str:
    """What the words before a number call it: "phone", "card", "other" or nothing; the nearest word counts."""
    before = re.split(
        r"(?<!\bno)(?<!\bnr)(?<!\btel)(?<!\bmob)(?<!\bтел)(?<!\bмоб)[\n.!?;](?=\s)|\d{3,}",
        text[max(0, start - 40) : start],
        flags=re.I,
    )[-1]
    if re.search(r"\b(?=[A-Z]*\d)(?=\d*[A-Z])[A-Z\d]{3,} $", before):  # part of a longer code
        return "other"
    near = [(match.end(), what) for what, words in WORDS.items() for match in words.finditer(before)]
    return max(near)[1] if near else ""


def _is_date(text: str) -> bool:
    """Whether the number begins as a date or is a list of times."""
    groups = [int(group) for group in re.findall(r"\d+", text)]
    widths = [len(group) for group in re.findall(r"\d+", text)]
    if len(groups) >= 3 and text[:1].isdigit():
        for a, b, c in ((groups[0], groups[1], groups[2]), (groups[2], groups[1], groups[0])):
            wide = widths[2] if c == groups[2] else widths[0]
            if 1 <= a <= 31 and 1 <= b <= 31 and min(a, b) <= 12 and wide == 4 and 1900 <= c <= 2100:
                return True
    days = len(groups) == 5 and max(groups) <= 31 and widths == [2] * 5
    times = days or all(
        width == 4 and group // 100 < 24 and group % 100 < 60 for width, group in zip(widths, groups, strict=True)
    )
    rising = all(a < b for a, b in pairwise(groups))
    return len(groups) > 1 and times and rising


def _digits(text: str) -> str:
    """The digits of a text, of any script, as ASCII."""
    return "".join(str(unicodedata.decimal(c)) for c in text if c.isdecimal())


def _luhn(digits: str) -> bool:
    numbers = [int(c) for c in digits][::-1]
    return sum(numbers[::2]) % 10 == -sum(sum(divmod(2 * d, 10)) for d in numbers[1::2]) % 10
