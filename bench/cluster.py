"""One service and any number of agents on this machine, driven through the command line alone.

The benchmarks and the end-to-end programs know nothing of Polder's inside: what they measure is what a user has.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, condition, seconds):
    """Waits for a state with a bound; returns what the condition returned.

    A look counts for at most a second: while a machine stands still (suspended, or its processes frozen), nothing that
    is waited for can come true, and no patience is used up.
    """
    waited, last = 0.0, time.monotonic()
    while True:
        result = condition()
        if result:
            return result
        now = time.monotonic()
        waited, last = waited + min(now - last, 1.0), now
        if waited > seconds:
            raise TimeoutError(f"{what} did not come true within {seconds} s")
        time.sleep(0.02)


def peak_memory_bytes(pid):
    """Peak resident memory of a process (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def resident_bytes(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid):
    """Processor time that a process has used, of the program and of the kernel for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(pid):
    """The process and everything below it."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        try:
            children = Path(f"/proc/{one}/task/{one}/children").read_text().split()
        except OSError:
            continue
        todo.extend(int(child) for child in children)
    return found


def remove_folder(folder):
    """Takes a folder away with what lies in it: the bare mount points of tiered endpoints are immutable."""
    for path in Path(folder).glob("*/.polder"):
        subprocess.run(["chattr", "-i", path.parent], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """`with Cluster(binary) as cluster:` — everything is in one temporary folder and ends with the block."""

    def __init__(self, binary, folder=None, keep=False):
        self.binary = str(Path(binary).resolve())
        self.folder = Path(folder or tempfile.mkdtemp(prefix="polder-bench-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.keep = keep
        self.processes = {}
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        data = self.folder / "service"
        self.environment = {
            **os.environ,
            "HOME": str(self.folder / "home"),
            "POLDER_URL": self.url,
            "POLDER_TOKEN_FILE": str(data / "owner.token"),
            "POLDER_CA_FILE": str(data / "ca.pem"),
            "NO_COLOR": "1",
        }
        (self.folder / "home").mkdir(exist_ok=True)
        (self.folder / "logs").mkdir(exist_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in list(self.processes):
            self.stop(name)
        if not self.keep:
            remove_folder(self.folder)

    def run(self, *arguments, check=True, input=None):
        """One command of the command line; returns its standard output."""
        done = subprocess.run(
            [self.binary, *map(str, arguments)], env=self.environment, capture_output=True, input=input, timeout=600
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"polder {' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stderr.decode(errors='replace')}")
        return done.stdout if check else done

    def json(self, *arguments):
        return json.loads(self.run(*arguments, "--json"))

    def spawn(self, name, *arguments):
        log = open(self.folder / "logs" / f"{name}.log", "ab")
        process = subprocess.Popen(
            [self.binary, *map(str, arguments)], env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.processes[name] = process
        return process

    def kill(self, name, sig=signal.SIGKILL):
        """Kills the process and its children, by pid; what the system does when memory runs out."""
        process = self.processes.pop(name)
        for pid in descendants(process.pid):
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                pass
        process.wait(30)

    def stop(self, name):
        process = self.processes.get(name)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(15)
            self.processes.pop(name)
        except subprocess.TimeoutExpired:
            self.kill(name)

    def start_service(self, *extra):
        self.spawn("service", "service", "run", "--data", self.folder / "service", "--listen", f"127.0.0.1:{self.port}", *extra)
        wait_for("the service", lambda: self.run("status", check=False).returncode == 0, 30)

    def start_agent(self, name):
        self.spawn(name, "agent", "run", "--state", self.folder / f"state-{name}")

    def register(self, name):
        token = self.json("server", "token")["token"]
        token_file = self.folder / f"token-{name}"
        token_file.write_text(token)
        self.run(
            "agent", "register", "--service", self.url, "--token-file", token_file,
            "--state", self.folder / f"state-{name}", "--name", name, "--ca-file", self.folder / "service" / "ca.pem",
        )

    def share(self, name="data"):
        self.run("share", "create", name)
        self.run("group", "create", name, "--share", name)

    def endpoint(self, server, path, group="data", *extra):
        Path(path).mkdir(parents=True, exist_ok=True)
        self.run("endpoint", "create", "--group", group, "--server", server, "--path", path, *extra)

    def site(self, name, *extra):
        """A registered server with a running agent and an endpoint at `folder/name`."""
        self.register(name)
        self.start_agent(name)
        path = self.folder / name
        self.endpoint(name, path, "data", *extra)
        return path

    def let_go(self):
        """What somebody does who knows that so many changes are meant: the mass-change brake holds nothing."""
        for name in [name for name in self.processes if name != "service"]:
            self.run("endpoint", "release", "--accept", "--yes", name, check=False)

    def in_sync(self):
        """Whether every endpoint says that it is in sync."""
        done = self.run("status", "--json", check=False)
        if done.returncode != 0:
            return False
        groups = json.loads(done.stdout).get("groups", [])
        endpoints = [endpoint for group in groups for endpoint in group.get("endpoints", [])]
        return bool(endpoints) and all(endpoint.get("in_sync") for endpoint in endpoints)


def count_entries(folder):
    """Files and directories below a folder, without what belongs to Polder or Syncthing."""
    count = 0
    todo = [os.fspath(folder)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                # Syncthing writes beside the target until a file is whole.
                if entry.name in (".polder", ".stfolder", ".stversions") or entry.name.startswith((".syncthing.", "~syncthing~")):
                    continue
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
    return count
