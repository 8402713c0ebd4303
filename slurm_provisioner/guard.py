"""What is done for us when this process dies without a word: by SIGKILL, or by a Ctrl-C that no handler takes.

A small shell process holds the commands, reads a pipe of ours and finds its end when we are gone, however we went. The
supervisors' leases are for the case that it is gone, too.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Sequence

from .environment import clean_environment

__all__ = ["Guard", "guard"]

log = logging.getLogger("slurm_provisioner")

# Reads "+KEY COMMAND" and "-KEY" lines, and at their end runs the commands that are left, more than once: what sbatch
# was about to submit may come a moment later, and the controller may not answer. It outlives a signal to all processes
# of a session, which is how servers are often ended. POSIX, sh.
_SCRIPT = r"""
trap '' HUP INT QUIT TERM
cd /
while IFS= read -r line; do
    case $line in
        +*) set -- "$@" "${line#+}" ;;
        -*)
            for each; do
                shift
                case $each in "${line#-} "*) ;; *) set -- "$@" "$each" ;; esac
            done
            ;;
    esac
done
[ $# = 0 ] && exit
for pause in 0 1 4 15; do
    sleep $pause
    for each; do
        eval "${each#* }"
    done
done
"""


class Guard:
    """A process that outlives us for a moment, started with the first command it is given."""

    def __init__(self) -> None:
        self._pipe: int | None = None
        self._keys = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, *argvs: Sequence[str]) -> Callable[[], None]:
        """Have commands run when this process dies; return what takes them off again.

        They are run more than once, and their failure is nobody's concern.
        """
        key = next(self._keys)
        with self._lock:
            if self._pipe is None:
                self._pipe = self._start()
            self._write(f"+{key} {'; '.join(map(shlex.join, argvs))}")
        return functools.partial(self._drop, key)

    def _drop(self, key: int) -> None:
        with self._lock:
            self._write(f"-{key}")

    def _start(self) -> int | None:
        ours, theirs = None, None
        try:
            theirs, ours = os.pipe()
            os.set_blocking(ours, False)
            process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "slurm-provisioner-guard"],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=clean_environment(os.environ),
                start_new_session=True,
            )
        except OSError as error:
            log.warning("If this process is killed, leases end its jobs, nothing sooner: %s", error)
            if ours is not None:
                os.close(ours)
            return None
        finally:
            if theirs is not None:
                os.close(theirs)
        process.returncode = 0  # nobody waits for it: it ends after us
        return ours

    def _write(self, line: str) -> None:
        if self._pipe is None:
            return
        try:
            os.write(self._pipe, line.encode() + b"\n")
        except OSError:  # somebody killed it; the next command gets another one
            os.close(self._pipe)
            self._pipe = None

    def forget(self) -> None:
        """In a forked child: the commands are the parent's, and so is the pipe."""
        self._lock = threading.Lock()
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


guard = Guard()
os.register_at_fork(after_in_child=guard.forget)
