"""A chat endpoint that speaks OpenAI's protocol: one prompt in, one reply out, whatever the network does between.

Tries again after rate limits, time-outs, half and malformed answers; keeps to a rate and to a number of calls. The key
comes from the environment, goes to no other host, and is cut out of every text that comes back.
"""

import email.utils
import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.fingerprints import execution

TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
REFUSED = {400, 413, 422}
"""What is wrong with one prompt: too long, or filtered."""
MAX_BYTES = 2**20
"""A longer answer is not read to its end."""
MAX_WAIT_S = 300.0
"""An endpoint that asks to wait longer has failed."""
SECRET_FROM = 8
"""A shorter key, such as vLLM's EMPTY, is no secret: cutting it out would only spoil texts."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The model that judges answers, behind any endpoint with OpenAI's chat protocol; vLLM serves one."""

    kind: ClassVar[str] = "Judge"

    model: str = ""
    """As the endpoint names it; part of the record. Empty: no judge."""
    temperature: float | None = 0.2
    """0 makes repeats alike on most endpoints. None: the endpoint's own default."""
    max_tokens: int = 1024
    """Of a verdict."""
    num_repeats: int = 3
    """How often each answer is judged: scores are the mean, and their spread is shown."""
    base_url: str = execution("https://api.openai.com/v1")
    """Up to and without /chat/completions."""
    key_variable: str = execution("OPENAI_API_KEY")
    """Environment variable that holds the key. Empty: the endpoint needs none."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = execution("max_tokens")
    """What the endpoint calls the limit of tokens."""
    max_concurrent: int = execution(8)
    """Calls at one time."""
    requests_per_minute: int = execution(0)
    """0 for no limit but the endpoint's own."""
    max_calls: int = execution(5000)
    """Budget of one run, retries included. What is judged by then is kept; the next run goes on."""
    timeout_s: float = execution(120.0)
    """Of one call."""
    max_retries: int = execution(6)
    """Of one call."""
    first_wait_s: float = execution(1.0)
    """Before the first retry; doubles with each, where the endpoint does not say how long."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "num_repeats", "max_concurrent", "max_calls"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("requests_per_minute", "max_retries", "first_wait_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}: must not be negative")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s {self.timeout_s}: must be more than 0")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise ConfigError(f"temperature {self.temperature}: must be 0 to 2")
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"base_url {self.base_url!r}: must be an address such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise ConfigError("base_url: must hold no user name or password; the key goes into an environment variable")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the judge wrote."""

    text: str
    cut: bool
    """At the token limit."""
    model: str
    """That answered, as the endpoint calls it."""
    num_tokens: int
    """Prompt and reply, as the endpoint counts them; 0 where it does not."""


class Refused(Exception):
    """The endpoint will never answer this prompt."""


class Unanswered(Exception):
    """No usable reply, also after all retries."""


class BudgetSpent(Exception):
    """No call is left."""


class TryAgain(Exception):
    """A call failed in a way that may pass."""

    def __init__(self, reason: str, wait_s: float | None = None):
        super().__init__(reason)
        self.wait_s = wait_s
        """What the endpoint asks for."""


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *args: Any) -> None:
        return None


class Endpoint:
    """Shared by the threads of one run. Raises: InputError where the key is missing or would travel in the clear."""

    def __init__(self, judge: Judge):
        self.judge = judge
        self.num_calls = 0
        self.stopped = threading.Event()
        self._key = key_of(judge)
        # A proxy would see the key of an endpoint on this machine, which has no https to hide it.
        proxies: dict[str, str] | None = {} if is_loopback(urlsplit(judge.base_url).hostname or "") else None
        self._opener = urllib.request.build_opener(NoRedirects, urllib.request.ProxyHandler(proxies))
        self._lock = threading.Lock()
        self._next_start = 0.0

    def ask(self, prompt: str) -> Reply:
        """Raises: Refused, Unanswered, BudgetSpent; InputError where no call can succeed."""
        reason = "stopped"
        for attempt in range(self.judge.max_retries + 1):
            self._take_turn()
            try:
                return self._call(prompt)
            except TryAgain as error:
                reason, wait_s = str(error), error.wait_s
            if wait_s is not None:
                if wait_s > MAX_WAIT_S:
                    raise Unanswered(f"{reason}; it asks to wait {wait_s:.0f} s") from None
                self._pause_all(wait_s)
            if attempt < self.judge.max_retries:
                self._sleep(min(MAX_WAIT_S, self.judge.first_wait_s * 2**attempt) * random.uniform(0.5, 1))
        raise Unanswered(reason)

    def hidden(self, text: str) -> str:
        """Without the key, and storable as UTF-8."""
        if len(self._key) >= SECRET_FROM:
            text = text.replace(self._key, "***")
        return text.encode("utf-8", "replace").decode()

    def _take_turn(self) -> None:
        """Waits until this call may start, and counts it."""
        with self._lock:
            if self.num_calls >= self.judge.max_calls:
                raise BudgetSpent
            self.num_calls += 1
            now = time.monotonic()
            start = max(now, self._next_start)
            if self.judge.requests_per_minute:
                self._next_start = start + 60 / self.judge.requests_per_minute
        self._sleep(start - now)

    def _pause_all(self, wait_s: float) -> None:
        with self._lock:
            self._next_start = max(self._next_start, time.monotonic() + wait_s)

    def _sleep(self, wait_s: float) -> None:
        if self.stopped.wait(max(0.0, wait_s)):
            raise Unanswered("stopped")

    def _call(self, prompt: str) -> Reply:
        judge = self.judge
        body = {
            "model": judge.model,
            "messages": [{"role": "user", "content": prompt}],
            judge.token_limit: judge.max_tokens,
        }
        if judge.temperature is not None:
            body["temperature"] = judge.temperature
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        url = judge.base_url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        deadline = time.monotonic() + judge.timeout_s
        try:
            with self._opener.open(request, timeout=judge.timeout_s) as response:
                data = read(response, deadline)
        except urllib.error.HTTPError as error:
            raise self._failure(error, deadline) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise TryAgain(self.hidden(str(reason) or type(reason).__name__)) from None
        return self._reply(data)

    def _failure(self, error: urllib.error.HTTPError, deadline: float) -> Exception:
        try:
            message = said(read(error, deadline))
        except (TryAgain, OSError, http.client.HTTPException):
            message = ""
        line = self.hidden(" ".join(f"HTTP {error.code} {message}".split()))
        line = "".join(character for character in line if character.isprintable())[:300]
        if error.code in TRY_AGAIN:
            return TryAgain(line, retry_after(error.headers.get("Retry-After")))
        if error.code in REFUSED:
            return Refused(line)
        if 300 <= error.code < 400:
            line = f"HTTP {error.code}, a redirect: not followed, because the key would go with it"
        return InputError(f"judge at {self.judge.base_url}: {line}")

    def _reply(self, data: bytes) -> Reply:
        try:
            found = json.loads(data)
            choice = found["choices"][0]
            text = choice["message"]["content"] or ""
            usage = (found.get("usage") or {}).get("total_tokens") or 0
            if not isinstance(text, str) or not isinstance(usage, int):
                raise TypeError
            return Reply(
                text=self.hidden(text),
                cut=choice.get("finish_reason") == "length",
                model=self.hidden(str(found.get("model") or "")),
                num_tokens=usage,
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise TryAgain("the answer is not a chat completion") from None


def key_of(judge: Judge) -> str:
    """The key, from the environment; empty where none is needed."""
    if not judge.key_variable:
        return ""
    key = os.environ.get(judge.key_variable, "").strip()
    if not key:
        raise InputError(
            f"environment variable {judge.key_variable}: not set; it holds the judge's key "
            "(--judge.key-variable '' for an endpoint without one)"
        )
    if not key.isascii() or not key.isprintable():
        raise InputError(f"environment variable {judge.key_variable}: holds characters that no key has")
    parts = urlsplit(judge.base_url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise InputError(
            f"judge at {judge.base_url}: the key in {judge.key_variable} would travel in the clear; "
            "use https, or --judge.key-variable '' for an endpoint without a key"
        )
    return key


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read(response: Any, deadline: float) -> bytes:
    """A body of limited length. Raises: TryAgain where it is longer, or not there by the deadline."""
    data = b""
    while chunk := response.read1(65536):
        data += chunk
        if len(data) > MAX_BYTES:
            raise TryAgain(f"the answer is longer than {MAX_BYTES:,} bytes")
        if time.monotonic() > deadline:
            raise TryAgain("timed out in the middle of the answer")
    return data


def said(data: bytes) -> str:
    """The message of an error's body."""
    try:
        return str(json.loads(data)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return data.decode("utf-8", "replace")


def retry_after(value: str | None) -> float | None:
    """Seconds; the header holds seconds or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
