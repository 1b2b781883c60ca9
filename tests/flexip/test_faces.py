"""One interface to face libraries: what it finds, how it aligns, and what it says when it cannot."""

import importlib.util
import pickle

import numpy as np
import pytest

from flexip.faces import CROP, FaceError, FaceLibrary, FaceLibraryError, largest_first, open_faces, upright_face, warp
from flexip.pocket.identity import identity
from flexip.pocket.world import Frame, Picture, Placement, render


@pytest.fixture(scope="module")
def pocket() -> FaceLibrary:
    return open_faces("pocket")


def drawn(*creatures: Placement) -> Frame:
    return render(Picture(creatures, "beach"), 64)


def test_the_creature_of_a_picture_is_found_where_it_is_and_told_from_others(pocket):
    who, other = identity("test", 0), identity("test", 1)
    frame = drawn(Placement(who, "happy", x=0.4, size=0.6))
    again = drawn(Placement(who, "sad", yaw=0.5, x=0.6, size=0.5))
    stranger = drawn(Placement(other, "happy", x=0.4, size=0.6))
    face, twin, else_ = (pocket.only(one.image) for one in (frame, again, stranger))
    x0, y0, x1, y1 = face.box
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    assert np.abs(middle - frame.landmarks[0, :, :2].mean(axis=0)).max() < 5
    assert face.landmarks.shape == (pocket.landmarks, 2)
    assert face.landmarks[10:, 1].mean() > face.landmarks[4:10, 1].mean() + 0.1  # the mouth is below the eyes
    assert face.identity.shape == (pocket.identity_width,)
    assert np.linalg.norm(face.identity) == pytest.approx(1, abs=1e-4)
    assert face.identity @ twin.identity > face.identity @ else_.identity


def test_no_face_and_two_faces_are_told(pocket):
    with pytest.raises(FaceError, match=r"subjects\.1\.image: no face found in the picture of 64x64") as none:
        pocket.only(drawn().image, "subjects.1.image")
    two = drawn(*(Placement(identity("test", k), x=0.27 + 0.46 * k, size=0.45) for k in range(2)))
    with pytest.raises(FaceError, match="2 faces found where one is expected") as several:
        pocket.only(two.image)
    assert (none.value.reason, several.value.reason) == ("no_face", "several_faces")
    assert pickle.loads(pickle.dumps(none.value)).reason == "no_face"


def test_a_face_is_turned_until_its_eyes_are_level():
    image = np.zeros((120, 160, 3), np.uint8)
    eyes = np.array([[60.0, 40.0], [90.0, 60.0]])
    nose = np.array([[68.0, 62.0]])
    image[60, 90] = (255, 0, 0)
    face = upright_face(image, (50, 30, 110, 90), 0.9, np.concatenate([eyes, nose]), np.full(4, 2.0), eyes=(1, 0))
    left, right, tip = face.landmarks
    assert left[1] == pytest.approx(right[1], abs=1e-5)
    assert left[0] < tip[0] < right[0]
    assert tip[1] > left[1]
    red = np.unravel_index(face.crop[..., 0].argmax(), face.crop.shape[:2])
    np.testing.assert_allclose(np.array([right[1], right[0]]) * CROP - 0.5, red, atol=1.5)
    np.testing.assert_allclose(face.identity, np.full(4, 0.5), atol=1e-6)


def test_a_picture_that_gets_smaller_keeps_its_place_and_its_mean():
    image = np.repeat(np.tile(np.array([0, 255], np.uint8), 100)[None, :, None], 200, axis=0).repeat(3, axis=2)
    half = np.array([[0.25, 0, -0.375], [0, 0.25, -0.375]])
    small = warp(image, half, 50)
    assert np.abs(small[5:-5, 5:-5].astype(int) - 127).max() < 20  # stripes of one pixel are grey, not stripes
    ramp = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (200, 1, 3))
    np.testing.assert_allclose(warp(ramp, half, 50)[25, 10:40, 0], 4 * np.arange(10, 40) + 1.5, atol=1.5)


def test_the_largest_face_comes_first():
    image = np.zeros((64, 64, 3), np.uint8)
    points = np.array([[20.0, 20.0], [30.0, 20.0]])
    boxes = [(0, 0, 10, 10), (0, 0, 30, 40), (10, 10, 30, 30)]
    faces = [upright_face(image, box, 1.0, points, np.ones(2), eyes=points) for box in boxes]
    assert [face.box[3] for face in largest_first(faces)] == [40, 30, 10]


def test_what_to_get_is_said_when_weights_are_missing(tmp_path):
    with pytest.raises(FaceLibraryError, match=r"faces\.detector = ''.*face_detection_yunet_2023mar\.onnx.*opencv_zoo"):
        open_faces("opencv")
    broken = tmp_path / "yunet.onnx"
    broken.write_bytes(b"<html>404</html>")
    with pytest.raises(FaceLibraryError, match="not a YuNet that OpenCV"):
        open_faces("opencv", str(broken))
    if importlib.util.find_spec("insightface") is None:
        with pytest.raises(FaceLibraryError, match=r"non-commercial research only.*opencv has permissive licences"):
            open_faces("insightface")
    with pytest.raises(ValueError, match="faces: 'dlib' must be one of pocket, opencv, insightface"):
        open_faces("dlib")


def test_the_identity_net_of_opencv_is_asked_for_by_name(test_data, tmp_path):
    detector = str(test_data / "models" / "yunet_n_dynamic.onnx")
    with pytest.raises(FaceLibraryError, match=r"faces\.recogniser = ''.*face_recognition_sface_2021dec\.onnx"):
        open_faces("opencv", detector)
    broken = tmp_path / "sface.onnx"
    broken.write_bytes(b"<html>404</html>")
    with pytest.raises(FaceLibraryError, match="not a model"):
        open_faces("opencv", detector, str(broken))
