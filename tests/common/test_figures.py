import xml.etree.ElementTree as ElementTree

import pytest

from ftkit.common.figures import confusion_figure, figure_of, picture, svg_of


def curve():
    figure, axes = figure_of(3, 2)
    axes.plot([1, 2], [3, 5], clip_on=True, label="loss")
    axes.legend()
    return figure


@pytest.mark.parametrize("draw", [curve, lambda: confusion_figure(["a", "b"], [[3, 1, 0], [0, 2, 2]], "kind")[0]])
def test_the_same_numbers_give_the_same_bytes_and_no_date(draw):
    svg = svg_of(draw(), "text")
    assert svg == svg_of(draw(), "text") and "<dc:date>" not in svg and "clip-path" in svg


def test_a_picture_has_its_text_as_label_and_caption_and_no_tag_comes_from_it():
    root = ElementTree.fromstring(picture(curve(), 'a "b" <c> & d'))
    assert root[0].get("aria-label") == root[1].text == 'a "b" <c> & d' and root[0].get("role") == "img"
