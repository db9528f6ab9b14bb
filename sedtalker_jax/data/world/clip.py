"""One clip, from plan to record. A clip is a function of (rules, split, index): no order, no worker, no clock.

plan    who says what, with which emotion when           plan_clip
sound   synthesiser -> timbre -> tremor -> room and line      speak
face    face curve -> articulation -> rig weights        articulate_clip
record  everything together                              make_record
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soundfile

from sedtalker_jax.data.world import acoustics, synthesiser
from sedtalker_jax.data.world.clock import SAMPLE_RATE, num_animation_frames, num_speech_frames, speech_frame_times
from sedtalker_jax.data.world.expression import PARAMETERS, Delivery, plan_delivery
from sedtalker_jax.data.world.faces import FaceCast
from sedtalker_jax.data.world.rules import SPLITS, Rules
from sedtalker_jax.data.world.synthesiser import Phone, SpokenWord, Synthesiser
from sedtalker_jax.data.world.text import Voice, clip_words, sentences, voices
from sedtalker_jax.data.world.timeline import Curve, Timeline, frame_truth, plan_timeline, voice_curve
from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.errors import UserError

_LOUDNESS_RMS = 0.06  # of a neutral clip, before the level of its expression
_BABBLE_VOICES = 5


class World:
    """What all clips of a subset share: rules, sentences, voices, heads, a babble, and a running synthesiser.

    Attributes:
      rules, subset, sentences, voices: as in the rules file.
      faces: the heads and their face space.
      synthesiser: the speaking program, started at the first use.
    """

    def __init__(self, rules: Rules, subset: str) -> None:
        if subset not in rules["subsets"]:
            raise UserError(f"{rules.path} has no subset {subset!r}; it has {', '.join(rules['subsets'])}")
        self.rules = rules
        self.subset = subset
        self.sentences = sentences(rules)
        self.voices = voices(rules, subset)
        self.faces = FaceCast(rules, subset)
        self._synthesiser: Synthesiser | None = None
        self._babble: np.ndarray | None = None

    @property
    def synthesiser(self) -> Synthesiser:
        if self._synthesiser is None:
            self._synthesiser = synthesiser.start(self.rules.synthesiser)
        return self._synthesiser

    @property
    def babble(self) -> np.ndarray:
        """Many training voices at once, [about 20 s] float32: the same for every clip."""
        if self._babble is None:
            rng = self.rules.generator("babble")
            tracks = []
            for i in range(_BABBLE_VOICES):
                voice = self.voices["train"][i % len(self.voices["train"])]
                text = " ".join(self.sentences["train"][int(rng.integers(len(self.sentences["train"])))] for _ in range(6))
                spoken = [SpokenWord(word, voice.pitch_st, 0.0, 0.0) for word in text.split()]
                speech = self.synthesiser.say(spoken, voice.synthesiser_voice, voice.words_per_minute)
                track = acoustics.resample(speech.waveform, speech.sample_rate, voice.vocal_tract)
                tracks.append(track / np.sqrt(np.mean(track**2)))
            length = min(len(track) for track in tracks)
            self._babble = np.sum([track[:length] for track in tracks], axis=0).astype(np.float32)
        return self._babble

    def close(self) -> None:
        """Ends the speaking program."""
        if self._synthesiser is not None:
            self._synthesiser.close()
            self._synthesiser = None

    def num_clips(self, split: str) -> int:
        return int(self.rules["subsets"][self.subset]["clips"][split])


@dataclass(frozen=True)
class ClipPlan:
    """Everything about a clip that is decided before a sound is made."""

    split: str
    index: int
    voice: Voice
    head: int
    text: str
    timeline: Timeline
    delivery: Delivery
    lead_s: float
    tail_s: float

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index:06d}"


def plan_clip(world: World, split: str, index: int, single_label: int | None = None) -> ClipPlan:
    """Plans clip `index` of a split. `single_label` asks for one emotion throughout (for calibration).

    Voices and heads take turns, so that each speaks equally often and every pair comes up.
    """
    if split not in SPLITS:
        raise ValueError(f"split is one of {SPLITS}, not {split!r}")
    rules = world.rules
    rng = rules.generator("plan", split, index, -1 % 2**32 if single_label is None else single_label)
    own_voices = world.voices[split]
    # A permutation per round keeps counts equal without a fixed order.
    round_index, place = divmod(index, len(own_voices))
    order = rules.generator("turns", split, len(own_voices), round_index).permutation(len(own_voices))
    voice = own_voices[int(order[place])]
    head = int(rng.integers(world.faces.num_heads(split)))
    text, words = clip_words(rules, world.sentences[split], rng)
    timeline = plan_timeline(rules, len(words), rng, index, single_label)
    delivery = plan_delivery(rules, voice, timeline, words, rng)
    table = rules["timeline"]
    lead_s, tail_s = (float(rng.uniform(*table[key])) for key in ("lead_s", "tail_s"))
    return ClipPlan(split, index, voice, head, text, timeline, delivery, lead_s, tail_s)


@dataclass(frozen=True)
class SpokenClip:
    """The sound of a clip: waveform [S] float32 at 16 kHz, word spans [n, 2] s, phonemes, the voice's curve."""

    plan: ClipPlan
    waveform: np.ndarray
    words: np.ndarray
    phones: tuple[Phone, ...]
    curve: Curve

    @property
    def duration_s(self) -> float:
        return len(self.waveform) / SAMPLE_RATE


def speak(world: World, plan: ClipPlan, distort: bool = True) -> SpokenClip:
    """Makes the sound of a planned clip. `distort=False` leaves out room, noise and line."""
    rng = world.rules.generator("sound", plan.split, plan.index, len(plan.text))
    voice = plan.voice
    speech = world.synthesiser.say(list(plan.delivery.words), voice.synthesiser_voice, voice.words_per_minute)
    dry = acoustics.resample(speech.waveform, speech.sample_rate, voice.vocal_tract)
    # Synthesisers leave a pause of their own at the end; the clip's own tail replaces it. The vocal tract also sets the tempo.
    scale = 1.0 / voice.vocal_tract
    end = min(len(dry), int(np.ceil((speech.words[-1, 1] * scale + 0.02) * SAMPLE_RATE)))
    lead, tail = int(plan.lead_s * SAMPLE_RATE), int(plan.tail_s * SAMPLE_RATE)
    dry = np.concatenate([np.zeros(lead, np.float32), dry[:end], np.zeros(tail, np.float32)])
    offset = lead / SAMPLE_RATE
    duration = len(dry) / SAMPLE_RATE
    words = np.minimum(speech.words * scale + offset, duration)
    # To 0.1 ms, as the record holds them, so that a face can be made again from its record bit for bit.
    edges = [(round(p.start_s * scale + offset, 4), round(min(p.end_s * scale + offset, duration), 4)) for p in speech.phones]
    phones = tuple(
        Phone(p.symbol, start, end, p.stress, p.word)
        for p, (start, end) in zip(speech.phones, edges, strict=True)
        if start < end
    )
    curve = voice_curve(plan.timeline, words)

    dry *= _LOUDNESS_RMS / float(np.sqrt(np.mean(dry**2)) + 1e-9)
    times = acoustics.frame_times(len(dry))
    columns = dict(zip(PARAMETERS, plan.delivery.parameters(curve, times).T, strict=True))
    word_level = np.interp(times, words.mean(axis=1), plan.delivery.word_level_db)
    timbre = acoustics.Timbre(
        level_db=columns["level_db"] + word_level,
        tilt_db=columns["tilt_db"] + voice.tilt_db,
        presence_db=columns["presence_db"],
        body_db=columns["body_db"],
        smile=columns["smile"],
        breath=np.maximum(columns["breath"] + voice.breath, 0.0),
    )
    shaped = acoustics.shape_speech(dry, timbre, rng)
    shaped = acoustics.wobble(shaped, np.maximum(columns["tremor"], 0.0), np.maximum(columns["rough"], 0.0), rng)
    if distort:
        shaped = acoustics.channel(world.rules, shaped, world.babble, rng)
    return SpokenClip(plan, shaped.astype(np.float32), words, phones, curve)


def encode_flac(waveform: np.ndarray) -> np.ndarray:
    """16 kHz mono 16-bit FLAC of a waveform [S], as uint8 [n]."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1.0, 1.0), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)


def articulate_clip(world: World, clip: SpokenClip) -> tuple[np.ndarray, np.ndarray]:
    """The face of a clip: activation [F, K - 1] and rig weights [F, W], at the frames f / fps."""
    rules, plan = world.rules, clip.plan
    times = np.arange(num_animation_frames(len(clip.waveform), rules.fps)) / rules.fps
    face_curve = clip.curve.face(rules, rules.generator("face", plan.split, plan.index))
    # As precise as the record keeps it, for the same reason as the phonemes' times.
    activation = face_curve.activation(times).astype(np.float16).astype(np.float64)
    return activation, world.faces.articulate(plan.split, plan.head, clip.phones, activation)


def sample_rig(world: World, index: int, num_frames: int) -> tuple[int, np.ndarray]:
    """(head, rig weights [num_frames, W]) of training clip `index`, evenly spread over it: what the face space is fitted to."""
    plan = plan_clip(world, "train", index)
    _, rig = articulate_clip(world, speak(world, plan, distort=False))
    return plan.head, rig[np.linspace(0, len(rig) - 1, num_frames).astype(int)]


def make_record(world: World, clip: SpokenClip) -> dict:
    """The record of a clip (its fields: sedtalker_jax.data.records)."""
    rules, plan = world.rules, clip.plan
    num_samples = len(clip.waveform)
    frame_times = speech_frame_times(num_speech_frames(num_samples))
    truth = frame_truth(rules, clip.curve, clip.words, frame_times, clip.duration_s)
    activation, rig = articulate_clip(world, clip)
    parameters = plan.delivery.parameters(clip.curve, frame_times)
    return {
        "id": plan.name,
        "corpus": rules["name"],
        "split": plan.split,
        "speaker": plan.voice.name,
        "sentence": plan.text,
        "template": world.faces.head_name(plan.split, plan.head),
        "audio": encode_flac(clip.waveform),
        "num_samples": num_samples,
        "labels": list(CANONICAL),
        "segments": truth.segments,
        "emotion": truth.emotion,
        "intensity": truth.intensity.astype(np.float16),
        "fps": rules.fps,
        "motion": world.faces.coefficients(plan.split, plan.head, rig).astype(np.float16),
        "activation": activation.astype(np.float16),
        "rig": rig.astype(np.float16),
        "phonemes": [[p.symbol, p.start_s, p.end_s] for p in clip.phones],
        "prosody": {
            "names": list(PARAMETERS),
            "stress": [p.stress for p in clip.phones],
            "frames": parameters.astype(np.float16),
            "words": [[w.text, float(a), float(b)] for w, (a, b) in zip(plan.delivery.words, clip.words, strict=True)],
            "joins": [
                [0.5 * (float(clip.words[j.word - 1, 1]) + float(clip.words[j.word, 0])), bool(changed)]
                for j, changed in zip(plan.timeline.joins, plan.timeline.changes, strict=True)
            ],
        },
    }
