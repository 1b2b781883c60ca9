"""The renderer: the same everywhere for a seed, and true to what it says about its pictures."""

import dataclasses

import numpy as np
import pytest
import reference_frames
from scipy.spatial import KDTree

from flexip.images import decode_image
from flexip.pocket.captions import LENGTHS, caption
from flexip.pocket.face import EXPRESSIONS, LANDMARKS, POSES
from flexip.pocket.identity import Identity, identity, random_identity, sample_identity, split_of
from flexip.pocket.props import ACCESSORIES, ACTIONS
from flexip.pocket.scenes import SCENES
from flexip.pocket.styles import STYLES
from flexip.pocket.world import Picture, Placement, place, random_picture, render
from flexip.rows import SPLITS, Split


def test_a_seed_gives_one_picture() -> None:
    first, again, other = (render(random_picture(np.random.default_rng(seed))) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image)
    assert first.captions == again.captions
    assert not np.array_equal(first.image, other.image)


def test_committed_frames_are_drawn_again_on_every_machine() -> None:
    known = decode_image(reference_frames.FILE.read_bytes()).astype(int)
    differences = np.abs(reference_frames.draw_sheet() - known).max(axis=2)
    assert (differences <= 2).mean() >= 0.999


@pytest.mark.parametrize("size", [64, 128, (96, 160)])
def test_box_mask_and_pixels_agree(size: int | tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    for _ in range(8):
        picture = dataclasses.replace(random_picture(rng, creatures=1), style="flat")
        frame = render(picture, size)
        empty = render(dataclasses.replace(picture, creatures=()), size)
        x0, y0, x1, y1 = frame.boxes[0].astype(int)
        outside = frame.masks[0].copy()
        outside[y0:y1, x0:x1] = False
        assert frame.masks[0].any()
        assert not outside.any()
        assert frame.masks[0][y0:y1, x0].any()
        assert frame.masks[0][y1 - 1, x0:x1].any()
        changed = np.abs(frame.image.astype(int) - empty.image).max(axis=2) > 40
        assert (changed & frame.masks[0]).sum() / frame.masks[0].sum() > 0.6  # some creatures look like their scene
        shadow = 0.16 * frame.masks[0].sum()
        assert (changed & ~frame.masks[0]).sum() < shadow


def test_landmarks_lie_on_the_creature_and_follow_the_pose() -> None:
    who = identity("train", 2)
    eyes = {}
    for pose, yaw in POSES.items():
        frame = render(Picture((Placement(who, yaw=yaw, size=0.6),)), 128)
        seen = frame.landmarks[0][frame.landmarks[0][:, 2] > 0]
        assert frame.pose == (pose,)
        assert all(frame.masks[0][round(y), round(x)] for x, y, _ in seen)
        eyes[pose] = frame.landmarks[0][list(LANDMARKS).index("mouth top"), 0]
    assert list(eyes.values()) == sorted(eyes.values())


def test_a_creature_in_front_hides_the_one_behind() -> None:
    whole, covered = (
        render(Picture(tuple(Placement(identity("train", k), x=x) for k, x in enumerate(places))))
        for places in ((0.25,), (0.25, 0.4))
    )
    assert covered.masks[0].sum() < whole.masks[0].sum()
    assert not (covered.masks[0] & covered.masks[1]).any()
    assert covered.masks.shape == (2, 64, 64)


def test_every_attribute_changes_the_picture() -> None:
    who = dataclasses.replace(identity("train", 0), pattern="striped", top="horns", mark="no mark", eyes="round eyes")
    base = Picture((Placement(who, size=0.6),), scene="room", style="flat")
    image = render(base).image.astype(int)

    def difference(picture: Picture) -> float:
        return float(np.abs(render(picture).image.astype(int) - image).mean())

    def with_identity(**changes: object) -> Picture:
        changed = dataclasses.replace(who, **changes)  # pyright: ignore[reportArgumentType]
        return dataclasses.replace(base, creatures=(Placement(changed, size=0.6),))

    named = {"pattern": "plain", "top": "no ears", "mark": "rosy cheeks", "eyes": "one eye", "width": who.width * 0.9}
    assert all(difference(with_identity(**{name: value})) > 0.1 for name, value in named.items())
    assert all(difference(dataclasses.replace(base, scene=scene)) > 3 for scene in SCENES if scene != "room")
    assert all(difference(dataclasses.replace(base, style=style)) > 3 for style in STYLES if style != "flat")
    faces = [
        render(dataclasses.replace(base, creatures=(Placement(who, expression=mood, size=0.6),))).image.astype(int)
        for mood in EXPRESSIONS
    ]
    for name, values in (("accessory", ACCESSORIES), ("action", ACTIONS)):
        worn = [Placement(who, size=0.6, **{name: value}) for value in values[1:]]  # pyright: ignore[reportArgumentType]
        assert all(difference(dataclasses.replace(base, creatures=(placed,))) > 0.3 for placed in worn), name
    apart = [np.abs(a - b).mean() for k, a in enumerate(faces) for b in faces[:k]]
    assert min(apart) > 0.3


def test_identities_of_the_splits_are_disjoint() -> None:
    rng = np.random.default_rng(0)
    people: dict[Split, list[Identity]] = {split: [identity(split, k) for k in range(200)] for split in SPLITS}

    def names(who: Identity) -> tuple[str, ...]:
        return (who.shape, who.colour, who.second, who.pattern, who.top, who.eyes, who.mark)

    for split, members in people.items():
        assert {split_of(who) for who in members} == {split}
        assert sample_identity(rng, split).key not in {who.key for who in members}
    train = {names(who) for who in people["train"]}
    assert not train & {names(who) for split in ("val", "test") for who in people[split]}
    assert len({who.key for members in people.values() for who in members}) == 600
    shares = np.unique([split_of(random_identity(rng)) for _ in range(2000)], return_counts=True)
    assert dict(zip(*map(list, shares), strict=True))["train"] / 2000 == pytest.approx(0.8, abs=0.05)


def test_a_test_identity_is_no_nearer_to_training_ones_than_chance_has_it() -> None:
    """Against a control: how near other training identities are to them, which share no picture with them either."""
    train = KDTree([identity("train", k).vector() for k in range(3000)])
    test = train.query([identity("test", k).vector() for k in range(300)])[0]
    control = train.query([identity("train", 3000 + k).vector() for k in range(300)])[0]
    assert test.min() >= np.sqrt(2)  # they differ in a named attribute at least: two entries of the vector
    assert test.mean() > control.mean() - 0.02
    assert (test < 1.6).mean() <= (control < 1.6).mean() + 0.03


def test_similar_identities_exist() -> None:
    """Among a few thousand strangers most have a near double: one named attribute differs, or none."""
    people = np.stack([identity("train", k).vector() for k in range(3000)])
    named = KDTree(people[:, :-7]).query(people[:100, :-7], k=2)[0][:, 1]
    assert (named <= 2 + 1e-6).mean() > 0.5  # two attributes of seven at most


def test_identity_of_an_index_is_fixed_and_its_vector_finite() -> None:
    assert identity("test", 7) == identity("test", 7)
    assert identity("test", 7) != identity("test", 8)
    vectors = np.stack([identity("train", k).vector() for k in range(50)])
    assert vectors.dtype == np.float32
    assert vectors.min() >= 0
    assert vectors.max() <= 1
    with pytest.raises(ValueError, match="index -1"):
        identity("train", -1)


def test_captions_tell_or_hide_the_identity() -> None:
    who = dataclasses.replace(identity("train", 1), colour="red", shape="round", top="horns")
    picture = Picture((Placement(who, "happy", yaw=-0.5),), scene="beach")
    assert caption(picture, "short") == "a red round creature with horns"
    assert caption(picture, "medium", describe_identity=False) == "a happy creature on a beach"
    assert caption(picture, "long", False) == "a flat drawing of a happy creature, looking left, on a beach"
    for length in LENGTHS:
        assert "red" in caption(picture, length)
        assert "red" not in caption(picture, length, describe_identity=False)
    dressed = dataclasses.replace(picture.creatures[0], accessory="a hat", action="waving")
    edited = dataclasses.replace(picture, creatures=(dressed,))
    assert caption(edited, "medium", False) == "a happy creature wearing a hat and waving on a beach"
    assert caption(edited, "short") == caption(picture, "short")
    crowd = place([identity("train", k) for k in range(4)], np.random.default_rng(0), expression="sad")
    assert caption(crowd, "short") == "four creatures"


def test_what_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="scene 'opera'"):
        render(Picture((), scene="opera"))
    with pytest.raises(ValueError, match="expression 'bored'"):
        render(Picture((Placement(identity("train", 0), expression="bored"),)))
    with pytest.raises(ValueError, match="accessory 'a crown'"):
        render(Picture((Placement(identity("train", 0), accessory="a crown"),)))
    with pytest.raises(ValueError, match="action 'diving'"):
        render(Picture((Placement(identity("train", 0), action="diving"),)))


def test_pictures_hold_one_to_five_creatures_and_say_what_each_wears_and_does() -> None:
    frames = [render(random_picture(np.random.default_rng(seed))) for seed in range(300)]
    assert {len(frame.masks) for frame in frames} == {1, 2, 3, 4, 5}
    assert {worn for frame in frames for worn in frame.accessory} == set(ACCESSORIES)
    assert {deed for frame in frames for deed in frame.action} == set(ACTIONS)
    assert all(len(frame.accessory) == len(frame.action) == len(frame.masks) for frame in frames)
