"""What configured numbers may be: a ValueError names the field, its value and the range."""

from __future__ import annotations

from typing import Any


def at_least(config: Any, least: float, *names: str) -> None:
    """Every named field is `least` or more, or None.

    Raises:
      ValueError: one is not.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise ValueError(f"{name}={value}: must be {least:g} or more")


def positive(config: Any, *names: str) -> None:
    """Every named field is above 0.

    Raises:
      ValueError: one is not.
    """
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name}={getattr(config, name)}: must be above 0")


def below_one(config: Any, *names: str) -> None:
    """Every named field is 0 or more and below 1, as rates of dropout and decays are.

    Raises:
      ValueError: one is not.
    """
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)}: must be 0 or more and below 1")
