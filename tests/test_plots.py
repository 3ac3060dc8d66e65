import re
import xml.etree.ElementTree as ElementTree

import pytest

from ftkit import plots

PICTURES = {
    "next tokens": lambda: plots.next_tokens([" gluten", "<b>"], [0.5, 0.25], 'no "bread" & more'),
    "sizes": lambda: plots.sizes(["fp32", "4 bit"], [400.0, 50.0], [401.0, 80.0]),
    "lengths": lambda: plots.lengths([10, 12, 30], 64),
    "curves": lambda: plots.curves({"well": ([1, 2, 3], [3.0, 0.5, 0.2]), "ill": ([1, 2], [3.0, 9.0])}, "step", "loss"),
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


def test_curves_say_in_text_where_they_begin_and_end():
    picture = plots.curves({"well": ([1, 2, 3], [3.0, 4.5, 0.5]), "ill": ([1, 2], [3.0, 9.0])}, "step", "loss", log=True)
    assert "well: from 3 to 0.5, at most 4.5" in str(picture) and "ill: from 3 to 9" in str(picture)
    assert picture.svg.startswith("<svg") and "aria-label" in picture.svg
