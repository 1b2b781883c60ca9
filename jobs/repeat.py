"""Reading a picture's receipt in order to draw it again, with the very files that it was drawn with."""

from pathlib import Path

from flexip.images import ImageError
from jobs.console import UserError
from jobs.receipt import Receipt, read_receipt, sha256


def read_original(original: Path, subject: Path | None, mask: Path | None) -> Receipt:
    """The receipt of a picture, once the given files are known to be those that it names.

    Raises:
        UserError: no receipt, or a file that is missing, too many, or another one than the receipt's.
    """
    try:
        receipt = read_receipt(_read(original, "from"))
    except ImageError as error:
        raise UserError(f"from = {original}: {error}") from error
    drawn = receipt.subjects[0] if receipt.subjects else None
    _check_file(subject, "subject", drawn.sha256 if drawn else None)
    _check_file(mask, "mask", drawn.mask if drawn else None)
    return receipt


def _check_file(path: Path | None, field: str, expected: str | None) -> None:
    if expected is None:
        if path is not None:
            raise UserError(f"{field} = {path}: the receipt knows no {field}; leave it out")
        return
    if path is None:
        raise UserError(f"{field} is missing; give the file with SHA-256 {expected}")
    if (found := sha256(_read(path, field))) != expected:
        raise UserError(f"{field} = {path}: has SHA-256 {found[:16]}..., the receipt asks for {expected[:16]}...")


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{field} = {path}: cannot be read ({error.strerror}); give an existing file") from error
