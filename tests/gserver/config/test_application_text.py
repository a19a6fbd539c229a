"""The text that names an application is parsed without importing it; tests of app_loader have all forms."""

from __future__ import annotations

import sys

import pytest

from gserver.config.application_text import ApplicationText, parse_text
from gserver.errors import ConfigError


def test_a_factory_has_its_arguments() -> None:
    assert parse_text("shop.api:make('a', size=2)") == ApplicationText(
        "shop.api:make('a', size=2)", "shop.api", "make", ("a",), {"size": 2}
    )


def test_nothing_is_imported() -> None:
    parse_text("a_module_that_is_not_there:app")

    assert "a_module_that_is_not_there" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        *("", "shop", ":app", "shop:", "shop:a b", "shop:f(x)", "shop:f(**{})", "shop:1", "shop:f({[]: 1})", "shop:\0"),
        pytest.param("shop:" + "(" * 100_000, id="nested"),
        pytest.param("shop:f(" + "-" * 100_000 + "1)", id="deep"),
    ],
)
def test_other_texts_are_refused_with_the_text(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_text(text)

    assert str(caught.value).startswith(f"application {text!r}: ")
