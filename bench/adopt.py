#!/usr/bin/env python3
"""A folder in use becomes tiered, and plain again: in place, nothing copied, whoever is killed when.

    bench/adopt.py [--binary target/debug/polder] [--only NAME …] [--keep]

One service, `a` with all bytes, `b` an ordinary endpoint with files that is switched over and back. Each case prints one line, `adopt CASE ok` or
`adopt CASE FAILED why`. Exit 0 only if all pass; 3 if the machine cannot run them (no root, no /dev/fuse): then nothing was shown.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cluster import descendants, wait_for
from tiered import KIB, MIB, SOON, LONG, check, content, residency, same

EXPORTS = Path("/etc/exports.d")


class World:
    def __init__(self, cluster):
        self.cluster = cluster
        self.a, self.b = cluster.site("a"), cluster.folder / "b"
        self.b.mkdir()
        self.files = {f"{folder}/file {n}": content(f"{folder}{n}", 200 * KIB + n) for folder in ("one", "two", "deep/er") for n in range(5)}
        self.files |= {f"top {n}": content(n, 50 * KIB) for n in range(8)}
        for name, data in self.files.items():
            (self.b / name).parent.mkdir(parents=True, exist_ok=True)
            (self.b / name).write_bytes(data)
        cluster.register("b")
        cluster.start_agent("b")
        cluster.endpoint("b", self.b, "data", "--free-space", "1%")
        self.settled()

    def end(self):
        """Nothing more than processes and mounts is left."""

    def settled(self):
        wait_for("both in sync", self.cluster.in_sync, SOON)

    def set_tiering(self, how):
        self.cluster.run("endpoint", "set", "b", f"--tiering={how}")

    def is_mounted(self):
        return os.path.ismount(self.b)

    def is_plain(self):
        """Whether the folder is laid out plainly. A mount whose holder has just died counts as none, and is an error to look into (`wait_for`)."""
        laid_out = (self.b / ".polder" / tree for tree in ("tree", "tree.new", "tree.old"))
        return not self.is_mounted() and not any(tree.exists() for tree in laid_out)

    def is_shown(self):
        """Whether all its files are seen: they move one by one. A mount whose holder died is an error until the next one takes it away (`wait_for`)."""
        return all((self.b / name).exists() for name in self.files)

    def told(self):
        """What `polder status` says of b."""
        return self.cluster.run("status", check=False).stdout.decode()

    def inodes(self):
        return {name: (self.b / name).stat().st_ino for name in self.files}

    def real_inodes(self):
        """Of the files behind the mount."""
        tree = cases.real_tree(self.cluster, "b", self.b)
        return {name: (tree / name).stat().st_ino for name in self.files}

    def all_right(self, what):
        for name, data in self.files.items():
            same(self.b / name, data, f"{what}: {name}")
            check((self.a / name).read_bytes() == data, f"{what}: {name} on a")

    def crosses(self, name):
        """A change of each side reaches the other."""
        for here, there in ((self.a, self.b), (self.b, self.a)):
            data = content(f"{name}{here.name}", 20 * KIB)
            one = f"{name} from {here.name}"
            (self.cluster.folder / "new").write_bytes(data)
            shutil.move(self.cluster.folder / "new", here / one)
            wait_for(f"{one} on {there.name}", lambda: (there / one).exists() and (there / one).read_bytes() == data, SOON)
            self.files[one] = data

    def tier_all(self):
        """Gives up what may be; how many files are tiered then."""
        self.cluster.run("tier", self.b, "--state", self.cluster.folder / "state-b", check=False)
        try:
            return sum(residency(self.b / name) == "tiered" for name in self.files)
        except OSError:
            # Its way to the plain layout was not stopped in time, and it comes back from there.
            return 0

    def tiered_again(self):
        self.set_tiering("on")
        wait_for("the mount", self.is_mounted, SOON)
        wait_for("its files", lambda: (self.b / "top 0").exists(), SOON)
        self.settled()
        wait_for("all is tiered", lambda: self.tier_all() == len(self.files), SOON)

    def plain_again(self, seconds=LONG):
        self.set_tiering("off")
        wait_for("the mount is gone", self.is_plain, seconds)
        wait_for("its files", lambda: (self.b / "top 0").exists(), SOON)
        self.settled()


def asleep(*command, **options):
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


def end(process):
    process.kill()
    process.wait()


def in_use(world):
    """Refused with the list of who looks, synced meanwhile, done by itself when they are gone; nothing is copied."""
    shell = asleep("sleep", "1000", cwd=world.b / "one")
    reader = asleep("tail", "-f", world.b / "two" / "file 1")
    elsewhere = world.cluster.folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    script = f'mount --make-rprivate / && mount --bind "{world.b}/deep" "{elsewhere}" && exec sleep 1000'
    private = asleep("unshare", "--mount", "sh", "-c", script)
    export = EXPORTS / f"polder-bench-{os.getpid()}.exports"
    made_folder = not EXPORTS.exists()
    try:
        EXPORTS.mkdir(exist_ok=True)
        export.write_text(f"{world.b} 127.0.0.1(ro)\n")
        before = world.inodes()
        world.set_tiering("on")
        wanted = [f"sleep ({shell.pid}) has its working directory", f"tail ({reader.pid}) has a file open", f"({private.pid}) has a mount", "is exported by NFS"]
        wait_for(f"the list of {wanted}", lambda: all(one in world.told() for one in wanted), SOON)
        world.crosses("while it waits")
        check(not world.is_mounted(), "laid out while it is in use")
        for gone in (lambda: end(shell), lambda: end(reader), lambda: end(private)):
            gone()
            time.sleep(3)
            check(not world.is_mounted(), "laid out while it is in use")
            check("is in use" in world.told(), "nobody is named any more")
        world.crosses("while one is left")
    finally:
        for process in (shell, reader, private):
            end(process)
        export.unlink()
        if made_folder:
            EXPORTS.rmdir()
    wait_for("the mount", world.is_mounted, SOON)
    wait_for("its files", world.is_shown, SOON)
    world.settled()
    real = world.real_inodes()
    check(all(real[name] == before[name] for name in before), "files were copied")
    check("is in use" not in world.told(), "somebody is named still")
    world.all_right("after it")
    world.crosses("through the gate")
    check(wait_for("all is tiered", lambda: world.tier_all() == len(world.files), SOON), "tiered")
    world.all_right("recalled")


def back(world):
    """All is recalled, the mount goes, the files stand where they were, the same inodes. Scenario 57, for tiering that is switched off."""
    wait_for("all is tiered", lambda: world.tier_all() == len(world.files), SOON)
    real = world.real_inodes()
    held = open(world.b / "top 3", "rb")
    world.plain_again()
    check(world.inodes() == real, "files were copied")
    check(held.read() == world.files["top 3"], "who has a file open goes on")
    held.close()
    check(sorted(os.listdir(world.b / ".polder")).count("tree") == 0, "a tree is left")
    for name in world.files:
        check(not any(one.startswith("trusted.polder") for one in os.listxattr(world.b / name)), f"a mark is left on {name}")
    world.all_right("plain")
    world.crosses("plain")


def service_away(world):
    """Without the share nothing can be recalled: the folder stays tiered, says why, and goes on when the share is back."""
    world.tiered_again()
    world.set_tiering("off")
    # As soon as it has begun; what is recalled by then may be.
    wait_for("it began", lambda: "recalled" in world.told() or not world.is_mounted(), SOON)
    if not world.is_mounted():
        world.tiered_again()
        world.set_tiering("off")
    world.cluster.stop("service")
    try:
        time.sleep(3)
        world.cluster.kill("b")
        world.cluster.start_agent("b")
        # Plain, if all had been recalled before the share went away.
        wait_for("the mount, or the plain folder", lambda: world.is_mounted() or world.is_plain(), SOON)
        wait_for("its files", world.is_shown, SOON)
    finally:
        world.cluster.start_service()
    wait_for("the mount is gone", world.is_plain, LONG)
    wait_for("its files", world.is_shown, SOON)
    world.settled()
    world.all_right("after it")


def changed_mind(world):
    """On again while it goes off: it stays mounted, or becomes so again, and tiers."""
    for _ in range(3):
        world.tiered_again()
        world.set_tiering("off")
        time.sleep(random.uniform(0, 1))
    world.tiered_again()
    world.all_right("after it")
    world.plain_again()


def no_room(world):
    """A volume without room for all of it: refused before the first byte, with the numbers; done once there is room."""
    # A volume of its own: full by a file beside the endpoint.
    image, point = world.cluster.folder / "volume", world.cluster.folder / "small"
    point.mkdir()
    with open(image, "wb") as file:
        file.truncate(400 * MIB)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    site = point / "site"
    try:
        world.cluster.register("c")
        world.cluster.start_agent("c")
        world.cluster.endpoint("c", site, "data", "--tiering", "--free-space", "1%", "--initial-download", "namespace-only")
        big = content("big", 60 * MIB)
        (world.cluster.folder / "new").write_bytes(big)
        shutil.move(world.cluster.folder / "new", world.a / "big")
        wait_for("big on c", lambda: os.path.ismount(site) and (site / "big").exists() and residency(site / "big") == "tiered", SOON)
        world.settled()
        free = shutil.disk_usage(point).free
        subprocess.run(["fallocate", "-l", str(free - 50 * MIB), point / "ballast"], check=True)
        world.cluster.run("endpoint", "set", "c", "--tiering=off")
        wait_for("the refusal", lambda: "room for" in world.told(), SOON)
        check(os.path.ismount(site) and residency(site / "big") == "tiered", "it began without room")
        (point / "ballast").unlink()
        wait_for("the mount is gone", lambda: not os.path.ismount(site), LONG)
        wait_for("the bytes", lambda: (site / "big").exists(), SOON)
        same(site / "big", big, "plain on c")
    finally:
        world.cluster.stop("c")
        for at in (site, point):
            while os.path.ismount(at) and subprocess.run(["umount", "--lazy", at], capture_output=True).returncode == 0:
                pass
        (world.a / "big").unlink(missing_ok=True)
        image.unlink()
    world.cluster.run("endpoint", "delete", "c", "--yes", check=False)


def killed(world):
    """The agent is killed again and again on the way there and back: every file has its bytes on both sides in the end."""
    def mayhem(over):
        while not over.is_set():
            time.sleep(random.uniform(0.05, 1.5))
            pids = descendants(world.cluster.processes["b"].pid)
            if random.random() < 0.3:
                world.cluster.kill("b")
                world.cluster.start_agent("b")
            elif len(pids) > 1:
                try:
                    os.kill(pids[1], signal.SIGKILL)
                except ProcessLookupError:
                    pass

    for round in range(2):
        for way in ("on", "off"):
            over = threading.Event()
            killer = threading.Thread(target=mayhem, args=(over,))
            killer.start()
            world.set_tiering(way)
            time.sleep(random.uniform(1, 8))
            over.set()
            killer.join()
            wait_for(f"tiering {way}", world.is_mounted if way == "on" else world.is_plain, LONG)
            wait_for("its files", world.is_shown, SOON)
            world.settled()
            if way == "on":
                world.tier_all()
            world.all_right(f"round {round}, {way}")


CASES = [in_use, back, killed, changed_mind, service_away, no_room]


def main():
    parser = cases.arguments(__doc__)
    options = parser.parse_args()
    lacking = cases.lacks_of_a_gate()
    if lacking:
        return cases.skipped("adopt", lacking)
    return cases.on_cluster("adopt", options, World, CASES)


if __name__ == "__main__":
    sys.exit(main())
