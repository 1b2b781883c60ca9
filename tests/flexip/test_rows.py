import dataclasses

import pyarrow as pa
import pytest

from flexip.rows import FaceRow, PairRow, SubjectRow, arrow_schema, subject_key


@pytest.mark.parametrize("row_class", [SubjectRow, PairRow, FaceRow])
def test_schema_has_every_field_in_order_and_nothing_is_null(row_class):
    schema = arrow_schema(row_class)
    assert schema.names == [f.name for f in dataclasses.fields(row_class)]
    assert not any(field.nullable for field in schema)


def test_a_row_survives_arrow():
    row = SubjectRow(
        key="k", source="s", source_hash="h", kind="video", unit="subject", status="accepted", box=[0.1, 0.2, 0.3, 0.4]
    )
    table = pa.Table.from_pylist([dataclasses.asdict(row)], schema=arrow_schema(SubjectRow))
    back = table.to_pylist()[0]
    assert SubjectRow(**{**back, "scores": dict(back["scores"])}) == row


def test_a_type_without_arrow_type_is_named():
    @dataclasses.dataclass
    class Odd:
        field: complex

    with pytest.raises(TypeError, match="complex"):
        arrow_schema(Odd)


def test_subject_key_depends_on_content_frame_and_box():
    keys = {
        subject_key("h", 0, [0, 0, 1, 1]),
        subject_key("g", 0, [0, 0, 1, 1]),
        subject_key("h", 1, [0, 0, 1, 1]),
        subject_key("h", 0, [0, 0, 1, 0.5]),
    }
    assert len(keys) == 4
    assert subject_key("h", 0, [0, 0, 1, 1]) in keys
