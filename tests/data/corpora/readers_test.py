"""Every reader on its corpus's own tree, traps included, from the listing to the records."""

import json

import numpy as np
import pytest

from sedtalker_jax.data import prepare, records
from sedtalker_jax.data.corpora.corpus import Choices
from sedtalker_jax.data.corpora.meld import speaker_of
from sedtalker_jax.emotion.labels import CANONICAL, LEVEL_SCALES, corpus_words
from sedtalker_jax.errors import UserError
from tests.data.corpora.layouts import LAYOUTS

SPEECH = sorted(LAYOUTS)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Corpus -> root of its tree, each built when first asked for."""
    base = tmp_path_factory.mktemp("corpora")

    def root(name):
        if not (base / name).exists():
            (base / name).mkdir()
            LAYOUTS[name](base / name)
        return base / name

    return root


@pytest.fixture(scope="module")
def prepared(roots, tmp_path_factory):
    """Corpus -> (manifest, split -> records) of its default fold."""
    base, done = tmp_path_factory.mktemp("records"), {}

    def read(name):
        if name not in done:
            manifest = prepare.prepare(name, roots(name), base / name, progress=False)
            splits = {split: list(records.RecordReader(base / name, split)) for split in manifest["splits"]}
            done[name] = manifest, splits
        return done[name]

    return read


def by_id(splits):
    return {record["id"]: record for split in splits.values() for record in split}


def skipped(manifest):
    return {clip: reason for reason, entry in manifest["skipped"].items() for clip in entry["clips"]}


@pytest.mark.parametrize("name", SPEECH)
def test_no_speaker_is_in_two_splits(prepared, name):
    manifest, splits = prepared(name)
    speakers = {split: {record["speaker"] for record in content} for split, content in splits.items()}
    assert (
        not speakers["train"] & speakers["valid"] | speakers["train"] & speakers["test"] | speakers["valid"] & speakers["test"]
    )
    assert manifest["speaker_disjoint"]
    if name != "zed":
        assert speakers["train"] and speakers["test"]
    assert bool(speakers["valid"]) == (name not in ("tess", "zed"))
    for split, content in splits.items():
        assert set(manifest["splits"][split]["speakers"]) == speakers[split]
        assert all(record["split"] == split for record in content)


def test_folders_behind_links_are_read_and_links_to_nothing_are_left_out(tmp_path):
    real, root = tmp_path / "disk", tmp_path / "root"
    real.mkdir()
    LAYOUTS["ravdess"](real)
    ravdess = prepare.load_corpus("ravdess")
    whole = ravdess.list_clips(real, prepare.check_choices(ravdess, 0, {}))
    root.mkdir()
    for entry in real.iterdir():
        (root / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    (root / "again").symlink_to(root, target_is_directory=True)  # a circle
    listing = ravdess.list_clips(root, prepare.check_choices(ravdess, 0, {}))
    assert [clip.id for clip in listing.clips] == [clip.id for clip in whole.clips]
    lost = root / listing.clips[0].path
    lost.rename(lost.with_suffix(".kept"))
    lost.symlink_to(tmp_path / "not-fetched.wav")
    manifest = prepare.prepare("ravdess", root, tmp_path / "records", progress=False)
    assert skipped(manifest)[listing.clips[0].id] == "damaged or unreadable"


@pytest.mark.parametrize("name", SPEECH)
def test_records_are_whole(prepared, name):
    manifest, splits = prepared(name)
    for record in by_id(splits).values():
        waveform, T = record["waveform"], len(record["emotion"])
        assert len(waveform) == record["num_samples"] and T == (len(waveform) - 400) // 320 + 1
        assert record["labels"] == list(CANONICAL) and record["label"] in CANONICAL
        assert record["corpus_label"] in corpus_words(name) and record["corpus"] == name
        assert np.isnan(record["intensity"]).all() and record["intensity"].shape == (T,)
        assert record["segments"][0][0] == 0.0 and record["segments"][-1][1] == pytest.approx(len(waveform) / 16_000, abs=1e-3)
        assert record["language"] and record["licence"] == manifest["licence"]["name"]
        assert -60 < record["loudness_db"] < 0 and 0 <= record["speech_span"][0] < record["speech_span"][1]
        assert record["fps"] == 0.0 and record["template"] == "" and record["label_kind"] in ("intended", "perceived")
        if "level" in record:
            assert 0 <= record["level"] < len(LEVEL_SCALES[record["level_scale"]])
        if name != "zed":
            assert set(record["emotion"].tolist()) == {CANONICAL.index(record["label"])}
    counted = sum(content["records"] for content in manifest["splits"].values())
    assert counted == len(by_id(splits)) and manifest["hours"] > 0


@pytest.mark.parametrize("name", [name for name in SPEECH if name not in ("meld", "zed")])
def test_every_fold_is_disjoint_and_every_speaker_is_tested_once(roots, name):
    corpus = prepare.load_corpus(name)
    defaults = {key: default for key, (default, _) in corpus.options.items()}
    tested = []
    for fold in range(corpus.folds):
        clips = corpus.list_clips(roots(name), Choices(fold, defaults)).clips
        assert not prepare.crossing_speakers(clips)
        tested += sorted({clip.speaker for clip in clips if clip.split == "test"})
        assert {clip.split for clip in clips} >= {"train", "test"}
    assert len(tested) == len(set(tested))
    assert set(tested) == {clip.speaker for clip in clips}


@pytest.mark.parametrize("name", SPEECH)
def test_a_wrong_root_says_what_was_expected_and_what_was_found(name, tmp_path):
    (tmp_path / "holiday.wav").write_bytes(b"x")
    (tmp_path / "photos").mkdir()
    corpus = prepare.load_corpus(name)
    with pytest.raises(UserError, match=r"expected .*found holiday.wav, photos/") as error:
        prepare.prepare(name, tmp_path, tmp_path / "out", progress=False)
    assert corpus.layout in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", SPEECH)
def test_commercial_licence(roots, tmp_path, name):
    corpus = prepare.load_corpus(name)
    assert corpus.licence.commercial == (name in ("crema_d", "jl"))
    if not corpus.licence.commercial:
        with pytest.raises(UserError, match="leaves nothing of"):
            prepare.prepare(name, roots(name), tmp_path / "out", licence="commercial", progress=False)


def test_ravdess(roots, prepared, tmp_path):
    manifest, splits = prepared("ravdess")
    found = by_id(splits)
    assert {record["speaker"] for record in splits["test"]} == {"21", "22", "23", "24"}
    assert found["03-01-05-02-01-01-04"]["level"] == 1 and found["03-01-05-01-01-01-04"]["level"] == 0
    assert "level" not in found["03-01-01-01-01-01-04"], "neutral has no strength"
    assert found["03-01-05-01-01-01-04"]["sex"] == "female" and found["03-01-05-01-01-01-03"]["sex"] == "male"
    assert "03-01-02-02-01-01-04" not in found, "calm is left out"
    reasons = skipped(manifest)
    assert manifest["skipped"]["label outside the eight emotions"]["count"] == 24
    assert reasons["03-02-05-01-01-01-02"] == "sung, not spoken"
    assert manifest["skipped"]["second copy of the same recording"]["count"] == 1
    assert reasons["03-01-08-01-02-01-03"] == "damaged or unreadable"
    assert manifest["splits"]["train"]["levels"]["ravdess:1"]["clips"] == 16
    calm = prepare.prepare("ravdess", roots("ravdess"), tmp_path, options={"calm": "neutral"}, progress=False, limit=40)
    kept = [record for record in records.RecordReader(tmp_path, "train") if record["corpus_label"] == "calm"]
    assert calm["options"] == {"calm": "neutral"} and kept
    assert all(record["label"] == "neutral" and "level" not in record for record in kept), "calm's strengths are none"
    with pytest.raises(UserError, match="calm=maybe"):
        prepare.prepare("ravdess", roots("ravdess"), tmp_path / "x", options={"calm": "maybe"}, progress=False)


def test_savee_two_letter_codes_come_first(prepared):
    manifest, splits = prepared("savee")
    found = by_id(splits)
    assert (found["JE_sa01"]["label"], found["JE_su01"]["label"], found["JE_a01"]["label"]) == ("sad", "surprise", "angry")
    assert len(found) == 28 and list(skipped(manifest).values()) == ["second copy of the same recording"]


def test_tess_labels_come_from_file_names(prepared):
    manifest, splits = prepared("tess")
    found = by_id(splits)
    assert found["OAF_back_ps"]["label"] == found["YAF_back_ps"]["label"] == "surprise"
    assert found["OAF_back_fear"]["label"] == "fear"
    assert found["OAF_bite_neutral"]["speaker"] == "OAF"
    assert found["OAF_food_fear"]["num_samples"] == pytest.approx(0.3 * 16_000, abs=2), "96 kHz is resampled"
    assert manifest["skipped"]["second copy of the same recording"]["count"] == 1
    assert {record["speaker"] for record in splits["test"]} == {"YAF"} and not splits["valid"]


def test_jl_leaves_secondary_emotions_out(prepared):
    manifest, splits = prepared("jl")
    found = by_id(splits)
    assert found["male2_excited_6b_1"]["label"] == "happy" and found["male2_excited_6b_1"]["corpus_label"] == "excited"
    assert found["female1_angry_6b_1"]["sex"] == "female" and found["male1_angry_6b_1"]["sex"] == "male"
    assert manifest["skipped"]["label outside the eight emotions"]["clips"]["male2_concerned_6b_1"] == "concerned"
    assert manifest["found_clips"] == 16 and manifest["official_clips"] == 2400


def test_emov_db_prefixes_cases_and_both_trees(prepared):
    manifest, splits = prepared("emov_db")
    found = by_id(splits)
    assert found["bea_neutral_1-15_0002"]["label"] == "neutral", "upper case and an underscore in the range"
    assert found["sam_neutral_1-15_0002"]["speaker"] == "sam", "the sorted tree"
    assert found["jenie_disgusted_1-15_0004"]["label"] == "disgust" and found["bea_amused_1-15_0001"]["label"] == "happy"
    reasons = skipped(manifest)
    assert reasons["josh_sleepy_1-15_0001"] == "label outside the eight emotions"
    assert reasons["sam_angry_1-15_0005"] == "folder and file name disagree"


def test_esd_takes_the_folder_checks_the_number_and_knows_the_language(roots, prepared, tmp_path):
    manifest, splits = prepared("esd")
    found = by_id(splits)
    assert found["0003_000001"]["language"] == "zh" and found["0013_001401"]["language"] == "en"
    assert found["0013_001401"]["label"] == "surprise" and found["0011_000001"]["sentence"] == "en 1"
    assert found["0015_000001"]["sex"] == "female" and found["0020_000001"]["sex"] == "male"
    assert skipped(manifest) == {"0012_000352 (Sad)": "folder and file number disagree"}
    assert {record["speaker"] for record in splits["test"]} == {"0009", "0010", "0018", "0020"}
    english = prepare.prepare("esd", roots("esd"), tmp_path, options={"language": "en"}, progress=False)
    assert set(english["splits"]["train"]["languages"]) == {"en"}


def test_crema_d_keeps_intended_and_perceived_apart(prepared):
    manifest, splits = prepared("crema_d")
    found = by_id(splits)
    acted = found["1001_IEO_ANG_HI"]
    assert (acted["level"], acted["level_scale"], acted["perceived"]) == (2, "crema_d", ["angry"])
    assert acted["perceived_level"] == 0.635
    misheard = found["1001_DFA_SAD_XX"]
    assert misheard["label"] == "sad" and misheard["perceived"] == ["neutral"]
    assert "level" not in misheard and "perceived_level" not in misheard
    heard = found["1002_DFA_SAD_XX"]
    assert (heard["level"], heard["level_scale"], heard["perceived_level"]) == (1, "crema_d_voice", 0.41)
    tied = found["1003_DFA_SAD_XX"]
    assert tied["perceived"] == ["fear", "sad"] and "level" not in tied
    assert "perceived_level" not in found["1004_DFA_NEU_XX"], "neutral has no strength"
    assert "perceived" not in found["1010_DFA_SAD_XX"], "not rated"
    assert found["1002_DFA_SAD_XX"]["sex"] == "female"
    reasons = skipped(manifest)
    assert reasons["1076_MTI_SAD_XX"] == "known to be bad"
    assert reasons["1200_MTI_SAD_XX"] == "unknown actor or sentence in the file name"
    assert reasons["1005_DFA_NEU_XX"] == "holds no sound"
    assert reasons["1006_DFA_NEU_XX"] == "Git LFS pointer instead of sound"
    assert manifest["tables"] == {"summaryTable.csv": True, "VideoDemographics.csv": True}
    assert [len(set(r["speaker"] for r in splits[s])) for s in ("train", "valid", "test")] == [63, 9, 19]


def test_iemocap_speaker_is_the_turns_letter(prepared):
    manifest, splits = prepared("iemocap")
    found = by_id(splits)
    assert found["Ses01F_impro01_M000"]["speaker"] == "Ses01M" and found["Ses01F_impro01_M000"]["sex"] == "male"
    assert found["Ses03M_script01_1b_F003"]["speaker"] == "Ses03F"
    assert found["Ses01F_impro01_M000"]["label"] == "upset" and found["Ses01F_impro01_F001"]["label"] == "happy"
    assert found["Ses01F_impro01_F000"]["sentence"] == "Excuse me."
    assert found["Ses01F_impro01_F000"]["ratings"] == {"valence": 2.5, "arousal": 3.0, "dominance": 1.5}
    reasons = skipped(manifest)
    assert reasons["Ses02F_impro01_MXX0"] == "label outside the eight emotions"
    assert reasons["Ses05M_script01_1b_M012"] == "in the tables, but its sound file is missing"
    assert {record["speaker"] for record in splits["test"]} == {"Ses05F", "Ses05M"}
    assert {record["speaker"] for record in splits["valid"]} == {"Ses04F", "Ses04M"}


def test_meld_is_read_from_mp4_and_joined_by_exact_key(prepared):
    manifest, splits = prepared("meld")
    found = by_id(splits)
    assert found["train_dia0_utt0"]["label"] == "happy" and found["dev_dia0_utt0"]["label"] == "surprise"
    assert found["train_dia1_utt1"]["speaker"] == "joey" and found["train_dia1_utt10"]["speaker"] == "ross"
    assert found["test_dia0_utt0"]["speaker"] == "phoebe", "dialogue numbers restart in each split"
    assert found["train_dia0_utt0"]["num_samples"] == pytest.approx(8_000, abs=2_100), "0.5 s, up to AAC's frames"
    assert np.abs(found["train_dia0_utt0"]["waveform"]).max() > 0.05
    assert found["train_dia3_utt0"]["speaker"] == "phoebe", "Ursula is the same actress"
    assert found["train_dia2_utt0"]["session"] == "s04e07" and found["train_dia0_utt0"]["session"] == ""
    reasons = skipped(manifest)
    assert reasons["train_dia125_utt3"] == reasons["test_dia38_utt4"] == "known to be bad"
    assert reasons["train_dia2_utt1"] == "several people speak"
    assert reasons["train_dia6_utt0"] == "shorter than 0.2 s"
    assert reasons["dev_dia66_utt9"] == "no label in the tables"
    assert reasons["test_final_videos_testdia1_utt0"] == "file name outside the layout"
    assert not any("._" in clip for clip in reasons)
    assert manifest["missing_files"] == ["dev_dia110_utt7"]
    assert manifest["official_split"]["overlapping"]
    assert "rachel" in manifest["official_split"]["crossing_speakers"]
    assert {record["speaker"] for record in splits["test"]} == {"chandler", "monica"}
    assert found["train_dia0_utt0"]["official_split"] == "train"
    assert sum(entry["clips"] for entry in manifest["splits"]["test"]["official_splits"].values()) == len(splits["test"])


def test_meld_folds_test_each_lead_once_and_never_move_a_guest_into_test(roots):
    corpus = prepare.load_corpus("meld")
    tested = []
    for fold in range(3):
        listing = corpus.list_clips(roots("meld"), Choices(fold))
        assert not prepare.crossing_speakers(listing.clips)
        tested += sorted({clip.speaker for clip in listing.clips if clip.split == "test"})
    assert sorted(tested) == ["chandler", "joey", "monica", "phoebe", "rachel", "ross"]


@pytest.mark.parametrize(
    ("written", "speaker"),
    [
        ("Rachel", "rachel"),
        (" ROSS ", "ross"),
        ("Joey on TV", "joey"),
        ("Rachel’s voice", "rachel"),
        ("Ross's Mom", "ross's mom"),
        ("Monica and Rachel", ""),
        ("Chandler/Joey", ""),
        ("All", ""),
        ("The Guys", ""),
        ("Mrs. Geller", "mrs. geller"),
        ("Mandy", "mandy"),
        ("Ursula", "phoebe"),
    ],
)
def test_meld_speakers(written, speaker):
    assert speaker_of(written) == speaker


def test_zed_is_a_test_set_with_neutral_around_its_event(prepared, roots, tmp_path):
    manifest, splits = prepared("zed")
    assert [manifest["splits"][split]["records"] for split in ("train", "valid", "test")] == [0, 0, 3]
    found = by_id(splits)
    assert found["clip_0"]["segments"] == [[0.0, 0.2, "neutral"], [0.2, 0.7, "happy"], [0.7, 1.0, "neutral"]]
    assert found["clip_1"]["segments"] == [[0.0, 0.5, "sad"], [0.5, 1.0, "neutral"]]
    assert found["clip_2"]["segments"] == [[0.0, 0.4, "neutral"], [0.4, 1.0, "angry"]], "an event can't outlast the sound"
    emotion = found["clip_0"]["emotion"]
    centres = (320 * np.arange(len(emotion)) + 200) / 16_000
    inside = (centres >= 0.2) & (centres < 0.7)
    np.testing.assert_array_equal(emotion, np.where(inside, CANONICAL.index("happy"), 0))
    assert skipped(manifest) == {"lost": "in the table, but its sound file is missing"}
    (tmp_path / "ZED.json").write_text(json.dumps({})[:-1])
    with pytest.raises(UserError, match="ZED.json: damaged"):
        prepare.prepare("zed", tmp_path, tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"clip": "\xe9"}', "ZED.json: damaged"),
        (b"[]", "ZED.json: holds a list"),
        (b'{"clip": {"emotion": []}}', "ZED.json: entry clip lacks"),
        (b'{"clip": {"wav": "a.wav", "emotion": {"emo": "sad"}}}', "ZED.json: entry clip lacks"),
        (b'{"clip": {"wav": "a.wav", "emotion": [{"emo": "sad", "start": "?", "end": 1}]}}', "ZED.json: entry clip lacks"),
    ],
)
def test_a_zed_table_that_is_none_is_named(tmp_path, content, message):
    (tmp_path / "ZED.json").write_bytes(content)
    zed = prepare.load_corpus("zed")
    with pytest.raises(UserError, match=message):
        zed.list_clips(tmp_path, Choices())


def test_suffixes_in_capitals_are_seen(tmp_path):
    savee = prepare.load_corpus("savee")
    for name in ("DC/a01.WAV", "KL/su02.Wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    listing = savee.list_clips(tmp_path, prepare.check_choices(savee, 0, {}))
    assert {(clip.id, clip.path) for clip in listing.clips} == {("DC_a01", "DC/a01.WAV"), ("KL_su02", "KL/su02.Wav")}


@pytest.mark.parametrize("level", ["", "NA", "nan", "60:40"])
def test_a_vote_without_a_number_is_no_level(tmp_path, level):
    (tmp_path / "1001_DFA_ANG_XX.wav").touch()
    (tmp_path / "summaryTable.csv").write_text(f"FileName,VoiceVote,VoiceLevel\n1001_DFA_ANG_XX,A,{level}\n")
    crema_d = prepare.load_corpus("crema_d")
    (clip,) = crema_d.list_clips(tmp_path, Choices()).clips
    assert clip.fields["perceived"] == ["angry"]
    assert "level" not in clip.fields and "perceived_level" not in clip.fields


def test_a_damaged_row_of_melds_table_costs_its_clip_only(tmp_path):
    for split in ("train", "dev", "test"):
        header = "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID,Season,Episode"
        rows = ["Hi,Mandy,,0,0,8,21", "Hi,Mandy,joy,0,1,,21", "Hi,Mandy,joy,0,2,8,1"]
        (tmp_path / f"{split}_sent_emo.csv").write_text("\n".join([header, *rows]))
    (tmp_path / "train_splits").mkdir()
    for number in range(3):
        (tmp_path / "train_splits" / f"dia0_utt{number}.mp4").touch()
    listing = prepare.load_corpus("meld").list_clips(tmp_path, Choices())
    assert [(clip.id, clip.fields["session"]) for clip in listing.clips] == [
        ("train_dia0_utt1", "s00e21"),
        ("train_dia0_utt2", "s08e01"),
    ]
    assert [(entry.id, entry.reason) for entry in listing.skipped] == [("train_dia0_utt0", "not a label of the corpus")]
