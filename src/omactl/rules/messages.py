"""What an error code means to a person: category, severity, a sentence, what to do; nothing internal in any of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from omactl.rules.catalogue import CATALOGUE, Category, Severity
from omactl.rules.scrub import scrub

__all__ = ["FOREIGN", "Facts", "Failure", "Message", "classify", "explain", "step_title"]

Facts = Mapping[str, str | int | float]


class Failure(Exception):
    """Something went wrong that the catalogue has words for.

    `facts` fill the sentence's parameters; `technical` is the raw cause, for the log and for support only.
    """

    def __init__(self, code: str, technical: str = "", **facts: str | int | float) -> None:
        super().__init__(f"{code}: {technical}" if technical else code)
        if code not in CATALOGUE:
            raise LookupError(f"{code} is not in the message catalogue")
        self.code = code
        self.technical = technical
        self.facts = facts


@dataclass(frozen=True)
class Message:
    """An error as a person gets to read it. `status` is the HTTP status it answers a request with."""

    code: str
    status: int
    category: Category
    severity: Severity
    title: str
    sentence: str
    advice: tuple[str, ...] = field(default=())


def explain(code: str, facts: Facts | None = None) -> Message:
    """The words for a code; one the catalogue does not have (a newer peer's) reads as `unknown`.

    Parameters are names a person gave (a machine, a disk) or figures; they are filled in after the scrub.
    """
    entry = CATALOGUE.get(code) or CATALOGUE["unknown"]
    sentence = scrub(entry.sentence).format_map(_Lenient(facts or {}))
    return Message(
        code=code if code in CATALOGUE else "unknown",
        status=entry.status,
        category=entry.category,
        severity=entry.severity,
        title=entry.title,
        sentence=sentence[0].upper() + sentence[1:],
        advice=entry.advice,
    )


class _Lenient(dict[str, str | int | float]):
    """A parameter that was not recorded reads as a dash, so that no message is ever lost for it."""

    def __missing__(self, key: str) -> str:
        return "-"


# --- foreign text ------------------------------------------------------------------------------------------------

# Texts of peers that have no codes: the first line whose words are all there decides (BEHAVIOUR.md 6.2, 6.3).
# Each line has a recorded sample in tests/omactl/rules/test_messages.py.
FOREIGN: tuple[tuple[tuple[str, ...], str], ...] = (
    (("export unknown",), "export_refused"),
    (("access denied by server",), "export_refused"),
    (("no space left",), "storage_full"),
    (("insufficient", "storage"), "storage_full"),
    (("cannot complete login",), "source_credentials"),
    (("invalid login",), "source_credentials"),
    (("change tracking",), "no_change_record"),
    (("changeid",), "no_change_record"),
    (("snapshot",), "source_snapshot"),
    (("job not found",), "job_lost"),
    (("connection refused",), "source_unreachable"),
    (("no such host",), "source_unreachable"),
    (("timeout",), "source_unreachable"),
    (("timed out",), "source_unreachable"),
    (("signal: killed",), "source_interrupted"),
    (("broken pipe",), "transfer_broken"),
    (("connection reset",), "transfer_broken"),
    (("input/output error",), "disk_unreadable"),
)


def classify(text: str, default: str) -> str:
    """The code for a text of a peer that has none; `default` where no line matches."""
    lowered = text.lower()
    return next((code for words, code in FOREIGN if all(word in lowered for word in words)), default)


# --- steps -------------------------------------------------------------------------------------------------------

TITLES: dict[str, str] = {
    "validation": "Pre-flight checks",
    "provisioning": "Creating destination volumes",
    "attaching": "Attaching storage volumes",
    "configuring": "Preparing storage volumes",
    "handing-over": "Starting data transfer",
    "replicating": "Data synchronisation",
    "proving": "Comparing source and destination",
    "committing": "Finalising",
    "failover-job-creation": "Preparing failover",
    "source-vm-power-off": "Powering off source VM",
    "source-vm-power-on": "Powering on source VM",
    "final-sync": "Final data synchronisation",
    "incremental-replication": "Incremental data transfer",
    "snapshot-creation": "Creating backup",
    "vm-creation": "Creating destination VM",
    "vm-startup-and-validation": "Starting and checking VM",
    "volume-attachment": "Attaching storage volumes",
    "volume-detachment": "Detaching storage volumes",
    "driver-injection": "Preparing drivers for compatibility",
    "network-configuration": "Configuring network adapters",
    "cleanup": "Cleaning up",
}


def step_title(name: str) -> str:
    """A step in words; one that is not listed goes from kebab-case to Title Case, scrubbed."""
    return TITLES.get(name) or scrub(name.replace("-", " ").replace("_", " ").title())
