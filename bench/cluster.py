"""One service and any number of agents on this machine, driven through the command line alone.

The benchmarks and the end-to-end programs know nothing of Polder's inside: what they measure is what a user has.
"""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# What a look meets where something just goes, comes or changes over: a name that is gone since it was listed, a mount whose holder is dead until
# the next one takes it away, a process that has ended.
NOT_YET = {errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ENOTCONN, errno.ECONNABORTED, errno.ESTALE}


def wait_for(what, condition, seconds, pause=0.02):
    """Waits for a state with a bound; returns what the condition returned. A look that fails for one of `NOT_YET` has not found the state.

    A look counts for at most a second: while a machine stands still (suspended, or its processes frozen), nothing that
    is waited for can come true, and no patience is used up.
    """
    waited, last = 0.0, time.monotonic()
    while True:
        result, met = None, None
        try:
            result = condition()
        except OSError as error:
            if error.errno not in NOT_YET:
                raise
            met = error
        if result:
            return result
        now = time.monotonic()
        waited, last = waited + min(now - last, 1.0), now
        if waited > seconds:
            raise TimeoutError(f"{what} did not come true within {seconds} s{f': {met}' if met else ''}")
        time.sleep(pause)


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


class SlowLine:
    """A port that leads to another one; what comes back through it has a bounded rate, shared by all connections."""

    def __init__(self, port, bytes_per_s):
        self.port_behind, self.seconds_per_byte, self.turn = port, 1 / bytes_per_s, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.carried = 0
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.socket()
            # What waits in buffers is as good as come.
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            try:
                far.connect(("127.0.0.1", self.port_behind))
            except OSError:
                near.close()
                continue
            for one, other, is_slow in ((near, far, False), (far, near, True)):
                threading.Thread(target=self.carry, args=(one, other, is_slow), daemon=True).start()

    def carry(self, one, other, is_slow):
        try:
            while data := one.recv(4096):
                if is_slow:
                    with self.turn:
                        time.sleep(len(data) * self.seconds_per_byte)
                        self.carried += len(data)
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()


def signal_to(pid, sig):
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        pass


def state_of(pid):
    """The kernel's letter for what a process does; `X` when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def has_ended(pid):
    """Whether nothing of a process runs: it may wait to be collected, and of its threads the first may end before the others."""
    try:
        return state_of(pid) in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1
    except OSError:
        return True


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

    def kill(self, name):
        """Kills the process and its children, by pid; what the system does when memory runs out. Returns when all of them have ended: until then a worker
        answers through its mount."""
        process = self.processes.pop(name)
        signal_to(process.pid, signal.SIGSTOP)
        # Who has stopped starts nobody beside those that are listed.
        wait_for(f"{name} to stand still", lambda: state_of(process.pid) in "TZX", 60)
        pids = descendants(process.pid)
        for pid in pids:
            signal_to(pid, signal.SIGKILL)
        wait_for(f"the end of {name}", lambda: all(has_ended(pid) for pid in pids), 60)
        process.wait()

    def stop(self, name):
        """Ends a process as its service manager would, which waits longer than a loaded machine takes; then kills it, and says so."""
        process = self.processes.get(name)
        if process is None:
            return
        process.terminate()
        try:
            wait_for(f"the end of {name}", lambda: process.poll() is not None, 60)
            self.processes.pop(name)
        except TimeoutError as error:
            print(f"{error}: it is killed", flush=True)
            self.kill(name)

    def start_service(self, *extra):
        self.spawn("service", "service", "run", "--data", self.folder / "service", "--listen", f"127.0.0.1:{self.port}", *extra)
        wait_for("the service", lambda: self.run("status", check=False).returncode == 0, 30)

    def start_agent(self, name):
        self.spawn(name, "agent", "run", "--state", self.folder / f"state-{name}")

    def register(self, name, url=None):
        """Registers a server, which reaches the service at `url` from then on."""
        token = self.json("server", "token")["token"]
        token_file = self.folder / f"token-{name}"
        token_file.write_text(token)
        self.run(
            "agent", "register", "--service", url or self.url, "--token-file", token_file,
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


def write_new(path, data):
    """Makes a file that is whole from the moment it has its name: the empty one that a plain write begins with may be a version of its own, which
    arrives elsewhere and is displaced there."""
    fd = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o644)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        # With a folder it is linkat, which follows.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


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
