"""A training as `jobs.train` sets it up, to be run in this process."""

from flexip.encoders import Encoders
from jobs.tracking import open_client, tracking_uri
from jobs.training.assignment import Assignment
from jobs.training.config import TrainConfig
from jobs.training.features import open_data
from jobs.training.record import open_record
from jobs.training.setup import assignment, check_start, load_matching_encoders, with_mlflow_run


def job_of(config: TrainConfig, encoders: Encoders, checked: bool = False) -> Assignment:
    """What every worker is told; `checked` makes sure first, as a start would, that data and encoders fit."""
    data, uri = open_data(config), tracking_uri(config.mlflow, config.output)
    if checked:
        assert load_matching_encoders(config, data).fingerprints == encoders.fingerprints
        check_start(config, encoders)
    record = with_mlflow_run(open_record(config), config, open_client(uri))
    return assignment(config, data, encoders, record, uri)
