"""What the command line and YAML files are read with: the options of every command, and mistakes in one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NoReturn

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_loader
from jsonargparse.typing import register_type

from agent.campaign_options import CampaignOptions
from agent.condition_options import ConditionOptions
from agent.config import (
    ConstraintConfig,
    CrystalConfig,
    DesignConfig,
    EvaluateConfig,
    ICSD24FilterOptions,
    ObjectiveConfig,
    PlugIn,
    ReferenceConfig,
    SpaceConfig,
    ValidateConfig,
)
from agent.training_options import TrainingOptions

_NESTED: dict[str, type] = {
    "objectives": ObjectiveConfig,
    "constraints": ConstraintConfig,
    "conditions": ConditionOptions,
    "campaign": CampaignOptions,
    "space": SpaceConfig,
    "crystal": CrystalConfig,
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
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        close = get_close_matches(unknown[1], self._known_options(), n=1) if unknown else []
        hint = f"; did you mean {close[0]}?" if close else ""
        if unknown and close and close[0] == unknown[1]:
            hint = "; it belongs behind its command"
        fail(one_line(message) + hint)

    def _known_options(self) -> list[str]:
        commands: Any = self._subcommands_action
        parsers = [self, *(commands._name_parser_map.values() if commands else ())]
        return [option for parser in parsers for action in parser._actions for option in action.option_strings]


def _load_yaml(text: str) -> Any:
    """Load YAML 1.2, in which No is nobelium and not false."""
    from ruamel.yaml import YAML

    value = YAML(typ="safe", pure=True).load(text)
    is_block = isinstance(value, dict) and not text.lstrip().startswith("{")
    unset = is_block and all(entry is None for entry in value.values())
    return text if unset else value  # "band_gap:" on the command line is text, not a mapping


def make_parser() -> ArgumentParser:
    """Return the parser of all commands."""
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
    resume.add_argument("--executor", type=str | None, default=None, help="where the oracle runs from now on")
    resume.add_argument("--workers", type=int | None, default=None, help="processes that label from now on")
    resume.add_argument("--rounds", type=int | None, default=None, help="rounds of labelling in all, to add some")
    _add_json(resume)
    commands.add_subcommand("resume", resume, help="go on with an interrupted run")

    sample = _Parser(description="Sample materials from the policy of a run.")
    sample.add_argument("run", type=Path, help="folder of the run")
    sample.add_argument(
        "--n",
        type=int | None,
        default=None,
        help="number of samples, 100 when left out; of a sweep over prior weights those under each, 1000 when left out",
    )
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
        "--prior_weight",
        type=float | Literal["sweep"] | None,
        default=None,
        help="how close to known chemistry, within the trained range; or sweep, for hits against closeness",
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

    validate = _Parser(description="Judge crystal structures from files: charges, relaxation, hull, stability.")
    validate.add_argument("--config", action="config", help="YAML file with any of these options")
    switches = {
        "overwrite": "replace results that the folder holds already",
        "elastic": "compute elastic tensors (needs matcalc)",
        "phonon": "compute vibrations (needs phonopy)",
    }
    validate.add_argument("files", type=Path, nargs="+", help="structure files, and folders of such files")
    validate.add_class_arguments(ValidateConfig, skip={"files", *switches})
    for name, text in switches.items():
        validate.add_argument(f"--{name}", type=bool, default=False, nargs="?", const=True, help=text)
    _add_json(validate)
    commands.add_subcommand("validate", validate, help="judge crystal structures from files")

    evaluate = _Parser(description="Measure a list of compositions or structures with the metrics of the field.")
    evaluate.add_argument("--config", action="config", help="YAML file with any of these options")
    evaluate.add_argument("files", type=Path, nargs="+", help="tables of formulas, structure files, folders of these")
    evaluate.add_class_arguments(EvaluateConfig, skip={"files", "relax"})
    evaluate.add_argument(
        "--relax", type=bool, default=False, nargs="?", const=True, help="relax structures; distance to the hull"
    )
    _add_json(evaluate)
    commands.add_subcommand("evaluate", evaluate, help="measure a list of compositions or structures")
    return parser


def _add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", type=bool, default=False, nargs="?", const=True, help="print one JSON object only")


def _version() -> str:
    from importlib import metadata

    return metadata.version("matsmith")


_OF_SPACE = ("max_edits", "keep", "complete")
"""Options of `space` that may be given without it."""


def whole_options(arguments: Sequence[str]) -> list[str]:
    """Return arguments as the parser knows them.

    Options may be written with dashes, --prior-weight for --prior_weight. Those by which a design stays close to a
    material may leave out that they are of the space: --reference SrTiO3 --max-edits 2, --complete "Li ? O". A table
    of energies, which has the same name, is told by its file.
    """
    result = []
    for place, text in enumerate(arguments):
        name, equals, value = text[2:].partition("=")
        if not (text.startswith("--") and name):
            result.append(text)
            continue
        name = name.replace("-", "_")
        given = value if equals else " ".join(arguments[place + 1 : place + 2])
        if arguments[0] == "design" and (name in _OF_SPACE or (name == "reference" and _looks_like_formula(given))):
            name = f"space.{name}"
        result.append(f"--{name}{equals}{value}")
    return result


def _looks_like_formula(text: str) -> bool:
    if not re.match(r"[A-Z(\[]", text) or "/" in text or re.search(r"\.[a-z]\w*$", text):  # the end of a file's name
        return False
    try:
        return not Path(text).is_file()
    except OSError:  # too long for the name of a file
        return True


# Configurations


def design_parser(parser: ArgumentParser) -> ArgumentParser:
    """Return the parser of `design` within that of all commands."""
    subparsers: Any = parser._subcommands_action
    found: ArgumentParser = subparsers._name_parser_map["design"]
    return found


def design_config(parser: ArgumentParser, options: Namespace) -> DesignConfig:
    """Return the design configuration of parsed options."""
    refuse_null(DesignConfig, options)
    values = design_parser(parser).instantiate(options)
    return DesignConfig(**{name: values[name] for name in DesignConfig.__dataclass_fields__})


def read_config(path: Path) -> DesignConfig:
    """Return the design configuration of a YAML file."""
    parser = make_parser()
    return design_config(parser, design_parser(parser).parse_args(["--config", str(path)]))


def refuse_null(config: type, values: Any, where: str = "") -> None:
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
                refuse_null(nested, entry, f"{where}{field.name}.")


# Mistakes


_UNION = re.compile(
    r"Does not validate against any of the Union subtypes\s+Subtypes: .*\s+Errors:\s+"
    r"((?:(?!Does not validate)[\s\S])*?)\s+Given value type: .*\s+Given value: (.*)"
)
"""How the parser says that a value is none of several types; one that contains no other."""
_NO_MAPPING = r"Not a valid subclass of \w+\s+Subclass types expect one of:(\s+- a (class|dict) .*)+"
"""How the parser says that a section of options is no mapping."""


def _one_of_several(found: re.Match[str]) -> str:
    reasons, value = re.split(r"\s*(?:^|\n)\s*- ", f"\n{found[1]}")[1:], found[2]
    pattern = r"Expected a(?: <class '(\w+)'>| (mapping)| typing\.Literal\['(\w+)'\])"
    kinds = [re.fullmatch(pattern, reason.strip()) for reason in reasons]
    names = ["null" if kind[1] == "NoneType" else kind[1] or kind[2] or kind[3] for kind in kinds if kind]
    if len(names) == len(reasons):
        return f"expected {', '.join(names[:-1])}{', or ' if len(names) > 1 else ''}{names[-1]}. Got value: {value}"
    return reasons[0]


def one_line(message: str) -> str:
    """Fold a message into one line, without the parser's talk of its own classes."""
    text, more = re.sub(_NO_MAPPING, "Expected a mapping", message), 1
    while more:  # from the inside out
        text, more = _UNION.subn(_one_of_several, text)
    text = re.sub(r"Problem with given class_path '[^']*':\s*", "", text)
    text = re.sub(r"Not of type \w+: ", "", text)
    text = re.sub(r"Expected (?:a )?dot import path string: ", "expected a mapping. Got value: ", text)
    text = re.sub(r"^Unexpected config: ", "config: expected a mapping of options, found ", text)
    text = re.sub(r"Parser key \"([^\"]*)\":", r"\1:", text)
    text = re.sub(r"Expected a <class '([^']*)'>", r"expected \1", text)
    text = re.sub(r"Expected a typing\.Literal", "expected one of ", text)
    unknown = re.search(r"(?:does not accept option|Option) '(?:\w+\.)*(\w+)'", text)
    configs = (DesignConfig, ReferenceConfig, ValidateConfig, EvaluateConfig, *_NESTED.values())
    names = [field.name for config in configs for field in fields(config)]
    close = get_close_matches(unknown[1], names, n=1) if unknown else []
    return " ".join(text.split()) + (f"; did you mean {close[0]}?" if close else "")


def fail(message: str) -> NoReturn:
    """Print one line on standard error and exit with status 2."""
    print(f"matsmith: error: {message}", file=sys.stderr)
    sys.exit(2)
