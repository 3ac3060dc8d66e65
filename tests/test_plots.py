import re
import xml.etree.ElementTree as ElementTree

import pytest

from ftkit import plots

PICTURES = {
    "next tokens": lambda: plots.next_tokens([" gluten", "<b>"], [0.5, 0.25], 'no "bread" & more'),
    "sizes": lambda: plots.sizes(["fp32", "4 bit"], [400.0, 50.0], [401.0, 80.0]),
    "lengths": lambda: plots.lengths([10, 12, 30], 64),
    "counts": lambda: plots.counts({"book": 3, "menu": 1}, "rows of each intent"),
}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_one_whole_svg_with_its_text_and_the_same_each_time(draw):
    picture = draw()
    root = ElementTree.fromstring(picture.svg)
    assert root.get("role") == "img" and root.get("aria-label") == str(picture)
    assert picture.svg == draw().svg


def test_the_texts_hold_the_numbers_that_the_pictures_show():
    assert "“·gluten” 50.0 %, “<b>” 25.0 %" in str(PICTURES["next tokens"]())
    assert "4 bit: predicted 50 MB, measured 80 MB" in str(PICTURES["sizes"]())
    assert "3 rows, 10 to 30 tokens" in str(PICTURES["lengths"]()) and "limit is 64" in str(PICTURES["lengths"]())
    assert "book 3, menu 1" in str(PICTURES["counts"]())


def test_the_loss_view_marks_what_carries_loss_not_by_colour_alone():
    view = plots.loss_view(["<|user|>", "Hi\n", "{", "}"], [-100, -100, 7, 8])
    assert str(view).splitlines() == ["2 of 4 tokens carry loss", "no loss '<|user|>Hi\\n'", "LOSS    '{}'"]
    spans = re.findall(r'<span style="([^"]*)">(.*?)</span>', view.html)
    assert ["font-weight:bold" in style for style, _ in spans] == [False, False, True, True]
    assert "&lt;|user|&gt;" in view.html and "2 of 4 tokens carry loss" in view.html
    with pytest.raises(ValueError):
        plots.loss_view(["a", "b"], [1])


def test_the_token_view_shows_blanks_and_keeps_the_text():
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
