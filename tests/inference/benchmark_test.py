"""The benchmark of inference, on a system small enough to be timed at once."""

from configs import sedtalker
from sedtalker_jax.inference import benchmark
from sedtalker_jax.training.experiment import model_config
from sedtalker_jax.training.full_size import CODE, RANK


def test_encoders_and_calls_are_timed_apart(monkeypatch, capsys):
    plain = sedtalker.get_config("paper,smoke").model.to_dict()
    small = model_config(plain, dict(rank=RANK, template_size=CODE))
    monkeypatch.setattr(benchmark, "full_size_model", lambda config: small)
    monkeypatch.setattr(benchmark, "NUM_VERTICES", 60)
    benchmark.main(["--seconds", "0.5", "--repeats", "1"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert "sedtalker:paper, 0.5 s of sound" in head
    assert [line.split("  ")[1] for line in lines] == [
        "encoder",
        "content_encoder",
        "diarize",
        "animate",
        "animate a given track",
    ]
    shares = [float(line.split("s  ")[1].split()[0]) for line in lines]
    assert abs(shares[0] + shares[1] - 1) < 2e-3 and min(shares) > 0
