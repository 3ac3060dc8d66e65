"""Lesson 01, the pre-trained model: tokens, template, probabilities, generation, perplexity, what is inside, memory."""

from __future__ import annotations

import math
from functools import partial

from ftkit.course.exercise import Exercise, wrong_if, wrong_set, wrong_value
from ftkit.course.forms import short

TEXTS = ("a coeliac guest is coming", "two tables", "gluten free")


def toy_tokenizer():
    """A small tokenizer for the check: pieces of three letters at most, and a start token that it adds by itself."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = sorted({word[i : i + 3] for text in TEXTS for word in text.split() for i in range(0, len(word), 3)})
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", "<s>", *pieces])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    cut = pre_tokenizers.Split(Regex(".{1,3}"), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), cut])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", model_input_names=names)


def _tokens_per_word(tokens_per_word):
    tokenizer = toy_tokenizer()
    for text in TEXTS:
        words, tokens = len(text.split()), len(tokenizer.tokenize(text))
        special = "The tokenizer added a special token of its own, and you counted it. Pass add_special_tokens=False."
        mistakes = (
            ((tokens + 1) / words, special),
            (tokens / len(text), "You divided by the characters; text.split() gives the words."),
            (words / tokens, "Upside down: that is words per token."),
            (tokens, "That is the number of tokens. Divide it by the number of words."),
            (words, "That is the number of words. Divide the number of tokens by it."),
            (tokens // words, "You cut the result down to a whole number: divide with /."),
            (
                len(tokenizer(text)) / words,
                "You counted the parts that a tokenizer gives. The ids are one of them: input_ids.",
            ),
            (1 / words, "You counted texts: a batch holds a list for each. Take the ids of the one text."),
        )
        otherwise = f"For {text!r}, cut into {tokens} tokens, the answer is {tokens / words:.2f}"
        got = tokens_per_word(tokenizer, text)
        wrong_value(got, tokens / words, mistakes, f"{otherwise}; you return {got!r}.")


def _as_chatml(as_chatml):
    turn = "<|im_start|>{role}\n{content}<|im_end|>\n"
    for chat in (
        [{"role": "user", "content": "Are dogs welcome?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    ):
        turns = "".join(turn.format(**message) for message in chat)
        want, got = turns + "<|im_start|>assistant\n", as_chatml(chat)
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

    def same(one, other):
        return one.shape == other.shape and torch.allclose(one.float(), other.float(), atol=1e-4)

    for logits, temperature in (([2.0, 1.0, 0.0], 1.0), ([2.0, 1.0, 0.0], 0.5), ([0.0, 3.0, -1.0, 2.0], 2.0)):
        logits = torch.tensor(logits)
        want, got = torch.softmax(logits / temperature, dim=-1), probabilities(logits, temperature)
        wrong_if(got.shape != want.shape, f"{len(want)} logits go in, so {len(want)} probabilities must come out.")
        mistakes = (
            (logits / temperature, "Probabilities add up to 1. torch.softmax makes them of the divided logits."),
            (torch.softmax(logits, dim=-1), "The temperature has no effect yet. Divide the logits by it."),
            (
                torch.softmax(logits * temperature, dim=-1),
                "You multiplied by the temperature. A low one must make the likeliest token likelier: divide.",
            ),
            (
                torch.log_softmax(logits / temperature, dim=-1),
                "Those are the logarithms of the probabilities: softmax, not log_softmax.",
            ),
        )
        total = float(got.sum())
        otherwise = (
            f"For the logits {logits.tolist()} at temperature {temperature} other numbers are right: is the softmax the last step?"
            if abs(total - 1) < 1e-4
            else f"Probabilities add up to 1; yours add up to {total:.3f}. torch.softmax takes care of that, as the last step."
        )
        wrong_value(got, want, mistakes, otherwise, same)


def _perplexity(perplexity):
    for shares in ([0.5, 0.5], [0.1, 0.9, 0.4], [1.0, 1.0, 1.0], [0.25]):
        surprise = [-math.log(share) for share in shares]
        total, mean, got = sum(surprise), sum(surprise) / len(surprise), perplexity(shares)
        mistakes = (
            (mean, "That is the mean surprise, the loss. The perplexity is e to that power: math.exp."),
            (total, "That is the sum of the surprises. Take their mean, then e to the power of it: math.exp."),
            (math.exp(total), "You added the surprises up; a long text would always look worse. Take their mean."),
            (
                sum(1 / share for share in shares) / len(shares),
                "You took the mean of 1/p. Take the mean of -log(p) first, then math.exp.",
            ),
            (math.exp(-mean), "Upside down: there is a minus before the logarithm."),
            (2**mean, "The surprises are natural logarithms, so it is e to their power, math.exp, not 2 to it."),
        )
        otherwise = f"For {shares} the perplexity is {math.exp(mean):.3f}; you return {got:.3f}."
        wrong_value(got, math.exp(mean), mistakes, otherwise)


def _layer_weights(layer_weights):
    for width, heads, groups, head, inner in ((8, 2, 1, 4, 16), (576, 9, 3, 64, 1536), (8, 4, 2, 4, 20)):
        queries, keys, mlp = heads * head, groups * head, 3 * width * inner
        want, got = 2 * width * (queries + keys) + mlp, layer_weights(width, heads, groups, head, inner)
        mistakes = (
            (want - mlp, "The MLP is missing: add its three matrices to those of attention."),
            (
                want - width * queries,
                "One matrix of queries x width is missing: there is q_proj, and o_proj on the way out.",
            ),
            (want - width * keys, "k_proj and v_proj are two matrices: count keys x width twice."),
            (want - width * (queries + keys), "Four matrices belong to attention: q_proj, k_proj, v_proj and o_proj."),
            (4 * width * queries + mlp, "k_proj and v_proj are smaller here: they have `groups` heads, not `heads`."),
            (4 * width * keys + mlp, "q_proj and o_proj are larger: they have `heads` heads, not `groups`."),
            (
                2 * (width + queries) + 2 * (width + keys) + mlp,
                "You added inputs and outputs. A matrix has outputs times inputs weights.",
            ),
        )
        sizes = f"width {width}, heads {heads}, groups {groups}, head {head}, inner {inner}"
        wrong_value(got, want, mistakes, f"For {sizes} it is {want:,}; you return {got:,}.")


def _attention(attention):
    import torch

    def same(one, other):
        return one.shape == other.shape and torch.allclose(one.double(), other.double(), atol=1e-4)

    for values in ([[0.0, 1.0], [2.0, 1.0]], [[1.0, 3.0, -1.0], [0.5, 0.0, 2.0], [2.0, 1.0, 0.0]]):
        scores = torch.tensor(values)
        later = torch.ones_like(scores).triu(1).bool()
        spread, hidden = torch.softmax(scores, dim=-1), scores.masked_fill(later, float("-inf"))
        want, got = torch.softmax(hidden, dim=-1), attention(scores)
        wrong_if(got.shape != want.shape, f"Scores of the shape {tuple(want.shape)} give weights of the same shape.")
        wrong_if(
            got.isnan().any(),
            "A row came out as nan: all of its scores are hidden. Every token may look at itself, so hide only what is `later`.",
        )
        mistakes = (
            (spread, "Nothing is hidden yet: a token still looks at tokens that come after it."),
            (
                spread.masked_fill(later, 0.0),
                "The rows no longer add up to 1: you hid the weights. Hide the scores, before the softmax.",
            ),
            (
                torch.softmax(scores.masked_fill(later, 0.0), dim=-1),
                "A score of 0 is not nothing: e to the power of 0 is 1, so later tokens still get weight. Take minus infinity.",
            ),
            (hidden, "Those are scores. torch.softmax makes weights of each row."),
            (
                torch.softmax(hidden, dim=0),
                "You took the softmax of each column. Each row, a token that looks, adds up to 1.",
            ),
            (torch.log_softmax(hidden, dim=-1), "Those are logarithms of the weights: softmax, not log_softmax."),
        )
        otherwise = f"For the scores {values} the weights are {want.round(decimals=3).tolist()}."
        wrong_value(got, want, mistakes, otherwise, same)


def _last_places(last_places):
    import torch

    for mask in ([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], [[0, 0, 1, 1], [1, 1, 1, 1]], [[0, 1, 1, 0]], [[1]]):
        want = [max(place for place, real in enumerate(row) if real) for row in mask]
        got = last_places(torch.tensor(mask))
        mistakes = (
            ([sum(row) for row in mask], "That is how many real tokens a row has. Positions are counted from 0."),
            (
                [sum(row) - 1 for row in mask],
                f"Right as long as the padding is on the right. For {mask} the real tokens do not begin at position 0.",
            ),
            ([len(row) - 1 for row in mask], f"That is the last position, real or not. In {mask} padding stands there."),
            ([-1] * len(mask), "-1 is the last position, real or not. Where is the last 1 in the row, counted from 0?"),
            ([row.index(1) for row in mask], "That is the first real token of each row. The last one is asked for."),
            ([place + 1 for place in want], "One too far: positions are counted from 0."),
        )
        wrong_if(len(got) != len(mask), f"A mask of {len(mask)} rows needs {len(mask)} positions, one for each row.")
        otherwise = f"For {mask} the positions are {want}; you return {short(got)}."
        wrong_value(got, want, mistakes, otherwise, lambda one, other: one == other)


def _megabytes(megabytes):
    for parameters, bits in ((1_000_000, 8), (1_510_000, 4), (7_000_000_000, 16), (250_000_000, 4), (3_000_000, 32)):
        want, got = parameters * bits / 8 / 1e6, megabytes(parameters, bits)
        rounded = f"You round: {want:g} MB came back as {got:g}. Divide with /, and leave the result as it is."
        mistakes = (
            (want * 8, "That counts bits. A byte has 8 of them."),
            (want * 1e6 / 2**20, "You divided by 2**20 (a mebibyte). Here a megabyte is 10**6 bytes, as on the disk."),
            (want * 1e6, "That is bytes. Divide by 10**6 for megabytes."),
            (want / 1e3, "That is gigabytes. Divide by 10**6 for megabytes."),
            *((round(want, digits), rounded) for digits in range(3)),
            (math.floor(want), rounded),
            (math.ceil(want), rounded),
        )
        otherwise = f"{parameters:,} parameters of {bits} bits take {want:,.3f} MB; you return {got:,.3f}."
        wrong_value(got, want, mistakes, otherwise)


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
    missing="{0} missing. Where would a model have read the answer to ({1})?",
)


def _settings(settings):
    strange = sorted(map(str, set(settings) - {"do_sample", "max_new_tokens", "temperature", "top_p", "top_k"}))
    wrong_if(
        strange, f"The settings of generate() in question are do_sample and max_new_tokens; {strange} is not asked for."
    )
    missing = {"do_sample", "max_new_tokens"} - set(settings)
    wrong_if(missing, f"{sorted(missing)} is missing.")
    wrong_if(
        settings["do_sample"] in (True, 1),
        "With do_sample=True the same message may get another ticket tomorrow. A desk wants the same answer every time.",
    )
    wrong_if(settings["do_sample"] not in (False,), "do_sample is True or False.")
    tokens = settings["max_new_tokens"]
    wrong_if(isinstance(tokens, bool) or not isinstance(tokens, int), "max_new_tokens is a whole number.")
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
        returns="number",
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
        returns="text",
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
        returns="tensor",
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
        returns="dictionary",
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
        returns="number",
    ),
    Exercise(
        "01.layer",
        "layer_weights",
        '''
def layer_weights(width, heads, groups, head, inner):
    """Weights in the seven linear layers of one layer; each head has `head` numbers."""
    queries, keys = heads * head, groups * head
    of_attention = ...
    of_mlp = 3 * width * inner
    return of_attention + of_mlp
''',
        ("2 * width * queries + 2 * width * keys",),
        _layer_weights,
        (
            "Four matrices stand in attention. Which have outputs or inputs as many as the queries, which as many as the keys?",
            "q_proj and o_proj hold width * queries weights each.",
            "k_proj and v_proj hold width * keys weights each.",
        ),
        "most of a layer is its MLP, and all of it is matrices: these are what 4 bits and adapters are about.",
        returns="whole number",
    ),
    Exercise(
        "01.attention",
        "attention",
        '''
def attention(scores):
    """Weights from scores, shape [tokens, tokens]: a token looks at itself and at those before it."""
    later = torch.ones_like(scores).triu(1).bool()  # True where the token is still to come
    return ...
''',
        ('torch.softmax(scores.masked_fill(later, float("-inf")), dim=-1)',),
        _attention,
        (
            "What must a score be, so that the softmax makes 0 of it? e to which power is 0?",
            'scores.masked_fill(later, float("-inf")) sets the scores of later tokens to minus infinity.',
            "Then torch.softmax(..., dim=-1), which makes each row add up to 1.",
        ),
        "with this mask a model can learn from all positions of a text at once, and none of them sees its own answer.",
        returns="tensor",
    ),
    Exercise(
        "01.last",
        "last_places",
        '''
def last_places(mask):
    """The position of the last real token (a 1) in each row of a mask, shape [rows, tokens]."""
    return ...
''',
        ("[max(place for place, real in enumerate(row) if real) for row in mask]",),
        _last_places,
        (
            "Go through the rows: for row in mask. enumerate(row) gives each position with its 0 or 1.",
            "Of all positions with a 1, take the largest: max(...).",
        ),
        "with padding on the left it is the last position in every row, which is why generation pads there.",
        returns="list",
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
        returns="number",
    ),
)
