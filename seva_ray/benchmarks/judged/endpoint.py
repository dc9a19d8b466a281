"""A chat endpoint that speaks OpenAI's protocol: one prompt in, one reply out.

A call is repeated after rate limits, time-outs, and incomplete or malformed answers, within a request rate and a budget
of calls. The key comes from the environment, goes to no other host, and is cut out of every text that comes back.
"""

import contextlib
import email.utils
import json
import logging
import os
import random
import ssl
import threading
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import ClassVar, Literal

import httpx

from seva_ray.core.checks import check_least
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.fingerprints import execution

TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""HTTP statuses that may pass."""
REFUSED = {400, 413, 422}
"""HTTP statuses that say that one prompt is wrong: it is too long, or a filter stopped it."""
MAX_BYTES = 2**20
"""Longest answer that is read, in bytes."""
MAX_WAIT_S = 300.0
"""Longest wait that an endpoint may ask for, in seconds. If it asks for more, the call has failed."""
SECRET_FROM = 8
"""Length from which a key is a secret. A shorter one, such as vLLM's EMPTY, is not cut out: that would spoil texts."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The model that judges answers, behind any endpoint with OpenAI's chat protocol. vLLM can serve one."""

    kind: ClassVar[str] = "Judge"

    model: str = ""
    """The judge's name at the endpoint; it is part of the record. Empty: there is no judge."""
    temperature: float | None = 0.2
    """Sampling temperature, 0 to 2. With 0 most endpoints repeat themselves. None: the endpoint's own default."""
    max_tokens: int = 1024
    """Longest verdict, in tokens."""
    num_repeats: int = 3
    """How often each answer is judged. Scores are the mean over the repeats, and their spread is shown."""
    base_url: str = execution("https://api.openai.com/v1")
    """Address of the endpoint, without /chat/completions."""
    key_variable: str = execution("OPENAI_API_KEY")
    """Environment variable that holds the key. Empty: the endpoint needs no key."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = execution("max_tokens")
    """Name of the request's field that limits the tokens of a reply."""
    max_concurrent: int = execution(8)
    """Number of calls at the same time."""
    requests_per_minute: int = execution(0)
    """Calls that may start per minute. 0: no limit of our own."""
    max_calls: int = execution(5000)
    """Budget of calls for one run, retries included. If it is spent, the next run asks for the rest."""
    timeout_s: float = execution(120.0)
    """Longest duration of one call, in seconds."""
    max_retries: int = execution(6)
    """How often one call is repeated after a failure that may pass."""
    first_wait_s: float = execution(1.0)
    """Wait before the first retry, in seconds. It doubles with each, unless the endpoint says how long to wait."""

    def __post_init__(self) -> None:
        check_least(self, 1, "max_tokens", "num_repeats", "max_concurrent", "max_calls")
        check_least(self, 0, "requests_per_minute", "max_retries", "first_wait_s")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s {self.timeout_s}: must be more than 0")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise ConfigError(f"temperature {self.temperature}: must be 0 to 2")
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.username or url.password:
            raise ConfigError("base_url: must hold no user name or password; the key goes into an environment variable")
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
            shown = self.base_url.rpartition("@")[2]  # without a password
            raise ConfigError(f"base_url {shown!r}: must be an address such as http://127.0.0.1:8000/v1")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the judge wrote."""

    text: str
    cut: bool
    """Whether the reply ends at the token limit."""
    model: str
    """The model that answered, as the endpoint names it."""
    num_tokens: int
    """Tokens of prompt and reply, as the endpoint counts them; 0 if it does not."""


class PromptRefused(Exception):
    """The endpoint will never answer this prompt."""


class Unanswered(Exception):
    """The endpoint gave no usable reply, even after all retries."""


class BudgetSpent(Exception):
    """The run has used all its calls."""


class TryAgain(Exception):
    """A call failed in a way that may pass."""

    def __init__(self, reason: str, wait_s: float | None = None):
        super().__init__(reason)
        self.wait_s = wait_s
        """How long the endpoint asks to wait, in seconds; None if it does not say."""


class Endpoint:
    """The threads of one run share it. Raises: InputError if the key is missing or would be sent unencrypted."""

    def __init__(self, judge: Judge):
        self.judge = judge
        self.num_calls = 0
        self.stopped = threading.Event()
        self._key = api_key(judge)
        self._client = open_client(judge, self._key)
        self._lock = threading.Lock()
        self._next_start = 0.0

    def ask(self, prompt: str) -> Reply:
        """Raises: PromptRefused, Unanswered, BudgetSpent; InputError if no call can succeed."""
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
                with self._lock:
                    self._next_start = max(self._next_start, time.monotonic() + wait_s)
            if attempt < self.judge.max_retries:
                self._sleep(min(MAX_WAIT_S, self.judge.first_wait_s * 2**attempt) * random.uniform(0.5, 1))
        raise Unanswered(reason)

    def hidden(self, text: str) -> str:
        """The text without the key, and storable as UTF-8."""
        if len(self._key) >= SECRET_FROM:
            text = text.replace(self._key, "***")
        return text.encode("utf-8", "replace").decode()

    def _take_turn(self) -> None:
        """Count this call, and wait until it may start."""
        with self._lock:
            if self.num_calls >= self.judge.max_calls:
                raise BudgetSpent
            self.num_calls += 1
            now = time.monotonic()
            start = max(now, self._next_start)
            if self.judge.requests_per_minute:
                self._next_start = start + 60 / self.judge.requests_per_minute
        self._sleep(start - now)

    def _sleep(self, wait_s: float) -> None:
        if self.stopped.wait(max(0.0, wait_s)):
            raise Unanswered("stopped")

    def _call(self, prompt: str) -> Reply:
        judge = self.judge
        messages = [{"role": "user", "content": prompt}]
        body = {"model": judge.model, "messages": messages, judge.token_limit: judge.max_tokens}
        if judge.temperature is not None:
            body["temperature"] = judge.temperature
        deadline = time.monotonic() + judge.timeout_s
        try:
            with self._client.stream("POST", "/chat/completions", content=json.dumps(body)) as response:
                if not response.is_success:
                    raise self._failure(response, deadline)
                data = read(response, deadline)
        except httpx.HTTPError as error:
            raise TryAgain(self.hidden(str(error) or type(error).__name__)) from None
        return self._reply(data)

    def _failure(self, response: httpx.Response, deadline: float) -> Exception:
        status, message = response.status_code, ""
        with contextlib.suppress(TryAgain, httpx.HTTPError):
            message = error_message(read(response, deadline))
        line = self.hidden(" ".join(f"HTTP {status} {message}".split()))
        line = "".join(character for character in line if character.isprintable())[:300]
        if status in TRY_AGAIN:
            return TryAgain(line, retry_after(response.headers.get("Retry-After")))
        if status in REFUSED:
            return PromptRefused(line)
        if 300 <= status < 400:
            line = f"HTTP {status}, a redirect: not followed, because the key would go with it"
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


def open_client(judge: Judge, key: str) -> httpx.Client:
    """Raises: InputError if the environment names a proxy that cannot be used."""
    # At level DEBUG httpcore logs the headers of responses, and an endpoint may repeat the key in them.
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
    try:
        return httpx.Client(
            base_url=judge.base_url,
            headers=headers | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=judge.timeout_s,
            limits=httpx.Limits(max_keepalive_connections=judge.max_concurrent),
            follow_redirects=False,  # the key would go with the request
            verify=ssl.create_default_context(),  # the certificates of the machine
            # A proxy would see the key of an endpoint on this machine, which has no https to hide it.
            trust_env=not is_loopback(httpx.URL(judge.base_url).host),
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise InputError(f"environment variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY: {error}") from None


def api_key(judge: Judge) -> str:
    """The key from the environment; empty if the endpoint needs no key."""
    if not judge.key_variable:
        return ""
    key = os.environ.get(judge.key_variable, "").strip()
    variable = f"environment variable {judge.key_variable}"
    if not key:
        raise InputError(f"{variable}: not set; it holds the judge's key (--judge.key-variable '' if it needs no key)")
    if not key.isascii() or not key.isprintable():
        raise InputError(f"{variable}: holds characters that no key has")
    url = httpx.URL(judge.base_url)
    if url.scheme == "http" and not is_loopback(url.host):
        raise InputError(
            f"judge at {judge.base_url}: the key in {judge.key_variable} would be sent unencrypted; "
            "use https, or --judge.key-variable '' if it needs no key"
        )
    return key


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read(response: httpx.Response, deadline: float) -> bytes:
    """A body of limited length. Raises: TryAgain if it is longer, or not complete by the deadline."""
    data = b""
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) > MAX_BYTES:
            raise TryAgain(f"the answer is longer than {MAX_BYTES:,} bytes")
        if time.monotonic() > deadline:
            raise TryAgain("timed out in the middle of the answer")
    return data


def error_message(body: bytes) -> str:
    """The message in the body of an HTTP error."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return body.decode("utf-8", "replace")


def retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a header that holds seconds or a date; None if it holds neither."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(value or ""))
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value or "").timestamp() - time.time())
    return None
