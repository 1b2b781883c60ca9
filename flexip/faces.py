"""Faces of a picture by one interface: where they are, their landmarks, an upright crop, and whose they are.

    pocket       creatures of the pocket world, by its two face nets         Apache-2.0, part of this project
    opencv       YuNet and SFace, ONNX files that OpenCV runs; the default   MIT and Apache-2.0
    insightface  RetinaFace and ArcFace (buffalo_l), if it is installed      models for non-commercial research only

YuNet tells five landmarks, which say where a face looks and hardly what it expresses; InsightFace tells 106.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from jaxtyping import Float

from flexip.images import Rgb, resize
from flexip.yunet import load_yunet

FaceLibraryName = Literal["pocket", "opencv", "insightface"]

CROP = 224  # side of a crop [px]
_MARGIN = 1.6  # side of a crop, in longer sides of the face's box: hair and chin are part of who it is
_YUNET = "YuNet (MIT): face_detection_yunet_2023mar.onnx"
_SFACE = "SFace (Apache-2.0): face_recognition_sface_2021dec.onnx"
_ZOO = "OpenCV's model zoo, github.com/opencv/opencv_zoo, has it under models"
_INSIGHTFACE_LICENCE = "code MIT; models (buffalo_l) for non-commercial research only, see insightface's README"


@dataclass(frozen=True)
class Face:
    """One face of a picture."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1 [px of the picture]
    score: float  # 0..1
    crop: Rgb  # square, the face upright in its middle
    landmarks: Float[np.ndarray, "M 2"]  # x, y as fractions of the crop
    identity: Float[np.ndarray, " Di"]  # unit length


@dataclass(frozen=True)
class FaceLibrary:
    """A detector with landmarks and an identity net, under one name."""

    name: FaceLibraryName
    licence: str
    fingerprint: str  # of its weights, 16 hex characters
    identity_width: int  # Di
    landmarks: int  # M
    find: Callable[[Rgb], list[Face]]  # the largest first

    def only(self, image: Rgb, field: str = "image") -> Face:
        """The one face of a picture.

        Raises:
            FaceError: there is none, or there are several; the message names the field.
        """
        faces = self.find(image)
        height, width = image.shape[:2]
        if not faces:
            raise FaceError(
                "no_face",
                f"{field}: no face found in the picture of {width}x{height}; give one that shows a face, large and"
                " from the front or the side",
            )
        if len(faces) > 1:
            raise FaceError(
                "several_faces", f"{field}: {len(faces)} faces found where one is expected; crop the picture to one"
            )
        return faces[0]


class FaceError(ValueError):
    """A picture with no face, or with several where one is expected. `reason` is one word for counting."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):  # the default would call the class with the message alone when it crosses a process
        return FaceError, (self.reason, str(self))


class FaceLibraryError(RuntimeError):
    """A face library that is not here. The message says what to get, where, and its licence."""


def open_faces(name: str, detector: str = "", recogniser: str = "", root: str = "") -> FaceLibrary:
    """The face library of this name.

    Args:
        detector, recogniser: files of YuNet and SFace, for opencv. root: folder of the models, for insightface.

    Raises:
        FaceLibraryError: weights or a package are missing. ValueError: there is no such library.
    """
    if name == "pocket":
        from flexip.pocket.face_finder import pocket_faces

        return pocket_faces()
    if name == "opencv":
        return opencv_faces(detector, recogniser)
    if name == "insightface":
        return insightface_faces(root)
    raise ValueError(f"faces: {name!r} must be one of {', '.join(get_args(FaceLibraryName))}")


def opencv_faces(detector: str, recogniser: str, least_score: float = 0.9) -> FaceLibrary:
    """YuNet and SFace, from files.

    Args:
        least_score: of a detection, 0..1; 0.9 is YuNet's own default.

    Raises:
        FaceLibraryError: a file is missing or is something else.
    """
    try:
        look = load_yunet(detector)
    except (OSError, ValueError) as error:
        raise FaceLibraryError(f"faces.detector = {detector!r}: {error}; needs {_YUNET}; {_ZOO}") from error
    if not Path(recogniser).is_file():
        raise FaceLibraryError(f"faces.recogniser = {recogniser!r}: no such file; needs {_SFACE}; {_ZOO}")
    try:
        net = cv2.FaceRecognizerSF.create(recogniser, "")
    except cv2.error as error:
        raise FaceLibraryError(f"faces.recogniser = {recogniser!r}: not a model; needs {_SFACE}; {_ZOO}") from error

    def face(image: Rgb, row: Float[np.ndarray, " 15"]) -> Face:
        identity = net.feature(net.alignCrop(image[..., ::-1].copy(), row)).ravel()
        box = (row[0], row[1], row[0] + row[2], row[1] + row[3])
        return upright_face(image, box, float(row[14]), row[4:14].reshape(5, 2), identity, eyes=(0, 1))

    def find(image: Rgb) -> list[Face]:
        return largest_first([face(image, row) for row in look(image, least_score)])

    mark = _digest(Path(detector).read_bytes(), Path(recogniser).read_bytes())
    return FaceLibrary("opencv", "MIT (YuNet), Apache-2.0 (SFace)", mark, 128, 5, find)


def insightface_faces(root: str = "", least_score: float = 0.5) -> FaceLibrary:
    """InsightFace's buffalo_l, which the paper uses: for research only, by its licence.

    Args:
        root: folder that holds models/buffalo_l; empty: insightface's own, which it fills over the network.

    Raises:
        FaceLibraryError: insightface is not installed, or its models are not there.
    """
    try:
        from insightface.app import FaceAnalysis  # type: ignore[import-not-found]
    except ImportError as error:
        raise FaceLibraryError(
            f"faces: insightface is not installed; pip install insightface onnxruntime ({_INSIGHTFACE_LICENCE});"
            " opencv has permissive licences"
        ) from error
    folder = {"root": root} if root else {}
    modules = ["detection", "landmark_2d_106", "recognition"]
    try:
        library: Any = FaceAnalysis(name="buffalo_l", allowed_modules=modules, **folder)
        library.prepare(ctx_id=-1, det_size=(512, 512), det_thresh=least_score)
    except (OSError, RuntimeError, AssertionError) as error:
        raise FaceLibraryError(f"faces: models of insightface are not in {root!r} ({error})") from error
    logging.getLogger(__name__).warning("faces: insightface: %s", _INSIGHTFACE_LICENCE)

    def find(image: Rgb) -> list[Face]:
        found = library.get(image[..., ::-1].copy())
        faces = [
            upright_face(
                image,
                tuple(map(float, one.bbox)),  # type: ignore[arg-type]
                float(one.det_score),
                one.landmark_2d_106,
                one.normed_embedding,
                eyes=one.kps[:2],
            )
            for one in found
        ]
        return largest_first(faces)

    files = [Path(model.model_file).read_bytes() for model in library.models.values()]
    return FaceLibrary("insightface", _INSIGHTFACE_LICENCE, _digest(*files), 512, 106, find)


def upright_face(
    image: Rgb,
    box: Sequence[float],
    score: float,
    landmarks: Float[np.ndarray, "M 2"],
    identity: Float[np.ndarray, " Di"],
    eyes: tuple[int, int] | Float[np.ndarray, "2 2"],
) -> Face:
    """A face turned until its eyes are level, with its landmarks [px of the picture] carried into the crop.

    Args:
        eyes: the two eyes [px], in either order, or which landmarks they are.
    """
    pair = landmarks[list(eyes)] if isinstance(eyes, tuple) else eyes
    crop, matrix = align(image, box, np.asarray(pair, np.float64))
    moved = np.asarray(landmarks, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    unit = np.asarray(identity, np.float32) / max(float(np.linalg.norm(identity)), 1e-12)
    x0, y0, x1, y1 = (float(edge) for edge in box)
    return Face((x0, y0, x1, y1), score, crop, ((moved + 0.5) / CROP).astype(np.float32), unit)


def align(image: Rgb, box: Sequence[float], eyes: Float[np.ndarray, "2 2"]) -> tuple[Rgb, Float[np.ndarray, "2 3"]]:
    """The square around a box, turned until the eyes are level, and the map from the picture's pixels to its own.

    Pixels outside the picture are those of its edge.
    """
    left, right = eyes[np.argsort(eyes[:, 0])]
    angle = float(np.degrees(np.arctan2(*(right - left)[::-1])))
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    zoom = CROP / (_MARGIN * max(box[2] - box[0], box[3] - box[1], 1.0))
    matrix = cv2.getRotationMatrix2D(middle, angle, zoom)
    matrix[:, 2] += (CROP - 1) / 2 - np.asarray(middle)
    return warp(image, matrix, CROP), matrix


def warp(image: Rgb, matrix: Float[np.ndarray, "2 3"], side: int) -> Rgb:
    """The square of this side that `matrix` maps the picture's pixels into; the picture's edge repeats beyond it.

    A picture that gets smaller is shrunk first, by a filter that keeps thin lines from breaking up.
    """
    zoom = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if zoom < 1:
        height, width = image.shape[:2]
        image = resize(image, (max(1, round(zoom * height)), max(1, round(zoom * width))))
        x, y = image.shape[1] / width, image.shape[0] / height
        shrunk = np.array([[1 / x, 0, (1 / x - 1) / 2], [0, 1 / y, (1 / y - 1) / 2], [0, 0, 1]])
        matrix = matrix @ shrunk
    return cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)


def largest_first(faces: Sequence[Face]) -> list[Face]:
    """By the area of their boxes."""
    return sorted(faces, key=lambda face: (face.box[0] - face.box[2]) * (face.box[3] - face.box[1]))


def _digest(*files: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(file).digest() for file in files)).hexdigest()[:16]
