#!/usr/bin/env python3
"""`polder mount` and `polder unmount`: a share as a folder, names first.

    bench/mount.py [--binary target/debug/polder] [--only NAME …] [--keep]

One service, `a` with all bytes, `b` that mounts the share. Each case prints one line, `mount CASE ok` or `mount CASE FAILED why`. Exit 0 only if all
pass; 3 if the machine cannot run them (no root, no /dev/fuse): then nothing was shown.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cases import check
from cluster import wait_for, write_new
from tiered import KIB, SOON, content, residency, same

FILES = {"a report": 70 * KIB, "folder/large": 900 * KIB, "folder/deeper/small": 300, "folder/empty": 0, "folder/middle": 40 * KIB}


class World(cases.Tiered):
    """Server a has the share's files; b has an agent and no endpoint."""

    def __init__(self, cluster):
        self.cluster, self.asked = cluster, 0
        self.a, self.b, self.state = cluster.site("a"), cluster.folder / "b", cluster.folder / "state-b"
        cluster.register("b")
        self.files = {}
        for name, size in FILES.items():
            self.put(self.a, name, content(name, size))
        # A server that has not noticed its own files yet says that it is in sync.
        listed = lambda: cluster.run("share", "ls", "-r", "data:/").decode()
        wait_for("the share has them", lambda: all(Path(name).name in listed() for name in FILES) and cluster.in_sync(), SOON)

    def put(self, folder, name, data):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder == self.a and not path.exists():
            write_new(path, data)
        else:
            path.write_bytes(data)
        self.files[name] = data

    def mount(self, *options, check=True, share="data"):
        done = self.cluster.run("mount", share, self.b, "--state", self.state, "--json", *options, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"exit {done.returncode}: {done.stderr.decode()}")
        return (json.loads(done.stdout) if done.returncode == 0 else None), done.returncode, done.stderr.decode()

    def unmount(self, *options, check=True):
        done = self.cluster.run("unmount", self.b, "--state", self.state, *options, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"exit {done.returncode}: {done.stderr.decode()}")
        return done.returncode, done.stderr.decode()

    def mounted(self):
        if not os.path.ismount(self.b):
            self.mount()

    def endpoints(self):
        return self.cluster.json("endpoint", "list", "--server", "b")

    def is_going(self):
        """Whether the endpoint is being removed."""
        return all(one.get("removing") for one in self.endpoints())

    def names(self, folder):
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if ".polder" not in path.relative_to(folder).parts}
        return {name for name in found if not (folder / name).is_dir()}

    def all_there(self, folder):
        check(self.names(folder) == set(self.files), f"names in {folder}: {self.names(folder)}")
        for name, data in self.files.items():
            same(folder / name, data, name)

    def share_as_it_was(self):
        """a has all, and nothing else: no conflict, nothing deleted, nothing twice."""
        wait_for("a in sync", self.cluster.in_sync, SOON)
        self.all_there(self.a)


def without_an_agent(world):
    """Who has no agent is told what to run."""
    _, code, said = world.mount(check=False)
    check(code == 6 and "polder agent run" in said, f"exit {code}: {said}")
    done = world.cluster.run("mount", "data", world.b, "--state", world.cluster.folder / "nowhere", check=False)
    check(done.returncode == 6 and b"polder agent register" in done.stderr, f"exit {done.returncode}: {done.stderr}")
    check(not world.b.exists(), "the folder was made")
    world.cluster.start_agent("b")
    wait_for("the agent", lambda: world.cluster.run("pause", "--state", world.state, check=False).returncode == 0, SOON)
    world.cluster.run("resume", "--state", world.state)


def refused(world):
    """What would surprise is refused, and nothing is left of it."""
    check(world.mount(check=False, share="nothing")[1] == 4, "a share that is not there")
    world.b.mkdir()
    (world.b / "own").write_text("mine")
    _, code, said = world.mount(check=False)
    check(code == 5 and "not empty" in said, f"exit {code}: {said}")
    (world.b / "own").unlink()
    told, code, _ = world.mount("--dry-run")
    check(code == 0 and told["created"], f"told {told}")
    world.b.rmdir()
    world.mount("--dry-run")
    check(not world.b.exists() and not world.endpoints(), "a dry run left something")
    check(world.unmount(check=False)[0] == 4, "what is not mounted")


def mounted(world):
    """A share is seen as names at once; done again nothing changes; the quota is the tenth that is promised, or what is said."""
    told, _, said = world.mount()
    check(os.path.ismount(world.b) and told["created"] and told["items"] == 7, f"told {told}")
    check(told["cache_quota_bytes"] >= 1 << 30 and "export" in said, f"told {told}: {said}")
    check(world.names(world.b) == set(world.files), f"names {world.names(world.b)}")
    check(residency(world.b / "folder/large") == "tiered", "its bytes are here")
    again, _, _ = world.mount()
    check(not again["created"] and again["endpoint"] == told["endpoint"], f"told {again}")
    again, _, _ = world.mount("--cache-quota", "5GiB")
    check(again["cache_quota_bytes"] == 5 << 30, f"told {again}")
    check(len(world.endpoints()) == 1, "there are two")


def used(world):
    """Reads recall, writes go to the share, and the other server's changes are seen."""
    world.mounted()
    same(world.b / "folder/large", world.files["folder/large"], "the large one")
    world.put(world.b, "written/here", content("here", 50 * KIB))
    world.put(world.a, "written/there", content("there", 60 * KIB))
    size = lambda path: path.stat().st_size == len(world.files[str(path.relative_to(path.parents[1]))])
    wait_for("both have both", lambda: size(world.a / "written/here") and size(world.b / "written/there"), SOON)
    world.settled()
    world.all_there(world.a)
    world.all_there(world.b)


def quota(world):
    """No more stays here than is allowed."""
    world.mounted()
    world.mount("--cache-quota", "1MiB")
    for number in range(4):
        world.put(world.a, f"many/{number}", content(f"many {number}", 700 * KIB))
    # A server that has not noticed its own files yet says that it is in sync.
    wait_for("their names", lambda: all((world.b / f"many/{number}").exists() for number in range(4)), SOON)
    world.settled()
    for number in range(4):
        same(world.b / f"many/{number}", world.files[f"many/{number}"], f"many/{number}")

    def is_kept():
        blocks = sum((world.b / name).stat().st_size for name in world.files if residency(world.b / name) == "resident")
        return blocks <= 1 << 20

    wait_for("the quota is kept", is_kept, SOON)
    world.mount("--cache-quota", "1GiB")


def restarted(world):
    """An agent that starts again shows the share without being asked."""
    world.mounted()
    world.cluster.stop("b")
    check(not os.path.ismount(world.b), "it is mounted without an agent")
    world.cluster.start_agent("b")
    wait_for("the mount", lambda: os.path.ismount(world.b) and (world.b / "a report").exists(), SOON)
    world.all_there(world.b)


def in_use(world):
    """A folder that somebody uses is not taken away from them; the endpoint stays."""
    world.mounted()
    user = subprocess.Popen(["sleep", "600"], cwd=world.b)
    try:
        code, said = world.unmount(check=False)
        check(code == 5 and "sleep" in said, f"exit {code}: {said}")
    finally:
        user.kill()
        user.wait()
    check(os.path.ismount(world.b) and world.endpoints(), "it was unmounted")


def unmounted(world):
    """All that was written is in the share, and nothing is left here, the folder's own state least; what was read is gone, too, and what was replaced. Then
    again."""
    world.mounted()
    same(world.b / "a report", world.files["a report"], "a report")
    # Where the volume is short of room it is tiered again by now: what is displaced is then a placeholder.
    newer = content("a newer report", 60 * KIB)
    world.put(world.a, "a report", newer)
    wait_for("the newer one", lambda: (world.b / "a report").read_bytes() == newer, SOON)
    world.put(world.b, "last/words", content("last", 80 * KIB))
    (world.b / "a report").rename(world.b / "another name")
    world.files["another name"] = world.files.pop("a report")
    (world.b / "folder/middle").unlink()
    del world.files["folder/middle"]
    os.link(world.b / "last/words", world.b / "last/second name")
    world.files["last/second name"] = world.files["last/words"]
    world.unmount()
    check(not os.path.ismount(world.b) and not world.endpoints(), "it is still there")
    check(not list(world.b.iterdir()), f"it has {list(world.b.iterdir())}")
    (world.b / "mine").write_text("a plain folder again")
    (world.b / "mine").unlink()
    world.share_as_it_was()
    check(not list(world.state.glob("unmount-*")), "the wish is left")
    told, _, _ = world.mount()
    check(told["created"], f"told {told}")
    world.settled()
    world.all_there(world.b)


def left_out(world):
    """What the share never gets stays in the folder, which is then no empty one."""
    world.mounted()
    (world.b / "folder" / "draft.tmp").write_text("nobody else has this")
    world.settled()
    _, said = world.unmount()
    check("share does not have" in said, f"said {said}")
    check((world.b / "folder" / "draft.tmp").read_text() == "nobody else has this", "it is gone")
    check(world.names(world.b) == {"folder/draft.tmp"}, f"names {world.names(world.b)}")
    check(world.mount(check=False)[1] == 5, "mounted over files")
    shutil.rmtree(world.b / "folder")
    world.share_as_it_was()


def service_away(world):
    """Changes that cannot be sent keep the mount, over a death of the agent too; once they can be, it goes by itself."""
    world.mounted()
    world.settled()
    world.cluster.run("pause", "--state", world.state)
    world.put(world.b, "held/back", content("held", 30 * KIB))
    client = subprocess.Popen(
        [world.cluster.binary, "unmount", str(world.b), "--state", str(world.state)],
        env=world.cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    wait_for("it is to go", lambda: list(world.state.glob("unmount-*")) and world.is_going(), SOON)
    same(world.b / "held/back", world.files["held/back"], "held/back")
    world.kill_worker()
    wait_for("it serves", world.serves, SOON)
    check(client.poll() is None, f"it ended: {client.communicate()[0] if client.poll() is not None else ''}")
    world.cluster.run("resume", "--state", world.state)
    said = client.communicate(timeout=SOON)[0]
    check(client.returncode == 0, f"exit {client.returncode}: {said}")
    check(not list(world.b.iterdir()), f"it has {list(world.b.iterdir())}")
    world.share_as_it_was()


CASES = [without_an_agent, refused, mounted, used, quota, restarted, in_use, unmounted, left_out, service_away]


def main():
    options = cases.arguments(__doc__).parse_args()
    lacking = cases.lacks_of_a_gate()
    if lacking:
        return cases.skipped("mount", lacking)
    return cases.on_cluster("mount", options, World, CASES)


if __name__ == "__main__":
    sys.exit(main())
