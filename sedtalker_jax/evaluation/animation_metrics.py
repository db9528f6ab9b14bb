"""Scores of moving faces, each under a name that says which of the published definitions it is.

`prediction` and `target` are vertex positions [F, V, 3]; the unit of a result is that of its arrays (metres here) raised as
stated, unless the name ends in a unit. "Rooted" means Euclidean distance, "squared" means no root was taken: papers use one
name, LVE, for both and for more. No score aligns, centres or scales anything unless its name says so. Every score is of one
clip; means over clips weigh clips equally (`sequence-weighted`) or by their frames (`frame_weighted_mean`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize

from sedtalker_jax.errors import UserError

MILLIMETRES = 1_000.0
"""Millimetres per metre."""


def euclidean_norm(vectors: Float[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape"]:
    """Length of every 3D vector. numpy's own norm reduces over an axis of length 3, its slowest case."""
    return np.sqrt(np.einsum("...x,...x->...", vectors, vectors))


# ---- errors of position ----


def vertex_distances(
    prediction: Float[np.ndarray, "F V 3"],
    target: Float[np.ndarray, "F V 3"],
    vertices: Int[np.ndarray, " v"] | None = None,
) -> Float[np.ndarray, "F v"]:
    """Euclidean distance of each vertex in each frame, over the given vertices (all by default).

    Raises:
      UserError: shapes differ or are not [frames, vertices, 3], no frames, an empty set of vertices, an index out of range.
    """
    return euclidean_norm(_difference(prediction, target, vertices))


def max_squared_error_per_frame(
    prediction: Float[np.ndarray, "F V 3"], target: Float[np.ndarray, "F V 3"], vertices: Int[np.ndarray, " v"] | None = None
) -> Float[np.ndarray, " F"]:
    """max over the vertices of the squared distance, per frame: the curve whose mean is the standard LVE and EVE."""
    return np.square(vertex_distances(prediction, target, vertices).max(axis=1))


def lip_vertex_error(
    prediction: Float[np.ndarray, "F V 3"], target: Float[np.ndarray, "F V 3"], lip_vertices: Int[np.ndarray, " v"]
) -> float:
    """LVE, standard form: mean over frames of the largest SQUARED error over the lips, in metres^2.

    As CodeTalker, FaceDiffuser, DiffSpeaker, ProbTalk3D and torchmetrics compute it (no root, whatever their texts say).
    """
    return float(max_squared_error_per_frame(prediction, target, lip_vertices).mean())


def lip_vertex_error_mm2(
    prediction: Float[np.ndarray, "F V 3"], target: Float[np.ndarray, "F V 3"], lip_vertices: Int[np.ndarray, " v"]
) -> float:
    """lip_vertex_error of positions in metres, in mm^2."""
    return lip_vertex_error(prediction, target, lip_vertices) * MILLIMETRES**2


def lip_vertex_error_rooted(
    prediction: Float[np.ndarray, "F V 3"], target: Float[np.ndarray, "F V 3"], lip_vertices: Int[np.ndarray, " v"]
) -> float:
    """Mean over frames of the largest Euclidean error over the lips, in metres (UniTalker's second number)."""
    return float(vertex_distances(prediction, target, lip_vertices).max(axis=1).mean())


def lip_vertex_error_rooted_mm(
    prediction: Float[np.ndarray, "F V 3"], target: Float[np.ndarray, "F V 3"], lip_vertices: Int[np.ndarray, " v"]
) -> float:
    """lip_vertex_error_rooted of positions in metres, in mm."""
    return lip_vertex_error_rooted(prediction, target, lip_vertices) * MILLIMETRES


def lip_vertex_error_mean(
    prediction: Float[np.ndarray, "F V 3"], target: Float[np.ndarray, "F V 3"], lip_vertices: Int[np.ndarray, " v"]
) -> float:
    """Mean over frames and lip vertices of the Euclidean error: no maximum (DEEPTalk's and SEDTalker's "LVE")."""
    return float(vertex_distances(prediction, target, lip_vertices).mean())


def lip_mean_squared_error_mm2(
    prediction: Float[np.ndarray, "F V 3"], target: Float[np.ndarray, "F V 3"], lip_vertices: Int[np.ndarray, " v"]
) -> float:
    """Mean over frames and lip vertices of the SQUARED distance of positions in metres, in mm^2: what training minimises."""
    return float(np.square(vertex_distances(prediction, target, lip_vertices)).mean() * MILLIMETRES**2)


def lip_vertex_error_meshtalk(
    prediction: Float[np.ndarray, "F V 3"], target: Float[np.ndarray, "F V 3"], lip_vertices: Int[np.ndarray, " v"]
) -> float:
    """MeshTalk's form: as lip_vertex_error_rooted after moving the centroid of the lips to the origin in every frame.

    It forgives a mouth that is right in shape and wrong in place.
    """
    lips = _difference(prediction, target, lip_vertices)
    return float(euclidean_norm(lips - lips.mean(axis=1, keepdims=True)).max(axis=1).mean())


def emotional_vertex_error(
    prediction: Float[np.ndarray, "F V 3"], target: Float[np.ndarray, "F V 3"], vertices: Int[np.ndarray, " v"]
) -> float:
    """EVE: lip_vertex_error over the eye region and forehead (EmoTalk, EmoFace), in metres^2."""
    return float(max_squared_error_per_frame(prediction, target, vertices).mean())


def mean_vertex_error(
    prediction: Float[np.ndarray, "F V 3"],
    target: Float[np.ndarray, "F V 3"],
    vertices: Int[np.ndarray, " v"] | None = None,
) -> float:
    """MVE: mean over frames and vertices (all by default) of the Euclidean error, in metres (FaceDiffuser, ProbTalk3D)."""
    return float(vertex_distances(prediction, target, vertices).mean())


def mean_vertex_error_mm(
    prediction: Float[np.ndarray, "F V 3"],
    target: Float[np.ndarray, "F V 3"],
    vertices: Int[np.ndarray, " v"] | None = None,
) -> float:
    """mean_vertex_error of positions in metres, in mm."""
    return mean_vertex_error(prediction, target, vertices) * MILLIMETRES


def max_vertex_error(prediction: Float[np.ndarray, "F V 3"], target: Float[np.ndarray, "F V 3"]) -> float:
    """Mean over frames of the largest squared error over ALL vertices, in metres^2: what EmoVOCA's training prints as "MVE"."""
    return float(max_squared_error_per_frame(prediction, target).mean())


def coefficient_error(
    prediction: Float[np.ndarray, "F C"], target: Float[np.ndarray, "F C"], columns: Int[np.ndarray, " c"] | None = None
) -> float:
    """Mean over frames of the L2 norm of the error over chosen coefficients: FaceDiffuser's "LVE" of rigs and blendshapes."""
    guess, truth = _same_shape(prediction, target)
    difference = (guess - truth).reshape(len(guess), -1)
    if columns is not None:
        difference = difference[:, _indices(columns, difference.shape[1], "columns")]
    return float(np.linalg.norm(difference, axis=1).mean())


# ---- dynamics of the upper face ----


def motion_dynamics(
    vertices_over_time: Float[np.ndarray, "F V 3"], template: Float[np.ndarray, "V 3"], vertices: Int[np.ndarray, " v"]
) -> float:
    """Mean over vertices of the population standard deviation over time of the SQUARED displacement, in metres^2."""
    positions, neutral = np.asarray(vertices_over_time), np.asarray(template, np.float64)
    if positions.ndim != 3 or neutral.shape != positions.shape[1:]:
        raise UserError(f"a template of shape {neutral.shape} does not belong to a sequence of shape {positions.shape}")
    motion = _select(positions, vertices) - _select(neutral[None], vertices)
    return float(np.einsum("fvx,fvx->fv", motion, motion).std(axis=0).mean())


def upper_face_dynamics_deviation(
    prediction: Float[np.ndarray, "F V 3"],
    target: Float[np.ndarray, "F V 3"],
    template: Float[np.ndarray, "V 3"],
    upper_vertices: Int[np.ndarray, " v"],
) -> float:
    """FDD, signed: dynamics(target) - dynamics(prediction) over the upper face, in metres^2 (CodeTalker).

    Positive: the prediction moves too little. Signs cancel in a mean over clips; see the absolute form.
    """
    _same_shape(prediction, target)
    truth = motion_dynamics(target, template, upper_vertices)
    return truth - motion_dynamics(prediction, template, upper_vertices)


def upper_face_dynamics_deviation_absolute(
    prediction: Float[np.ndarray, "F V 3"],
    target: Float[np.ndarray, "F V 3"],
    template: Float[np.ndarray, "V 3"],
    upper_vertices: Int[np.ndarray, " v"],
) -> float:
    """|FDD| of one clip, in metres^2: a mean of it over clips can't cancel (FaceDiffuser's "ABS FDD")."""
    return abs(upper_face_dynamics_deviation(prediction, target, template, upper_vertices))


# ---- motion: velocity, acceleration, jerk ----


def velocity_error(
    prediction: Float[np.ndarray, "F V 3"],
    target: Float[np.ndarray, "F V 3"],
    vertices: Int[np.ndarray, " v"] | None = None,
) -> float:
    """Mean over frames and vertices of the Euclidean error of first differences, in metres per frame."""
    return _difference_error(prediction, target, vertices, 1)


def velocity_error_mm_per_s(
    prediction: Float[np.ndarray, "F V 3"],
    target: Float[np.ndarray, "F V 3"],
    fps: float,
    vertices: Int[np.ndarray, " v"] | None = None,
) -> float:
    """velocity_error of positions in metres, in mm/s: comparable between frame rates."""
    return _difference_error(prediction, target, vertices, 1) * fps * MILLIMETRES


def acceleration_error(
    prediction: Float[np.ndarray, "F V 3"],
    target: Float[np.ndarray, "F V 3"],
    vertices: Int[np.ndarray, " v"] | None = None,
) -> float:
    """Mean over frames and vertices of the Euclidean error of second differences, in metres per frame^2."""
    return _difference_error(prediction, target, vertices, 2)


def jerk_error(
    prediction: Float[np.ndarray, "F V 3"],
    target: Float[np.ndarray, "F V 3"],
    vertices: Int[np.ndarray, " v"] | None = None,
) -> float:
    """Mean over frames and vertices of the Euclidean error of third differences, in metres per frame^3."""
    return _difference_error(prediction, target, vertices, 3)


def whole_frame_velocity_error(prediction: Float[np.ndarray, "F V 3"], target: Float[np.ndarray, "F V 3"]) -> float:
    """Mean over frames of the norm of the velocity error of all coordinates together (JambaTalk's VE, MOD), metres per frame.

    It grows with the root of the number of vertices, so it compares only within one topology.
    """
    difference = np.diff(_difference(prediction, target), axis=0)
    return float(np.linalg.norm(difference.reshape(len(difference), -1), axis=1).mean())


def mean_speed(motion: Float[np.ndarray, "F V 3"], vertices: Int[np.ndarray, " v"] | None = None) -> float:
    """Mean over frames and vertices of the length of first differences, without reference ("TC"), in metres per frame."""
    return _mean_difference_norm(motion, vertices, 1)


def mean_jerk_m_per_s3(motion: Float[np.ndarray, "F V 3"], fps: float, vertices: Int[np.ndarray, " v"] | None = None) -> float:
    """Mean over frames and vertices of the length of third differences, in m/s^3: how jittery a motion is."""
    return _mean_difference_norm(motion, vertices, 3) * fps**3


def transition_jerk_m_per_s3(
    motion: Float[np.ndarray, "F V 3"],
    fps: float,
    transitions: Sequence[float],
    window: float = 0.5,
    vertices: Int[np.ndarray, " v"] | None = None,
) -> float:
    """Mean jerk within `window` seconds of changes of emotion, in m/s^3; NaN when no change has frames around it.

    Args:
      transitions: seconds; frame f lies at f / fps.
    """
    # A third difference of frames f .. f + 3 belongs to the middle of its span.
    times = (np.arange(max(0, len(motion) - 3)) + 1.5) / fps
    near = np.zeros(len(times), bool)
    for transition in transitions:
        near |= np.abs(times - transition) <= window
    if not near.any():
        return float("nan")
    jerk = np.diff(_select(np.asarray(motion, np.float64), vertices), n=3, axis=0)[near]
    return float(euclidean_norm(jerk).mean() * fps**3)


def transition_jerk_ratio(
    prediction: Float[np.ndarray, "F V 3"],
    target: Float[np.ndarray, "F V 3"],
    fps: float,
    transitions: Sequence[float],
    window: float = 0.5,
    vertices: Int[np.ndarray, " v"] | None = None,
) -> float:
    """Mean jerk of the prediction over that of the truth within `window` seconds of changes of emotion; 1 is as smooth as real.

    Args:
      transitions: seconds; frame f lies at f / fps.

    Returns:
      NaN when no transition has frames around it, or the truth stands still there.
    """
    pair = _same_shape(prediction, target)
    guess, truth = (transition_jerk_m_per_s3(motion, fps, transitions, window, vertices) for motion in pair)
    return guess / truth if truth > 0 else float("nan")


def spectral_error(prediction: Float[np.ndarray, "F V 3"], target: Float[np.ndarray, "F V 3"]) -> float:
    """sum |rfft(prediction) - rfft(target)|^2 over time / (F V 3), in metres^2: SEDTalker's "FFE"."""
    difference = _difference(prediction, target)
    return float(np.square(np.abs(np.fft.rfft(difference, axis=0))).sum() / difference.size)


def r_squared(prediction: Float[np.ndarray, "*shape"], target: Float[np.ndarray, "*shape"]) -> float:
    """1 - mean squared error / variance of the target over all values (Audio2Face's training score); NaN for a still target."""
    guess, truth = _same_shape(prediction, target)
    variance = truth.var()
    return float(1.0 - np.square(guess - truth).mean() / variance) if variance > 0 else float("nan")


# ---- several samples of one clip ----


def diversity(samples: Float[np.ndarray, "samples F V 3"]) -> float:
    """Mean over all pairs of samples of their mean vertex distance, in metres (FaceDiffuser, over training identities)."""
    stack = _stack(samples)
    pairs = [mean_vertex_error(stack[i], stack[j]) for i in range(len(stack)) for j in range(i)]
    return float(np.mean(pairs))


def paired_diversity(samples: Float[np.ndarray, "samples F V 3"], seed: int = 0) -> float:
    """Mean vertex distance between two random halves of the samples, pair by pair, in metres (ProbTalk3D: 10 samples)."""
    stack = _stack(samples)
    order = np.random.default_rng(seed).permutation(len(stack))
    half = len(stack) // 2
    pairs = zip(order[:half], order[half : 2 * half], strict=True)
    return float(np.mean([mean_vertex_error(stack[i], stack[j]) for i, j in pairs]))


def mean_sample_lip_error(
    samples: Float[np.ndarray, "samples F V 3"], target: Float[np.ndarray, "F V 3"], lip_vertices: Int[np.ndarray, " v"]
) -> float:
    """lip_vertex_error of the mean of the samples, in metres^2 (ProbTalk3D's MEE)."""
    return lip_vertex_error(_stack(samples).mean(axis=0), target, lip_vertices)


def best_sample_lip_error(
    samples: Float[np.ndarray, "samples F V 3"], target: Float[np.ndarray, "F V 3"], lip_vertices: Int[np.ndarray, " v"]
) -> float:
    """lip_vertex_error of the sample in which it is smallest, in metres^2 (ProbTalk3D's CE, coverage)."""
    return min(lip_vertex_error(sample, target, lip_vertices) for sample in _stack(samples))


# ---- expression coefficients ----


def expression_coefficients(
    displacements: Float[np.ndarray, "F V 3"],
    shapes: Float[np.ndarray, "W V 3"],
    vertices: Int[np.ndarray, " v"] | None = None,
    upper: float = 1.0,
) -> Float[np.ndarray, "F W"]:
    """Blendshape weights in [0, upper] that explain displacements best (bounded least squares, frame by frame).

    min_w |displacement_f - sum_w w_w shape_w|^2, solved in the span of the shapes, so that the number of vertices matters once.

    Raises:
      UserError: shapes and displacements of different vertices.
    """
    motion, basis = np.asarray(displacements, np.float64), np.asarray(shapes, np.float64)
    if motion.ndim != 3 or basis.ndim != 3 or motion.shape[1:] != basis.shape[1:]:
        raise UserError(f"blendshapes {basis.shape} and displacements {motion.shape} are not of the same vertices")
    motion = _select(motion, vertices).reshape(len(motion), -1)
    basis = _select(basis, vertices).reshape(len(basis), -1)
    orthonormal, triangular = np.linalg.qr(basis.T)
    projected = motion @ orthonormal
    # The active-set method ends exactly on the bounds, where most weights of a face lie; the default one stays a little inside.
    return np.stack([optimize.lsq_linear(triangular, row, bounds=(0.0, upper), method="bvls").x for row in projected])


def expression_coefficient_error(
    prediction: Float[np.ndarray, "F W"], target: Float[np.ndarray, "F W"], columns: Int[np.ndarray, " w"] | None = None
) -> float:
    """Mean absolute error of blendshape weights over frames and the chosen columns; no unit (weights lie in [0, 1])."""
    guess, truth = _same_shape(prediction, target)
    error = np.abs(guess - truth)
    return float((error if columns is None else error[:, _indices(columns, error.shape[1], "columns")]).mean())


# ---- sets of vertices, clips of different length ----


def cut_to_shorter(
    prediction: Float[np.ndarray, "F V 3"], target: Float[np.ndarray, "G V 3"], allowed: int = 1
) -> tuple[Float[np.ndarray, "H V 3"], Float[np.ndarray, "H V 3"]]:
    """Both sequences at the shorter one's length, when they differ by at most `allowed` frames.

    Raises:
      UserError: they differ by more: most often a wrong frame rate, which no cut should hide.
    """
    if abs(len(prediction) - len(target)) > allowed:
        lengths = f"{len(prediction)} against {len(target)} frames"
        raise UserError(f"prediction and target differ by more than {allowed} frames ({lengths}); is the fps right?")
    frames = min(len(prediction), len(target))
    return prediction[:frames], target[:frames]


def frame_weighted_mean(values: Sequence[float], num_frames: Sequence[int]) -> float:
    """Mean of per-clip scores weighted by frames: what joining all clips before averaging gives (CodeTalker, FaceDiffuser)."""
    return float(np.average(np.asarray(values, np.float64), weights=np.asarray(num_frames, np.float64)))


# ---- shared by the above ----


def _same_shape(prediction, target) -> tuple[np.ndarray, np.ndarray]:
    guess, truth = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    if guess.shape != truth.shape or guess.ndim < 1 or guess.size == 0:
        raise UserError(f"prediction and target must have one non-empty shape: {guess.shape} against {truth.shape}")
    return guess, truth


def _difference(prediction, target, vertices=None) -> np.ndarray:
    guess, truth = np.asarray(prediction), np.asarray(target)
    if guess.shape != truth.shape or guess.size == 0:
        raise UserError(f"prediction and target must have one non-empty shape: {guess.shape} against {truth.shape}")
    if guess.ndim != 3 or guess.shape[-1] != 3:
        raise UserError(f"vertex sequences must be [frames, vertices, 3], not {guess.shape}")
    # Vertices are chosen before the arithmetic: a lip set is a tenth of the face.
    return _select(guess, vertices).astype(np.float64) - _select(truth, vertices)


def _indices(indices, size: int, name: str) -> np.ndarray:
    chosen = np.asarray(indices)
    if chosen.ndim != 1 or len(chosen) == 0 or not np.issubdtype(chosen.dtype, np.integer):
        raise UserError(f"{name} must be a non-empty list of whole-number indices")
    if chosen.min() < 0 or chosen.max() >= size:
        reach = f"{chosen.min()} to {chosen.max()}"
        raise UserError(f"{name} reach from {reach}, outside 0 to {size - 1}; is this another topology?")
    return chosen


def _select(values: np.ndarray, vertices) -> np.ndarray:
    return values if vertices is None else values[:, _indices(vertices, values.shape[1], "vertices")]


def _difference_error(prediction, target, vertices, order: int) -> float:
    return _mean_difference_norm(_difference(prediction, target, vertices), None, order)


def _mean_difference_norm(motion, vertices, order: int) -> float:
    values = _select(np.asarray(motion), vertices).astype(np.float64)
    if len(values) <= order:
        return float("nan")
    return float(euclidean_norm(np.diff(values, n=order, axis=0)).mean())


def _stack(samples) -> np.ndarray:
    stack = np.asarray(samples, np.float64)
    if stack.ndim != 4 or len(stack) < 2:
        raise UserError(f"at least two samples of one clip are needed, [samples, frames, vertices, 3], not {stack.shape}")
    return stack
