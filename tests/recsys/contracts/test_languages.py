"""Language tags have one form, and an item is shown with the title that is closest to what is asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.languages import closest, default_title, language_tag, title_in, titles_of
from recsys.contracts.types import Item

tags = st.builds(
    lambda *parts: "-".join(filter(None, parts)),
    st.sampled_from(["de", "en", "zh", "sr", "gsw"]),
    st.sampled_from(["", "Latn", "Hant"]),
    st.sampled_from(["", "AT", "DE", "419"]),
    st.sampled_from(["", "1996", "rozaj"]),
    st.sampled_from(["", "u-co-phonebk", "x-de-latn"]),
)
titles = st.dictionaries(tags, st.text("abc", min_size=1), min_size=1, max_size=6)


def primary(tag: str) -> str:
    return tag.split("-")[0]


@pytest.mark.parametrize(
    ("raw", "tag"),
    [
        ("DE", "de"),
        ("de-at", "de-AT"),
        ("pt_BR", "pt-BR"),
        (" en-gb ", "en-GB"),
        ("ZH-HANT-tw", "zh-Hant-TW"),
        ("es-419", "es-419"),
        ("sl-IT-Nedis", "sl-IT-nedis"),
        ("de-1901", "de-1901"),
        ("zh-yue-hk", "zh-yue-HK"),
        ("en-a-BBB-latn-x-US", "en-a-bbb-latn-x-us"),  # nothing has a case of its own in an extension
    ],
)
def test_known_tags_have_their_usual_form(raw: str, tag: str) -> None:
    assert language_tag(raw) == tag


KELVIN, CYRILLIC_E = "\u212a", "\u0435"  # the lower case of the first is a k


@pytest.mark.parametrize("raw", [
    "", " ", "d", "german", "de-", "-de", "de--at", "de at", "de\n", "de-a", "*", "x-klingon", "de-abcde" * 5,
    f"{KELVIN}o", f"d{CYRILLIC_E}",
])  # fmt: skip
def test_what_is_no_tag_is_refused_by_name(raw: str) -> None:
    with pytest.raises(ValueError, match="is not a language tag, such as de"):
        language_tag(raw)


@given(tags)
def test_a_tag_has_one_form_however_it_is_written(tag: str) -> None:
    assert language_tag(tag) == tag
    for other in (tag.upper(), tag.lower(), tag.replace("-", "_")):
        assert language_tag(other) == tag


@pytest.mark.parametrize(
    ("language", "there", "found"),
    [
        ("de", ["de", "de-AT"], "de"),
        ("de-AT", ["de", "de-AT"], "de-AT"),
        ("de-AT", ["de", "de-CH"], "de"),
        ("de", ["de-CH", "de-AT"], "de-AT"),
        ("zh-Hant-TW", ["zh", "zh-Hant", "zh-TW"], "zh-Hant"),
        ("de", ["den", "en"], None),
        ("d", ["de"], None),
        ("de", [], None),
    ],
)
def test_the_closest_of_known_tags(language: str, there: list[str], found: str | None) -> None:
    assert closest((language,), there) == found


def test_a_language_that_is_asked_for_goes_before_its_relatives() -> None:
    assert closest(("zh-TW", "zh-Hant"), ["zh-Hans", "zh-Hant"]) == "zh-Hant"
    assert closest(("en-GB", "de", "en-US"), ["en-AU", "en-US", "de"]) == "en-US"
    assert closest(("en-GB", "de"), ["en-AU", "de"]) == "en-AU"


@given(tags, st.lists(tags, unique=True))
def test_exact_then_shorter_then_the_same_language_and_never_another(language: str, there: list[str]) -> None:
    found = closest((language,), there)
    assert (found is not None) == any(primary(tag) == primary(language) for tag in there)
    if found is None:
        return
    assert found in there and primary(found) == primary(language)
    ranges = [tag for tag in there if f"{language}-".startswith(f"{tag}-")]
    assert (
        found == max(ranges, key=len)
        if ranges
        else len(found) == min(len(tag) for tag in there if primary(tag) == primary(language))
    )
    assert closest((language,), there[::-1]) == found


@given(st.lists(tags, max_size=4), titles, st.text("xyz"))
def test_the_first_language_that_has_a_title_decides_and_none_the_default(
    languages: list[str], there: dict[str, str], default: str
) -> None:
    item = Item("i", default, titles=there)
    shown = title_in(tuple(languages))(item)
    for language in languages:
        if any(primary(tag) == primary(language) for tag in there):
            alike = tuple(other for other in languages if primary(other) == primary(language))
            assert shown == title_in(alike)(item) in there.values()
            return
    assert shown == default
    assert title_in(())(item) == title_in(tuple(languages))(Item("i", default)) == default


def test_an_item_without_titles_holds_none() -> None:
    assert titles_of([]) is titles_of([("de", "")]) is Item("i").titles is None
    assert titles_of([("de", ""), ("en", "Cold")]) == {"en": "Cold"}


def test_the_first_title_is_the_default_where_there_is_no_other() -> None:
    assert default_title("Kalt", {"en": "Cold"}) == "Kalt"
    assert default_title("", {"en": "Cold", "de": "Kalt"}) == "Cold"
    assert default_title("", None) == ""
