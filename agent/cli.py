"""The command line: `matsmith design | resume | sample | report | reference`.

Exit status 0; 2 with one line on standard error for a mistake of the user's; 130 after Ctrl-C.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_loader
from jsonargparse.typing import register_type

from agent.condition_options import ConditionOptions
from agent.config import (
    ConstraintConfig,
    DesignConfig,
    ICSD24FilterOptions,
    ObjectiveConfig,
    PlugIn,
    ReferenceConfig,
    SpaceConfig,
)
from agent.training_options import TrainingOptions

if TYPE_CHECKING:
    import pandas as pd

    from agent.design_run import DesignResult


_NESTED: dict[str, type] = {
    "objectives": ObjectiveConfig,
    "constraints": ConstraintConfig,
    "conditions": ConditionOptions,
    "space": SpaceConfig,
    "icsd24_filter": ICSD24FilterOptions,
    "training": TrainingOptions,
}


class _Parser(ArgumentParser):
    """Takes options by their whole names, and reports a mistake in one line instead of usage and several."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with status 2."""
        if not self.exit_on_error:  # the parser of a nested value: the outer one adds where it stands
            raise ArgumentError(None, message) from ex
        _fail(_one_line(message))


def _load_yaml(text: str) -> Any:
    """Load YAML 1.2, in which No is nobelium and not false."""
    from ruamel.yaml import YAML

    value = YAML(typ="safe", pure=True).load(text)
    unset = isinstance(value, dict) and all(entry is None for entry in value.values())
    return text if unset else value  # "band_gap:" on the command line is text, not a mapping


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = _make_parser()
    options = parser.parse_args(list(sys.argv[1:]) if arguments is None else list(arguments))
    command = options.subcommand
    try:
        _COMMANDS[command](parser, options[command])
    except (ValueError, OSError) as error:
        _fail(f"{command}: {_one_line(str(error))}")
    except KeyboardInterrupt:
        print(f"matsmith {command}: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)


def _make_parser() -> ArgumentParser:
    from ruamel.yaml.error import YAMLError

    set_loader("yaml", _load_yaml, exceptions=(YAMLError,))
    register_type(PlugIn, PlugIn.as_dict, PlugIn.read)  # its class_path is no subclass of PlugIn
    parser = _Parser(
        prog="matsmith",
        description="Goal-directed design of inorganic materials.",
        version=_version(),
        default_env=False,
    )
    commands = parser.add_subcommands(required=True)

    design = _Parser(description="Train a policy on objectives and write ranked candidates with a report.")
    design.add_argument("--config", action="config", help="YAML file with any of these options")
    design.add_class_arguments(DesignConfig)
    _add_json(design)
    commands.add_subcommand("design", design, help="train a policy and write ranked candidates with a report")

    resume = _Parser(description="Go on with an interrupted design run.")
    resume.add_argument("run", type=Path, help="folder of the run")
    _add_json(resume)
    commands.add_subcommand("resume", resume, help="go on with an interrupted run")

    sample = _Parser(description="Sample materials from the policy of a run.")
    sample.add_argument("run", type=Path, help="folder of the run")
    sample.add_argument("--n", type=int, default=100, help="number of samples")
    sample.add_argument(
        "--preference",
        type=str | None,
        default=None,
        help="weights over the objectives, e.g. band_gap=0.7,e_above_hull=0.3; or sweep, for the Pareto front",
    )
    sample.add_argument("--beta", type=float | None, default=None, help="how greedy, within the trained range")
    sample.add_argument(
        "--target",
        type=str | None,
        default=None,
        help="centres of windows, e.g. band_gap=2.0, within the trained range",
    )
    sample.add_argument(
        "--corrected", type=bool, default=False, nargs="?", const=True, help="resample to the exact target"
    )
    sample.add_argument("--seed", type=int | None, default=None, help="of this call")
    sample.add_argument("--output", type=Path | None, default=None, help="write a CSV file instead of a table")
    _add_json(sample)
    commands.add_subcommand("sample", sample, help="sample from a trained policy")

    report = _Parser(description="Write report.html of a run again.")
    report.add_argument("run", type=Path, help="folder of the run")
    _add_json(report)
    commands.add_subcommand("report", report, help="write the report of a run again")

    reference = _Parser(
        description="Compute a reference table of formation energies with CHGNet; goes on where it stopped."
    )
    reference.add_argument("--config", action="config", help="YAML file with any of these options")
    reference.add_class_arguments(ReferenceConfig)
    _add_json(reference)
    commands.add_subcommand("reference", reference, help="compute a reference table of formation energies")
    return parser


def _add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", type=bool, default=False, nargs="?", const=True, help="print one JSON object only")


def _version() -> str:
    from importlib import metadata

    return metadata.version("matsmith")


# Commands


def _design(parser: ArgumentParser, options: Namespace) -> None:
    config = _design_config(parser, options)
    from agent.design_run import Interrupted, start_design

    def dump() -> str:
        stored = options.clone()
        stored.pop("config", None)
        stored.pop("json", None)
        text: str = _design_parser(parser).dump(stored, skip_validation=True, skip_unset=False)
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
    try:
        result = resume_design(config, folder, progress=not options.json)
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
        preference="sweep" if options.preference == "sweep" else _numbers_by_name("preference", options.preference),
        beta=options.beta,
        target=_numbers_by_name("target", options.target),
        corrected=options.corrected,
        seed=options.seed,
    )
    if options.output is not None:
        temporary = options.output.with_name(f"{options.output.name}.part-{os.getpid()}")
        try:
            frame.to_csv(temporary, index=False, float_format="%.6g")
            temporary.replace(options.output)
        finally:
            temporary.unlink(missing_ok=True)
    front = None
    if options.preference == "sweep":
        from agent.front import pareto_front

        front = pareto_front(frame, objectives)
    if options.json:
        measures = {} if front is None else {"front": vars(front.measures)}
        samples = frame if front is None else front.materials
        print(json.dumps({**frame.attrs, **measures, "samples": json.loads(samples.to_json(orient="records"))}))
        return
    if front is not None:
        if options.output is None:
            hidden = ("log_prob", "log_prior", "log_reward")
            shown = [n for n in front.materials if n not in hidden and not str(n).endswith("_std")]
            print(_table(front.materials[shown]))
        print(f"{len(frame)} samples under {len(front.measures.hits)} preferences. {front.measures}")
        return
    if options.output is None:
        print(_table(frame))
    size, asked = frame.attrs["effective_sample_size"], _named_condition(frame.attrs["condition"])
    print(f"{len(frame)} samples; effective sample size {size:.0f} of {frame.attrs['n_drawn']} drawn{asked}")


def _named_condition(condition: dict[str, Any]) -> str:
    """Say what samples were asked for: "; band_gap 0.7, supply_risk 0.3; beta 12"."""
    parts = [
        f"{what}{', '.join(f'{name} {value:.4g}' for name, value in condition[key].items())}"
        for what, key in (("", "preference"), ("target ", "target"))
        if condition[key]
    ]
    return "; ".join(["", *parts[:1], f"beta {condition['beta']:.4g}", *parts[1:]])


def _numbers_by_name(option: str, text: str | None) -> dict[str, float] | None:
    """Read "band_gap=0.7,e_above_hull=0.3"."""
    if text is None:
        return None
    values: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise ValueError(
                f"{option}: {part.strip()!r} is not name=number (expected e.g. band_gap=0.7,e_above_hull=0.3)"
            )
        if name in values:
            raise ValueError(f"{option}: {name} is given twice")
        values[name] = value
    return values


def _report(parser: ArgumentParser, options: Namespace) -> None:
    from agent.report import write_report

    path = write_report(options.run)
    print(json.dumps({"report": str(path)}) if options.json else f"report: {path}")


def _reference(parser: ArgumentParser, options: Namespace) -> None:
    _refuse_null(ReferenceConfig, options)
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


_COMMANDS = {
    "design": _design,
    "resume": _resume,
    "sample": _sample,
    "report": _report,
    "reference": _reference,
}


# Configuration


def _design_parser(parser: ArgumentParser) -> ArgumentParser:
    subparsers: Any = parser._subcommands_action
    found: ArgumentParser = subparsers._name_parser_map["design"]
    return found


def _design_config(parser: ArgumentParser, options: Namespace) -> DesignConfig:
    _refuse_null(DesignConfig, options)
    values = _design_parser(parser).instantiate(options)
    return DesignConfig(**{name: values[name] for name in DesignConfig.__dataclass_fields__})


def read_config(path: Path) -> DesignConfig:
    """Return the design configuration of a YAML file."""
    parser = _make_parser()
    return _design_config(parser, _design_parser(parser).parse_args(["--config", str(path)]))


def _refuse_null(config: type, values: Any, where: str = "") -> None:
    """Raise a ValueError for a null, or for something else than a mapping, where the configuration has no room for it.

    jsonargparse lets both pass.
    """
    if isinstance(values, Namespace):
        values = vars(values)
    if not isinstance(values, dict):
        raise ValueError(f"{where.rstrip('.')}: expected a mapping of options, not {values!r}")
    for field in fields(config):
        value = values.get(field.name)
        if value is None and field.name in values and "None" not in str(field.type):
            raise ValueError(f"{where}{field.name}: found null, expected a value; leave it out for the default")
        nested = _NESTED.get(field.name)
        if nested is not None and value is not None:
            for entry in value if isinstance(value, list) else [value]:
                _refuse_null(nested, entry, f"{where}{field.name}.")


def _stored_config(parser: ArgumentParser, run: Path) -> tuple[DesignConfig, Any]:
    from agent.run_folder import RunFolder

    folder = RunFolder(run)
    if not folder.config.is_file():
        raise ValueError(f"run: {run} holds no run (expected {folder.config})")
    design = _design_parser(parser)
    return _design_config(parser, design.parse_args(["--config", str(folder.config)])), folder


# What the user reads


def _print_result(result: DesignResult, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        values = {
            "folder": str(result.folder),
            "candidates": len(result.candidates),
            "novel": int(result.candidates["novel"].sum()),
            "coverage": asdict(result.coverage),
            "warnings": list(result.support.warnings) if result.support else [],
            "seconds": round(result.seconds, 1),
            "best": json.loads(result.candidates.head(10).to_json(orient="records")),
        }
        print(json.dumps(values))
        return
    hidden = ("log_prob", "log_prior", "training_distance", "rung", "nearest_distance")
    shown = [n for n in result.candidates if n not in hidden and not str(n).startswith("utility_")]
    print(_table(result.candidates.head(10)[shown]))
    novel = result.candidates["novel"].mean()
    print(f"\n{len(result.candidates)} candidates, {novel:.0%} not in the lists of known formulas")
    print(result.coverage)
    print(f"{result.folder}/candidates.csv\n{result.folder}/report.html")


def _table(frame: pd.DataFrame) -> str:
    return frame.to_string(index=False, float_format=lambda value: f"{value:.4g}", max_colwidth=44)


def _explain_interruption(what: str, folder: Path) -> NoReturn:
    print(f"\nmatsmith: {what}; go on with: matsmith resume {shlex.quote(str(folder))}", file=sys.stderr)
    sys.exit(130)


def _say(text: str) -> None:
    print(text, flush=True)


def _silent(_: str) -> None:
    """Say nothing."""


_OPTIONAL = (
    r"Does not validate against any of the Union.*?Errors:\s+- (.*?)\s+- Expected a <class 'NoneType'>"
    r"\s+Given value type: .*?Given value: (.*)"
)
"""How the parser says that a value is neither what was expected nor null."""


def _either_or_null(found: re.Match[str]) -> str:
    reason, value = found.groups()
    simple = re.fullmatch(r"Expected a <class '\w+'>", reason)
    return f"{reason}, or null. Got value: {value}" if simple else reason


def _one_line(message: str) -> str:
    """Fold a message into one line, without the parser's talk of its own classes."""
    text = re.sub(_OPTIONAL, _either_or_null, message, flags=re.DOTALL)
    text = re.sub(r"Problem with given class_path '[^']*':\s*", "", text)
    text = re.sub(r"Not of type \w+: ", "", text)
    text = re.sub(r"Expected a dot import path string: ", "expected a mapping. Got value: ", text)
    text = re.sub(r"^Unexpected config: ", "config: expected a mapping of options, found ", text)
    text = re.sub(r"Parser key \"([^\"]*)\":", r"\1:", text)
    text = re.sub(r"Expected a <class '([^']*)'>", r"expected \1", text)
    text = re.sub(r"Expected a typing\.Literal", "expected one of ", text)
    unknown = re.search(r"(?:does not accept option|Option) '(?:\w+\.)*(\w+)'", text)
    names = [field.name for config in (DesignConfig, ReferenceConfig, *_NESTED.values()) for field in fields(config)]
    close = get_close_matches(unknown[1], names, n=1) if unknown else []
    return " ".join(text.split()) + (f"; did you mean {close[0]}?" if close else "")


def _fail(message: str) -> NoReturn:
    print(f"matsmith: error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
