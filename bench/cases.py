"""What the end-to-end programs have in common: named cases, one line for each, and what is left behind."""

import argparse
import os
import shutil
import signal
import subprocess
import time
import traceback
from pathlib import Path

from cluster import Cluster, descendants, remove_folder, wait_for

SKIPPED = 3
# How long a worker may take to have its tree open.
TREE_SECONDS = 60
# How often what does not come in sync is let go, if it is held.
LET_GO_SECONDS = 3


def check(holds, what):
    if not holds:
        raise AssertionError(what)


def arguments(doc):
    """The options that all of them have; `doc` is the program's own."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--binary", default="target/debug/polder")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--keep", action="store_true", help="leave the folder with the logs")
    return parser


def skipped(program, lacking):
    print(f"{program} SKIPPED {lacking}: NOTHING WAS SHOWN", flush=True)
    return SKIPPED


def run(program, cases, world, only, after_each=lambda: None):
    """Runs the cases that are asked for; how many failed."""
    failed = 0
    for case in cases:
        name = case.__name__
        if only and name not in only:
            continue
        began = time.monotonic()
        try:
            case(world)
            print(f"{program} {name} ok ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception as error:
            failed += 1
            last = traceback.extract_tb(error.__traceback__)
            line = next((frame.lineno for frame in reversed(last) if frame.name == name), 0)
            print(f"{program} {name} FAILED line {line}: {type(error).__name__}: {error}", flush=True)
        finally:
            after_each()
    return failed


def lacks_of_a_gate(*programs):
    """Why no gate can be mounted and tried here, in words; `None` when it can."""
    if os.geteuid() != 0:
        return "not root"
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse"
    missing = [program for program in programs if shutil.which(program) is None]
    return f"no {', '.join(missing)}" if missing else None


def worker_of(cluster, name):
    """The worker of a server's agent: its holder's only child. `None` between two."""
    children = descendants(cluster.processes[name].pid)[1:]
    return children[0] if children else None


def real_tree(cluster, name, endpoint):
    """The tree behind an endpoint's mount, through a descriptor of the worker, for as long as that one lives."""
    def found():
        worker = worker_of(cluster, name)
        for fd in os.listdir(f"/proc/{worker}/fd") if worker else []:
            try:
                if os.readlink(f"/proc/{worker}/fd/{fd}") == str(endpoint / ".polder" / "tree"):
                    return Path(f"/proc/{worker}/fd/{fd}")
            except OSError:
                pass
        return None

    return wait_for("a worker with the tree", found, TREE_SECONDS)


class Tiered:
    """Server a with all bytes, and server b whose endpoint is tiered and came as names."""

    # How long the mount may take.
    soon = 60

    def __init__(self, cluster, folder=None, *options, with_a=True):
        self.cluster, self.asked = cluster, 0
        self.state = cluster.folder / "state-b"
        self.a = cluster.site("a") if with_a else cluster.folder / "a"
        self.b = folder or cluster.folder / "b"
        cluster.register("b")
        cluster.start_agent("b")
        # What the policies would tier by themselves is not what most look at: they want one percent free.
        names_first = ("--tiering", "--free-space", "1%", "--initial-download", "namespace-only")
        cluster.endpoint("b", self.b, "data", *names_first, *options)
        wait_for("the mount", lambda: os.path.ismount(self.b), self.soon)

    def here(self, *arguments, check=False):
        return self.cluster.run(*arguments, "--state", self.state, check=check)

    def worker(self):
        """The worker of b; `None` between two."""
        return worker_of(self.cluster, "b")

    def tree(self):
        """The real tree of b behind the mount."""
        return real_tree(self.cluster, "b", self.b)

    def kill_worker(self):
        """Who was killed; `None` if there was nobody."""
        pid = self.worker()
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return None
        return pid

    def serves(self):
        """Asks what the kernel does not know yet; returns once a worker has answered."""
        self.asked += 1
        return not os.path.exists(self.b / f"nothing-{os.getpid()}-{self.asked}")

    def settled(self, seconds=None):
        """Waits until every endpoint says that it is in sync; what they say else is part of the error. What the mass-change brake
        holds is let go: a program of many cases removes more of others' files in ten minutes than a person may without being asked."""
        begun = time.monotonic()

        def in_sync():
            nonlocal begun
            if self.cluster.in_sync():
                return True
            if time.monotonic() - begun > LET_GO_SECONDS:
                self.cluster.let_go()
                begun = time.monotonic()
            return False

        try:
            wait_for("both in sync", in_sync, seconds or self.soon)
        except TimeoutError as error:
            told = self.cluster.run("status", check=False).stdout + self.cluster.run("errors", check=False).stdout
            raise TimeoutError(f"{error}: {told.decode(errors='replace')}") from None

    def end(self):
        """Takes away what is left when nothing runs and nothing is mounted any more."""


def on_cluster(program, options, make, cases, after_each=None):
    """Runs cases on a world of their own cluster, and takes it away. The exit code."""
    failed, world = 1, None
    with Cluster(options.binary, keep=True) as cluster:
        try:
            cluster.start_service()
            cluster.share()
            world = make(cluster)
            failed = run(program, cases, world, options.only, lambda: after_each and after_each(world))
        finally:
            for name in list(cluster.processes):
                cluster.stop(name)
            unmount(world.b if world else cluster.folder / "b")
            if world:
                world.end()
    return finish(cluster, options.keep, failed)


def fill(ballast):
    """Takes all room of a volume."""
    with open(ballast, "wb", buffering=0) as out:
        block = b"\1" * (1 << 20)
        while block:
            try:
                out.write(block)
            except OSError:
                block = block[: len(block) // 2]


def unmount(path):
    """Takes all mounts at a path away, dead ones too."""
    while os.path.ismount(path) or subprocess.run(["umount", "--lazy", path], capture_output=True).returncode == 0:
        subprocess.run(["umount", "--lazy", path], capture_output=True)


def finish(cluster, keep, failed):
    """The folder with the logs goes, unless it is wanted or needed. The exit code."""
    if keep or failed:
        print(f"the logs are in {cluster.folder}/logs", flush=True)
    else:
        remove_folder(cluster.folder)
    return 1 if failed else 0
