"""The command line's contract, on the training's own configuration."""

import re
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, model_validator

from jobs.config import JobConfig, Section, load
from jobs.console import UserError, command_line
from jobs.training.config import TrainConfig

NEEDED = ["--dataset", "d", "--output", "o"]


@pytest.fixture
def train_yaml(tmp_path):
    def write(text: str) -> list[str]:
        file = tmp_path / "train.yaml"
        file.write_text(text)
        return ["--config", str(file)]

    return write


def problems(argv: list[str], config_class: type[JobConfig] = TrainConfig) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(config_class, argv)
    return str(caught.value).splitlines()


def test_command_line_wins_over_yaml_and_yaml_over_default(train_yaml):
    argv = train_yaml("steps: 7\nbatch_size: 8\noptimizer:\n  learning_rate: 0.5\n  weight_decay: 0.25\n")
    config = load(TrainConfig, [*argv, *NEEDED, "--optimizer.learning_rate=0.125", "--steps", "9"])
    assert (config.steps, config.batch_size, config.workers) == (9, 8, 2)
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (0.125, 0.25)
    assert config.optimizer.grad_clip == 1.0
    assert config.dataset == Path("d")


class Stage(Section):
    minutes: float = Field(default=10.0, description="budget [min]")
    batch_size: int = Field(default=32, description="rows of a step")


class Stages(JobConfig):
    oracles: Stage = Field(default=Stage(minutes=20.0, batch_size=128), description="a stage")


def test_one_field_of_a_section_leaves_the_jobs_own_defaults_of_the_others(train_yaml):
    assert load(Stages, ["--oracles.minutes", "25"]).oracles == Stage(minutes=25.0, batch_size=128)
    assert load(Stages, train_yaml("oracles:\n  batch_size: 8\n")).oracles == Stage(minutes=20.0, batch_size=8)


def test_environment_variables_are_not_read(monkeypatch):
    monkeypatch.setenv("STEPS", "3")
    monkeypatch.setenv("SEED", "3")
    config = load(TrainConfig, NEEDED)
    assert (config.steps, config.seed) == (1000, 0)


@pytest.mark.parametrize(
    ("yaml", "key", "nearest"),
    [
        ("optimizer:\n  learning_rat: 1\n", "optimizer.learning_rat", "optimizer.learning_rate"),
        ("adaptor:\n  queries: 3\n", "adaptor", "adapter"),
        ("learning_rate: 1\n", "learning_rate", "optimizer.learning_rate"),
        ("mlflow:\n  trackinguri: x\n", "mlflow.trackinguri", "mlflow.tracking_uri"),
    ],
)
def test_unknown_key_in_yaml_names_the_nearest(train_yaml, yaml, key, nearest):
    [line] = problems([*train_yaml(yaml), *NEEDED])
    assert line.endswith(f"train.yaml: unknown key {key}; did you mean {nearest}?")


def test_unknown_option_names_the_nearest():
    [line] = problems([*NEEDED, "--optimizer.learning_rat", "1"])
    assert line == "unknown option --optimizer.learning_rat; did you mean --optimizer.learning_rate?"


@pytest.mark.parametrize("words", [["--log-every", "7"], ["--log-every=7"], ["--log_every", "7"]])
def test_hyphens_in_an_option_are_underscores(words):
    assert load(TrainConfig, [*NEEDED, *words]).log_every == 7


def test_an_option_is_not_completed_from_its_beginning():
    [line] = problems([*NEEDED, "--step", "4"])
    assert line == "unknown option --step; did you mean --steps?"


def test_every_unknown_key_is_reported_at_once(train_yaml):
    lines = problems([*train_yaml("stepz: 1\ngate:\n  variance: 1\n"), *NEEDED, "--wokers=3"])
    assert [re.sub(r".*unknown (key|option) ", "", line) for line in lines] == [
        "stepz; did you mean steps?",
        "gate.variance; did you mean gate.variant?",
        "--wokers; did you mean --workers?",
    ]


def test_wrong_values_name_their_place_the_value_and_what_would_be_right(train_yaml):
    argv = train_yaml("steps: many\nadapter:\n  gating: both\ngate: 3\n")
    lines = problems([*argv, *NEEDED, "--gate.invariant=0.5", "--workers", "0", "--seed=1.5"])
    text = "\n".join(lines)
    assert len(lines) == 4  # the section `gate` from the command line replaces the number
    assert "train.yaml: steps = 'many': input should be a valid integer" in text
    assert "train.yaml: adapter.gating = 'both': input should be 'branch' or 'token'" in text
    assert "--workers = '0': input should be greater than or equal to 1" in text
    assert "--seed = '1.5': input should be a valid integer" in text


def test_gamma_outside_zero_and_one_is_refused():
    [line] = problems([*NEEDED, "--gate.variant", "1.2"])
    assert line == "--gate.variant = 1.2: input should be less than or equal to 1"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch_size=5", "--workers=2"], "batch_size = 5: not a multiple of workers = 2; 6 would be"),
        (["--batch_size=16", "--max_workers=4"], "batch_size = 16: not a multiple of workers = 3; 24 would be"),
        (["--max_workers=1"], "max_workers = 1: below workers = 2, which is the fewest"),
        (["--batch_size=8", "--accumulate=3"], "accumulate = 3: does not divide the 4 rows of each of 2 workers"),
        (["--mixture.invariant=0", "--mixture.variant=0"], "mixture: both weights are 0"),
        (["--drops.text=0.9", "--drops.image=0.9"], "drops: text + image + both = 1.85"),
        (["--steps=50", "--optimizer.warmup=51"], "optimizer.warmup = 51: longer than the whole run, steps = 50"),
        (["--name", "a/b"], "--name = 'a/b': string should match pattern"),
    ],
)
def test_values_that_do_not_go_together_are_refused(argv, message):
    [line] = problems([*NEEDED, *argv])
    assert message in line


def test_missing_values_say_what_they_are():
    lines = problems([])
    assert lines[0].startswith("dataset is missing (dataset directory, as written by jobs.curate); give --dataset")
    assert lines[1].startswith("output is missing")


class Inner(Section):
    path: str = Field(description="a path")


class Outer(JobConfig):
    """A job whose section has a field without a default."""

    input: Inner
    shares: list[float] = Field(default=[0.0, 1.0], description="numbers")
    kind: Literal["a", "b"] = Field(default="a", description="a letter")

    @model_validator(mode="after")
    def _two(self) -> "Outer":
        if len(self.shares) != 2:
            raise ValueError(f"shares: {len(self.shares)} numbers; give 2")
        return self


def test_a_missing_section_is_named_by_its_required_field():
    [line] = problems([], Outer)
    assert line == "input.path is missing (a path); give --input.path or put it into the --config file"


def test_lists_are_written_with_commas():
    assert load(Outer, ["--input.path", "x", "--shares", "0.25,0.75"]).shares == [0.25, 0.75]
    assert problems(["--input.path", "x", "--shares", "1,2,3"], Outer) == ["shares: 3 numbers; give 2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps: [1, 2\n", "not YAML at line 2"),
        (b"\xff\xfe\x00\x01", "not YAML"),
        (b"- 1\n- 2\n", "`field: value` lines are expected, found a list"),
        (b"just words", "`field: value` lines are expected, found a str"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, message):
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    [line] = problems(["--config", str(file), *NEEDED])
    assert str(file) in line
    assert message in line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config", "/nowhere/x.yaml"], "--config /nowhere/x.yaml: cannot be read (No such file or directory)"),
        (["--config"], "--config: a YAML file is expected after it"),
        (["--config", "a", "--config=b"], "--config: given twice, a and b"),
        (["--steps"], "command line: argument --steps: expected one argument"),
        ([*NEEDED, "stray"], "command line: unrecognized arguments: stray"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_refused(argv, message):
    [line] = problems(argv)
    assert line.startswith(message)


def test_an_empty_file_means_defaults(train_yaml):
    assert load(TrainConfig, [*train_yaml("# nothing\n"), *NEEDED]) == load(TrainConfig, NEEDED)


def test_help_lists_every_field_with_its_meaning_and_default(capsys):
    with pytest.raises(SystemExit) as ended:
        load(TrainConfig, ["--help"], "python -m jobs.train")
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "python -m jobs.train [--config FILE.yaml]" in text
    for key, field in leaves(TrainConfig):
        assert f"--{key} " in text, key
        assert field.description, f"{key} has no description"
        assert " ".join(field.description.split()) in text, key
    assert "(default: 0.0001)" in text
    assert "(required)" in text


def leaves(model, prefix=""):
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def test_a_users_mistake_is_one_line_and_exit_code_2(capsys):
    @command_line
    def main(argv=None):
        load(TrainConfig, argv)

    with pytest.raises(SystemExit) as ended:
        main([*NEEDED, "--optimizer.learning_rat", "1"])
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.out == ""
    assert captured.err == ("error: unknown option --optimizer.learning_rat; did you mean --optimizer.learning_rate?\n")


def test_a_fault_of_the_program_keeps_its_traceback():
    @command_line
    def main(argv=None):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        main([])


def test_pocket_training_configuration_is_valid():
    file = Path(__file__).parents[2] / "configs" / "pocket" / "train.yaml"
    assert load(TrainConfig, ["--config", str(file)]).adapter.dim_head == 32
