import io
import re

import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from ftkit.course import plots
from tests.course.pictures import is_one_whole_svg

PICTURES = {
    "road": plots.road_map,
    "next tokens": lambda: plots.next_tokens([" gluten", "<b>"], [0.5, 0.25], 'no "bread" & more'),
    "sizes": lambda: plots.sizes(["fp32", "4 bit"], [400.0, 50.0], [401.0, 80.0]),
    "lengths": lambda: plots.length_histogram([10, 12, 30], 64),
    "counts": lambda: plots.count_bars({"book": 3, "menu": 1}, "rows of each intent"),
    "tools": lambda: plots.tools(
        {"rules": {"label": (0.5, 0.4, 0.6)}, "tuned": {"label": (0.75, 0.7, 0.8), "text": (0.25, 0.2, 0.3)}},
        {"rules": 0.001, "tuned": 280.0},
        "MB to serve",
    ),
    "code levels": lambda: plots.code_levels([0.1, -0.2, 0.9, 0.4], [-1.0, 0.0, 1.0]),
    "low rank": lambda: plots.low_rank(40, 20, 2),
    "memory parts": lambda: plots.memory_parts(
        {"full": {"weights": 3000.0, "optimizer": 6000.0}, "QLoRA": {"weights": 900.0, "optimizer": 100.0}}, {"T4": 15000.0}
    ),
    "loss curves": lambda: plots.loss_curves({"low": [(1, 2.5), (2, 2.25)], "high": [(1, 2.5), (2, 9.0)]}),
    "loss curves, logarithmic": lambda: plots.loss_curves(
        {"low": [(1, 2.5), (2, 0.25)], "high": [(1, 2.5), (2, 90.0)]}, log=True
    ),
    "grouped scores": lambda: plots.grouped_scores(
        {"rank": {"8": (0.5, 0.4, 0.6), "16": (0.75, 0.7, 0.8)}}, "fields right, %"
    ),
    "scores": lambda: plots.score_intervals(
        ["base", "tuned"], [0.0, 0.5], [(0.0, 0.1), (0.4, 0.6)], "whole tickets right, %"
    ),
    "differences": lambda: plots.score_intervals(
        ["few-shot"], [-0.02], [(-0.05, 0.01)], "tuned minus other, points", zero=True
    ),
    "confusion": lambda: plots.confusion(["book", "menu"], [[3, 1, 0], [0, 2, 2]], "intent"),
    "learning curve": lambda: plots.learning_curve({"TF-IDF": [(50, 0.4, (0.3, 0.5)), (150, 0.5, (0.4, 0.6))]}, "right, %"),
    "doses": lambda: plots.doses(
        {"wrong": [(0, 0.8, (0.7, 0.9)), (50, 0.4, (0.3, 0.5))], "left out": [(0, 0.8, (0.7, 0.9))]},
        "% of rows",
        "right, %",
        (25, 0.6),
    ),
}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_one_whole_svg_with_its_text_and_the_same_each_time(draw):
    assert is_one_whole_svg(draw)


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_a_notebook_that_nobody_trusts_shows_the_picture_as_png(draw):
    data, metadata = DisplayFormatter().format(draw())
    image = Image.open(io.BytesIO(data["image/png"]))
    shown = metadata["image/png"]
    assert image.width == pytest.approx(1.5 * shown["width"], abs=1) and 600 < shown["width"] < 860
    assert re.search(rf' width="{0.75 * shown["width"]:g}pt"', data["image/svg+xml"])  # both are shown in one size
    assert len(data["image/png"]) < 100_000 and data["image/svg+xml"].startswith("<svg")
    assert len(image.convert("RGB").getcolors(64)) > 8  # something is drawn, in no more than 64 colours


def test_the_texts_hold_the_numbers_that_the_pictures_show():
    assert "“·gluten” 50.0 %, “<b>” 25.0 %" in str(PICTURES["next tokens"]())
    assert "4 bit: predicted 50 MB, measured 80 MB" in str(PICTURES["sizes"]())
    assert "3 rows, 10 to 30 tokens" in str(PICTURES["lengths"]()) and "limit is 64" in str(PICTURES["lengths"]())
    assert "book 3, menu 1" in str(PICTURES["counts"]())
    assert (
        "rules: label 50.0 % (40.0 to 60.0); 0.001. "
        "tuned: label 75.0 % (70.0 to 80.0), text 25.0 % (20.0 to 30.0); 280." in str(PICTURES["tools"]())
    )
    assert "75% of them between -0.5 and 0.5; the 3 levels lie at -1.00, 0.00, 1.00" in str(PICTURES["code levels"]())
    assert "B, 20 x 2, and A, 2 x 40: together 15.0% as many" in str(PICTURES["low rank"]())
    assert "QLoRA: 1.00 GB, of it weights 0.90, optimizer 0.10; lines at T4 15 GB" in str(PICTURES["memory parts"]())
    assert "high: 2.500 at step 1, 9.000 at step 2" in str(PICTURES["loss curves"]())
    assert "rank: 8 50.0 % (40.0 to 60.0), 16 75.0 % (70.0 to 80.0)" in str(PICTURES["grouped scores"]())
    assert "base 0.0 (0.0 to 10.0); tuned 50.0 (40.0 to 60.0)" in str(PICTURES["scores"]())
    assert "few-shot -2.0 (-5.0 to 1.0)" in str(PICTURES["differences"]())
    assert "TF-IDF: 50 examples 40, 150 examples 50." in str(PICTURES["learning curve"]())
    assert "wrong: 0 gives 80, 50 gives 40; left out: 0 gives 80; yours: 25 gives 60." in str(PICTURES["doses"]())


def test_learning_curves_stand_beside_each_other_and_their_marks_do_not_overlap(monkeypatch):
    axes = []
    monkeypatch.setattr(plots, "_drawn", lambda figure, text: axes.extend(figure.axes) or text)
    half = (0.4, 0.6)
    text = plots.learning_curve({"a": [(50, 0.5, half), (1460, 0.5, half)], "b": [(50, 0.5, half), (1400, 0.5, half)]}, "%")
    assert "a: 50 examples 50, 1,460 examples 50; b: 50 examples 50, 1,400 examples 50" in text
    first, second = (container.lines[0].get_xdata() for container in axes[0].containers)
    assert first[0] < 50 < second[0]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["50", "1,460"]


def test_a_confusion_matrix_shows_answers_that_are_no_value_only_where_there_are_some():
    drawn = str(PICTURES["confusion"]())
    assert "5 of 8 right" in drawn and "menu answered as none of them (2); book answered as menu (1)" in drawn
    clean = plots.confusion(["book", "menu"], [[3, 0, 0], [0, 2, 0]], "intent")
    assert "nothing was confused" in str(clean) and "none of them" not in clean.svg


def test_the_loss_view_marks_what_carries_loss_not_by_colour_alone():
    view = plots.loss_view(["<|user|>", "Hi\n", "{", "}"], [-100, -100, 7, 8])
    assert str(view).splitlines() == ["2 of 4 tokens carry loss", "no loss '<|user|>Hi\\n'", "LOSS    '{}'"]
    spans = re.findall(r'<span style="([^"]*)">(.*?)</span>', view.html)
    assert ["font-weight:bold" in style for style, _ in spans] == [False, False, True, True]
    assert "&lt;|user|&gt;" in view.html and "2 of 4 tokens carry loss" in view.html
    with pytest.raises(ValueError):
        plots.loss_view(["a", "b"], [1])
    talk = plots.loss_view(["Hi", "Yes", "<end>", "And?", "No", "<end>"], [-100, 1, 2, -100, 3, 2])
    assert str(talk).splitlines()[:3] == ["4 of 6 tokens carry loss, in 2 places", "no loss 'Hi'", "LOSS    'Yes<end>'"]
    assert "in 2 places: those in bold on orange" in talk.html


def test_the_token_view_shows_spaces_and_keeps_the_text():
    view = plots.token_view(["Table", " for", "\n"])
    assert str(view) == "3 tokens: Table | ·for | ⏎"
    assert view.html.count("<span") == 3


def test_a_served_page_is_folded_and_named_and_nothing_of_its_title_becomes_a_tag():
    view = plots.frame("http://127.0.0.1:7860/", 'Demo of "<b>"')
    assert str(view) == 'Demo of "<b>": open http://127.0.0.1:7860/ in a browser, while this notebook runs.'
    assert view.html.startswith("<details aria-label=") and "<b>" not in view.html
    assert 'title="Demo of &quot;&lt;b&gt;&quot;" loading="lazy"' in view.html


def test_on_colab_the_page_comes_through_its_own_tunnel(monkeypatch):
    import sys
    import types

    asked = []
    colab = types.ModuleType("google.colab")
    colab.output = types.SimpleNamespace(serve_kernel_port_as_iframe=lambda port, height: asked.append((port, height)))
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    plots.frame("http://127.0.0.1:7861/", "Demo", height=500)
    assert asked == [(7861, 500)]
