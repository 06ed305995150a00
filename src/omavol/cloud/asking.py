"""Asking CloudStack (the `cs` library signs and sends): one request, and what its answer means.

An answer is a fact, a refusal (nothing was done), or lost: then nobody knows whether it was done. Only what changes
nothing is asked again. Secrets are files, read at each request, never logged and never in an error.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omavol.cloud.volumes import CloudError, NoSpace, NotAttachable, ProviderMisconfigured, VolumeInUse

if TYPE_CHECKING:
    from cs import CloudStack
    from requests import Session

__all__ = ["ENTITY_MISSING", "AnswerLost", "Asking", "CloudRefused", "refusal", "seconds_of"]

TIMEOUT = 30.0  # seconds for an answer
READS = 4  # attempts at a question that could not be asked
READ_PAUSE = 0.2  # seconds before the second, doubled each time
UNAUTHORISED, ENTITY_MISSING, NO_CAPACITY, IN_USE = 401, 431, 533, 536  # ApiErrorCode
TOO_MANY, AWAY = 429, 503  # nothing was done: it wants a rest, or does not answer at all
RETRIED = frozenset({TOO_MANY, AWAY})
LATEST = 30  # seconds after the timeout that a request may still act: its signature ends then


class AnswerLost(CloudError):
    """The command was sent, and no answer that can be read came: it may have happened."""

    code = "cloud_answer_lost"


class CloudRefused(CloudError):
    """CloudStack said no; `number` is its ApiErrorCode, or an HTTP status."""

    code = "cloud_refused"

    def __init__(self, detail: str, number: int, *, advice: tuple[str, ...] = ()) -> None:
        super().__init__(detail, advice=advice)
        self.number = number


class Asking:
    """`settings` are the provider's: the address, the files of the keys, the timeout."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """One request. CloudRefused: it was refused, nothing was done. AnswerLost: nobody knows."""
        import requests
        from cs import CloudStackApiException, CloudStackException

        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxy, no .netrc of whoever started this
                session.max_redirects = 0  # the key is for this address alone
                answer = getattr(self._client(session), command)(**arguments)
        except CloudStackApiException as error:
            raise _told(command, error.error or {}) from None
        except CloudStackException as error:
            status = getattr(error.response, "status_code", 0)
            if status == TOO_MANY:
                raise CloudRefused(f"{command}: the cloud answered HTTP {status}", status) from None
            if status >= 500:  # whoever stands before the cloud may have passed it on
                raise AnswerLost(f"{command}: the cloud answered HTTP {status}") from None
            raise AnswerLost(f"{command}: the cloud's answer cannot be read (HTTP {status})") from None
        except requests.exceptions.ConnectTimeout:
            raise CloudRefused(f"{command}: the cloud at {self._settings['api_url']} does not answer", AWAY) from None
        except requests.exceptions.RequestException as error:
            # Its text has the request's address, and that the key and the signature.
            raise AnswerLost(f"{command}: the connection to the cloud failed ({type(error).__name__})") from None
        return answer if isinstance(answer, dict) else {}

    def read(self, command: str, **arguments: object) -> dict[str, Any]:
        """A question, asked again when it could not be: it changes nothing."""
        for attempt in range(READS):
            try:
                return self.ask(command, **arguments)
            except (AnswerLost, CloudRefused) as error:
                retried = isinstance(error, AnswerLost) or error.number in RETRIED
                if not retried or attempt == READS - 1:
                    raise
            time.sleep(READ_PAUSE * 2**attempt)
        raise AssertionError("not reached")

    def job(self, job_id: str) -> dict[str, Any] | None:
        """For `Jobs`: the job as the cloud has it, None where it knows none."""
        try:
            return self.read("queryAsyncJobResult", jobid=job_id)
        except CloudRefused as refused:
            if refused.number == ENTITY_MISSING:
                return None
            raise

    def _client(self, session: Session) -> CloudStack:
        from cs import CloudStack

        key, secret = (_secret(self._settings[name], name) for name in ("api_key_file", "secret_file"))
        timeout = int(seconds_of(self._settings, "timeout", TIMEOUT))
        url = self._settings["api_url"]
        return CloudStack(
            endpoint=url,
            key=key,
            secret=secret,
            method="post",
            timeout=timeout,
            session=session,
            expiration=timedelta(seconds=timeout + LATEST),
        )


def _told(command: str, error: Mapping[str, Any]) -> CloudError:
    return refusal(command, int(error.get("errorcode", 0)), str(error.get("errortext", "no reason given")))


def refusal(command: str, number: int, text: str) -> CloudError:
    """The error for what the cloud said, at once or as a job's end."""
    detail = f"{command}: {text}"
    if number == UNAUTHORISED:
        return ProviderMisconfigured(
            f"{command}: the cloud does not accept the key", advice=("Check the key files, and this machine's clock.",)
        )
    if number == NO_CAPACITY:
        return NoSpace(detail, advice=("Free primary storage in the zone, or take another disk offering.",))
    if number == IN_USE:
        return VolumeInUse(detail, advice=("Wait until what the cloud does with it is over, then try again.",))
    if "VM snapshots" in text:
        return NotAttachable(detail, advice=("Remove the snapshots of the machine first.",))
    return CloudRefused(detail, number, advice=("The cloud's own words say why.",))


def _secret(path: str, name: str) -> str:
    try:
        secret = Path(path).read_text().strip()
    except OSError as error:
        raise ProviderMisconfigured(f"{name} {path} cannot be read: {error.strerror}") from error
    if not secret:
        raise ProviderMisconfigured(f"{name} {path} is empty")
    return secret


def seconds_of(settings: Mapping[str, str], name: str, default: float) -> float:
    """A setting that is a number of seconds; ProviderMisconfigured where it is not, or makes no sense."""
    try:
        seconds = float(settings.get(name, default))
    except ValueError:
        raise ProviderMisconfigured(f"{name} is a number of seconds, not {settings[name]!r}") from None
    if not 0 < seconds <= 86400:
        raise ProviderMisconfigured(f"{name} is more than 0 and at most 86400 seconds, not {seconds:g}")
    return seconds
