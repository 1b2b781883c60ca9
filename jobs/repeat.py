"""Reading a picture's receipt in order to draw it again, with the very files that it was drawn with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flexip.images import ImageError
from jobs.console import UserError
from jobs.receipt import Receipt, read_receipt, sha256


@dataclass(frozen=True)
class Files:
    """What is given beside a picture; masks are those of the subjects that have one, in their order."""

    subjects: Sequence[Path] = ()
    masks: Sequence[Path] = ()
    canvas: Path | None = None
    canvas_mask: Path | None = None


def read_original(original: Path, files: Files) -> Receipt:
    """The receipt of a picture, once the given files are known to be those that it names.

    Raises:
        UserError: no receipt, or a file that is missing, too many, or another one than the receipt's.
    """
    try:
        receipt = read_receipt(_read(original, "from"))
    except ImageError as error:
        raise UserError(f"from = {original}: {error}") from error
    canvas = receipt.canvas
    _check_files(files.subjects, "subject", [subject.sha256 for subject in receipt.subjects])
    _check_files(files.masks, "mask", [subject.mask for subject in receipt.subjects if subject.mask])
    _check_files([files.canvas] if files.canvas else [], "canvas", [canvas.sha256] if canvas else [])
    _check_files([files.canvas_mask] if files.canvas_mask else [], "canvas_mask", [canvas.mask] if canvas else [])
    return receipt


def _check_files(paths: Sequence[Path], field: str, expected: Sequence[str]) -> None:
    if len(paths) > len(expected):
        known = f"knows {len(expected) or 'no'} {field}"
        raise UserError(f"{field} = {paths[len(expected)]}: the receipt {known}; leave it out")
    if len(paths) < len(expected):
        raise UserError(f"{field} is missing; give the file with SHA-256 {expected[len(paths)]}")
    for path, digest in zip(paths, expected, strict=True):
        if (found := sha256(_read(path, field))) != digest:
            raise UserError(f"{field} = {path}: has SHA-256 {found[:16]}..., the receipt asks for {digest[:16]}...")


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{field} = {path}: cannot be read ({error.strerror}); give an existing file") from error
