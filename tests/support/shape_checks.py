"""The type checker that the tests put into `flexip`: jaxtyping for shapes, beartype for the rest, int for float."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
