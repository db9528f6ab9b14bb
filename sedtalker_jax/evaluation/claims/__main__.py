"""Tests every claim: python -m sedtalker_jax.evaluation.claims [--seeds 5] [--budget-minutes N] [--out runs/claims]

Trains and scores what docs/claims.md describes, then writes claims.json and report.html. Interrupted or killed, the same
command goes on. `--budget-minutes 0` only writes the report of what is there.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from sedtalker_jax.allocator import keep_freed_memory
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.claims import verdicts
from sedtalker_jax.evaluation.claims.areas import all_jobs
from sedtalker_jax.evaluation.claims.comparison import compare
from sedtalker_jax.evaluation.claims.documents import effect, write_readme
from sedtalker_jax.evaluation.claims.report import write_page
from sedtalker_jax.evaluation.claims.runner import Runner, end_with_parent, finished, perform, select
from sedtalker_jax.evaluation.claims.settings import Settings

COMMAND = (sys.executable, "-m", "sedtalker_jax.evaluation.claims")


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m sedtalker_jax.evaluation.claims", description=__doc__.split("\n\n")[0], allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path("runs/claims"), metavar="DIR", help="results (default: %(default)s)")
    parser.add_argument(
        "--only",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="NAME,...",
        help="only these jobs and what they require: diarization, animation, seed0, diarizer/ours, ...",
    )
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="paired seeds 0 to N - 1 (default: %(default)s)")
    parser.add_argument(
        "--budget-minutes", type=float, default=float("inf"), metavar="N", help="start no job that would not end within it"
    )
    parser.add_argument(
        "--data", default=Settings.data, metavar="DIR", help="records, or several joined by commas (default: %(default)s)"
    )
    parser.add_argument(
        "--other-data",
        metavar="DIR",
        help=f"records of another world for what carries over, '' for none (default: {Settings.other_data} where it exists, "
        "none with another --data)",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="jobs at a time (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="tiny models and a few steps: tries everything out in minutes")
    parser.add_argument("--list", action="store_true", help="print the jobs, whether they are done, and stop")
    parser.add_argument(
        "--compare-with",
        type=Path,
        metavar="DIR",
        help="say whether another run found the same, as far as both have come, and stop; exit code 1 where not",
    )
    parser.add_argument("--write-readme", metavar="README.md", help="put the table into this file and claims.json into docs/")
    parser.add_argument("--job", metavar="NAME", help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0, 1 after a job failed, or 2 after a user's mistake, whose one line is printed."""
    keep_freed_memory()
    arguments = build_parser().parse_args(argv)
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        if arguments.compare_with is not None:
            found = compare(arguments.out, arguments.compare_with)
            print(found)
            return 1 if found.different else 0
        return _one_job(arguments) if arguments.job else _all_jobs(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        return 130


def _one_job(arguments: argparse.Namespace) -> int:
    end_with_parent()
    settings = Settings.load(arguments.out, seeds=tuple(range(arguments.seeds)))
    (job,) = [job for job in all_jobs(settings) if job.name == arguments.job]
    perform(job, arguments.out)
    return 0


def _all_jobs(arguments: argparse.Namespace) -> int:
    if arguments.seeds < 1 or arguments.workers < 1:
        raise UserError("--seeds and --workers must be 1 or more")
    settings = Settings(
        directory=arguments.out,
        data=arguments.data,
        other_data=_other_data(arguments.other_data, arguments.data),
        seeds=tuple(range(arguments.seeds)),
        smoke=arguments.smoke,
    )
    jobs = select(all_jobs(settings), arguments.only)
    if arguments.list:
        for job in jobs:
            print(f"{'done' if finished(arguments.out, job) else f'{job.expected_s:.0f} s':>8}  {job.name}")
        return 0
    settings.store()
    verdicts.keep_protocol(arguments.out)
    outcome = Runner(arguments.out, jobs, (*COMMAND, "--seeds", str(arguments.seeds)), arguments.workers).run(
        60 * arguments.budget_minutes
    )
    found = verdicts.results(arguments.out)
    verdicts.write_claims_json(arguments.out / verdicts.CLAIMS_JSON, found)
    write_page(arguments.out / "report.html", arguments.out, found)
    if arguments.write_readme:
        write_readme(arguments.write_readme, found)
    for claim in found["claims"]:
        print(f"{claim['verdict']:>13}  {effect(claim):>28}  {claim['name']}")
    if outcome.failed:
        print(f"failed: {', '.join(outcome.failed)}; the same command tries them again", file=sys.stderr)
    print(f"see {arguments.out / 'report.html'}", file=sys.stderr)
    return 1 if outcome.failed else 0


def _other_data(given: str | None, data: str) -> str:
    if given is not None:
        return given
    if data != Settings.data:
        return ""
    if not (Path(Settings.other_data) / "manifest.json").exists():
        print(f"{Settings.other_data} is not there: nothing is tested on another world", file=sys.stderr)
        return ""
    return Settings.other_data


if __name__ == "__main__":
    sys.exit(main())
