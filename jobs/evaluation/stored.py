"""The pictures of a benchmark that are there already, for the jobs that show them to a judge or to people."""

from evaluation.answers import Answer, foreign_answers
from evaluation.benchmarks import Benchmark
from jobs.evaluate import EvaluateConfig
from jobs.evaluation.config import MethodConfig
from jobs.evaluation.drawing import missing_rows, rows_of
from jobs.evaluation.methods import Steps


def stored_answers(config: EvaluateConfig, method: MethodConfig, benchmark: Benchmark) -> list[Answer]:
    """A method's pictures, where it has a dial at the setting nearest to `scoring.gamma`; none is drawn.

    Raises:
        BenchmarkError, UserError: a manifest or weights that cannot be read.
    """
    if method.manifest is not None:
        answers = foreign_answers(method.name, method.manifest, benchmark)
    else:
        steps, root = Steps(config.steps, config.guidance_scale, config.batch_rows), config.output / "pictures"
        rows = rows_of(method, benchmark, config.seeds, config.gammas, steps)
        lost = {row.cell for row in missing_rows(root, rows)}
        answers = [Answer(row.cell, row.cell.file(root)) for row in rows if row.cell not in lost]
    settings = {answer.cell.gamma for answer in answers}
    shown = min(settings, key=lambda gamma: -1 if gamma is None else abs(gamma - config.scoring.gamma), default=None)
    return [answer for answer in answers if answer.cell.gamma == shown]
