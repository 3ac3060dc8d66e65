"""Lesson 03, fine-tuning with QLoRA: NF4 and LoRA by hand, what they cost, and how a loss curve is read."""

from __future__ import annotations

from functools import partial

from ftkit.course.exercise import Exercise, Wrong, wrong_choice, wrong_if, wrong_value


def _same(got, want):
    import torch

    return got.shape == want.shape and torch.allclose(got.double(), want.double(), atol=1e-5)


def _shape(tensor):
    return list(tensor.shape)


def _codes(codes):
    import torch

    for values, levels in (
        ([0.25, -0.9, 0.6], [-1.0, -0.4, 0.0, 0.3, 1.0]),
        ([1.0, 0.0, -0.15, 0.74, -0.5], [-1.0, -0.3, 0.1, 0.5, 1.0, 2.0]),
    ):
        values, levels = torch.tensor(values), torch.tensor(levels)
        distance = (values[:, None] - levels).abs()
        want, got = distance.argmin(dim=1), codes(values, levels)
        above = torch.searchsorted(levels, values)
        mistakes = (
            (
                levels[want],
                "Those are the levels themselves. Four bits have room for the number of a level only: its index.",
            ),
            (distance.argmax(dim=1), "That is the level farthest away; the nearest has the least distance."),
            (want + 1, "Off by one: the first level has the index 0, not 1. argmin counts like that by itself."),
            (want - 1, "Off by one: each index is one too small."),
            (above, "Always the next level above. Half of the values have a nearer one below: take the least distance."),
            (above - 1, "Always the next level below. Half of the values have a nearer one above: take the least distance."),
        )
        wrong_if(
            got.shape == levels.shape != values.shape,
            "One index came out for each level. There should be one for each value: look along the other dimension, dim=1.",
        )
        otherwise = f"For the values {values.tolist()} and the levels {levels.tolist()} the answer is {want.tolist()}"
        if got.is_floating_point() and not _same(got, levels[want]):
            raise Wrong("An index is a whole number. Which method of a tensor gives the place of its least?")
        wrong_value(got, want, mistakes, f"{otherwise}; you return {got.tolist()}.", _same)


def _restore(restore):
    import torch

    levels = torch.tensor([-1.0, -0.5, 0.0, 0.25, 1.0])
    # the square one first: there a scale along the wrong side raises no error, so the sentence about it is reached
    for codes, absmax in (
        ([[0, 4, 2], [3, 1, 4], [2, 2, 0]], [2.0, 0.1, 5.0]),
        ([[0, 4, 2], [3, 1, 4]], [2.0, 0.1]),
    ):
        codes, absmax = torch.tensor(codes), torch.tensor(absmax)
        want, got = levels[codes] * absmax[:, None], restore(codes, absmax, levels)
        mistakes = [
            (levels[codes], "The scale is missing: all blocks still lie between -1 and 1."),
            (
                levels[codes] / absmax[:, None],
                "You divided by the scale. That is what quantizing does; going back, multiply.",
            ),
            (
                levels[codes] * absmax.max(),
                "One scale for all blocks. Each block has its own: absmax[:, None] stands beside its row.",
            ),
            (codes * absmax[:, None], "The codes are numbers of levels, not values. levels[codes] looks the values up."),
            (levels[codes] + absmax[:, None], "You added the scale. Each block was divided by it: multiply."),
        ]
        if len(codes) == codes.shape[1]:
            along = "The scales went along the columns. A row is a block: absmax[:, None] stands beside its row."
            mistakes += [(levels[codes] * absmax, along)]
        wrong_if(
            got.shape != want.shape,
            f"Codes of shape {_shape(codes)} become weights of that shape; yours have the shape {_shape(got)}.",
        )
        scales = [round(a, 3) for a in absmax.tolist()]
        wrong_value(
            got, want, mistakes, f"For the codes {codes.tolist()} and the scales {scales} other weights come out.", _same
        )


def _bits_per_weight(bits_per_weight):
    for bits, block, scale_bits in ((4, 64, 32), (4, 32, 16), (8, 128, 32)):
        want, got = bits + scale_bits / block, bits_per_weight(bits, block, scale_bits)
        mistakes = (
            (bits, "The scale costs something too: one for each block."),
            (bits + scale_bits, "A scale is not kept for every weight: the weights of a block share one."),
            (bits * block + scale_bits, "Those are the bits of a whole block. How many weights share them?"),
            (
                bits + block / scale_bits,
                "Upside down: a larger block must cost less. The scale's bits go over the block.",
            ),
            ((bits + scale_bits) / block, "Only the scale is shared by a block. Each weight keeps its own bits."),
            (scale_bits / block, "That is the share in the scale. The weight's own bits come on top."),
        )
        otherwise = (
            f"{bits} bits in blocks of {block}, with a scale of {scale_bits} bits, cost {want} bits a weight, not {got}."
        )
        wrong_value(got, want, mistakes, otherwise)


def _random_layer(n, inputs, outputs, rank, seed):
    """Random x [n, inputs], W [outputs, inputs], A [rank, inputs], B [outputs, rank]."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    shapes = ((n, inputs), (outputs, inputs), (rank, inputs), (outputs, rank))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _with_adapter(with_adapter):
    # the square one first: there a wrong order raises no error, so the sentence about it is reached
    for n, inputs, outputs, rank, alpha, seed in ((3, 3, 3, 3, 2, 1), (2, 5, 3, 2, 8, 0)):
        x, W, A, B = _random_layer(n, inputs, outputs, rank, seed)
        scale, base, path = alpha / rank, x @ W.T, x @ A.T @ B.T
        want, got = base + scale * path, with_adapter(x, W, A, B, alpha)
        mistakes = [
            (base, "That is the layer without its adapter."),
            (path, "The layer itself is gone, and so is the scale alpha / rank."),
            (scale * path, "The layer itself is gone: its own output has to be added to the adapter's."),
            (base + path, "The scale is missing: the adapter's output is multiplied by alpha / rank."),
            (
                base + alpha * path,
                "Scaled by alpha alone. It is divided by the rank, so that a larger rank does not move the layer further.",
            ),
            (base + rank / alpha * path, "Upside down: alpha over rank."),
            (scale * (base + path), "The layer's own output was scaled too. Only the adapter's is."),
            (base - scale * path, "The adapter's output is added, not taken away."),
        ]
        if inputs == outputs == rank == n:
            order = "First x through A, then the result through B; both are transposed: x @ A.T @ B.T."
            for other in (x @ A @ B, x @ B.T @ A.T, x @ B @ A, x @ A.T @ B, x @ A @ B.T):
                mistakes += [(base + scale * other, order)]
            mistakes += [(base + scale * (B @ A), "That adds B @ A itself. x has to go through them as well.")]
        wrong_if(
            got.shape != want.shape,
            f"{n} inputs and {outputs} outputs give the shape {_shape(want)}; yours has {_shape(got)}.",
        )
        sizes = f"For {n} inputs of length {inputs}, {outputs} outputs, rank {rank} and alpha {alpha}"
        wrong_value(
            got, want, mistakes, f"{sizes} other numbers come out. First x through A, then the result through B.", _same
        )


def _trained(trained):
    for layers, rank in (([(10, 20)], 2), ([(32, 96), (64, 256)], 8), ([(5, 3), (3, 5), (7, 7)], 1)):
        want, got = sum(rank * (i + o) for i, o in layers), trained(layers, rank)
        one = "That is one of the two matrices. A has rank x inputs weights, B has outputs x rank."
        mistakes = (
            (sum(i * o for i, o in layers), "That counts the frozen weights of the layers. What stands beside them?"),
            (
                sum(rank * i * o for i, o in layers),
                "A and B are narrow: rank times inputs, and outputs times rank. Their sizes are added, not multiplied.",
            ),
            (sum(rank * i for i, _ in layers), one),
            (sum(rank * o for _, o in layers), one),
            (rank * sum(layers[0]), "That counts the first layer only; go through all of them."),
            (sum(i + o for i, o in layers), "The rank has no effect yet."),
            (
                sum(i * o + rank * (i + o) for i, o in layers),
                "The layers' own weights are frozen: count those of A and B alone.",
            ),
        )
        otherwise = f"For the layers {layers} and rank {rank} there are {want} weights to train; you return {got}."
        wrong_value(got, want, mistakes, otherwise)


def _merged(merged):
    # the square one first, as above
    for inputs, outputs, rank, alpha, seed in ((4, 4, 4, 2, 3), (5, 3, 2, 8, 2)):
        _, W, A, B = _random_layer(1, inputs, outputs, rank, seed)
        scale, added = alpha / rank, B @ A
        want, got = W + scale * added, merged(W, A, B, alpha)
        mistakes = [
            (W, "That is the layer without its adapter."),
            (scale * added, "That is what has to be added. The layer's own weights are missing."),
            (W + added, "The scale is missing: alpha / rank, as in the layer with its adapter."),
            (W + alpha * added, "Scaled by alpha alone; divide it by the rank."),
            (W + rank / alpha * added, "Upside down: alpha over rank."),
            (scale * (W + added), "The layer's own weights were scaled too. Only B @ A is."),
            (W - scale * added, "The adapter is added, not taken away."),
        ]
        if inputs == outputs == rank:
            order = "A @ B has the wrong order: x meets A first, so in the product of matrices A stands on the right."
            turned = "A.T @ B.T is the transpose of what is wanted: W has the shape [out, in], and so has B @ A."
            mistakes += [(W + scale * A @ B, order), (W + scale * A.T @ B.T, turned), (W + scale * B.T @ A.T, order)]
            mistakes += [(W * (scale * added), "The adapter's product is added to W, not multiplied by it.")]
        wrong_if(
            got.shape != want.shape, f"The merged layer has the shape of W, {_shape(W)}; yours has the shape {_shape(got)}."
        )
        sizes = f"For a layer of {inputs} inputs and {outputs} outputs, rank {rank}, alpha {alpha}"
        wrong_value(got, want, mistakes, f"{sizes}, other weights come out.", _same)


CURVES = {
    "a": ("raise the learning rate", "The loss falls, but hardly: each step moves the weights too little."),
    "b": ("lower the learning rate", "The loss jumped up and stays high: the steps throw the weights about."),
    "c": ("keep it", "It falls quickly, then slowly, and new examples are read as well as those of training."),
    "d": (
        "stop earlier",
        "The training loss goes on falling while new examples are read worse and worse: it learns the examples by heart.",
    ),
}


EXERCISES = (
    Exercise(
        "03.codes",
        "codes",
        '''
def codes(values, levels):
    """For each value, shape [n], the index of the level nearest to it, shape [n]."""
    distance = (values[:, None] - levels).abs()  # [n, levels]
    return ...
''',
        ("distance.argmin(dim=1)",),
        _codes,
        (
            "Each row of `distance` belongs to one value. Where in the row is the smallest number?",
            "A tensor has min, which gives the smallest number, and argmin, which gives its place. Along dim=1 it goes row by row.",
        ),
        "sixteen levels, so each index fits into four bits.",
        returns="tensor",
    ),
    Exercise(
        "03.restore",
        "restore",
        '''
def restore(codes, absmax, levels):
    """The weights again: codes [blocks, size], absmax [blocks], levels [16] -> [blocks, size]."""
    return ...
''',
        ("levels[codes] * absmax[:, None]",),
        _restore,
        (
            "A code is the index of a level: levels[codes] has the shape of codes.",
            "Each block was divided by its own absmax. Undo that.",
            "absmax[:, None] has the shape [blocks, 1]: multiplied with [blocks, size], each row gets its own number.",
        ),
        "that is dequantization. It happens again and again in training, each time a layer is used.",
        returns="tensor",
    ),
    Exercise(
        "03.bits",
        "bits_per_weight",
        '''
def bits_per_weight(bits, block, scale_bits):
    """Bits that a weight takes, with its share in the scale of its block of `block` weights."""
    return ...
''',
        ("bits + scale_bits / block",),
        _bits_per_weight,
        (
            "Each weight has its own `bits`. The scale is kept once for each block.",
            "So `block` weights share `scale_bits` between them.",
        ),
        "now the price of small blocks is known.",
        returns="number",
    ),
    Exercise(
        "03.lora",
        "with_adapter",
        '''
def with_adapter(x, W, A, B, alpha):
    """Output of a linear layer with its adapter: x [n, in], W [out, in], A [rank, in], B [out, rank]."""
    rank = A.shape[0]
    base = x @ W.T
    return ...
''',
        ("base + alpha / rank * (x @ A.T @ B.T)",),
        _with_adapter,
        (
            "The adapter's own output is x @ A.T @ B.T: down to `rank` numbers, and up again.",
            "It is multiplied by alpha / rank, then added to base.",
        ),
        "that is all of LoRA: a narrow path beside the layer.",
        returns="tensor",
    ),
    Exercise(
        "03.count",
        "trained",
        '''
def trained(layers, rank):
    """How many weights LoRA trains beside layers, which are given as pairs (inputs, outputs)."""
    return ...
''',
        ("sum(rank * (inputs + outputs) for inputs, outputs in layers)",),
        _trained,
        (
            "A has the shape [rank, inputs], B has [outputs, rank]. How many weights are these together?",
            "Add that up over all layers: sum(... for inputs, outputs in layers).",
        ),
        "it grows with the sides of a layer, not with its area: the larger the model, the smaller the share.",
        returns="whole number",
    ),
    Exercise(
        "03.merge",
        "merged",
        '''
def merged(W, A, B, alpha):
    """The weights of one plain layer that does what W with its adapter does: shape [out, in]."""
    rank = A.shape[0]
    return ...
''',
        ("W + alpha / rank * (B @ A)",),
        _merged,
        (
            "In x @ W.T + alpha / rank * (x @ A.T @ B.T), x can be factored out. What is left in the brackets?",
            "A.T @ B.T is the transpose of B @ A, which has the shape of W.",
        ),
        "merged, the adapter costs nothing when the model is used.",
        returns="tensor",
    ),
    Exercise(
        "03.curves",
        "curves",
        """
# for each run: "raise the learning rate", "lower the learning rate", "stop earlier" or "keep it"
curves = {"a": ..., "b": ..., "c": ..., "d": ...}
""",
        """
# for each run: "raise the learning rate", "lower the learning rate", "stop earlier" or "keep it"
curves = {
    "a": "raise the learning rate",
    "b": "lower the learning rate",
    "c": "keep it",
    "d": "stop earlier",
}
""",
        partial(wrong_choice, best=CURVES),
        (
            "First look at the training loss alone: does it fall, and how fast?",
            "Then compare it with the loss on held-out examples: do both fall together?",
            "Each of the four answers is right for one run.",
        ),
        "a loss that jumps or crawls is a matter of the learning rate; a gap that opens is a matter of when to stop.",
        function=False,
    ),
)
