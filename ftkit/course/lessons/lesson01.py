"""Lesson 01, the pre-trained model: tokens, template, probabilities, generation, perplexity, memory."""

from __future__ import annotations

import math
from functools import partial

from ftkit.course.exercise import Exercise, wrong_if, wrong_set


class Pieces:
    """A toy tokenizer for the checks: cuts words into pieces of three letters, and adds a start token unless told not to."""

    def __call__(self, text, add_special_tokens=True):
        pieces = [word[i : i + 3] for word in text.split() for i in range(0, len(word), 3)]
        return {"input_ids": [1] * bool(add_special_tokens) + [2 + sum(map(ord, piece)) % 900 for piece in pieces]}

    def tokenize(self, text):
        return [word[i : i + 3] for word in text.split() for i in range(0, len(word), 3)]

    def encode(self, text, add_special_tokens=True):
        return self(text, add_special_tokens)["input_ids"]


def _tokens_per_word(tokens_per_word):
    tokenizer = Pieces()
    for text in ("two tables", "a coeliac guest is coming", "gluten free"):
        words, tokens = len(text.split()), len(tokenizer.tokenize(text))
        got = tokens_per_word(tokenizer, text)
        wrong_if(
            math.isclose(got, (tokens + 1) / words),
            "The tokenizer added a special token of its own, and you counted it. Pass add_special_tokens=False.",
        )
        wrong_if(math.isclose(got, tokens / len(text)), "You divided by the characters; text.split() gives the words.")
        wrong_if(math.isclose(got, words / tokens) and words != tokens, "Upside down: that is words per token.")
        wrong_if(got == tokens, "That is the number of tokens. Divide it by the number of words.")
        wrong_if(
            not math.isclose(got, tokens / words),
            f"For {text!r}, cut into {tokens} tokens, the answer is {tokens / words:.2f}; you return {got!r}.",
        )


def _as_chatml(as_chatml):
    turn = "<|im_start|>{role}\n{content}<|im_end|>\n"
    for chat in (
        [{"role": "user", "content": "Are dogs welcome?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    ):
        turns = "".join(turn.format(**message) for message in chat)
        want, got = turns + "<|im_start|>assistant\n", as_chatml(chat)
        wrong_if(not isinstance(got, str), "It should return one text.")
        wrong_if(got == turns, 'The assistant\'s turn is not opened. Add "<|im_start|>assistant\\n" once, at the very end.')
        wrong_if(
            got.count("<|im_start|>assistant") > 1,
            "The assistant's turn is opened after every message; it belongs at the end.",
        )
        wrong_if(
            got != want and got.replace("\n", "") == want.replace("\n", ""),
            'Only line ends ("\\n") differ: one after the role, one after <|im_end|>, one after the last "assistant".',
        )
        wrong_if("<|im_end|>" not in got, "Where does a turn end? <|im_end|> is missing.")
        wrong_if(got != want, f"For {chat} it should be\n{want!r}\nand you return\n{got!r}")


def _probabilities(probabilities):
    import torch

    for logits, temperature in (([2.0, 1.0, 0.0], 1.0), ([2.0, 1.0, 0.0], 0.5), ([0.0, 3.0, -1.0, 2.0], 2.0)):
        logits = torch.tensor(logits)
        want = torch.softmax(logits / temperature, dim=-1)
        got = torch.as_tensor(probabilities(logits, temperature)).float()
        wrong_if(got.shape != want.shape, f"{len(want)} logits go in, so {len(want)} probabilities must come out.")
        wrong_if(
            temperature != 1 and torch.allclose(got, torch.softmax(logits, dim=-1), atol=1e-4),
            "The temperature has no effect yet. Divide the logits by it.",
        )
        wrong_if(
            temperature != 1 and torch.allclose(got, torch.softmax(logits * temperature, dim=-1), atol=1e-4),
            "You multiplied by the temperature. A low one must make the likeliest token likelier: divide.",
        )
        wrong_if(
            not torch.isclose(got.sum(), torch.tensor(1.0), atol=1e-4),
            f"Probabilities add up to 1; yours add up to {float(got.sum()):.3f}. torch.softmax takes care of that.",
        )
        wrong_if(
            not torch.allclose(got, want, atol=1e-4),
            f"For the logits {logits.tolist()} at temperature {temperature} other numbers are right: is the softmax the last step?",
        )


def _perplexity(perplexity):
    for shares in ([0.5, 0.5], [0.1, 0.9, 0.4], [1.0, 1.0, 1.0], [0.25]):
        surprise = [-math.log(share) for share in shares]
        want, got = math.exp(sum(surprise) / len(surprise)), float(perplexity(shares))
        wrong_if(
            not math.isclose(want, sum(surprise) / len(surprise), abs_tol=1e-6)
            and math.isclose(got, sum(surprise) / len(surprise), abs_tol=1e-6),
            "That is the mean surprise, the loss. The perplexity is e to that power: math.exp.",
        )
        wrong_if(
            len(shares) > 1 and want > 1.001 and math.isclose(got, math.exp(sum(surprise)), rel_tol=1e-6),
            "You added the surprises up; a long text would always look worse. Take their mean.",
        )
        wrong_if(
            len(set(shares)) > 1 and math.isclose(got, sum(1 / share for share in shares) / len(shares), rel_tol=1e-6),
            "You took the mean of 1/p. Take the mean of -log(p) first, then math.exp.",
        )
        wrong_if(
            want > 1.001 and math.isclose(got, 1 / want, rel_tol=1e-6), "Upside down: there is a minus before the logarithm."
        )
        wrong_if(
            not math.isclose(got, want, rel_tol=1e-6), f"For {shares} the perplexity is {want:.3f}; you return {got:.3f}."
        )


def _megabytes(megabytes):
    for parameters, bits in ((1_000_000, 8), (7_000_000_000, 16), (250_000_000, 4), (3_000_000, 32)):
        want, got = parameters * bits / 8 / 1e6, float(megabytes(parameters, bits))
        wrong_if(math.isclose(got, want * 8), "That counts bits. A byte has 8 of them.")
        wrong_if(
            math.isclose(got, want * 1e6 / 2**20),
            "You divided by 2**20 (a mebibyte). Here a megabyte is 10**6 bytes, as on the disk.",
        )
        wrong_if(math.isclose(got, want * 1e6), "That is bytes. Divide by 10**6 for megabytes.")
        wrong_if(
            not math.isclose(got, want),
            f"{parameters:,} parameters of {bits} bits take {want:,.1f} MB; you return {got:,.1f}.",
        )


CANNOT = {
    "a": ("A capital is in many books and pages: a pre-trained model has met it often.", False),
    "b": ("Tonight's bookings were in no text that any model has read.", True),
    "c": ("A recipe is general knowledge; small models get details wrong, yet it can be known.", False),
    "d": ("The desk's rule is written in its guide only.", True),
    "e": ("Which foods hold gluten is general knowledge.", False),
}


_cannot_know = partial(
    wrong_set,
    table=CANNOT,
    too_many="({0}) {1}",
    missing="Right so far. One more: where would a model have read the answer to ({1})?",
)


def _settings(settings):
    wrong_if(not isinstance(settings, dict), 'Write a dictionary: {"do_sample": ..., "max_new_tokens": ...}.')
    strange = set(settings) - {"do_sample", "max_new_tokens", "temperature", "top_p", "top_k"}
    wrong_if(
        strange, f"generate() settings in question are do_sample and max_new_tokens; {sorted(strange)} is not asked for."
    )
    missing = {"do_sample", "max_new_tokens"} - set(settings)
    wrong_if(missing, f"{sorted(missing)} is missing.")
    wrong_if(
        settings["do_sample"],
        "With do_sample=True the same message may get another ticket tomorrow. A desk wants the same answer every time.",
    )
    tokens = settings["max_new_tokens"]
    wrong_if(not isinstance(tokens, int), "max_new_tokens is a whole number.")
    wrong_if(
        tokens < 60,
        f"The longest ticket takes 60 tokens; after {tokens} it would be cut off, and a cut ticket is no JSON.",
    )
    wrong_if(
        tokens > 240,
        f"{tokens} tokens is far more than the longest ticket's 60. A model that does not stop would ramble on, and you would wait.",
    )
    wrong_if("temperature" in settings, "Without sampling a temperature has no effect: leave it out.")


EXERCISES = (
    Exercise(
        "01.tokens",
        "tokens_per_word",
        '''
def tokens_per_word(tokenizer, text):
    """Tokens for each word of a text (words are what spaces part), special tokens not counted."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ...
''',
        ("len(ids) / len(text.split())",),
        _tokens_per_word,
        ("How many tokens are there? len(ids).", "text.split() is the list of words. Divide one count by the other."),
        "near 1 for plain English, more for rare words: they are cut into pieces.",
    ),
    Exercise(
        "01.template",
        "as_chatml",
        '''
def as_chatml(chat):
    """The chat as text in ChatML: every turn marked, the assistant's turn opened at the end."""
    turns = [f"<|im_start|>{message['role']}\\n{message['content']}<|im_end|>\\n" for message in chat]
    return ...
''',
        ('"".join(turns) + "<|im_start|>assistant\\n"',),
        _as_chatml,
        (
            'Join the turns without anything between them: "".join(turns).',
            "The model writes on from where the text ends. What must stand there, so that it writes as the assistant?",
            'Add "<|im_start|>assistant\\n" after the last turn.',
        ),
        "this is all that a chat template does.",
    ),
    Exercise(
        "01.temperature",
        "probabilities",
        '''
def probabilities(logits, temperature):
    """Probabilities of the next token from its logits, shape [vocabulary], at a temperature."""
    return ...
''',
        ("torch.softmax(logits / temperature, dim=-1)",),
        _probabilities,
        (
            "torch.softmax(x, dim=-1) turns any numbers into probabilities.",
            "A temperature below 1 widens the gaps between the logits: divide them by it before the softmax.",
        ),
        "a low temperature favours the likeliest token, a high one evens them out.",
    ),
    Exercise(
        "01.settings",
        "settings",
        """
# generate() settings for writing tickets, say that the longest takes 60 tokens
settings = {"do_sample": ..., "max_new_tokens": ...}
""",
        ("False", "64"),
        _settings,
        (
            "Should the same message get the same ticket every time?",
            "max_new_tokens is a limit: the model may stop earlier. A ticket that is cut off cannot be read.",
        ),
        "always the likeliest token, and room for the longest ticket with little to spare.",
        function=False,
    ),
    Exercise(
        "01.cannot_know",
        "cannot_know",
        """
# which of a to e can no pre-trained model know, however large it is? Write a set of letters.
cannot_know = ...
""",
        ('{"b", "d"}',),
        _cannot_know,
        (
            "Ask of each: could the answer stand in a text that was public before the model was trained?",
            "Two of the five live only in this bistro.",
        ),
        "facts of today and of one house must come with the message, or be learned from examples.",
        function=False,
    ),
    Exercise(
        "01.perplexity",
        "perplexity",
        '''
def perplexity(shares):
    """Perplexity of a text, from the probability that the model gave to each of its tokens."""
    surprise = [-math.log(share) for share in shares]
    return ...
''',
        ("math.exp(sum(surprise) / len(surprise))",),
        _perplexity,
        (
            "First the mean of the surprises: sum(surprise) / len(surprise).",
            "Then undo the logarithm: math.exp(mean).",
        ),
        "a perplexity of 2 means: as unsure, on average, as with a coin.",
    ),
    Exercise(
        "01.memory",
        "megabytes",
        '''
def megabytes(parameters, bits):
    """Megabytes (10**6 bytes) that so many parameters of so many bits take."""
    return ...
''',
        ("parameters * bits / 8 / 10**6",),
        _megabytes,
        ("A byte has 8 bits.", "Parameters times bits, divided by 8 for bytes, divided by 10**6 for megabytes."),
        "now you can tell before a download whether a model fits.",
    ),
)
