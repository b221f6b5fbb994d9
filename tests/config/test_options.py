"""Options objects of the verbs."""

from __future__ import annotations

from typing import Any

import pytest

from clouds_deploy.config.section import Positive, Section, make_options
from clouds_deploy.errors import CloudsError


class Few(Section):
    out: str
    batch: Positive = 8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"out": "a", "bacth": 2}, "there is no option `bacth`.*did you mean `batch`"),
        ({"batch": 2}, "`out` is missing"),
        ({"out": "a", "batch": 0}, "`batch` cannot be `0`.*greater than 0"),
    ],
)
def test_wrong_options_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(CloudsError, match=f"(?s){message}"):
        make_options(Few, given)
    assert make_options(Few, {"out": "a"}).batch == 8
