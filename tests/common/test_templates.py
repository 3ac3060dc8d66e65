import pytest
from jinja2 import UndefinedError

from ftkit.common.templates import render


def test_what_is_filled_in_is_text_in_a_page_and_stays_as_it_is_elsewhere():
    page = render("data/templates/report.html", title="<b>", note="a & b", findings=[], plots=[("<i>", "<svg></svg>", [])])
    assert "<h1>&lt;b&gt;</h1>" in page and "a &amp; b" in page and "<h2>&lt;i&gt;</h2><svg></svg>" in page
    assert "max_tokens=7)" in render("deployment/templates/ask.py.txt", system='a "b" é', answer_tokens=7)
    assert r'system = "a \"b\" é"' in render("deployment/templates/ask.py.txt", system='a "b" é', answer_tokens=7)


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError, match="answer_tokens"):
        render("deployment/templates/ask.py.txt", system="")
