"""Typed configuration of every job: command line over YAML over default. Environment variables are not read.

The machinery and the sections that several jobs share live here; each job's own class stands at the top of its file:

    class TrainConfig(JobConfig):
        dataset: Path = Field(description="dataset directory, as written by jobs.curate")
        steps: int = Field(default=1000, ge=1, description="optimizer steps")
        optimizer: OptimizerConfig = Field(default=OptimizerConfig(), description="AdamW")   # a Section

    config = load(TrainConfig, argv, "python -m jobs.train")

Every field has a description with its unit; `--help` shows it beside the default. A section is a `Section`, so an
unknown key is refused at any depth. Relative paths are relative to the working directory.
"""

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, CliSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from jobs.console import UserError


class Section(BaseModel):
    """A group of fields inside a job's configuration. Immutable; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class JobConfig(BaseSettings):
    """The whole configuration of one job. Made by `load`, or in Python from keyword arguments alone."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keyword arguments only: a stray environment variable named `steps` must not change a training."""
        return (init_settings,)


class ModelsConfig(Section):
    base: str = Field(
        default="pocket",
        description="Stable Diffusion 1.5: `pocket`, a hub name, a local folder or models:/NAME/VERSION in MLflow",
    )
    clip: str = Field(default="pocket", description="OpenCLIP model: the same")
    dino: str = Field(default="pocket", description="DINOv2 model: the same")


class RayConfig(Section):
    address: str | None = Field(
        default=None,
        description="cluster to join, e.g. auto; none: $RAY_ADDRESS if set, else a private Ray on this machine",
    )
    num_cpus: int = Field(
        default=4,
        ge=1,
        description="logical CPUs of the private Ray: a limit on tasks at once, may exceed the real cores",
    )
    object_store_mb: int = Field(default=1024, ge=100, description="object store of the private Ray [MiB]")
    use_gpu: bool | None = Field(default=None, description="run on GPUs; none: when the cluster has any")


class MLflowConfig(Section):
    tracking_uri: str | None = Field(
        default=None, description="MLflow store, e.g. http://host:5000; none: the SQLite file <output>/mlflow.db"
    )
    experiment: str = Field(default="flexip", description="MLflow experiment that the runs belong to")


Config = TypeVar("Config", bound=JobConfig)


def load(config_class: type[Config], argv: list[str] | None = None, prog: str = "python -m jobs") -> Config:
    """The configuration from `--config file.yaml` and `--section.field value`; argv None means sys.argv[1:].

    `--help` prints every field and exits 0. Raises UserError with one line per problem: unknown key (with the
    nearest valid one), missing or wrong value, unreadable file.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--help" in argv or "-h" in argv:
        _print_help(config_class, prog)
        raise SystemExit(0)
    file, flags = _split_off_config(argv)
    from_file = _read_yaml(file) if file else {}
    fields = dict(_leaves(config_class))
    problems = [_unknown(f"{file}: unknown key", key, fields) for key in _unknown_keys(config_class, from_file)]
    problems += [_unknown("unknown option", name, fields, "--") for name in _names(flags) if name not in fields]
    if problems:
        raise UserError("\n".join(problems))
    from_flags = _parse_flags(config_class, flags, prog)
    try:
        return config_class(**_completed(config_class, _merge(from_file, from_flags)))
    except ValidationError as error:
        lines = [_describe(problem, config_class, from_file, from_flags, file) for problem in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from error


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every valid dotted key, sections included, with its FieldInfo."""
    for name, field in model.model_fields.items():
        name = field.alias or name  # a word that Python keeps for itself, as `from`
        yield prefix + name, field
        if section := _section(field.annotation):
            yield from _leaves(section, f"{prefix}{name}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _cli(config_class: type[JobConfig], flags: list[str] | bool, prog: str) -> CliSettingsSource[Any]:
    return CliSettingsSource(
        config_class,
        cli_parse_args=flags,
        cli_prog_name=prog,
        cli_exit_on_error=False,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )


def _print_help(config_class: type[JobConfig], prog: str) -> None:
    parser = _cli(config_class, False, prog).root_parser
    parser.usage = f"{prog} [--config FILE.yaml] [--field VALUE] [--section.field VALUE] ..."
    parser.description = (config_class.__doc__ or "").strip().splitlines()[0]
    parser.epilog = (
        "--config FILE.yaml gives any of these; the command line wins over the file, the file over defaults."
    )
    parser.print_help()


def _split_off_config(argv: list[str]) -> tuple[Path | None, list[str]]:
    file, rest, words = None, [], iter(argv)
    for word in words:
        if word == "--config" or word.startswith("--config="):
            value = word[len("--config=") :] if "=" in word else next(words, "")
            if not value:
                raise UserError("--config: a YAML file is expected after it")
            if file is not None:
                raise UserError(f"--config: given twice, {file} and {value}; give one file")
            file = Path(value)
        else:
            rest.append(_with_underscores(word))
    return file, rest


def _with_underscores(word: str) -> str:
    """An option may be written with hyphens, --dry-run as --dry_run."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {file}: cannot be read ({error.strerror}); give an existing YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "it is not UTF-8 text"
        raise UserError(f"--config {file}: not YAML{where} ({reason})") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"--config {file}: `field: value` lines are expected, found a {type(content).__name__}")
    return content


def _unknown_keys(model: type[BaseModel], content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    known = {field.alias or name: field for name, field in model.model_fields.items()}
    for key, value in content.items():
        field = known.get(key)
        if field is None:
            yield f"{prefix}{key}"
        elif (section := _section(field.annotation)) and isinstance(value, dict):
            yield from _unknown_keys(section, value, f"{prefix}{key}.")


def _names(flags: list[str]) -> Iterator[str]:
    """Dotted names of the options; a value that starts with a dash is a number, not an option."""
    return (word[2:].split("=", 1)[0] for word in flags if word.startswith("--"))


def _unknown(problem: str, key: str, fields: dict[str, Any], dashes: str = "") -> str:
    leaf = key.rsplit(".", 1)[-1]
    nearest = difflib.get_close_matches(key, fields, n=1, cutoff=0.6)
    nearest = nearest or [name for name in fields if name.rsplit(".", 1)[-1] == leaf]
    hint = f"did you mean {dashes}{nearest[0]}?" if nearest else "--help lists the valid ones"
    return f"{problem} {dashes}{key}; {hint}"


def _parse_flags(config_class: type[JobConfig], flags: list[str], prog: str) -> dict[str, Any]:
    try:
        return _cli(config_class, flags, prog)()
    except Exception as error:  # argparse and pydantic-settings raise several kinds; every one is about these words
        text = " ".join(str(error).split()).removeprefix("error parsing CLI: ")
        raise UserError(f"command line: {text}; write --section.field=VALUE, lists as 1,2,3") from error


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _completed(config_class: type[JobConfig], given: dict[str, Any]) -> dict[str, Any]:
    """What is given of a section, over the job's own default of that section rather than over its class's."""
    sections = {
        name: field.default.model_dump(by_alias=True)
        for name, field in config_class.model_fields.items()
        if isinstance(given.get(name), dict) and isinstance(field.default, Section)
    }
    return _merge(sections, given)


def _describe(
    problem: ErrorDetails,
    config_class: type[JobConfig],
    from_file: dict[str, Any],
    from_flags: dict[str, Any],
    file: Path | None,
) -> str:
    """One line: where the value came from, the field, the value, and what would be right."""
    fields = dict(_leaves(config_class))
    path = [str(part) for part in problem["loc"]]
    while path and ".".join(path) not in fields:  # drop union branches and list positions
        path.pop()
    key = ".".join(path)
    if problem["type"] == "missing":
        missing = ".".join(str(part) for part in problem["loc"])
        inside = (name for name, field in fields.items() if name.startswith(f"{missing}.") and field.is_required())
        missing = next(inside, missing)  # of a whole section, the field that has no default
        meaning = fields[missing].description if missing in fields else "required"
        return f"{missing} is missing ({meaning}); give --{missing} or put it into the --config file"
    expected = problem["msg"].removeprefix("Value error, ")
    if not key:
        return expected
    where = f"--{key}" if _has(from_flags, path) else f"{file}: {key}" if _has(from_file, path) else key
    value = "" if isinstance(problem["input"], dict | BaseModel) else f" = {problem['input']!r}"
    return f"{where}{value}: {expected[:1].lower()}{expected[1:]}"


def _has(tree: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True
