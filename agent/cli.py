"""The command line: `matsmith design | resume | sample | report | reference | validate | evaluate`.

Exit status 0; 2 with one line on standard error for a mistake of the user's; 130 after Ctrl-C; 141, and nothing said,
when the reader of the output has gone, as `head` does.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from agent.command_parser import (
    design_config,
    design_parser,
    fail,
    make_parser,
    one_line,
    refuse_null,
    whole_options,
)
from agent.config import DesignConfig, EvaluateConfig, ReferenceConfig, ValidateConfig
from agent.sample_output import numbers_by_name, print_front, print_prior_weights, print_samples, table_text
from agent.text_file import replace_text

if TYPE_CHECKING:
    import pandas as pd

    from agent.design_run import DesignResult


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command = ""
    try:
        try:
            parser = make_parser()
            options = parser.parse_args(whole_options(sys.argv[1:] if arguments is None else arguments))
            command = options.subcommand
            _COMMANDS[command](parser, options[command])
        finally:
            print(end="", flush=True)  # a reader that has gone shows here, not when Python ends
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError) as error:
        fail(f"{command}: {one_line(str(error))}")
    except KeyboardInterrupt:
        print(f"matsmith {command}: interrupted; nothing was written".replace(" :", ":"), file=sys.stderr)
        sys.exit(130)


# Commands


def _design(parser: ArgumentParser, options: Namespace) -> None:
    config = design_config(parser, options)
    from agent.design_run import Interrupted, start_design

    def dump() -> str:
        stored = options.clone()
        stored.pop("config", None)
        stored.pop("json", None)
        text: str = design_parser(parser).dump(stored, skip_validation=True, skip_unset=False)
        return text

    say = _say if not options.json else _silent
    try:
        result = start_design(config, dump, say, progress=not options.json)
    except Interrupted as stop:
        _explain_interruption(str(stop), config.output)
    _print_result(result, options.json)


def _resume(parser: ArgumentParser, options: Namespace) -> None:
    from agent.design_run import Interrupted, resume_design

    config, folder = _stored_config(parser, options.run)
    changed = {name: options[name] for name in ("executor", "workers", "rounds") if options[name] is not None}
    if changed and not config.rounds:
        raise ValueError(f"{next(iter(changed))}: {options.run} is a run without rounds of labelling")
    if options.rounds is not None and options.rounds < config.rounds:
        raise ValueError(f"rounds: {options.rounds} is less than the {config.rounds} that the run was started with")
    if options.rounds is not None and options.rounds > config.rounds:
        folder.write_rounds(options.rounds)  # they stay added when this call is interrupted
    say = _say if not options.json else _silent
    try:
        result = resume_design(replace(config, **changed), folder, not options.json, say)
    except Interrupted as stop:
        _explain_interruption(str(stop), options.run)
    _print_result(result, options.json)


def _sample(parser: ArgumentParser, options: Namespace) -> None:
    if options.output is not None and (options.output.is_dir() or not options.output.absolute().parent.is_dir()):
        what = "is a folder" if options.output.is_dir() else "lies in no folder that exists"
        raise ValueError(f"output: {options.output} {what}, expected the path of a CSV file")
    from agent.design_run import sample_run

    config, folder = _stored_config(parser, options.run)
    frame, objectives = sample_run(
        config,
        folder,
        options.n,
        preference="sweep" if options.preference == "sweep" else numbers_by_name("preference", options.preference),
        beta=options.beta,
        target=numbers_by_name("target", options.target),
        prior_weight=options.prior_weight,
        corrected=options.corrected,
        seed=options.seed,
    )
    if options.output is not None:
        replace_text(options.output, frame.to_csv(index=False, float_format="%.6g"))
    if options.prior_weight == "sweep":
        print_prior_weights(frame, options.json, options.output is None)
    elif options.preference == "sweep":
        print_front(frame, objectives, options.json, options.output is None)
    else:
        print_samples(frame, options.json, options.output is None)


def _report(parser: ArgumentParser, options: Namespace) -> None:
    from agent.report import write_report

    path = write_report(options.run)
    print(json.dumps({"report": str(path)}) if options.json else f"report: {path}")


def _reference(parser: ArgumentParser, options: Namespace) -> None:
    refuse_null(ReferenceConfig, options)
    values = {name: options[name] for name in ReferenceConfig.__dataclass_fields__}
    config = ReferenceConfig(**values)
    from agent.reference_run import run_reference
    from surrogates.reference_export import STRUCTURES, TABLE

    try:
        summary = run_reference(config, progress=not options.json)
    except KeyboardInterrupt:
        print("\nmatsmith: interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)
    files = [str(config.output / name) for name in (TABLE, STRUCTURES)]
    if options.json:
        print(json.dumps({**vars(summary), "files": files}))
    else:
        print(summary, *files, sep="\n")


def _validate(parser: ArgumentParser, options: Namespace) -> None:
    refuse_null(ValidateConfig, options)
    config = ValidateConfig(**{name: options[name] for name in ValidateConfig.__dataclass_fields__})
    from agent.validate_run import run_validation

    outcome = run_validation(config, progress=not options.json)
    if options.json:
        print(json.dumps(outcome.as_dict()))
    else:
        print(table_text(outcome.short_table()))
        print(f"\n{outcome}", *map(str, outcome.files), sep="\n")
    if outcome.interrupted:
        print("\nmatsmith: interrupted; what was finished is written", file=sys.stderr)
        sys.exit(130)


def _evaluate(parser: ArgumentParser, options: Namespace) -> None:
    refuse_null(EvaluateConfig, options)
    config = EvaluateConfig(**{name: options[name] for name in EvaluateConfig.__dataclass_fields__})
    from agent.evaluate_run import run_evaluation

    outcome = run_evaluation(config, progress=not options.json)
    print(json.dumps(outcome.as_dict()) if options.json else outcome)


_COMMANDS = {
    "design": _design,
    "resume": _resume,
    "sample": _sample,
    "report": _report,
    "reference": _reference,
    "validate": _validate,
    "evaluate": _evaluate,
}


def _stored_config(parser: ArgumentParser, run: Path) -> tuple[DesignConfig, Any]:
    from agent.run_folder import RunFolder

    folder = RunFolder(run)
    if not folder.config.is_file():
        raise ValueError(f"run: {run} holds no run (expected {folder.config})")
    design = design_parser(parser)
    return design_config(parser, design.parse_args(["--config", str(folder.config)])), folder


# What the user reads


def _print_result(result: DesignResult, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        values = {
            "folder": str(result.folder),
            "candidates": len(result.candidates),
            "novel": int(result.candidates["novel"].sum()),
            "coverage": asdict(result.coverage),
            "labels": result.labels,
            "warnings": list(result.support.warnings) if result.support else [],
            "seconds": round(result.seconds, 1),
            "best": json.loads(_best(result.candidates).to_json(orient="records")),
        }
        print(json.dumps(values))
        return
    print(table_text(_shown(result.candidates)))
    novel = result.candidates["novel"].mean()
    print(f"\n{len(result.candidates)} candidates, {novel:.0%} not in the lists of known formulas")
    if "crystal" in result.candidates:
        from agent.crystal_table import summary_of

        print(*filter(None, [summary_of(result.candidates)]), f"{result.folder}/cifs", sep="\n")
    if result.labels:
        print(f"{result.labels} materials labelled: {result.folder}/labels.csv")
    print(result.coverage)
    print(f"{result.folder}/candidates.csv\n{result.folder}/report.html")


def _best(candidates: pd.DataFrame) -> pd.DataFrame:
    """The first candidates; of crystals, those that `_shown` shows."""
    return candidates.loc[_shown(candidates).index]


def _shown(candidates: pd.DataFrame) -> pd.DataFrame:
    if "crystal" in candidates:
        from agent.crystal_table import short_table

        return short_table(candidates)
    hidden = ("log_prob", "log_prior", "training_distance", "rung", "nearest_distance")
    return candidates.head(10)[[n for n in candidates if n not in hidden and not str(n).startswith("utility_")]]


def _explain_interruption(what: str, folder: Path) -> NoReturn:
    print(f"\nmatsmith: {what}; go on with: matsmith resume {shlex.quote(str(folder))}", file=sys.stderr)
    sys.exit(130)


def _say(text: str) -> None:
    print(text, flush=True)


def _silent(_: str) -> None:
    """Say nothing."""


if __name__ == "__main__":
    main()
