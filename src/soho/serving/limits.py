"""What a request may ask for, and errors with the status code that HTTP has for them."""

from __future__ import annotations

from dataclasses import dataclass

from soho.errors import SohoError

MEBI = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Bounds of the server; everything beyond them is refused in one sentence.

    Attributes:
        upload_bytes: of one picture's file.
        pixels: of one picture, read from its header before anything is decoded.
        text_characters: of one text.
        texts: texts of one request.
        results: answers or pictures of one request.
        waiting: requests that may wait while one is computed; the next one is told to come back.
        upload_seconds: in which a request must have arrived: its head, and then its body.
    """

    upload_bytes: int = 16 * MEBI
    pixels: int = 40_000_000
    text_characters: int = 500
    texts: int = 32
    results: int = 48
    waiting: int = 8
    upload_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("upload_bytes", "pixels", "text_characters", "texts", "results"):
            if getattr(self, name) < 1:
                raise SohoError(f"{name}={getattr(self, name)} must be at least 1")
        if self.waiting < 0:
            raise SohoError(f"waiting={self.waiting} must be at least 0")
        if self.upload_seconds <= 0:
            raise SohoError(f"upload_seconds={self.upload_seconds:g} must be above 0")

    @property
    def body_bytes(self) -> int:
        """Of a whole request: two pictures, the texts in UTF-8, and what `multipart/form-data` writes around them."""
        return 2 * self.upload_bytes + 4 * self.text_characters * (self.texts + 1) + 64 * 1024


@dataclass(frozen=True)
class Settings:
    """Of a server, beside its models.

    Attributes:
        limits: of requests.
        corpus: pictures of the index that are read for the patches of the codes; 0 = none.
        fast: answer in the fastest settings of the device.
    """

    limits: Limits = Limits()
    corpus: int = 200
    fast: bool = False


class Refusal(SohoError):
    """A request that is not carried out.

    Args:
        status: of HTTP.
        message: one sentence.
        retry_after: seconds after which it is worth to ask again, where it is.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers beside the status."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def checked_text(text: str, name: str, limits: Limits) -> str:
    """Return a text without space around it.

    Raises:
        Refusal: it is empty or too long.
    """
    words = text.strip()
    if not words:
        raise Refusal(422, f"{name} is empty; expected a text")
    if len(words) > limits.text_characters:
        raise Refusal(
            422, f"{name} has {len(words):,} characters; expected at most {limits.text_characters:,} (one sentence)"
        )
    return words


def checked_number(value: int, name: str, most: int) -> int:
    """Return a number in 1..most.

    Raises:
        Refusal: it lies outside.
    """
    if not 1 <= value <= most:
        raise Refusal(422, f"{name}={value} is out of range; expected 1 to {most}")
    return value
