"""The --config flag of train.py and evaluate.py."""

from __future__ import annotations

from absl import flags
from ml_collections import ConfigDict

from sedtalker_jax.errors import UserError


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
        reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
        raise UserError(f"--{flag.name}: can't be loaded ({reason}); configs/ holds those of this project") from None
