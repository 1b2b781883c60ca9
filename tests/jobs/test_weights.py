"""Frozen models in MLflow are told apart by version."""

import pytest

from jobs import weights
from jobs.config import ModelsConfig
from jobs.console import UserError


def test_an_alias_is_refused():
    with pytest.raises(UserError, match=r"models\.clip = models:/clip@best: an alias moves on"):
        weights.encoder_names(ModelsConfig(clip="models:/clip@best"))
