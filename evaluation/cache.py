"""Vectors kept by the hash of what they were made of, so that scoring again does not encode again."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float

Vectors = Float[np.ndarray, "images width"]
_AT_ONCE = 500  # keys of one query: SQLite takes 999 variables at least


class VectorCache:
    """One SQLite file: (maker, content) -> float32 vector. Several processes may write it at once.

    A vector is written whole or not at all; what a killed process had stored stays.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with self._open() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS vectors"
                " (maker TEXT, content TEXT, vector BLOB, PRIMARY KEY (maker, content)) WITHOUT ROWID"
            )

    def vectors(
        self, maker: str, contents: Sequence[str], make: Callable[[Sequence[int]], Vectors], batch: int = 32
    ) -> Vectors:
        """The vector of every content as one array; see `arrays`."""
        return np.stack(self.arrays(maker, contents, make, batch))

    def arrays(
        self,
        maker: str,
        contents: Sequence[str],
        make: Callable[[Sequence[int]], Sequence[Float[np.ndarray, " width"]] | Vectors],
        batch: int = 32,
    ) -> list[Float[np.ndarray, " width"]]:
        """What is made of every content, float32 of any length; made now where it is not kept.

        Args:
            maker: id of what makes it: other weights or preprocessing must have another.
            contents: hash of each picture or text.
            make: of the contents at these indices, at most `batch` of them.
        """
        known = self._known(maker, contents)
        first = {content: i for i, content in reversed([*enumerate(contents)])}
        missing = sorted(i for content, i in first.items() if content not in known)
        for start in range(0, len(missing), batch):
            indices = missing[start : start + batch]
            made = [np.asarray(row, dtype=np.float32) for row in make(indices)]
            fresh = {contents[i]: row for i, row in zip(indices, made, strict=True)}
            self._store(maker, fresh)
            known |= fresh
        return [known[content] for content in contents]

    def _known(self, maker: str, contents: Sequence[str]) -> dict[str, Float[np.ndarray, " width"]]:
        wanted, known = sorted(set(contents)), dict[str, np.ndarray]()
        with self._open() as database:
            for start in range(0, len(wanted), _AT_ONCE):
                part = wanted[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                query = f"SELECT content, vector FROM vectors WHERE maker = ? AND content IN ({marks})"
                for content, blob in database.execute(query, (maker, *part)):
                    known[content] = np.frombuffer(blob, dtype=np.float32)
        return known

    def _store(self, maker: str, vectors: Mapping[str, Float[np.ndarray, " width"]]) -> None:
        rows = [(maker, content, vector.tobytes()) for content, vector in vectors.items()]
        with self._open() as database:
            database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=60)  # [s] that another process may be writing
        try:
            with database:
                yield database
        finally:
            database.close()
