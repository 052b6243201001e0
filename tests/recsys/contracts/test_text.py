"""Ids, categories and names: one form for texts that look the same, a reason for those that are refused."""

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.text import category_text, free_text, id_text, name_text

RULES = (id_text, name_text, category_text, free_text)
Rule = Callable[[str], str]
characters = st.characters() | st.sampled_from(" \u00a0\u200b\u200d\u0301\u202e\u3000\ufeff\n|./\u2028\ufdd0")
texts = st.text(characters, max_size=12) | st.text(min_size=500, max_size=520)


def taken(rule: Rule, raw: str) -> str | None:
    try:
        return rule(raw)
    except ValueError:
        return None


@pytest.mark.parametrize("rule", RULES)
@given(raw=texts)
def test_what_a_rule_gives_it_takes_unchanged(rule: Rule, raw: str) -> None:
    text = taken(rule, raw)
    if text is not None:
        assert rule(text) == text
        assert unicodedata.is_normalized("NFC", text)
        assert text == text.strip()
        assert not {unicodedata.category(c) for c in text} & {"Cc", "Cs", "Zl", "Zp"}
        assert {c for c in text if unicodedata.category(c) == "Zs"} <= {" "}


@given(raw=texts)
def test_texts_of_the_same_composed_form_are_one(raw: str) -> None:
    assert taken(name_text, unicodedata.normalize("NFD", raw)) == taken(name_text, raw)


_FAMILY, _ENGLAND = "\U0001f469\u200d\U0001f467", "\U0001f3f4\U000e0067\U000e0062\U000e007f"
_PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"


@pytest.mark.parametrize(
    "raw", [_FAMILY, _ENGLAND, _PERSIAN, "日本", "Ærø", "a/b", "..a", "100%", "\ue000", "e-mail: x@y.z"]
)
def test_every_script_and_joined_emoji_stay(raw: str) -> None:
    assert id_text(raw) == raw


@pytest.mark.parametrize(
    ("raw", "form"),
    [("a\u00a0b", "a b"), ("\u3000a\u200b\ufeff ", "a"), ("e\u0301", "é"), ("e\u200b\u0301", "é")],
)
def test_one_form(raw: str, form: str) -> None:
    assert {rule(raw) for rule in RULES} == {form}


@pytest.mark.parametrize(
    ("rule", "raw", "reason"),
    [
        (id_text, "", "is empty"),
        (id_text, "\u00a0", "is empty"),
        (id_text, "..", r"is '\.\.', which cannot be part of a URL"),
        (id_text, " . ", "cannot be part of a URL"),
        (id_text, "a\u202eb", r"has U\+202E \(right-to-left override\), which is not allowed"),
        (id_text, "a\nb", r"has the control character U\+000A, which is not allowed"),
        (name_text, "\ud800", r"the control character U\+D800"),
        (category_text, "a|b", "separates categories"),
        (id_text, "x" * 129, "is longer than 128 characters"),
        (free_text, "x" * 513, "is longer than 512 characters"),
    ],
)
def test_the_reason_names_what_is_wrong(rule: Rule, raw: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        rule(raw)


def test_line_breaks_in_titles_are_spaces() -> None:
    assert free_text("The\r\nLord\tof\u2028the Rings\n") == "The Lord of the Rings"
