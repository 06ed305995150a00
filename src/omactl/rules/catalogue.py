"""The catalogue of errors: every code with its category, severity, HTTP status, sentence and advice."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["CATALOGUE", "Category", "Entry", "Severity"]


class Category(StrEnum):
    COMPATIBILITY = "compatibility"
    NETWORK = "network"
    STORAGE = "storage"
    PLATFORM = "platform"
    CONNECTIVITY = "connectivity"
    CONFIGURATION = "configuration"
    UNKNOWN = "unknown"


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Entry:
    """`sentence` may hold {parameters}: names that people gave, and figures."""

    status: int
    category: Category
    severity: Severity
    title: str
    sentence: str
    advice: tuple[str, ...]


_STORAGE, _CONNECT, _CONFIG = Category.STORAGE, Category.CONNECTIVITY, Category.CONFIGURATION
_PLATFORM, _UNKNOWN = Category.PLATFORM, Category.UNKNOWN
_WARN, _ERROR = Severity.WARNING, Severity.ERROR

AGAIN = "Start the replication again: it goes on from the last proved state."
CHECK_SOURCE = "Check that the source appliance is running and can be reached from here."
CHECK_VOLUMES = "Check that the volume service of this appliance is running."

CATALOGUE: dict[str, Entry] = {
    # --- a request that cannot be served ---
    "malformed_json": Entry(
        400, _CONFIG, _ERROR, "Not JSON", "the request's body is not what this address takes: {problem}",
        ("Send JSON as the API document describes it.",),
    ),
    "invalid_parameter": Entry(
        400, _CONFIG, _ERROR, "Invalid parameter", "the value of {parameter} cannot be used: {problem}",
        ("Look the parameter up in the API document.",),
    ),
    "too_large": Entry(
        413, _CONFIG, _ERROR, "Too large", "the request's body is larger than {limit} bytes",
        ("Send fewer machines at a time.",),
    ),
    "unauthorized": Entry(
        401, _CONFIG, _ERROR, "Not signed in", "no valid token came with the request",
        ("Send the header: Authorization: Bearer TOKEN.", "The first start of the service wrote an admin token.",
         "For the page, ask for a new one-time link on the appliance: omactl link."),
    ),
    "link_used": Entry(
        401, _CONFIG, _ERROR, "Link used", "this one-time link was used before, or has expired",
        ("Ask for a new one on the appliance: omactl link.",),
    ),
    "no_such_route": Entry(
        404, _CONFIG, _ERROR, "Not found", "there is nothing at this address",
        ("See the API document for the addresses there are.",),
    ),
    "method_not_allowed": Entry(
        405, _CONFIG, _ERROR, "Method not allowed", "this address does not take the method {method}",
        ("See the API document for the methods there are.",),
    ),
    "internal": Entry(
        500, _PLATFORM, Severity.CRITICAL, "Internal error", "something unforeseen went wrong; the log has it",
        ("Try again.", "Send the service's log to support."),
    ),
    "job_unknown": Entry(
        404, _CONFIG, _ERROR, "Job unknown", "there is no job with this id", ("List the jobs there are.",),
    ),
    "machine_unknown": Entry(
        404, _CONFIG, _ERROR, "Machine unknown", "there is no machine {machine} under management",
        ("Discover the machines of the source.", "Add the machine first."),
    ),
    "machine_ambiguous": Entry(
        409, _CONFIG, _ERROR, "Several machines", "several machines are named {machine}",
        ("Use the context id of the one you mean.",),
    ),
    "machine_managed": Entry(
        409, _CONFIG, _WARN, "Already managed", "the machine {machine} is under management already",
        ("Start a replication of it.",),
    ),
    "machine_name_taken": Entry(
        409, _CONFIG, _ERROR, "Name taken", "another machine of this source is managed under the name {machine}",
        ("Rename one of the two at the source.",),
    ),
    "machine_busy": Entry(
        409, _CONFIG, _WARN, "Machine busy", "a job of the machine {machine} is still running",
        ("Wait for it to end, or cancel it.",),
    ),
    "machine_failed_over": Entry(
        409, _CONFIG, _WARN, "Failed over", "the machine {machine} is failed over; its volumes are in use there",
        ("Roll the failover back first.",),
    ),
    "job_live": Entry(
        409, _CONFIG, _WARN, "Job running", "the job is still running", ("Cancel it, and wait for its end.",),
    ),
    "job_ended": Entry(
        409, _CONFIG, _WARN, "Job ended", "the job has ended as {status} already", ("Nothing is left to cancel.",),
    ),
    "source_unknown": Entry(
        404, _CONFIG, _ERROR, "Source unknown", "there is no source named {source}",
        ("List the sources there are.", "Add the source first."),
    ),
    "source_exists": Entry(
        409, _CONFIG, _WARN, "Source exists", "there is a source named {source} with another address",
        ("Choose another name.",),
    ),
    "no_source": Entry(
        409, _CONFIG, _ERROR, "No source", "no source is set up", ("Add a source: its name, address and token.",),
    ),
    "source_ambiguous": Entry(
        409, _CONFIG, _ERROR, "Several sources", "several sources are set up, and none was named",
        ("Name the source you mean.",),
    ),
    "source_lacks_machine": Entry(
        409, _CONFIG, _ERROR, "Not at the source", "the source {source} has no machine {machine}",
        ("Check whether it was renamed or removed.", "Discover the machines of the source again."),
    ),
    "database_unavailable": Entry(
        503, _PLATFORM, _ERROR, "Database away", "the database does not answer or is locked",
        ("Try again.", "Check the database and the space it has left."),
    ),
    "replication_unknown_type": Entry(
        400, _CONFIG, _ERROR, "Unknown type", "there is no kind of replication called {type}",
        ("Use initial or incremental, or leave it out.",),
    ),
    # --- what a job may fail of: its set-up ---
    "no_disks": Entry(
        409, _CONFIG, _ERROR, "No disks", "the machine {machine} has no disks to replicate",
        ("Check the machine at the source.",),
    ),
    "disk_resized": Entry(
        409, _STORAGE, _ERROR, "Disk resized",
        "the disk {disk} has another size ({now} bytes) than its destination volume ({before} bytes)",
        ("Give the disk its former size back, or delete its destination volume so that a new one is made.",
         "The present volume keeps the last proved state."),
    ),
    "volume_missing": Entry(
        409, _STORAGE, _ERROR, "Volume missing", "the destination volume of the disk {disk} no longer exists",
        ("Check whether it was deleted outside of this appliance.",
         "Remove the disk's volume from the machine's record, so that a new one is made."),
    ),
    "volume_failed": Entry(
        502, _STORAGE, _ERROR, "Volume operation failed", "the destination volume of the disk {disk} cannot be used",
        ("Check the destination storage's health and free space.", AGAIN),
    ),
    "storage_full": Entry(
        507, _STORAGE, _ERROR, "Destination full", "the destination storage has no space left",
        ("Free space at the destination, or add some.", AGAIN),
    ),
    "volume_busy": Entry(
        409, _STORAGE, _WARN, "Volume busy", "the destination volume of the disk {disk} is in use",
        ("Wait for what uses it, or end it.", AGAIN),
    ),
    "volumes_unreachable": Entry(
        503, _CONNECT, _ERROR, "Volume service silent", "the volume service does not answer",
        (CHECK_VOLUMES, AGAIN),
    ),
    "export_refused": Entry(
        502, _STORAGE, _ERROR, "Volume not offered", "the source was not let in to the destination volume",
        (AGAIN, "If it happens again, check that the volume service was not restarted meanwhile."),
    ),
    "source_refused": Entry(
        502, _CONFIG, _ERROR, "Source refused", "the source did not accept the job",
        ("Check the machine at the source.", "The source's log says why.", AGAIN),
    ),
    "source_busy": Entry(
        409, _PLATFORM, _WARN, "Source busy", "the source is still busy with an earlier job of the machine",
        ("Wait a minute, then start the replication again.",),
    ),
    "source_unauthorized": Entry(
        502, _CONFIG, _ERROR, "Source token refused", "the source {source} did not accept our token",
        ("Set the source's present token.",),
    ),
    # --- its transfer ---
    "source_unreachable": Entry(
        503, _CONNECT, _ERROR, "Source silent", "the source does not answer",
        (CHECK_SOURCE, "Then ask again; a replication goes on from the last proved state."),
    ),
    "source_unreachable_timeout": Entry(
        504, _CONNECT, _ERROR, "Source lost", "the source gave no answer for {minutes} minutes of asking",
        (CHECK_SOURCE, AGAIN),
    ),
    "source_failed": Entry(
        502, _PLATFORM, _ERROR, "Transfer failed", "the source could not finish the transfer",
        ("The source's log says why.", AGAIN),
    ),
    "source_interrupted": Entry(
        502, _PLATFORM, _ERROR, "Transfer interrupted", "the source appliance was restarted during the transfer",
        (AGAIN,),
    ),
    "source_cancelled": Entry(
        409, _PLATFORM, _WARN, "Cancelled at the source", "the transfer was cancelled at the source", (AGAIN,),
    ),
    "source_credentials": Entry(
        502, _CONFIG, _ERROR, "Source credentials", "the source was refused access to the machine",
        ("Check the credentials the source uses.",),
    ),
    "source_snapshot": Entry(
        502, Category.COMPATIBILITY, _ERROR, "No snapshot", "the source could not freeze the machine's disks",
        ("Check free space at the source.", "Check that no snapshot of the machine is being removed.", AGAIN),
    ),
    "no_change_record": Entry(
        502, Category.COMPATIBILITY, _ERROR, "No change record", "the source has no usable record of changes",
        ("Enable change tracking for the machine.", AGAIN),
    ),
    "disk_unreadable": Entry(
        502, _STORAGE, _ERROR, "Disk unreadable", "a disk could not be read or written to its end",
        ("Check the storage of the source and of the destination.", AGAIN),
    ),
    "transfer_broken": Entry(
        502, _CONNECT, _ERROR, "Connection broken", "the connection between source and destination broke",
        ("Check the network between them.", AGAIN),
    ),
    "job_lost": Entry(
        502, _PLATFORM, _ERROR, "Lost at the source", "the source no longer knows the job",
        ("Check whether the source appliance was set up anew.", AGAIN),
    ),
    # --- its proof ---
    "unproved": Entry(
        502, _STORAGE, _ERROR, "Not proved", "the copy of {disks} could not be proved equal to its source",
        (AGAIN, "If it happens again, check the destination storage."),
    ),
    "digest_mismatch": Entry(
        502, _STORAGE, Severity.CRITICAL, "Copy differs", "the copy of the disk {disk} differs from its source",
        ("Check the memory, network and storage between source and destination.",
         "Start the replication again: the disk is copied in full."),
    ),
    "points_differ": Entry(
        502, _STORAGE, _ERROR, "Disks out of step", "the disks of the machine were not copied as of one instant",
        (AGAIN,),
    ),
    "session_lost": Entry(
        502, _STORAGE, _ERROR, "Write access lost", "the right to write to the volume of the disk {disk} was lost",
        (AGAIN, "If it happens again, check that the volume service was not restarted meanwhile."),
    ),
    # --- others ---
    "cancelled": Entry(409, _PLATFORM, Severity.INFO, "Cancelled", "the job was cancelled", (AGAIN,)),
    "superseded": Entry(
        409, _PLATFORM, _WARN, "Taken over", "another instance of the service has taken the job over",
        ("Run only one instance on this database, or wait for the other one to finish the job.",),
    ),
    "unknown": Entry(
        502, _UNKNOWN, _ERROR, "Failed", "the operation failed", ("Try again.", "Send the service's log to support."),
    ),
}  # fmt: skip
