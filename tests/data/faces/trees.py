"""Data sets in their exact layouts, tiny: random smooth motion of random faces, with sound."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import soundfile

FLAME_VERTICES, FLAME_TRIANGLES = 5023, 9976


def head(num_vertices: int, seed: int = 0) -> np.ndarray:
    """Vertices [V, 3] of the size of a head, in metres."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(num_vertices, 3))
    return direction / np.linalg.norm(direction, axis=1, keepdims=True) * np.array([0.08, 0.12, 0.1])


def motion(template: np.ndarray, frames: int, seed: int, rank: int = 3, scale: float = 0.003, noise: float = 0.0) -> np.ndarray:
    """[F, V, 3]: a template moved along `rank` random directions that all seeds share, by about `scale` metres."""
    rng = np.random.default_rng(seed)
    axes = np.random.default_rng(99).normal(size=(rank, *template.shape))
    curves = np.cumsum(rng.normal(size=(frames, rank)), axis=0)
    curves *= scale / max(np.abs(curves).max(), 1e-9)
    return template + np.tensordot(curves, axes, 1) + rng.normal(0.0, noise, (frames, *template.shape)) * (noise > 0)


def triangles(num_vertices: int, count: int) -> np.ndarray:
    """`count` triangles that use every vertex order once: a valid mesh of the right size, of no shape."""
    first = np.arange(count) % (num_vertices - 2)
    return np.stack([first, first + 1, first + 2], axis=1).astype(np.int32)


def write_ply(path: Path, vertices: np.ndarray, faces: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = (
        f"ply\nformat ascii 1.0\nelement vertex {len(vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    lines = ["{:.7f} {:.7f} {:.7f}".format(*vertex) for vertex in vertices]
    lines += ["3 {} {} {}".format(*face) for face in faces]
    path.write_text(header + "\n".join(lines) + "\n")
    return path


def write_sound(path: Path, seconds: float, rate: int = 22_000, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    count = int(round(seconds * rate))
    tone = 0.3 * np.sin(2 * np.pi * (150 + 20 * seed) * np.arange(count) / rate) * (0.6 + 0.4 * rng.random())
    soundfile.write(path, tone + rng.normal(0, 0.01, count), rate, subtype="PCM_16")
    return path


def write_array(path: Path, array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def write_old_pickle(path: Path, content) -> Path:
    """As Python 2 wrote VOCASET's: protocol 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def write_regions(folder: Path, num_vertices: int) -> Path:
    """regions/lve.txt and fdd.txt, comma-separated as FaceDiffuser's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lve.txt").write_text(",".join(str(i) for i in range(0, num_vertices // 10)))
    (folder / "fdd.txt").write_text(",".join(str(i) for i in range(num_vertices // 10, num_vertices // 4)))
    return folder


# ---- VOCASET and EmoVOCA ----

TRAIN = ("FaceTalk_170728_03272_TA", "FaceTalk_170904_00128_TA")
VALID, TEST = "FaceTalk_170811_03275_TA", "FaceTalk_170809_00138_TA"
FPS = 60
FRAMES = 60


def voca_templates(mesh: np.ndarray) -> dict[str, np.ndarray]:
    """Subject -> a head of its own: `mesh`, stretched."""
    return {subject: mesh * (1.0 + 0.02 * i) for i, subject in enumerate((*TRAIN, VALID, TEST))}


def flame_mesh(samples: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """FLAME_sample.ply of the samples; without them a mesh of its counts."""
    if samples is None:
        return head(FLAME_VERTICES), triangles(FLAME_VERTICES, FLAME_TRIANGLES)
    from sedtalker_jax.face.template import read_mesh

    vertices, faces = read_mesh(samples / "faces" / "FLAME_sample.ply")
    return np.asarray(vertices, np.float64), faces


def voca_clips() -> list[tuple[str, str]]:
    """(subject, sentence): two of each training subject, sentences inside and outside the held-out range of the others."""
    clips = [(subject, sentence) for subject in TRAIN for sentence in ("sentence01", "sentence22")]
    return clips + [(subject, sentence) for subject in (VALID, TEST) for sentence in ("sentence05", "sentence30")]


def voca_motion(templates: dict[str, np.ndarray], subject: str, sentence: str) -> np.ndarray:
    return motion(templates[subject], FRAMES, seed=int(sentence[-2:])).astype(np.float32)


def write_vocaset(root: Path, mesh: np.ndarray, faces: np.ndarray) -> Path:
    """The converted layout."""
    templates = voca_templates(mesh)
    for subject, sentence in voca_clips():
        vertices = voca_motion(templates, subject, sentence)
        write_array(root / "vertices_npy" / f"{subject}_{sentence}.npy", vertices.reshape(FRAMES, -1))
        write_sound(root / "wav" / f"{subject}_{sentence}.wav", FRAMES / FPS, seed=int(sentence[-2:]))
    write_old_pickle(root / "templates.pkl", templates)
    write_ply(root / "templates" / "FLAME_sample.ply", mesh, faces)
    write_regions(root / "regions", len(mesh))
    return root


def write_original_vocaset(root: Path, mesh: np.ndarray, faces: np.ndarray) -> Path:
    """The layout of VOCA's training data: rows of all clips in one array, in an order of their own."""
    templates = voca_templates(mesh)
    rows: dict = {}
    sounds: dict = {}
    blocks = []
    order = np.random.default_rng(7).permutation(FRAMES)
    for number, (subject, sentence) in enumerate(voca_clips()):
        vertices = voca_motion(templates, subject, sentence)
        blocks.append(vertices[order])
        where = {int(frame): number * FRAMES + place for place, frame in enumerate(order)}
        rows.setdefault(subject, {})[sentence] = where
        path = write_sound(root / "x.wav", FRAMES / FPS, seed=int(sentence[-2:]))
        sound, rate = soundfile.read(path, dtype="int16")
        sounds.setdefault(subject, {})[sentence] = {"audio": sound, "sample_rate": rate}
    (root / "x.wav").unlink()
    write_array(root / "data_verts.npy", np.concatenate(blocks))
    write_old_pickle(root / "subj_seq_to_idx.pkl", rows)
    write_old_pickle(root / "raw_audio_fixed.pkl", sounds)
    write_old_pickle(root / "templates.pkl", templates)
    write_ply(root / "FLAME_sample.ply", mesh, faces)
    write_regions(root / "regions", len(mesh))
    return root


def expression_displacement(name: str, mesh: np.ndarray, samples: Path | None) -> np.ndarray:
    """[V, 3] of an expression: from the published condition meshes of the samples, else made up."""
    if samples is not None:
        from sedtalker_jax.face.template import read_mesh

        folder = samples / "faces" / "COMA_CH01"
        paths = sorted(folder.glob("*_30.ply"))
        mean = np.mean([read_mesh(path)[0] for path in paths], axis=0)
        wanted = folder / f"{name}_30.ply"
        if wanted.exists():
            return (read_mesh(wanted)[0] - mean) * (1.0 if np.ptp(mean[:, 1]) < 10 else 1e-3)
    return 0.002 * np.random.default_rng(sum(map(ord, name))).normal(size=mesh.shape)


def write_emovoca(
    root: Path, samples: Path | None = None, expressions=("Smile2", "Irritated1", "Moody"), levels=(1, 3)
) -> Path:
    """Dataset/ with EmoVOCA/ (v2) and vocaset/ beside it. Returns Dataset/."""
    mesh, faces = flame_mesh(samples)
    write_vocaset(root / "vocaset", mesh, faces)
    templates = voca_templates(mesh)
    numbers = {"Afraid": 0, "Disgust": 1, "Irritated1": 2, "Sad1": 3, "Smile2": 4, "Moody": 7, "Upset": 10}
    base = root / "EmoVOCA"
    for name in expressions:
        shift = expression_displacement(name, mesh, samples)
        for subject, sentence in voca_clips():
            talk = voca_motion(templates, subject, sentence)
            for level in levels:
                stem = f"{subject}_{sentence}_{name}_{level}"
                write_array(base / "sequences" / f"{stem}.npy", (talk + shift * level / 3).astype(np.float32))
                write_array(base / "label" / f"{stem}.npy", numbers[name])
                write_array(base / "intensity" / f"{stem}.npy", level)
                sound = root / "vocaset" / "wav" / f"{subject}_{sentence}.wav"
                (base / "wav").mkdir(exist_ok=True)
                (base / "wav" / f"{stem}.wav").write_bytes(sound.read_bytes())
    return root


# ---- FLAME parameters ----


def flame_arrays(num_vertices: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A FLAME model of the right structure and made-up content."""
    rng = np.random.default_rng(seed)
    V = num_vertices
    weights = rng.random((V, 5)) ** 4
    regressor = rng.random((5, V)) * (rng.random((5, V)) < 0.2)
    return {
        "v_template": head(V, seed),
        "f": triangles(V, 2 * V).astype(np.uint32),
        "shapedirs": rng.normal(0, 1e-3, (V, 3, 400)),
        "posedirs": rng.normal(0, 1e-3, (V, 3, 36)),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "weights": weights / weights.sum(1, keepdims=True),
    }


def write_flame(folder: Path, num_vertices: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_old_pickle(folder / "generic_model.pkl", flame_arrays(num_vertices))
    return folder


# ---- BIWI ----


def write_biwi(root: Path, num_vertices: int = 23370, unit: float = 0.18, frames: int = 25, subjects=("F2", "F1")) -> Path:
    """BIWI as converted, in units of `unit` metres, with a neutral sentence that is no part of the data set."""
    mesh = head(num_vertices)
    templates = {subject: mesh * (1.0 + 0.03 * i) / unit for i, subject in enumerate(subjects)}
    for subject in subjects:
        for sentence in ("e01", "e33", "e37", "01"):
            vertices = motion(templates[subject] * unit, frames, seed=int(sentence[-2:])) / unit
            write_array(root / "vertices_npy" / f"{subject}_{sentence}.npy", vertices.reshape(frames, -1))
            write_sound(root / "wav" / f"{subject}_{sentence}.wav", frames / 25, rate=44_100, seed=int(sentence[-2:]))
    write_old_pickle(root / "templates.pkl", templates)
    count = 46356 if num_vertices == 23370 else 2 * num_vertices
    write_ply(root / "BIWI.ply", mesh / unit, triangles(num_vertices, count))
    write_regions(root / "regions", num_vertices)
    return root


# ---- FLAME parameters in 3DMEAD's layout ----


def write_parameters(root: Path, stems: list[str], frames: int = 30, fps: float = 25.0) -> Path:
    """param/<stem>.npy [1, F, 403] and wav/<stem>.wav; the tracked identity trembles around the subject's."""
    for number, stem in enumerate(stems):
        subject = stem.split("_")[0] if "_" in stem else stem[-2:]
        identity = np.random.default_rng(sum(map(ord, subject))).normal(size=300)
        rng = np.random.default_rng(number)
        shape = identity + rng.normal(0, 0.05, (frames, 300))
        expression = np.cumsum(rng.normal(0, 0.1, (frames, 100)), axis=0)
        jaw = np.stack([0.1 + 0.1 * np.sin(np.arange(frames) / 3), *np.zeros((2, frames))], axis=1)
        write_array(root / "param" / f"{stem}.npy", np.concatenate([shape, expression, jaw], axis=1)[None].astype(np.float32))
        write_sound(root / "wav" / f"{stem}.wav", frames / fps, rate=16_000, seed=number)
    return root


# ---- reading them back ----


def build(corpus, root: Path, out: Path, **options: str):
    """(listing, clip id -> record) of a reader, in this process: what prepare does, without its shards."""
    from sedtalker_jax.data.prepare import check_choices

    listing = corpus.list_clips(root, check_choices(corpus, 0, options))
    out.mkdir(parents=True, exist_ok=True)
    corpus.fit([clip for clip in listing.clips if clip.split == "train"], root, out, 1, False)
    made = {}
    for clip in listing.clips:
        made[clip.id] = {"id": clip.id, "split": clip.split, "speaker": clip.speaker, **clip.fields}
        made[clip.id] |= corpus.make_record(clip, root, out)
    return listing, made


def reasons(listing) -> dict[str, set[str]]:
    """Reason -> ids of what a listing leaves out."""
    found: dict[str, set[str]] = {}
    for entry in listing.skipped:
        found.setdefault(entry.reason, set()).add(entry.id)
    return found
