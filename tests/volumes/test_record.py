"""The record: what it refuses to open, what a transaction is, and that nothing torn is ever read."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from omavol.schema.common import Problem, now
from omavol.schema.volumes import (
    AtPoint,
    OperationStatus,
    OperationType,
    ProofLevel,
    Provider,
    Torn,
    UnknownContent,
    VolumeStatus,
)
from omavol.volumes.errors import VolumeError
from omavol.volumes.names import first_choice, slug, unique
from omavol.volumes.record import SCHEMA_VERSION, Record, RecordRefused
from omavol.volumes.rows import OPERATIONS, VOLUMES, OperationRow, VolumeRow


@pytest.fixture
def record(tmp_path):
    record = Record(tmp_path / "r")
    yield record
    record.close()


def volume(volume_id: str = "v1", name: str = "a", **more) -> VolumeRow:
    row = {"size": 2**62, "capacity": 2**63 - 1, "status": VolumeStatus.ATTACHED, "generation": 7}
    row |= {"content": UnknownContent(), "options": {"zone_id": "ä"}, "created_at": now(), "updated_at": now()}
    return VolumeRow(volume_id=volume_id, name=name, persistent_name=name, **(row | more))


def stored(record: Record, row: VolumeRow) -> VolumeRow:
    with record.write() as db:
        db.execute("INSERT INTO names VALUES (?, ?, 'now')", (row.persistent_name, row.volume_id))
        VOLUMES.insert(db, row)
    with record.read() as db:
        return VOLUMES.get(db, row.volume_id)


@pytest.mark.parametrize(
    "content",
    [UnknownContent(), AtPoint(point="p", proof=ProofLevel.DIGEST), Torn(since_session="s", job="j", base="p")],
)
def test_a_row_comes_back_as_it_was_stored(record, content):
    row = volume(content=content)
    assert stored(record, row) == row


def test_an_operation_comes_back_with_its_problem(record):
    stored(record, volume())
    row = OperationRow(
        id="o",
        type=OperationType.CREATE,
        status=OperationStatus.FAILED,
        volume_id="v1",
        request={"size": 1},
        error=Problem(status=507, code="no_space", title="t", detail="d", advice=("a",)),
        created_at=now(),
        updated_at=now(),
    )
    with record.write() as db:
        OPERATIONS.insert(db, row)
        assert OPERATIONS.get(db, "o") == row


def test_a_record_of_a_newer_version_is_refused_and_not_touched(tmp_path):
    Record(tmp_path / "r").close()
    with sqlite3.connect(tmp_path / "r") as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = (tmp_path / "r").read_bytes()
    with pytest.raises(RecordRefused, match=f"schema version {SCHEMA_VERSION + 1}, newer than {SCHEMA_VERSION}"):
        Record(tmp_path / "r")
    assert (tmp_path / "r").read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to look like one" * 20, b"SQLite format 3\0"]
)
def test_a_file_that_is_no_record_is_refused(tmp_path, content):
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(RecordRefused):
        Record(tmp_path / "r")
    assert (tmp_path / "r").read_bytes() == content


def test_another_programs_database_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "r") as db:
        db.execute("CREATE TABLE t (a)")
    db.close()
    with pytest.raises(RecordRefused, match="another program's"):
        Record(tmp_path / "r")


def test_the_record_is_for_its_owner_alone_and_every_commit_is_synced(record):
    for suffix in ("", "-wal"):
        mode = stat.S_IMODE(Path(f"{record.path}{suffix}").stat().st_mode)
        assert mode == 0o600
    with record.read() as db:
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_transaction_that_raises_leaves_nothing(record):
    with pytest.raises(ZeroDivisionError), record.write() as db:
        db.execute("INSERT INTO names VALUES ('n', 'v', 'now')")
        1 / 0  # noqa: B018  # raises
    with record.read() as db:
        assert db.execute("SELECT count(*) FROM names").fetchone()[0] == 0


def test_the_database_itself_keeps_one_operation_a_volume(record):
    stored(record, volume())
    times = {"created_at": now(), "updated_at": now()}
    one = {"type": OperationType.ATTACH, "status": OperationStatus.PENDING, "volume_id": "v1", **times}
    with record.write() as db:
        OPERATIONS.insert(db, OperationRow(id="1", **one))
        OPERATIONS.insert(db, OperationRow(id="2", **(one | {"type": OperationType.MEND})))
        with pytest.raises(sqlite3.IntegrityError):
            OPERATIONS.insert(db, OperationRow(id="3", **one))


def test_the_provider_is_local_at_first_and_comes_back_as_set(record):
    assert record.provider().kind == "local"
    wanted = Provider(kind="x", appliance_vm_id="vm", settings={"url": "u"})
    record.set_provider(wanted)
    assert record.provider() == wanted


def test_an_unknown_row_is_a_404_that_names_it(record):
    with record.read() as db, pytest.raises(VolumeError) as caught:
        VOLUMES.get(db, "nope")
    assert (caught.value.status, caught.value.code) == (404, "unknown_volume")


@pytest.mark.parametrize(
    ("name", "metadata", "wanted"),
    [
        ("v", {"vm_name": "Web 01", "disk_number": "0"}, "web-01-disk0"),
        ("v", {"vm_name": "web01", "disk_number": "disk-2003"}, "web01-disk3"),
        ("v", {"vm_name": "web01", "disk_number": "2000"}, "web01-disk0"),
        ("v", {"vm_name": "web01", "disk_number": "first"}, "v"),
        ("My Volume", {"vm_name": "web01"}, "my-volume"),
        ("___", {}, "volume"),
    ],
)
def test_a_name_is_the_machines_and_the_disks(name, metadata, wanted):
    assert first_choice(name, metadata) == wanted


def test_slugs_are_bounded_and_names_unique():
    assert len(slug("x" * 500)) == 48
    taken: set[str] = set()
    for _ in range(5):
        taken.add(unique("a", taken.__contains__))
    assert taken == {"a", "a-2", "a-3", "a-4", "a-5"}
