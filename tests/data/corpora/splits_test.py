import numpy as np
import pytest

from sedtalker_jax.data.corpora.splits import hashed_groups, hashed_share, split_of


@pytest.mark.parametrize(("number", "test"), [(4, 1), (6, 1), (10, 2), (2, 1)])
def test_every_group_is_tested_once_over_the_folds(number, test):
    groups = [[f"{g}a", f"{g}b"] for g in range(number)]
    tested = []
    for fold in range(number // test):
        split = split_of(groups, fold, test=test)
        assert len(split) == 2 * number
        assert sum(role == "test" for role in split.values()) == 2 * test
        assert sum(role == "valid" for role in split.values()) == (2 if number > 2 else 0)
        assert all(split[a] == split[b] for a, b in groups), "a group stays together"
        tested += [name for name, role in split.items() if role == "test"]
    assert sorted(tested) == sorted(name for group in groups for name in group)


def test_groups_need_room():
    with pytest.raises(ValueError, match="1 groups cannot give"):
        split_of([["a"]], 0)


def test_hashes_are_uniform_and_do_not_move():
    # SHA-256 of "a" begins with ca978112ca1bb: the same on every machine and in every Python.
    assert hashed_share("a") == int("ca978112ca1bb", 16) / 16**13
    shares = [hashed_share(str(i)) for i in range(2000)]
    assert np.histogram(shares, 10, (0, 1))[0].min() > 150


def test_hashed_groups_hold_everybody_once_and_are_even():
    names = [str(actor) for actor in range(1001, 1092)]
    groups = hashed_groups(names, 10)
    assert sorted(name for group in groups for name in group) == names
    assert {len(group) for group in groups} == {9, 10}
    assert hashed_groups(names[::-1], 10) == groups
