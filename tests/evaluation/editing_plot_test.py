import numpy as np
import pytest

from sedtalker_jax.emotion.editing import EditDictionary
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.editing_plot import edit_figure, edit_plane
from sedtalker_jax.evaluation.report import figure_png


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    names = np.repeat(["happy", "neutral", "sad"], 30)
    e = rng.normal(size=(3, 8))[np.repeat(np.arange(3), 30)] * 3 + rng.normal(size=(90, 8))
    return EditDictionary.fit(e, names), e, names


def test_the_boundary_stands_upright_between_the_means(fitted):
    dictionary, e, names = fitted
    for source in ("sad", None):
        coordinates, axes, threshold = edit_plane(dictionary, e, "happy", source)
        np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-9)
        happy, other = coordinates[names == "happy", 0], coordinates[names == (source or "neutral"), 0]
        assert other.mean() < threshold < happy.mean()
        if source is None:
            side = dictionary.scores(e)[:, dictionary.labels.index("happy")] > 0
            np.testing.assert_array_equal(side, coordinates[:, 0] > threshold)


def test_the_figure_shows_the_way_of_the_edit(fitted):
    dictionary, e, names = fitted
    before = e[names == "sad"]
    after = before + dictionary.direction("happy", "sad").step
    figure = edit_figure(dictionary, e, names.tolist(), "happy", "sad", (before, after))
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"happy", "neutral", "sad", "boundary", "as heard", "edited"} == set(shown)
    assert figure_png(figure).startswith(b"\x89PNG")
    edited = next(line for line in figure.axes[0].lines if line.get_label() == "edited")
    heard = next(line for line in figure.axes[0].lines if line.get_label() == "as heard")
    shift = np.asarray(edited.get_xdata()) - np.asarray(heard.get_xdata())
    np.testing.assert_allclose(shift, dictionary.direction("happy", "sad").scale)  # alpha = 1, along the first axis only
    np.testing.assert_allclose(edited.get_ydata(), heard.get_ydata(), atol=1e-9)


def test_unknown_emotions_are_refused(fitted):
    dictionary, e, names = fitted
    with pytest.raises(UserError, match="unknown emotion 'fear'"):
        edit_plane(dictionary, e, "fear")
