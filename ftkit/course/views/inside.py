"""Inside a transformer: the model drawn from its configuration, one head's attention, what each layer would say (lesson 01).

Lesson 03 shows the same drawing with the places of its adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftkit.common.errors import KitError
from ftkit.common.figures import figure_of
from ftkit.course.plots import INK, ORANGE, Picture, _drawn, _visible

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GREY, LINE = "#f5f5f4", "#57534e"
ADAPTER: dict[str, Any] = {"facecolor": "#fdba74", "edgecolor": ORANGE, "linewidth": 1.6, "size": 8}


@dataclass(frozen=True)
class Blueprint:
    """The sizes of a transformer built as Llama is, which SmolLM2, Qwen2.5 and Mistral are too."""

    layers: int
    width: int  # numbers that stand for a token in the residual stream
    heads: int
    groups: int  # heads of keys and values: several heads of queries share one
    head: int  # numbers of a head
    inner: int  # numbers in the middle of the MLP
    vocabulary: int
    tied: bool  # whether the head is the embedding, used once more

    @classmethod
    def of(cls, config: PretrainedConfig) -> Blueprint:
        """The sizes in a model's configuration. Raises `KitError` for a model that is built in another way."""
        text = config.get_text_config()
        needed = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
        if missing := [name for name in needed if getattr(text, name, None) is None]:
            raise KitError(
                f"A model of the type {text.model_type} is not built as Llama is (no {missing[0]} in its configuration): "
                "this drawing would be wrong. Take a model of the Llama or Qwen2 type."
            )
        layers, width, heads, groups, inner = (getattr(text, name) for name in needed)
        head = getattr(text, "head_dim", None) or width // heads
        return cls(layers, width, heads, groups, head, inner, text.vocab_size, bool(config.tie_word_embeddings))

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one layer by their names: (outputs, inputs)."""
        queries, keys = self.heads * self.head, self.groups * self.head
        return {
            "q_proj": (queries, self.width),
            "k_proj": (keys, self.width),
            "v_proj": (keys, self.width),
            "o_proj": (self.width, queries),
            "gate_proj": (self.inner, self.width),
            "up_proj": (self.inner, self.width),
            "down_proj": (self.width, self.inner),
        }

    @property
    def layer_weights(self) -> int:
        """Weights in the linear layers of one layer."""
        return sum(outputs * inputs for outputs, inputs in self.linear.values())


def transformer(config: PretrainedConfig, adapters: Mapping[str, int] | None = None) -> Picture:
    """A model drawn from its configuration, from the token ids at the bottom to the logits at the top (lessons 01, 03).

    `adapters` holds, for each linear layer that has an adapter, how many weights the adapter has there in one layer: the
    drawing then marks these places. Raises `KitError` as `Blueprint.of` does.
    """
    plan = Blueprint.of(config)
    figure, axes = figure_of(8, 6.6)
    axes.set(xlim=(-0.1, 10.1), ylim=(0, 10))
    axes.axis("off")
    _draw_model(axes, plan)
    _draw_layer(axes, plan, adapters or {})
    return _drawn(figure, _in_words(plan, adapters or {}))


def _in_words(plan: Blueprint, adapters: Mapping[str, int]) -> str:
    shapes = {name: f"{name} {outputs:,} x {inputs:,}" for name, (outputs, inputs) in plan.linear.items()}
    attention, mlp = (", ".join(shapes[name] for name in names) for names in (list(shapes)[:4], list(shapes)[4:]))
    head = "the embedding, used once more" if plan.tied else f"a matrix of {plan.vocabulary:,} x {plan.width:,}"
    text = (
        f"A transformer of {plan.layers} layers, from bottom to top. The embedding, {plan.vocabulary:,} x {plan.width:,}, "
        f"gives each token {plan.width:,} numbers, the residual stream. Each layer reads it and adds to it twice: attention "
        f"({attention}; {plan.heads} heads of {plan.head} numbers, {plan.groups} of them for keys and values), then the MLP "
        f"({mlp}). At the top a norm and the head, {head}, give {plan.vocabulary:,} logits. The linear layers of one layer "
        f"hold {plan.layer_weights:,} weights."
    )
    if adapters:
        places = ", ".join(f"{name} {weights:,}" for name, weights in adapters.items())
        total = sum(adapters.values())
        text += f" Weights of the adapter in a layer: {places}; together {total:,}, in all layers {plan.layers * total:,}."
    return text


def _box(axes: Any, left: float, bottom: float, width: float, height: float, text: str, **look: Any) -> None:
    from matplotlib.patches import FancyBboxPatch

    style: dict[str, Any] = {"facecolor": GREY, "edgecolor": LINE, "boxstyle": "round,pad=0,rounding_size=0.08", **look}
    size = style.pop("size", 9)
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, **style))
    axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=size, color=INK)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": LINE, "shrinkA": 0, "shrinkB": 0})


def _draw_model(axes: Any, plan: Blueprint) -> None:
    """The whole model at the left: embedding, layers, norm, head."""
    matrix = f"{plan.vocabulary:,} x {plan.width:,}"
    head = f"head: {matrix}\n" + ("(the embedding once more)" if plan.tied else "(a matrix of its own)")
    axes.text(1.5, 0.35, "token ids", ha="center", va="center", fontsize=10, style="italic", color=INK)
    _box(axes, 0.1, 1.0, 2.8, 0.8, f"embedding\n{matrix}")
    for bottom, number in ((2.3, "1"), (3.1, "2"), (4.7, f"{plan.layers}")):
        _box(axes, 0.4, bottom, 2.2, 0.55, f"layer {number}", facecolor="#fff4e6", edgecolor=ORANGE)
    axes.text(1.5, 4.2, "⋮", ha="center", va="center", fontsize=14, color=INK)
    _box(axes, 0.4, 5.75, 2.2, 0.4, "norm")
    _box(axes, 0.1, 6.7, 2.8, 0.8, head)
    axes.text(1.5, 8.35, f"logits: {plan.vocabulary:,} numbers", ha="center", fontsize=10, style="italic", color=INK)
    ends = (1.0, 2.3, 3.1, 3.95, 4.7, 5.75, 6.7, 8.2)
    for start, end in zip((0.55, 1.8, 2.85, 3.65, 4.45, 5.25, 6.15, 7.5), ends, strict=True):
        _arrow(axes, (1.5, start), (1.5, end))
    for y, corner in ((3.65, 9.7), (3.1, 0.3)):  # the second layer, enlarged
        axes.plot([2.6, 3.7], [y, corner], color=ORANGE, linewidth=0.8, linestyle=":")


def _draw_layer(axes: Any, plan: Blueprint, adapters: Mapping[str, int]) -> None:
    """One layer at the right: the stream, attention and MLP beside it, and the place of the adapters."""
    if adapters:
        _box(axes, 0.1, 9.2, 0.8, 0.37, "+ ...", **ADAPTER)
        axes.text(1.0, 9.38, "adapter, and its\nweights in a layer", va="center", fontsize=8, color=INK)
    _box(axes, 3.7, 0.3, 6.3, 9.4, "", facecolor="#fffdfa", edgecolor=ORANGE)
    stream = 4.45
    axes.annotate("", (stream, 9.9), (stream, 0.1), arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 3})
    heads = f"{plan.heads} heads: which tokens to read, and mix them"
    turned = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 9, "color": INK}
    axes.text(4.05, 4.9, f"residual stream: {plan.width:,} numbers for each token", **turned)
    for title, bottom, names, middle in (
        ("attention", 0.55, ("q_proj", "k_proj", "v_proj", "o_proj"), heads),
        ("MLP", 5.15, ("gate_proj", "up_proj", "down_proj"), f"SiLU(gate) x up: {plan.inner:,} numbers"),
    ):
        *first, last = names
        axes.text(9.85, bottom + 4.02, title, ha="right", va="center", fontsize=11, fontweight="bold", color=INK)
        _box(axes, 5.1, bottom, 4.75, 0.3, "norm", size=8)
        _arrow(axes, (stream, bottom + 0.15), (5.1, bottom + 0.15))
        for place, name in enumerate(first):
            left = 5.1 + place * (4.75 - 1.5) / (len(first) - 1)
            _draw_linear(axes, left, bottom + 0.6, name, plan, adapters)
            _arrow(axes, (left + 0.75, bottom + 0.3), (left + 0.75, bottom + 0.6))
            _arrow(axes, (left + 0.75, bottom + 1.75), (left + 0.75, bottom + 2.0))
        _box(axes, 5.1, bottom + 2.0, 4.75, 0.36, middle, size=8)
        _arrow(axes, (7.475, bottom + 2.36), (7.475, bottom + 2.65))
        _draw_linear(axes, 6.725, bottom + 2.65, last, plan, adapters)
        _arrow(axes, (6.725, bottom + 3.2), (stream + 0.2, bottom + 3.2))
        round_it = {"boxstyle": "circle", "fc": "white"}
        axes.text(stream, bottom + 3.2, "+", ha="center", va="center", fontsize=13, bbox=round_it)


def _draw_linear(axes: Any, left: float, bottom: float, name: str, plan: Blueprint, adapters: Mapping[str, int]) -> None:
    """A linear layer with its shape; above it, where it has one, its adapter with the number of its weights."""
    outputs, inputs = plan.linear[name]
    marked = name in adapters
    _box(axes, left, bottom, 1.5, 0.75 if marked else 1.15, f"{name}\n{outputs:,} x {inputs:,}", size=8)
    if marked:
        _box(axes, left, bottom + 0.78, 1.5, 0.37, f"+ {adapters[name]:,}", **ADAPTER)


def attention(pieces: Sequence[str], weights: Sequence[Sequence[float]], name: str) -> Picture:
    """One head's attention as a square: a row a token that looks, a column a token that it looks at (lesson 01).

    `weights` has the shape [tokens, tokens]; each row adds up to 1 and is zero after its own token.
    """
    import numpy as np

    square = np.array(weights, dtype=float)
    figure, axes = figure_of(7.4, 6.4)
    hidden = np.triu(np.ones_like(square, dtype=bool), 1)
    image = axes.imshow(np.ma.masked_where(hidden, square), cmap="Oranges", vmin=0, vmax=1)
    axes.set_facecolor("#e7e5e4")  # what no token may see
    axes.set_xticks(range(len(pieces)), [_visible(piece) for piece in pieces], rotation=90, fontsize=8)
    axes.set_yticks(range(len(pieces)), [_visible(piece) for piece in pieces], fontsize=8)
    axes.set(xlabel="token that is looked at", ylabel="token that looks")
    figure.colorbar(image, ax=axes, label="attention weight", shrink=0.7)
    axes.set_title(name, fontsize=10)
    best = square.argmax(axis=1)
    looks = (f"“{_visible(pieces[i])}” at “{_visible(pieces[j])}” {square[i, j]:.0%}" for i, j in enumerate(best) if i)
    return _drawn(figure, f"{name}. Where each token looks most: {', '.join(looks)}.")


def layer_guesses(guesses: Sequence[tuple[int, str, float, float]], final: str) -> Picture:
    """What the stream would say after some of the layers, from bottom to top (lesson 01).

    `guesses` holds (layer, its likeliest next token, the probability of that, the probability of the `final` token); layer
    0 is the embedding alone, and probabilities are between 0 and 1.
    """
    figure, axes = figure_of(7, 0.9 + 0.36 * len(guesses))
    places = range(len(guesses))
    own, last = ([100 * guess[column] for guess in guesses] for column in (2, 3))
    axes.barh([place + 0.19 for place in places], own, 0.36, color="#a8a29e", label="the layer's likeliest token")
    label = f"“{_visible(final)}”, the last layer's"
    axes.barh([place - 0.19 for place in places], last, 0.36, color=ORANGE, label=label)
    axes.set_yticks(places, [f"layer {layer}: “{_visible(token)}”" for layer, token, *_ in guesses])
    axes.set(xlim=(0, 100), xlabel="probability as the next token, %")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    rows = (f"{layer} “{_visible(token)}” {p:.0%}, final {q:.1%}" for layer, token, p, q in guesses)
    text = f"Likeliest next token by layer, and the probability of the final one, “{_visible(final)}”"
    return _drawn(figure, f"{text}: {'; '.join(rows)}.")
