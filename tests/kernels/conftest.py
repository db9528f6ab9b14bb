"""What the compiler makes of the kernels is what is tested here: they are compiled as users compile them."""

import jax
import pytest

from tests.compile_effort import FULL


@pytest.fixture(scope="module", autouse=True)
def full_effort():
    # Programs that other tests compiled in this process, with less effort.
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", FULL)
        yield
