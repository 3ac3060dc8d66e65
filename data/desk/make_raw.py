"""Make `raw.jsonl` and `raw_key.jsonl`: the desk's training messages as they would arrive in life, with planted faults.

    python data/desk/make_raw.py

A row of the key says what was done to a row of raw.jsonl and what it was before. The messages in other languages below
were written one by one; each says what the message with that id says.
"""

import json
import random
import string
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20
COUNTS = {
    "exact duplicate": 22,
    "near duplicate": 22,
    "wrong label": 34,
    "leaked test message": 22,
    "markup or signature": 24,
    "empty message": 20,
    "cut off": 22,
    "other language": 23,
    "personal data": 24,
    "label spelling": 24,
}
ELSEWHERE = {
    "desk-0268": "Bonjour, pouvez-vous annuler notre réservation du 3 juin s'il vous plaît ? Merci. Anne Lefèvre",
    "desk-0393": "Einen Tisch für zehn Personen bitte, am Freitag um sieben, auf den Namen Gruber.",
    "desk-0327": "Buonasera, 4 hamburger e 2 porzioni di patatine, passo a ritirarli stasera alle 7. Nome Giuseppe",
    "desk-0445": "Reserva para esta noche a las 8 y media, tres personas, a nombre de Silva",
    "desk-0529": "Wij komen donderdag met veertien man eten. Is dat mogelijk? Groeten, Sven",
    "desk-0532": "Czy robicie catering na zewnątrz? Stypa, około 50 osób, wtorek o drugiej po południu w sali świętego Judy",
    "desk-0809": "Nous avons adoré chaque minute, merci encore à toute l'équipe",
    "desk-0971": "Die Austern waren makellos. Mein Kompliment an Ihren Lieferanten.",
    "desk-0964": "Obrigado pelo café de oferta, foram muito simpáticos",
    "desk-0894": "El almuerzo del sábado fue un desastre de principio a fin, pregunten a cualquiera que estuviera allí.",
    "desk-0791": "Le saumon était sec comme du bois. Je l'ai dit au serveur, il a haussé les épaules.",
    "desk-0814": "Ho ordinato agnello, mi hanno portato manzo e mi hanno detto che era agnello. Allevo pecore da quarant'anni.",
    "desk-0279": "Hallo, liefern Sie auch in die Elm Road? Wir hätten gern am Freitag ein Abendessen für vier Personen.",
    "desk-0480": "Puis-je commander un repas à emporter pour 5 samedi ? Je passerai le chercher à 20 heures.",
    "desk-1115": "Znowu okulary do czytania. To znowu ja. Tym razem czerwone. We wtorek. Nigel",
    "desk-0799": "Ik heb 60 pond aanbetaling gedaan voor kerstavond, maar in de bevestiging staat 40 ontvangen. Kunt u dat nakijken?",
    "desk-0617": "¿Los niños son bienvenidos por la noche? Son tres, más nosotros dos",
    "desk-1301": "Volevo lunedì ma siete chiusi, quindi va bene martedì. Un angolo tranquillo per due, alle sei meno un quarto.",
    "desk-0276": "24/7 tarihinde sizde yemek yememeye karar verdik. On kişilik rezervasyonumuzu iptal eder misiniz?",
    "desk-1309": "Die Soße war kalt, die Kartoffeln waren kalt, und der Empfang gestern Abend war noch kälter.",
    "desk-1176": "A minha neta desenhou o vosso gato para um trabalho da escola e gostava de vos dar o desenho. Enviamos pelo correio?",
    "desk-0863": "Na stronie piszecie, że psy są mile widziane. Pan przy drzwiach mówił inaczej, i to przy wszystkich.",
    "desk-1377": "Vi har bokat bord men vill hellre komma någon kväll i början av juni i stället, när det passar er. Namnet är Pettersson.",
}
PLAUSIBLE = {  # the mistakes that a hurried labeller makes
    "book": "event", "event": "book", "change": "cancel", "cancel": "change", "complaint": "billing", "billing": "complaint",
    "menu": "visit", "visit": "menu", "praise": "complaint", "order": "book", "lost_item": "other", "other": "visit",
}  # fmt: skip
WRAPPED = (
    "<p>{}</p>",
    "<div>{}<br/><br/></div>",
    '<html><body><span style="color:#222222">{}</span></body></html>',
    "<p>Hi&nbsp;there,</p><p>{}</p>",
)
FOLLOWED = (
    "\n\nSent from my iPhone",
    "\n\nGet Outlook for Android",
    "\n\n-- \nSenior Account Manager\nHarbour & Pike Ltd\nThe Old Mill, Quay Street",
    "\n\nOn Tue, 4 Mar at 18:02, The Copper Pot wrote:\n> Thank you for your message.\n> We will reply within a day.",
    "\n\nThis e-mail and any attachments are confidential and intended for the addressee only.",
)
PERSONAL = (  # numbers kept free for films and tests, and a domain kept free for examples
    " You can reach me on 07700 900{n:03d}.",
    " My mobile is +44 7700 900{n:03d}",
    " Reply to {name}.{n}@example.com please.",
    " mail: {name}{n}@example.org",
    " Card 4111 1111 1111 1111, exp 09/29.",
    " Take the deposit from 5555555555554444",
)


def typo(message, rng):
    """The message with two neighbouring letters of one longer word swapped."""
    words = message.split(" ")
    i = rng.choice([i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()])
    n = rng.randrange(1, len(words[i]) - 2)
    words[i] = words[i][:n] + words[i][n + 1] + words[i][n] + words[i][n + 2 :]
    return " ".join(words)


def nearly(message, rng):
    """The message as it comes when somebody sends it again."""
    how = rng.choice(("typo", "greeting", "thanks", "dropped word"))
    words = message.split(" ")
    if how == "greeting":
        return "Hi again, " + message
    if how == "thanks":
        return message + " Many thanks"
    if how == "dropped word" and len(words) > 12:
        del words[len(words) // 2]
        return " ".join(words)
    return typo(message, rng)


def misspelled(ticket, rng):
    """The ticket with one value, or one key, written otherwise."""
    ticket = json.loads(json.dumps(ticket))
    ways = ["intent", "urgency", "key"]
    ways += [
        name for name in ("guests", "day") if ticket[name] is not None and str(ticket[name]) != str(ticket[name]).upper()
    ]
    ways += ["guests"] if ticket["guests"] else []
    ways += ["allergens"] if ticket["allergens"] else []
    way = rng.choice(ways)
    if way == "key":
        return {("Intent" if key == "intent" else key): value for key, value in ticket.items()}
    if way == "guests":
        ticket["guests"] = str(ticket["guests"])
    elif way == "allergens":
        ticket["allergens"] = [name.upper() for name in ticket["allergens"]]
    else:
        ticket[way] = rng.choice((str.upper, str.title, lambda v: f" {v}"))(ticket[way].replace("_", " "))
    return ticket


def spoil(kind, row, n, rng):
    """(message, ticket, what was done) for one row spoiled in one way."""
    message, ticket = row["message"], row["ticket"]
    if kind == "exact duplicate":
        return message, ticket, "stands twice"
    if kind == "near duplicate":
        return nearly(message, rng), ticket, "stands twice, a few letters apart"
    if kind == "leaked test message":
        return (message if n % 2 else nearly(message, rng)), ticket, "copied from the test split"
    if kind == "wrong label":
        others = sorted(set(PLAUSIBLE) - {ticket["intent"]})
        wrong = PLAUSIBLE[ticket["intent"]] if n % 3 == 0 else rng.choice(others)
        return message, {**ticket, "intent": wrong}, f"intent {ticket['intent']} became {wrong}"
    if kind == "markup or signature":
        if n % 2:
            escaped = message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            return WRAPPED[n // 2 % len(WRAPPED)].format(escaped), ticket, "HTML left in"
        return message + FOLLOWED[n // 2 % len(FOLLOWED)], ticket, "signature or notice left in"
    if kind == "empty message":
        return ("", " ", "\n", None)[n % 4], ticket, "no text"
    if kind == "cut off":
        return message[: rng.randint(40, 80)], ticket, "ends in the middle"
    if kind == "other language":
        return ELSEWHERE[row["id"]], ticket, "not in English"
    if kind == "personal data":
        name = "".join(rng.choices(string.ascii_lowercase, k=6))
        return message + PERSONAL[n % len(PERSONAL)].format(n=rng.randint(100, 999), name=name), ticket, "can reach a person"
    return message, misspelled(ticket, rng), "a value or a key spelled otherwise"


def suits(kind, row):
    """Whether a row can be spoiled in this way and still be told."""
    if kind == "cut off":
        return len(row["message"]) > 110
    if kind in ("near duplicate", "leaked test message"):
        return len(row["message"]) > 70
    if kind == "personal data":
        return not any(c.isdigit() for c in row["message"][-12:])
    return len(row["message"]) > 25


def make(seed=SEED):
    """(rows of raw.jsonl, rows of the key): the same for the same seed."""
    rng = random.Random(seed)
    train, test = (
        [json.loads(line) for line in (HERE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in ("train", "test")
    )
    free = [row for row in train if row["id"] not in ELSEWHERE]
    rng.shuffle(free)
    made = []  # (message, ticket, entry of the key or None, id of the source)
    spoiled = set()
    for kind, count in COUNTS.items():
        if kind == "other language":
            rows = [row for row in train if row["id"] in ELSEWHERE]
        elif kind == "leaked test message":
            rows = [row for row in rng.sample(test, len(test)) if suits(kind, row)][:count]
        else:
            rows = [row for row in free if suits(kind, row) and row["id"] not in spoiled][:count]
        assert len(rows) == count, (kind, len(rows))
        for n, row in enumerate(rows):
            message, ticket, how = spoil(kind, row, n, rng)
            entry = {"kind": kind, "how": how, "source": row["id"], "message": row["message"], "ticket": row["ticket"]}
            made.append((message, ticket, entry, row["id"]))
            spoiled.add(row["id"])
            if "duplicate" in kind:  # the first of the two stays as it was
                made.append((row["message"], row["ticket"], None, row["id"]))
    made += [(row["message"], row["ticket"], None, row["id"]) for row in train if row["id"] not in spoiled]
    rng.shuffle(made)
    raw, key = [], []
    for number, (message, ticket, entry, _) in enumerate(made, 1):
        raw.append({"id": f"raw-{number:04d}", "message": message, "ticket": ticket})
        if entry:
            key.append({"id": f"raw-{number:04d}", **entry})
    return raw, key


if __name__ == "__main__":
    for name, rows in zip(("raw", "raw_key"), make(), strict=True):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (HERE / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}.jsonl: {len(rows)} rows")
