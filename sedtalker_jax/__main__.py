"""python -m sedtalker_jax"""

import sys

from sedtalker_jax.cli import main

sys.exit(main())
