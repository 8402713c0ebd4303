"""A kernel for the tests: binds the five sockets, echoes bytes, and does on its control channel what it is told."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

GRANDCHILD = """
import signal, sys
def note(signum, frame):
    open(sys.argv[1], "a").write(str(signum) + "\\n")
signal.signal(signal.SIGINT, note)
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, note)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
print("ready", flush=True)
while True:
    signal.pause()
"""

interrupted = threading.Event()
grandchildren = []
connections = []


def say(count, go):
    """Tell everybody some numbers, once a file is there, and end."""
    while not os.path.exists(go):
        time.sleep(0.01)
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(b"".join(number.to_bytes(4, "big") for number in range(count)))
    os._exit(0)


def act(command, info):
    do = command["do"]
    if do == "print":
        print(command["text"], end="", flush=True)
    elif do == "exit":
        os._exit(command["code"])
    elif do == "ignore-term":
        os.kill(os.getpid(), signal.SIGUSR2)  # handlers are set by the main thread only
        stubborn.wait()
    elif do == "spawn":
        argv = [sys.executable, "-I", "-S", "-c", GRANDCHILD, command["notes"], command.get("manner", "plain")]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE)
        child.stdout.readline()
        grandchildren.append(child)
        return {"pid": child.pid}
    elif do == "say-and-exit":
        threading.Thread(target=say, args=(command["count"], command["go"])).start()
    elif do == "await-interrupt":
        interrupted.wait()
    elif do == "report":
        return {
            "pid": os.getpid(),
            "ppid": os.getppid(),
            "pgid": os.getpgrp(),
            "sid": os.getsid(0),
            "cwd": os.getcwd(),
            "environ": dict(os.environ),
            "stdin": os.readlink("/proc/self/fd/0"),
            "argv": sys.argv,
            "info": info,
        }
    return {}


def converse(connection, info):
    with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rwb") as stream:
        for line in stream:
            stream.write(json.dumps(act(json.loads(line), info)).encode() + b"\n")
            stream.flush()


def echo(connection):
    connections.append(connection)
    with contextlib.suppress(OSError), connection:
        while data := connection.recv(1 << 18):
            connection.sendall(data)


def serve(listener, channel, info):
    while True:
        connection, _ = listener.accept()
        target, args = (converse, (connection, info)) if channel == "control" else (echo, (connection,))
        threading.Thread(target=target, args=args, daemon=True).start()


stubborn = threading.Event()


def be_stubborn(signum, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stubborn.set()


def main():
    with open(sys.argv[1]) as file:
        info = json.load(file)
    signal.signal(signal.SIGINT, lambda signum, frame: interrupted.set())
    signal.signal(signal.SIGUSR2, be_stubborn)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR2})  # for the main thread alone
    for hold in sys.argv[2:]:
        while not os.path.exists(hold):
            time.sleep(0.01)
    for channel in ("shell", "iopub", "stdin", "control", "hb"):
        port = info[channel + "_port"]
        if info["transport"] == "ipc":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"{info['ip']}-{port}")
        else:
            listener = socket.socket()
            listener.bind((info["ip"], port))
        listener.listen()
        threading.Thread(target=serve, args=(listener, channel, info), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGUSR2})
    while True:
        signal.pause()


main()
