import json
import re

import pytest

from sedtalker_jax.cli import main
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.study import trials
from tests.evaluation.study.videos import write_tiny_video


@pytest.fixture
def videos(tmp_path):
    for place, system in enumerate(("ours", "theirs")):
        (tmp_path / system).mkdir()
        for number, clip in enumerate(("a", "b", "c")):
            write_tiny_video(tmp_path / system / f"{clip}.mp4", seed=2 * number + place)
    (tmp_path / "theirs" / "only.mp4").write_bytes(b"x")
    return tmp_path


def make(videos, *flags):
    systems = [f"--system={name}={videos / name}" for name in ("ours", "theirs")]
    return main(["study", "make", *systems, "--out", str(videos / "out"), *flags])


def page_data(videos):
    page = (videos / "out" / "page" / "index.html").read_text()
    return page, json.loads(re.search(r"const study = (\{.*\});", page).group(1))


def test_every_clip_of_all_systems_is_compared_and_asked_for(videos):
    assert make(videos, "--catch", "2") == 0
    key = json.loads((videos / "out" / "key.json").read_text())
    kinds = [trial["kind"] for trial in key["trials"].values()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"pair": 3, "catch": 2, "voice": 3, "face": 6}
    assert {trial["clip"] for trial in key["trials"].values()} == {"a", "b", "c"}


def test_the_page_gives_nothing_away_and_needs_no_network(videos):
    make(videos, "--catch", "2")
    page, content = page_data(videos)
    for word in ("ours", "theirs", "catch", "truth", "system"):
        assert word not in json.dumps(content)
    assert not re.search(r"(?:src|href)\s*=\s*['\"]|https?:", page)
    names = {path.name for path in (videos / "out" / "page" / "videos").iterdir()}
    assert len(names) == 6 and all(re.fullmatch(r"[0-9a-f]{16}\.mp4", name) for name in names)
    shown = {name for trial in content["trials"] for name in trial["videos"]}
    assert shown == {f"videos/{name}" for name in names}
    catch_or_pair = [trial for trial in content["trials"] if trial["kind"] == "pair"]
    assert len(catch_or_pair) == 5 and len({tuple(trial) for trial in catch_or_pair}) == 1


def test_the_key_translates_what_the_page_shows(videos):
    make(videos)
    key = json.loads((videos / "out" / "key.json").read_text())
    for trial in key["trials"].values():
        for place, (video, system) in enumerate(zip(trial["videos"], trial["systems"], strict=False)):
            clip = trial["other"] if trial["kind"] == "catch" and place == 1 else trial["clip"]
            assert (videos / "out" / "page" / video).read_bytes() == (videos / system / f"{clip}.mp4").read_bytes()
        if trial["kind"] == "catch":
            assert trial["other"] != trial["clip"]


def test_catch_trials_are_distinct(videos):
    found = trials.find_videos({name: videos / name for name in ("ours", "theirs")})
    made = [trial for trial in trials.make_trials(found, [], ["lips"], 6) if trial["kind"] == "catch"]
    assert len({json.dumps(trial) for trial in made}) == 6
    clips, systems = list(found), 2
    made = [trial for trial in trials.make_trials(found, [], ["lips"], 999) if trial["kind"] == "catch"]
    assert len({json.dumps(trial) for trial in made}) == len(made) == len(clips) * (len(clips) - 1) * systems


def test_the_sound_is_each_systems_equally_often(videos):
    # The page plays the first video's sound, and a browser keeps that video's own picture closest to it.
    found = trials.find_videos({name: videos / name for name in ("ours", "theirs")})
    firsts = [trial["systems"][0] for trial in trials.make_trials({**found, "d": found["a"]}, [], ["lips"], 0)]
    assert sorted(firsts) == ["ours", "ours", "theirs", "theirs"]


def test_a_question_is_asked_once_and_catch_trials_look_like_pairs_and_ask_for_the_lips(videos):
    assert make(videos, "--questions", "natural,lips,natural", "--catch", "2") == 0
    key = json.loads((videos / "out" / "key.json").read_text())
    asked = {kind: [t["questions"] for t in key["trials"].values() if t["kind"] == kind] for kind in ("pair", "catch")}
    assert asked == {"pair": [["natural", "lips"]] * 3, "catch": [["natural", "lips"]] * 2}
    found = trials.find_videos({name: videos / name for name in ("ours", "theirs")})
    *_, catch = trials.make_trials(found, [], ["natural"], 1)
    assert catch["questions"] == ["natural", "lips"]


def test_what_browsers_do_not_play_is_refused(videos, capsys):
    bad = videos / "ours" / "b.mp4"
    write_tiny_video(bad, codec="mpeg4")
    assert make(videos) == 2
    assert f"{bad}: browsers don't play it (its video is mpeg4)" in capsys.readouterr().err
    bad.write_bytes(b"no video")
    assert make(videos) == 2
    assert f"{bad}: can't be read as a video" in capsys.readouterr().err


def test_stretches_carry_times_and_truth(videos):
    (videos / "s.csv").write_text("clip,start,end,voice\na,0.5,1.5,happy\nb,0,2,\n")
    assert make(videos, "--stretches", str(videos / "s.csv")) == 0
    _, content = page_data(videos)
    asked = [trial for trial in content["trials"] if trial["kind"] == "voice"]
    assert sorted((trial["start"], trial["end"]) for trial in asked) == [(0.0, 2.0), (0.5, 1.5)]
    key = json.loads((videos / "out" / "key.json").read_text())
    assert sorted(t["truth"] for t in key["trials"].values() if t["kind"] == "voice") == ["", "happy"]
    assert {t["truth"] for t in key["trials"].values() if t["kind"] == "face"} == {""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("clip,start\na,0\n", "line 2: columns clip, start and end"),
        ("clip,start,end\nz,0,1\n", "line 2: no video of clip z"),
        ("clip,start,end\na,0,1\na,2,1\n", "line 3: 2 to 1 s is no stretch"),
        ("clip,start,end,voice\na,0,1,merry\n", "unknown emotion merry"),
        ("clip,start,end\na,0,1\nb,0,1\na,0,1.0\n", "line 4: the same stretch of a is asked for twice"),
        ("clip,start,end\nb,2,3\n", "line 2: b ends at 2.00 s"),
    ],
)
def test_a_wrong_file_of_stretches_names_its_line(videos, content, message):
    (videos / "s.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        trials.read_stretches(videos / "s.csv", {"a": 9.0, "b": 2.0})


def test_a_study_is_not_replaced(videos, capsys):
    assert make(videos) == 0
    assert make(videos) == 2
    assert "holds a study already" in capsys.readouterr().err


def test_a_folder_of_somebody_elses_is_left_alone(videos, capsys):
    mine = videos / "out" / trials.PAGE / "mine.html"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert make(videos) == 2
    assert "belongs to no study" in capsys.readouterr().err and mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--system", "x"], "NAME=DIR is expected"),
        (["--system", "x=nowhere"], "no such directory"),
        (["--questions", "beauty"], "expected some of lips, emotion, natural"),
        (["--catch", "-1"], "must be 0 or more"),
        (["--system", "ours=elsewhere"], "given twice"),
    ],
)
def test_mistakes_get_one_line(videos, capsys, flags, message):
    assert make(videos, *flags) == 2
    assert message in capsys.readouterr().err


def test_systems_without_a_clip_in_common_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.mp4").touch()
    with pytest.raises(UserError, match="no file name is in all"):
        trials.find_videos({name: tmp_path / name for name in ("a", "b")})
    with pytest.raises(UserError, match="at least two systems"):
        trials.find_videos({"a": tmp_path / "a"})
