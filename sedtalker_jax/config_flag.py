"""The command line of train.py and evaluate.py: its flags, and among them --config."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import app, flags
from ml_collections import ConfigDict

from sedtalker_jax.allocator import keep_freed_memory
from sedtalker_jax.errors import UserError


def run(main: Callable[[Sequence[str]], None]) -> None:
    """absl's app.run, in which a mistake in a flag gives one line and exit code 2. Freed memory is kept for the next step."""
    keep_freed_memory()
    app.run(main, flags_parser=_parse)


def _parse(arguments: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(arguments)
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}")
        return rest
    except (UserError, flags.Error, OSError, AttributeError, KeyError, ValueError) as error:
        print(f"error: {_reason(error)}", file=sys.stderr)
        sys.exit(2)


def _reason(error: Exception) -> str:
    """What a person needs of what absl and config_flags say of a mistake."""
    text = str(error)
    if isinstance(error, AttributeError | KeyError):
        # An override of a field that the config has not; the text is quoted, once or twice.
        words = text.replace("\\n", " ").replace("\\", "").replace("'", "")
        return f"--config: no field {' '.join(words.split()).replace(' Did', '. Did')}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(error, OSError):
        return f"--config: can't be loaded ({lines[-1]}); configs/ holds those of this project"
    if "Traceback" in text:
        # Of a variant that a config has not, the whole call stack is quoted.
        return f"{lines[0].partition(': Error whilst')[0]}: {lines[-1].removeprefix('ValueError: ')}"
    return " ".join(lines)


def experiment_config(flag: flags.FlagHolder) -> ConfigDict:
    """The config that a flag of config_flags.DEFINE_config_file names.

    Raises:
      UserError: there is no such file.
    """
    try:
        config = flag.value
        # The flag's value only complains when it is used.
        config.keys()
        return config
    except OSError as error:
        raise UserError(_reason(error)) from None
