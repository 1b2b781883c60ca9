"""DynamicID's results: what each method is given, and what a reading that is kept depends on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.people import picture_size
from flexip.checkpoint import load_people
from flexip.faces import open_faces
from flexip.pocket import weights_path
from jobs.config import RayConfig
from jobs.reproduction.people_albums import album_of
from jobs.reproduction.people_drawing import Group, base_engine, cast_group, draw_group, make_group
from jobs.reproduction.people_figures import FRONT, activation_rows
from jobs.reproduction.people_plan import CONTROLS, DRAWN, PRESETS, Scenario
from jobs.reproduction.people_trials import PeopleTrial, archived, group_of
from jobs.reproduction.place import Place

PAIR = Scenario(people=2, groups=2, cells=2, steps=1, guidance=2.0)
METHODS = {method.name: method for method in (*DRAWN, *CONTROLS)}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    folder, recipe = tmp_path_factory.mktemp("people"), Path("configs/pocket/reproduce_people.yaml").resolve()
    return Place(folder, folder / "archive", recipe, weights_path(), PRESETS["smoke"], RayConfig())


@pytest.fixture(scope="module")
def group(place) -> Group:
    return group_of(place, PAIR, 1, open_faces("pocket"))


@pytest.fixture(scope="module")
def engine(people_checkpoint):
    return load_people(base_engine(), people_checkpoint, open_faces("pocket"))


def test_everybody_has_a_box_and_their_own_motion_or_all_are_one_row_of_tokens(engine, group):
    people = {name: cast_group(engine.casting, METHODS[name], group) for name in ("dynamicid", "plain", "anchored")}
    assert [len(cell) for cell in people["dynamicid"]] == [2, 2]
    assert people["dynamicid"][0][0].box is not None
    for cell, alone in zip(people["plain"], people["dynamicid"], strict=True):
        (row,) = cell
        assert row.box is None
        assert np.allclose(row.tokens[1], alone[1].tokens[0])
    still, moved = (people[name][1][0].tokens for name in ("anchored", "dynamicid"))
    face = group.sources[1][0].face
    assert np.allclose(still[0], engine.casting.tokens([face])[0], atol=1e-5)
    assert not np.allclose(still, moved)


def test_pictures_are_drawn_and_made_in_one_size(engine, group):
    size = (PAIR.cells, *picture_size(2), 3)
    drawn = draw_group(engine, METHODS["dynamicid"], group)
    assert drawn.shape == size
    assert not np.array_equal(drawn, draw_group(engine, METHODS["plain"], group))
    made = {name: make_group(engine, METHODS[name], group) for name in ("copied", "pasted", "coded", "rendered")}
    assert {images.shape for images in made.values()} == {size}
    error = np.abs(made["coded"].astype(int) - made["rendered"]).mean()
    assert 0 < error < 25
    same = np.array_equal(group.motions[0][0], group.motions[1][0])
    assert np.array_equal(made["pasted"][0], made["rendered"][0]) == same


def test_the_maps_show_where_each_person_acts(engine, place):
    albums = [album_of(n, [FRONT], open_faces("pocket"), place.output / "albums") for n in (2, 3)]
    rows = activation_rows(engine, albums, PAIR)
    assert rows.shape == (128, (2 + 1 + 2) * 128, 3)
    assert not np.array_equal(rows[:, -256:-128], rows[:, -128:])


def test_albums_are_kept_and_grow(place, group):
    source = group.sources[0][0]
    path = next((place.output / "albums").glob("*-0002.npz"))
    before = path.stat().st_mtime_ns
    (again,) = [album_of(2, [k], open_faces("pocket"), place.output / "albums") for k in [_cell(group)]]
    assert path.stat().st_mtime_ns == before
    kept = again.shots[_cell(group)]
    assert np.array_equal(kept.picture, source.picture)
    assert np.array_equal(kept.face.identity, source.face.identity)
    assert kept.face.box == source.face.box


def test_a_reading_is_kept_under_all_that_it_depends_on_and_not_under_its_title(place):
    def name(method, here=place, scenario=PAIR) -> str:
        return archived(here, PeopleTrial(method, scenario)).stem.rpartition("-")[2]

    ours = METHODS["dynamicid"]
    longer = replace(place, preset=replace(place.preset, anchoring=3))
    names = [name(method) for method in METHODS.values()]
    assert len(set(names)) == len(names)
    assert name(replace(ours, title="Other words")) == name(ours)
    assert name(ours, longer) != name(ours)
    assert name(METHODS["copied"], longer) == name(METHODS["copied"])
    assert name(ours, scenario=replace(PAIR, steps=2)) != name(ours)


def _cell(group: Group) -> int:
    expression, pose = group.motions[0][0][0]
    return int(expression) * 5 + int(pose)
