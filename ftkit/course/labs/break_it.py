"""Lab "Break it": eight ways to break a fine-tuning, each to be recognised by its symptom."""

from __future__ import annotations

from functools import partial

from ftkit.course.exercise import Exercise, wrong_choice, wrong_if
from ftkit.course.forms import plain


def _same_prompt(same_prompt):
    system = "<|im_start|>system\nBe brief.<|im_end|>\n"
    user = "<|im_start|>user\nA café?<|im_end|>\n"
    opening = "<|im_start|>assistant\n"
    trained, closed, by_hand = system + user + opening, system + user, "Be brief.\n\nMessage: A café?\nTicket:"
    other, swapped = trained.replace("brief", "polite"), user + system + opening
    composed = trained.replace("é", "e\u0301")
    first, second, opened = [1, 5, 9, 2], [1, 6, 7, 2], [1, 8]
    ids = {
        trained: first + second + opened,
        closed: first + second,
        by_hand: [9, 4, 7, 3],
        other: [1, 5, 3, 2, *second, *opened],
        swapped: second + first + opened,
        composed: first + second + opened,
    }

    def tokenize(text):
        return list(ids.get(text, [3] * len(text)))

    for asked, sentence in (
        (
            closed,
            "A prompt whose assistant's turn is not opened passed as equal. It is only the beginning of the other: compare all ids.",
        ),
        (
            by_hand,
            "A prompt written by hand passed as equal. The words may be the same: compare what the model reads, the token ids.",
        ),
        (
            other,
            "Two prompts of the same length passed as equal, though one token differs. Compare the ids, not how many there are.",
        ),
        (
            swapped,
            "Two prompts with the same ids in another order passed as equal. A model reads one token after the other: "
            "compare the lists as they are, neither sorted nor as sets.",
        ),
    ):
        wrong_if(same_prompt(tokenize, trained, asked), sentence)
    wrong_if(not same_prompt(tokenize, trained, trained), "The same prompt twice should give True.")
    wrong_if(
        not same_prompt(tokenize, trained, composed),
        "Two texts that become the same ids passed as different: here an é is written in two ways. Compare the ids, not the texts.",
    )


def _carries_end(carries_end):
    end, padding = 2, [-100] * 6
    cases = (
        ([-100, -100, 40, 41, 2, 9], True, "the end, then a line end"),
        ([-100, 2, -100, 40, 41, 2, -100, -100], True, "a padded row whose end carries loss"),
        ([-100, -100, 40, 41, 2, 9, *padding], True, "a row with much padding after its end"),
        ([-100, -100, 40, 41, -100, 9], False, "an end that was masked"),
        ([-100, -100, 40, 41, -100, *padding], False, "an end that was masked as padding"),
    )
    for labels, want, what in cases:
        got = carries_end(labels, end)
        wrong_if(
            want and not got and labels[-1] != end,
            f"You say False for {what}, {labels}. After the end there may be a line end and padding, much or little: "
            "do not look at the last label only, or at the last few, but among all of them.",
        )
        wrong_if(
            got and not want,
            f"You say True for {what}: no label is the end token there. -100 means that the place carries no loss.",
        )
        wrong_if(got is not want, f"For {what}, {labels}, the answer is {want}; you return {got!r}.")


def _stray(stray):
    ids = [1, 5, 6, 2, 1, 8, 40, 41, 2, 2, 2]
    for labels, prompt, real, want in (
        (ids[:6] + ids[6:9] + [-100, -100], 6, 9, 6),
        ([-100] * 6 + ids[6:], 6, 9, 2),
        (ids, 6, 9, 8),
        ([-100] * 6 + ids[6:9] + [-100, -100], 6, 9, 0),
    ):
        got = stray(labels, prompt, real)
        in_prompt = sum(label != -100 for label in labels[:prompt])
        in_padding = sum(label != -100 for label in labels[real:])
        wrong_if(
            in_padding and got == in_prompt,
            "The prompt is counted, the padding is not. Padding stands from place `real` on.",
        )
        wrong_if(
            in_prompt and got == in_padding,
            "The padding is counted, the prompt is not. The prompt is the first `prompt` places.",
        )
        wrong_if(
            got == sum(label != -100 for label in labels) and got != want,
            "You counted the answer's tokens too. They should carry loss.",
        )
        wrong_if(
            got == prompt + len(labels) - real and got != want,
            "You counted places. Only those count whose label is not -100.",
        )
        wrong_if(got != want, f"For {labels}, prompt {prompt}, real {real}, it is {want}; you return {got!r}.")


def _verdict(verdict):
    for losses, want, what in (
        ([3.6, 1.1, 0.5, 0.3, 0.2], "fine", "a loss that falls and stays down"),
        ([3.4, 2.2, 0.9, 0.7, 0.75, 0.6], "fine", "a loss that falls and wavers a little"),
        ([3.4, 3.5, 1.4, 0.8, 0.6], "fine", "a loss that rises a little, then falls"),
        ([3.6, 3.6, 3.5, 3.5, 3.4], "too low", "a loss that hardly moves"),
        ([3.83, 3.95, 4.22, 4.24, 4.16, 4.2], "too low", "a loss that hardly moves, and wavers"),
        ([3.6, 8.9, 7.5, 6.1, 5.8], "too high", "a loss that shoots up"),
        ([3.2, 9.0, 5.0, 4.1, 3.3], "too high", "a loss that shoots up and comes down to where it began"),
        ([3.6, 9.5, 4.0, 2.4, 2.2], "too high", "a loss that shoots up and then falls below its start"),
    ):
        got = verdict(losses)
        wrong_if(got not in ("fine", "too low", "too high"), f'Return "fine", "too low" or "too high"; you return {got!r}.')
        wrong_if(
            want != "too high" and got == "too high",
            f"You call {what} too high: {losses}. Batches differ, so a loss may waver. Too high is a leap: highest > 1.5 * first.",
        )
        wrong_if(
            want == "too high" and got == "too low",
            f"You call {what} too low: {losses}. On its way it went far above its start: look at max(losses) first.",
        )
        wrong_if(
            want == "too low" and got == "fine",
            f"You call {what} fine: {losses}. Compare the last with the first: at least a fifth should be gone.",
        )
        wrong_if(got != want, f"For {what}, {losses}, the verdict is {want!r}; you say {got!r}.")


CLUES = {
    "a": ("The end token carries loss in every example, so it did learn to stop.", False),
    "b": ("The prompts are the same, token by token, in training and in use.", False),
    "c": ("", True),
    "d": ("A rate too low would leave both scores low, not only the one on fresh messages.", False),
}


def _memory(memory):
    memory = plain(memory)
    wrong_if(not isinstance(memory, str), 'Write one letter in quotes, such as "a".')
    letter = memory.strip(" ().").lower()
    wrong_if(letter not in CLUES, f"{memory!r} is none of the letters a to d.")
    reason, right = CLUES[letter]
    wrong_if(not right, reason)


def _changes_nothing(changes_nothing):
    import torch

    def weights(*rows_of_b):
        """Layers of rank 2: A as it begins, and B with these rows."""
        pairs = enumerate(rows_of_b)
        a = torch.tensor([[0.3, -0.2, 0.1], [0.2, 0.4, -0.3]])
        layers = [(f"layers.{n}.lora_A.weight", a, f"layers.{n}.lora_B.weight", torch.tensor(rows)) for n, rows in pairs]
        return {name: matrix for one, a, other, b in layers for name, matrix in ((one, a), (other, b))}

    zeros = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    cancels = [[0.25, -0.25], [0.5, -0.5], [-0.125, 0.125]]  # each row, and the whole, to exactly 0
    below = [[-0.1, -0.1], [-0.2, 0.0], [0.0, -0.1]]
    wrong_if(
        not changes_nothing(weights(zeros, zeros)),
        "An adapter that was never trained passed as trained. Its A matrices are random from the start; look at the B ones.",
    )
    wrong_if(
        changes_nothing(weights(cancels, cancels)),
        "A trained adapter, whose B matrices hold 0.25 and -0.25, passed as empty. A sum can cancel out: use any().",
    )
    wrong_if(
        changes_nothing(weights(below, below)),
        "A trained adapter whose B matrices hold no number above 0 passed as empty. Below 0 is not zero either: use any().",
    )
    wrong_if(
        changes_nothing(weights(zeros, below)),
        "One layer of this adapter did learn. It changes nothing only if all B matrices are zero.",
    )
    wrong_if(
        changes_nothing(weights(below, zeros)), "You looked at the last layer only. The first one of this adapter did learn."
    )
    wrong_if(not changes_nothing({}), "A file without any weights changes nothing either.")


STEPS = ("load the base in 4 bits", "dequantize the base", "put the adapter on", "merge", "save")


def _road(road):
    for step in road:
        wrong_if(step not in STEPS, f"{step!r} is not one of the five steps; copy their words.")
    wrong_if(
        len(set(road)) != len(STEPS) or len(road) != len(STEPS),
        f"Each of the five steps stands there once; your list has {len(road)}.",
    )
    place = {step: number for number, step in enumerate(road)}
    wrong_if(
        place["merge"] < place["dequantize the base"],
        "You merge while the base is in 4 bits: the sum is rounded to the 16 steps of 4 bits, and much of the adapter is gone.",
    )
    wrong_if(
        place["dequantize the base"] < place["load the base in 4 bits"],
        "There is nothing to dequantize before it was loaded. It is loaded in 4 bits because the adapter learned on those values.",
    )
    wrong_if(place["merge"] < place["put the adapter on"], "What would be merged, before the adapter is on?")
    wrong_if(
        place["put the adapter on"] < place["dequantize the base"],
        "By the sums that would be the same. But peft makes the adapter's layers for the layers that it finds: put on 4-bit ones, "
        "they merge by the rules of 4 bits, and fail on a base that is dequantized afterwards. First the base, then the adapter.",
    )
    wrong_if(place["save"] < place["merge"], "What is saved before the merge is not the merged model.")


GENERATION = ("max_new_tokens", "The model knows the whole answer. What stops it is the limit of generation.")
TRAINING = ("max_length", "That happened before or in the training; max_new_tokens plays no part in it.")
CUTS = {
    "every answer has exactly 24 tokens": GENERATION,
    "answers know the first fields, and make up the last ones": TRAINING,
    "the training's loss is fine, and rows had lost their last tokens": TRAINING,
    "the same run gives whole answers in the demo, and halves in a script": GENERATION,
}


EXERCISES = (
    Exercise(
        "break_it.template",
        "same_prompt",
        '''
def same_prompt(tokenize, trained, asked):
    """Whether two prompts are the same to a model. `tokenize` turns a text into a list of token ids."""
    return ...
''',
        ("tokenize(trained) == tokenize(asked)",),
        _same_prompt,
        ("A model reads token ids, nothing else.", "Two lists are compared with ==."),
        "this comparison, over real prompts, is a test that every project should have.",
        returns="truth",
    ),
    Exercise(
        "break_it.end",
        "carries_end",
        '''
def carries_end(labels, end):
    """Whether the token `end` is among the tokens that a training example is graded on."""
    return ...
''',
        ("end in labels",),
        _carries_end,
        (
            "A label is the token that is right at its place, or -100 where no loss falls.",
            "So the question is whether the number `end` stands anywhere in the list.",
        ),
        "an end that carries no loss is an end that nobody teaches.",
        returns="truth",
    ),
    Exercise(
        "break_it.mask",
        "stray",
        '''
def stray(labels, prompt, real):
    """Labels that carry loss and should not: in the first `prompt` places, and from place `real` on."""
    return ...
''',
        ("sum(label != -100 for label in labels[:prompt] + labels[real:])",),
        _stray,
        (
            "labels[:prompt] are those of the prompt, labels[real:] those of the padding.",
            "Count in both how many are not -100: sum(label != -100 for label in ...).",
        ),
        "0 is the only good answer.",
        returns="whole number",
    ),
    Exercise(
        "break_it.rate",
        "verdict",
        '''
def verdict(losses):
    """What a loss curve says of the learning rate: "fine", "too low" or "too high"."""
    first, last, highest = losses[0], losses[-1], max(losses)
    return ...
''',
        '''
def verdict(losses):
    """What a loss curve says of the learning rate: "fine", "too low" or "too high"."""
    first, last, highest = losses[0], losses[-1], max(losses)
    if highest > 1.5 * first:
        return "too high"
    return "too low" if last > 0.8 * first else "fine"
''',
        _verdict,
        (
            "Too high: the loss leaps up, far above where it began. Too low: it ends nearly where it began.",
            "Ask for the leap first: highest > 1.5 * first.",
            'Then: "too low" if last > 0.8 * first, else "fine".',
        ),
        "the curve tells within a minute; there is no need to wait for the end.",
        returns="text",
    ),
    Exercise(
        "break_it.leak",
        "memory",
        """
# which of a to d fits the symptom? Write one letter in quotes.
memory = ...
""",
        ('"c"',),
        _memory,
        ("Which of them makes *one* score good and leaves the other?", "What had the model seen, and what had it not?"),
        "a model that has seen the test remembers it; on fresh messages memory is of no use.",
        function=False,
    ),
    Exercise(
        "break_it.adapter",
        "changes_nothing",
        '''
def changes_nothing(weights):
    """Whether an adapter leaves its base as it is. `weights`: {name: tensor}, A and B apart."""
    return ...
''',
        ('not any(tensor.any() for name, tensor in weights.items() if "lora_B" in name)',),
        _changes_nothing,
        (
            "What is added to a layer is the product B·A. B begins as zeros, A as random numbers.",
            'Look at the tensors whose name holds "lora_B": tensor.any() is true if a number is not zero.',
            'not any(tensor.any() for name, tensor in weights.items() if "lora_B" in name)',
        ),
        "zeros in every B: the file is there, and the training is not in it.",
        returns="truth",
    ),
    Exercise(
        "break_it.merge",
        "road",
        """
# the five steps, out of order:
# "save", "merge", "dequantize the base", "load the base in 4 bits", "put the adapter on"
road = ...
""",
        """
# the five steps in their order
road = ["load the base in 4 bits", "dequantize the base", "put the adapter on", "merge", "save"]
""",
        _road,
        (
            "The adapter learned on the values that the 4 bits stand for. Which two steps give a model with just these values?",
            "Only then comes the adapter; merging adds it to the values, and saving comes last.",
        ),
        "the sum is rounded once, to 16 bits, and hardly loses anything.",
        function=False,
        returns="list",
    ),
    Exercise(
        "break_it.cut",
        "which_limit",
        """
# which limit is to blame, "max_length" (training) or "max_new_tokens" (generation)?
which_limit = {
    "every answer has exactly 24 tokens": ...,
    "answers know the first fields, and make up the last ones": ...,
    "the training's loss is fine, and rows had lost their last tokens": ...,
    "the same run gives whole answers in the demo, and halves in a script": ...,
}
""",
        ('"max_new_tokens"', '"max_length"', '"max_length"', '"max_new_tokens"'),
        partial(wrong_choice, best=CUTS),
        (
            "max_new_tokens cuts what a model writes; max_length cuts what a model learns from.",
            "A model that can write whole answers somewhere has learned them.",
        ),
        "two limits, two places to look.",
        function=False,
    ),
)
