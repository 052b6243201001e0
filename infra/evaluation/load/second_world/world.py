"""A simulator of somebody else's, in a process and a Python environment of its own, by JSON lines over a pipe.

`recogym_process.py` describes the protocol. Nothing of the simulator's truth but what users do is for the recommender;
`best` and the probabilities are for the measurement.
"""

import subprocess
from pathlib import Path
from typing import Self

import msgspec

from recsys.contracts.errors import InvalidConfig, Unavailable

SCRIPT = Path(__file__).with_name("recogym_process.py")
REQUIREMENTS = Path(__file__).with_name("recogym.txt")


class Turn(msgspec.Struct, frozen=True):
    """What a user does until the next product is shown, or until the end (`done`).

    `views`: (step, product) of what the user looked at unasked, oldest first; `step`: the user's own time, from 0;
    `clicked`, `probability`: of the product shown last; `best`, `best_probability`: of the product that the user would
    click most likely now.
    """

    views: tuple[tuple[int, int], ...]
    step: int
    done: bool
    clicked: bool
    probability: float
    best: int = -1
    best_probability: float = 0.0


class _Hello(msgspec.Struct):
    products: int


class ForeignWorld:
    """A context manager. Users are numbers; the same seed gives the same users, whatever else is asked."""

    def __init__(self, python: Path, products: int, seed: int, script: Path = SCRIPT) -> None:
        """`python`: of the simulator's environment.

        Raises:
            InvalidConfig: there is no such program.
            Unavailable: the simulator does not start; it has printed why.
        """
        command = [
            str(python),
            "-I",
            str(script),
            str(products),
            str(seed),
        ]  # -I: not this project's PYTHONPATH
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            raise InvalidConfig(f"{python}: {error.strerror}; {how_to_install(python)}") from error
        assert self._process.stdin and self._process.stdout  # noqa: S101 - pipes
        self._in, self._out = self._process.stdin, self._process.stdout
        try:
            self.products = msgspec.json.decode(self._line(), type=_Hello).products
        except Unavailable as error:
            self._close()
            raise Unavailable(f"{error}; {how_to_install(python)}") from error
        self._turn = msgspec.json.Decoder(Turn).decode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def begin(self, user: int) -> Turn:
        """The user's first turn."""
        return self._ask({"user": user})

    def show(self, user: int, product: int) -> Turn:
        """Show a product to a user who has begun and is not done."""
        return self._ask({"user": user, "product": product})

    def _ask(self, question: dict[str, int]) -> Turn:
        try:
            self._in.write(msgspec.json.encode(question) + b"\n")
        except BrokenPipeError as error:
            raise Unavailable("the simulator has ended; it has printed why") from error
        return self._turn(self._line())

    def _line(self) -> bytes:
        line: bytes = self._out.readline()
        if not line:
            raise Unavailable("the simulator has ended; it has printed why")
        return line

    def _close(self) -> None:
        self._in.close()
        self._process.terminate()
        self._process.wait()
        self._out.close()


def how_to_install(python: Path) -> str:
    """The commands after which `python` can run the simulator."""
    home = python.parent.parent
    return f"install RecoGym: python3 -m venv {home} && {home}/bin/pip install --no-deps -r {REQUIREMENTS}"


def item_id(product: int) -> str:
    return f"p{product}"


def product_of(item: str) -> int:
    return int(item.removeprefix("p"))
