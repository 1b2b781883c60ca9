"""YuNet, a face detector (Wu et al., Machine Intelligence Research 2023): an ONNX file that OpenCV runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from flexip.images import Rgb
from flexip.onnx_shape import with_input_size

# Columns of a face: x, y, width, height [px]; x, y of right eye, left eye, nose, right and left corner of the mouth;
# score. Right and left are the person's.
YunetFaces = Float[np.ndarray, "faces 15"]


def load_yunet(path: str) -> Callable[[Rgb, float], YunetFaces]:
    """A function from a picture and the least score, 0..1, to its faces.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is no YuNet. Both say what would be right.
    """
    if not Path(path).is_file():
        raise FileNotFoundError("no such file; give YuNet's .onnx, e.g. face_detection_yunet_2023mar.onnx")
    model, networks = Path(path).read_bytes(), dict[tuple[int, int], Any]()

    def network(height: int, width: int) -> Any:
        if (height, width) not in networks:
            networks[height, width] = _open(model, height, width)
        return networks[height, width]

    try:
        network(320, 320).detect(np.zeros((320, 320, 3), np.uint8))
    except (cv2.error, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"not a YuNet that OpenCV {cv2.__version__} can run ({reason})") from error

    def look(image: Rgb, least_score: float) -> YunetFaces:
        eyes = network(*image.shape[:2])
        eyes.setScoreThreshold(least_score)
        faces = eyes.detect(image[..., ::-1].copy())[1]
        return np.zeros((0, 15), np.float32) if faces is None else faces

    return look


def _open(model: bytes, height: int, width: int) -> Any:
    """A network for pictures of one size, which OpenCV pads to multiples of 32."""
    shape = (1, 3, -(-height // 32) * 32, -(-width // 32) * 32)
    fixed = np.frombuffer(with_input_size(model, shape), np.uint8)
    return cv2.FaceDetectorYN.create("onnx", fixed, np.zeros(0, np.uint8), (width, height))
