"""What is said to the shell of a login host, and what its answers mean. Pure text.

Which shell that is, is up to the user, and what it prints of itself, too. So the command line is always the same, in
words that all shells understand alike; what is to be run follows on standard input as one line of plain characters,
for ``sh``; and what the command prints stands between marks.

Sources: sh(1) and printf(1) of POSIX.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ..environment import CLEANING

__all__ = [
    "COMMAND",
    "LOOKOUT",
    "MISSING",
    "Reply",
    "Settings",
    "drop_line",
    "read_news",
    "read_settings",
    "settings_argv",
    "watch_line",
    "wrap",
]

#: The command line for every command, whatever the login shell. `read` takes exactly one line off a pipe (POSIX, read),
#: so that the rest is for the command.
COMMAND = """exec /bin/sh -c 'IFS= read -r line && eval "$(printf %b "$line")"'"""

#: In place of an exit code: there is no such program.
MISSING = "missing"

# Nobody is left to end a command whose connection broke: it has a time limit of its own where there is timeout(1). What
# the shell itself has to say, such as of a command that was killed, is not the command's.
_PROGRAM = """\
exec 3>&2 2> /dev/null
printf '\\n%s\\n' {mark}
printf '\\n%s\\n' {mark} >&3
{cleaning}{settings}set -- {argv}
if command -v "$1" > /dev/null && case $1 in */*) [ -f "$1" ] && [ -x "$1" ] ;; esac; then
    {limit}(exec 2>&3 3>&-; exec "$@")
    code=$?
else
    code={missing}
fi
printf '\\n%s %s\\n' {mark} "$code"
printf '\\n%s\\n' {mark} >&3
"""
_LIMIT = """! command -v timeout > /dev/null || set -- timeout -k 2 {seconds} "$@"
    """

_SAFE = re.compile(r"[A-Za-z0-9 _./:=,@+-]+")


@dataclass(frozen=True)
class Settings:
    """What a login shell of the user sets up, which other shells there do not, and where that is.

    Attributes
    ----------
    user, home : str
        Name and home directory.
    variables : mapping
        What commands need in their environment.
    machine : str
        Which one it is, as by `processes.this_machine`; "" where that is not told.
    """

    user: str
    home: str
    variables: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""


def wrap(argv: Sequence[str], mark: str, *, seconds: float | None, settings: Settings | None) -> bytes:
    """Return the line that has `COMMAND` run a program.

    Parameters
    ----------
    argv : sequence of str
        The program and its arguments.
    mark : str
        Stands before and after what it prints.
    seconds : float or None
        How long it may run.
    settings : Settings or None
        What a login shell sets up, once that is known.
    """
    variables = settings.variables if settings is not None else {}
    program = _PROGRAM.format(
        mark=mark,
        missing=MISSING,
        cleaning=CLEANING,
        settings="".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()),
        argv=shlex.join(argv),
        limit="" if seconds is None else _LIMIT.format(seconds=int(seconds) + 1),
    )
    return _plain(program).encode() + b"\n"


def _plain(text: str) -> str:
    """Return text in characters that no shell minds, for ``printf %b``."""
    return "".join(
        part if _SAFE.fullmatch(part) else "".join(f"\\0{byte:03o}" for byte in part.encode(errors="surrogateescape"))
        for part in re.split(f"({_SAFE.pattern})", text)
    )


class Reply:
    """What came back for one line, while it comes."""

    def __init__(self) -> None:
        self.mark = f"slurm-provisioner-{secrets.token_hex(8)}"
        self.stdout = Marked(self.mark)
        self.stderr = Marked(self.mark)

    @property
    def code(self) -> str:
        """The exit code, or `MISSING`; "" where the end did not come."""
        return self.stdout.end

    @property
    def noise(self) -> str:
        """What else was printed by whoever answered, where nothing of the command's did."""
        return "\n".join(text for part in (self.stderr, self.stdout) if (text := part.before.strip()))


class Marked:
    """One of the two streams: noise, a mark, the command's output, the mark again."""

    def __init__(self, mark: str) -> None:
        self._begin = f"\n{mark}\n".encode()
        self._end = re.compile(rb"\n" + mark.encode() + rb"(?: (\w+))?\n")
        self._tail = len(self._begin) + 20
        self._data = bytearray()
        self._noise = b""
        #: Whether the first mark has come, and the second one.
        self.begun = self.ended = False
        #: What follows the second mark.
        self.end = ""

    def take(self, data: bytes) -> None:
        """Take the next bytes."""
        if self.ended:
            return
        seen = max(0, len(self._data) - self._tail)
        self._data += data
        if not self.begun:
            at = self._data.find(self._begin, seen)
            if at < 0:
                return
            self.begun, self._noise = True, bytes(self._data[:at])
            del self._data[: at + len(self._begin)]
            seen = 0
        if match := self._end.search(self._data, seen):
            self.ended, self.end = True, (match[1] or b"").decode()
            del self._data[match.start() :]

    def lines(self) -> list[bytes]:
        """Take the whole lines of the command's output that have come so far."""
        *lines, rest = bytes(self._data).split(b"\n") if self.begun else [bytes(self._data)]
        self._data[:] = rest
        return lines

    @property
    def text(self) -> str:
        """The command's output."""
        return self._data.decode(errors="replace") if self.begun else ""

    @property
    def before(self) -> str:
        """What was printed before the first mark."""
        return (self._noise if self.begun else bytes(self._data)).decode(errors="replace")


# PATH and Slurm's configuration are often set for login shells only.
_TELL = """\
machine=
{ boot=$(cat /proc/sys/kernel/random/boot_id) && net=$(readlink /proc/self/ns/net) &&
  machine="$boot $net"; } 2> /dev/null
printf '\\n%s\\n' "$1" "$(id -un)" "$HOME" "$machine" "$PATH" "$SLURM_CONF" "$SLURM_CONF_SERVER"
"""
_ASK = 'if command -v bash > /dev/null; then exec bash -l -c "$@"; else exec sh -l -c "$@"; fi'
_TOLD = ("PATH", "SLURM_CONF", "SLURM_CONF_SERVER")


def settings_argv(mark: str, *, login: bool) -> list[str]:
    """Return the command that tells the settings of a shell, a login shell or not.

    To be asked once for a connection: at some sites a login shell takes seconds.
    """
    return ["sh", "-c", _ASK, "sh", _TELL, "sh", mark] if login else ["sh", "-c", _TELL, "sh", mark]


def read_settings(stdout: str, mark: str) -> Settings | None:
    """Return what the command of `settings_argv` told, whatever else the shell printed; None if it did not."""
    _, found, told = stdout.rpartition(f"\n{mark}\n")
    lines = told.split("\n")[1::2]
    if not found or len(lines) < len(_TOLD) + 3 or not lines[1].startswith("/"):
        return None
    variables = {name: value for name, value in zip(_TOLD, lines[3:], strict=False) if value}
    return Settings(lines[0], lines[1], variables, lines[2])


#: Tells what is written to small files of several folders, each a job of its own, until standard input ends.
#:
#: Lines of standard input: ``watch KEY FOLDER NAME...`` and ``drop KEY``, the folder as by `_plain` and without spaces.
#: Lines of output: ``KEY NUMBER CONTENT``, newlines in it replaced. Listing the folder makes an NFS client ask the
#: server; opening a name that it believes missing does not.
LOOKOUT = r"""
newline='
'
soh=$(printf '\001')
look() {
    key=$1 folder=$2 round=0
    shift 2
    while kill -0 $$ 2> /dev/null; do
        : "$folder"/*
        number=0
        for name; do
            content= line=
            if [ -s "$folder/$name" ]; then
                while IFS= read -r line; do content=$content$line$soh; done < "$folder/$name"
                content=$content$line
            fi 2> /dev/null
            eval "last=\$last_$number"
            if [ -n "$content" ] && [ "$content" != "$last" ]; then
                eval "last_$number=\$content"
                round=0
                printf '%s\n' "$key $number $content"
            fi
            number=$((number + 1))
        done
        round=$((round + 1))
        if [ $round -lt 150 ]; then pause=0.1; elif [ $round -lt 300 ]; then pause=0.3; else pause=1; fi
        sleep $pause 2> /dev/null || sleep 1
    done
}
keys=
while read -r verb key folder names; do
    case $verb in
        watch)
            folder=$(printf %b. "$folder")
            look "$key" "${folder%.}" $names &
            eval "job_$key=$!"
            keys="$keys $key"
            ;;
        drop)
            eval "kill \$job_$key; job_$key="
            ;;
    esac
done
for key in $keys; do
    eval "[ -z \"\$job_$key\" ] || kill \$job_$key"
done
"""


def watch_line(key: int, folder: str, names: Sequence[str]) -> bytes:
    """Return the line that has `LOOKOUT` watch files of a folder."""
    return f"watch {key} {_plain(folder).replace(' ', chr(92) + '0040')} {' '.join(names)}\n".encode()


def drop_line(key: int) -> bytes:
    """Return the line that ends a watch."""
    return f"drop {key}\n".encode()


def read_news(line: bytes) -> tuple[int, int, bytes] | None:
    """Return key, number of the file and content of a line of `LOOKOUT`; None if it is none."""
    with suppress(ValueError):
        key, number, content = line.split(b" ", 2)
        return int(key), int(number), content.replace(b"\1", b"\n")
    return None
