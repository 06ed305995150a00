"""Speaks to a running control plane for a command: finds the token, turns problems into one line and advice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import httpx2
import msgspec

from omavol.cli.tables import table
from omavol.schema.common import Problem

__all__ = ["Remote", "mebibytes", "print_table", "words"]


class Remote:
    """One command's conversation. Every method raises click.ClickException with a line a person can use."""

    def __init__(self, url: str, state: Path, token_file: Path | None) -> None:
        self.url = url.rstrip("/")
        token = _token(state, token_file)
        try:
            self._http = httpx2.Client(
                base_url=self.url,
                headers={"Authorization": f"Bearer {token}"},
                timeout=httpx2.Timeout(90, connect=5),
                trust_env=False,
            )
        except httpx2.InvalidURL as error:
            raise click.ClickException(f"{self.url} is no address: {error}") from error

    def get(self, path: str, **params: str | int | None) -> Any:
        return self._ask("GET", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask("POST", path, json=body or {})

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._http.request(method, f"/api/v1{path}", **options)
        except (httpx2.TransportError, httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise click.ClickException(f"no answer from {self.url}: {error}. Is `omactl serve` running?") from error
        if response.status_code >= 400:
            raise click.ClickException(_said(response))
        try:
            return msgspec.json.decode(response.content)
        except msgspec.DecodeError as error:
            raise click.ClickException(f"{self.url} answered something else than JSON") from error


def _token(state: Path, token_file: Path | None) -> str:
    if (token := os.environ.get("OMA_TOKEN")) and token_file is None:
        return _one_word(token, "OMA_TOKEN")
    path = token_file or state / "admin-token"
    try:
        return _one_word(path.read_bytes().decode(errors="replace").strip(), str(path))
    except OSError as error:
        raise click.ClickException(
            f"no token: {path}: {error.strerror}. Run as the user of `omactl serve`, or use --state or --token-file."
        ) from error


def _one_word(token: str, place: str) -> str:
    """What can stand in a header (RFC 6750): a token is one word of plain characters."""
    if not token or not all("!" <= letter <= "~" for letter in token):
        raise click.ClickException(f"no token: {place} holds none: a token is one word of plain characters")
    return token


def _said(response: httpx2.Response) -> str:
    try:
        problem = msgspec.json.decode(response.content, type=Problem)
    except msgspec.DecodeError:
        return f"HTTP {response.status_code}"
    job = f" (job {problem.job_id})" if problem.job_id else ""
    return "\n  ".join([f"{problem.detail}{job} [{problem.code}]", *problem.advice])


def words(text: str) -> str:
    """A path segment from what a person typed."""
    return quote(text, safe="")


def mebibytes(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"


def print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    click.echo(table(columns, rows), nl=False)
