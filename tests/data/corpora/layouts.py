"""Small copies of the official trees, with their traps, filled with short noise that rises and falls like speech."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 16_000


def speech_like(name: str, seconds: float = 0.3, rate: int = RATE, amplitude: float = 0.1) -> np.ndarray:
    """Noise under three syllables, different for every name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    n = int(seconds * rate)
    envelope = 0.55 - 0.45 * np.cos(2 * np.pi * 3 * np.arange(n) / n)
    return (amplitude * envelope * rng.normal(size=n)).clip(-1, 1).astype(np.float32)


def wav(path: Path, seconds: float = 0.3, rate: int = RATE, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = speech_like(path.name, seconds, rate)
    soundfile.write(path, np.repeat(sound[:, None], channels, axis=1), rate)


def mp4(path: Path, seconds: float = 0.5, rate: int = 48_000) -> None:
    """An mp4 with a picture and a stereo AAC track, as MELD's clips are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = speech_like(path.name, seconds, rate)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=24)
        video.width = video.height = 32
        audio = container.add_stream("aac", rate=rate, layout="stereo")
        for _ in range(max(1, int(seconds * 24))):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
            container.mux(video.encode(picture))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(np.repeat(sound[None], 2, axis=0), format="fltp", layout="stereo")
        frame.sample_rate = rate
        container.mux(audio.encode(frame))
        container.mux(audio.encode())


def ravdess(root: Path) -> None:
    for actor in range(1, 25):
        folder = f"Actor_{actor:02d}"
        for emotion, strength in ((1, 1), (2, 2), (5, 1), (5, 2)):
            wav(root / folder / f"03-01-{emotion:02d}-{strength:02d}-01-01-{actor:02d}.wav", rate=48_000)
    wav(root / "audio_speech_actors_01-24" / "Actor_01" / "03-01-05-01-01-01-01.wav")  # Kaggle's second copy
    wav(root / "Actor_02" / "03-02-05-01-01-01-02.wav")  # sung
    (root / "Actor_03" / "03-01-08-01-02-01-03.wav").write_bytes(b"RIFF\x00\x00")  # cut off


def savee(root: Path) -> None:
    for speaker in ("DC", "JE", "JK", "KL"):
        for word in ("a", "d", "f", "h", "n", "sa", "su"):
            wav(root / "AudioData" / speaker / f"{word}01.wav", rate=44_100)
    wav(root / "ALL" / "DC_sa01.wav")  # the flat copy of the same recording
    (root / "AudioData" / "Info.txt").write_text("SAVEE")


def tess(root: Path) -> None:
    folders = {
        "OAF": {"angry": "OAF_angry", "fear": "OAF_Fear", "ps": "OAF_Pleasant_surprise", "neutral": "OAF_neutral"},
        "YAF": {"angry": "YAF_angry", "fear": "YAF_fear", "ps": "YAF_pleasant_surprised", "neutral": "YAF_neutral"},
    }
    for speaker, emotions in folders.items():
        for word, folder in emotions.items():
            wav(root / folder / f"{speaker}_back_{word}.wav", rate=24_414)
    wav(root / "OAF_neutral" / "OA_bite_neutral.wav", rate=24_414)  # misnamed in the release
    wav(root / "OAF_Fear" / "OAF_food_fear.wav", rate=96_000)
    wav(root / "TESS Toronto emotional speech set data" / "OAF_angry" / "OAF_back_angry.wav", rate=24_414)


def jl(root: Path) -> None:
    folder = root / "Raw JL corpus (unchecked and unannotated)" / "JL(wav+txt)"
    for speaker in ("male1", "male2", "female1", "female2"):
        for word in ("angry", "excited", "neutral", "concerned"):
            wav(folder / f"{speaker}_{word}_6b_1.wav", rate=44_100)
            (folder / f"{speaker}_{word}_6b_1.txt").write_text("words")


def emov_db(root: Path) -> None:
    for speaker in ("bea", "jenie", "josh", "sam"):
        rate = 44_100 if speaker == "bea" else 16_000
        wav(root / f"{speaker}_Amused" / "amused_1-15_0001.wav", rate=rate)
        wav(root / f"{speaker}_Sleepy" / "sleepiness_1-15_0001.wav", rate=rate)
    wav(root / "bea_Neutral" / "Neutral_1_15_0002.wav", rate=44_100)  # upper case, underscore in the range
    for speaker in ("jenie", "josh", "sam"):
        wav(root / speaker / "Neutral" / "neutral_1-15_0002.wav")  # the sorted tree
    for speaker in ("bea", "jenie", "sam"):  # josh has neither
        wav(root / f"{speaker}_Angry" / "anger_1-15_0003.wav")
        wav(root / f"{speaker}_Disgusted" / "disgust_1-15_0004.wav")
    wav(root / "sam_Angry" / "neutral_1-15_0005.wav")  # in the wrong folder


def esd(root: Path) -> None:
    first = {"Neutral": 1, "Angry": 351, "Happy": 701, "Sad": 1051, "Surprise": 1401}
    for number in range(1, 21):
        speaker = f"{number:04d}"
        for emotion in ("Neutral", "Surprise"):
            inner = ("train",) if number == 11 else ()  # the old tree
            wav(root.joinpath(speaker, emotion, *inner, f"{speaker}_{first[emotion]:06d}.wav"))
        (root / speaker / f"{speaker}.txt").write_bytes("0001_000001\t打远一看\t中立\n".encode("gb18030"))
    wav(root / "0012" / "Angry" / "0012_000351.wav")
    wav(root / "0012" / "Sad" / "0012_000352.wav")  # its number says angry
    (root / "0012" / "Angry" / "._0012_000351.wav").write_bytes(b"macOS")


CREMA_VOTES = """"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"
"1","1001_IEO_ANG_HI","A","63.5","A","68.25","A","73.2"
"2","1001_DFA_SAD_XX","N","73.71","N","73.5","N","74.8"
"3","1002_DFA_SAD_XX","S","41","S","60","S","60"
"4","1003_DFA_SAD_XX","F:S","48.67:57.67","N","66.8","F","77.5"
"5","1004_DFA_NEU_XX","N","69.1","N","92.22","N","64.78"
"""


def crema_d(root: Path) -> None:
    for actor in range(1001, 1092):
        wav(root / "AudioWAV" / f"{actor}_DFA_SAD_XX.wav")
    wav(root / "AudioWAV" / "1004_DFA_NEU_XX.wav")
    for level in ("LO", "MD", "HI"):
        wav(root / "AudioWAV" / f"1001_IEO_ANG_{level}.wav")
    wav(root / "AudioWAV" / "1076_MTI_SAD_XX.wav")  # no sound in the release
    wav(root / "AudioWAV" / "1200_MTI_SAD_XX.wav")  # no such actor
    soundfile.write(root / "AudioWAV" / "1005_DFA_NEU_XX.wav", np.zeros(8_000), RATE)
    (root / "AudioWAV" / "1006_DFA_NEU_XX.wav").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 70000\n"
    )
    (root / "processedResults").mkdir()
    (root / "processedResults" / "summaryTable.csv").write_text(CREMA_VOTES)
    (root / "VideoDemographics.csv").write_text(
        '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","x","y"\n1002,21,"Female","x","y"\n'
    )


def iemocap(root: Path) -> None:
    home = root / "IEMOCAP_full_release"
    for number in range(1, 6):
        session = home / f"Session{number}"
        evaluation, scripts = session / "dialog" / "EmoEvaluation", session / "dialog" / "transcriptions"
        evaluation.mkdir(parents=True)
        scripts.mkdir(parents=True)
        # In "Ses01F" the letter is not the speaker's; both speak in every dialogue.
        turns = {
            f"Ses0{number}F_impro01": [("F000", "neu"), ("M000", "fru"), ("MXX0", "xxx"), ("F001", "exc")],
            f"Ses0{number}M_script01_1b": [("F003", "ang"), ("M012", "sur")],
        }
        for dialogue, labels in turns.items():
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            for turn, word in labels:
                lines += [f"[6.2901 - 8.2357]\t{dialogue}_{turn}\t{word}\t[2.5000, 3.0000, 1.5000]", "C-E2:\tNeutral;\t()", ""]
                wav(session / "sentences" / "wav" / dialogue / f"{dialogue}_{turn}.wav")
            (evaluation / f"{dialogue}.txt").write_text("\n".join(lines))
            (scripts / f"{dialogue}.txt").write_text(f"{dialogue}_{labels[0][0]} [006.2901-008.2357]: Excuse me.\n")
        (evaluation / f"._Ses0{number}F_impro01.txt").write_bytes(b"\x00\x05\x16\x07")
    (home / "Session5" / "sentences" / "wav" / "Ses05M_script01_1b" / "Ses05M_script01_1b_M012.wav").unlink()


MELD_ROWS = {
    "train": [
        (0, 0, "Chandler", "joy"),
        (0, 1, "Rachel", "anger"),
        (1, 1, "Joey", "neutral"),
        (1, 10, "Ross", "sadness"),
        (2, 0, "Woman", "fear"),
        (2, 1, "All", "joy"),
        (3, 0, "Ursula", "disgust"),
        (4, 0, "Gunther", "neutral"),
        (125, 3, "Ross", "anger"),
        (6, 0, "Phoebe", "neutral"),
    ],
    "dev": [(0, 0, "Monica", "surprise"), (1, 0, "Rachel", "neutral"), (110, 7, "Joey", "joy")],
    "test": [(0, 0, "Phoebe", "sadness"), (1, 0, "Joey’s Date", "neutral"), (38, 4, "Monica", "joy")],
}
MELD_FOLDERS = {"train": "train/train_splits", "dev": "dev/dev_splits_complete", "test": "test/output_repeated_splits_test"}


def meld(root: Path) -> None:
    columns = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    for split, rows in MELD_ROWS.items():
        lines = [columns]
        for dialogue, utterance, speaker, word in rows:
            lines.append(f'1,"Oh, it’s {word}.",{speaker},{word},x,{dialogue},{utterance},4,7,"00:20:57,256","00:21:00,049"')
            if (split, dialogue) == ("dev", 110):
                continue  # named by the table, not in the archive
            seconds = 0.1 if (split, dialogue) == ("train", 6) else 0.5
            mp4(root / MELD_FOLDERS[split] / f"dia{dialogue}_utt{utterance}.mp4", seconds)
        (root / f"{split}_sent_emo.csv").write_bytes("\r\n".join(lines).encode())
    folder = root / MELD_FOLDERS["test"]
    mp4(root / MELD_FOLDERS["dev"] / "dia66_utt9.mp4")  # no row
    (folder / "final_videos_testdia1_utt0.mp4").write_bytes(b"x")
    (folder / "._dia0_utt0.mp4").write_bytes(b"macOS")


def zed(root: Path) -> None:
    entries = {}
    for number, (word, start, end) in enumerate([("happy", 0.2, 0.7), ("sad", 0.0, 0.5), ("angry", 0.4, 9.0)]):
        path = f"Speaker_{number}/clip_{number}.wav"
        wav(root / path, seconds=1.0)
        event = {"emo": word, "start": start, "end": end}
        entries[f"clip_{number}"] = {"wav": f"datafolder/{path}", "duration": 1.0, "emotion": [event], "transcription": "words"}
    entries["lost"] = {"wav": "datafolder/none.wav", "duration": 1.0, "emotion": [event], "transcription": ""}
    (root / "ZED.json").write_text(json.dumps(entries))


LAYOUTS = {
    "crema_d": crema_d,
    "emov_db": emov_db,
    "esd": esd,
    "iemocap": iemocap,
    "jl": jl,
    "meld": meld,
    "ravdess": ravdess,
    "savee": savee,
    "tess": tess,
    "zed": zed,
}
