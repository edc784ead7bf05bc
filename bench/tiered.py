#!/usr/bin/env python3
"""Tiered endpoints, end to end, through real programs: a reader gets the right bytes or an error, whatever is alive or dead.

    bench/tiered.py [--binary target/debug/polder] [--only NAME …] [--quick] [--keep]

One service, `a` with all bytes, `b` with names only until read. Each case prints one line, `tiered CASE ok` or `tiered CASE FAILED why`. Exit 0 only
if all pass; 3 if the machine cannot run them (no root, no /dev/fuse, no ext4 or XFS): then nothing was shown.
"""

import errno
import mmap
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cases import check
from cluster import wait_for

KIB, MIB = 1 << 10, 1 << 20
SOON, LONG = 90, 240
RESIDENCY = "user.polder.residency"


def content(seed, size):
    """Bytes of which none is zero, so that a hole is seen."""
    some = random.Random(seed).randbytes(min(size, 256 * KIB)).replace(b"\0", b"\1")
    out = bytearray()
    while len(out) < size:
        out += some[: size - len(out)]
        some = some[7:] + bytes([1 + len(out) % 255]) * 7
    return bytes(out)


def residency(path):
    return os.getxattr(path, RESIDENCY).decode()


def same(path, wanted, what):
    with open(path, "rb") as file:
        found = file.read()
    if found != wanted:
        at = next((n for n, (x, y) in enumerate(zip(found, wanted)) if x != y), min(len(found), len(wanted)))
        raise AssertionError(f"{what}: {len(found)} bytes of {len(wanted)}, the first wrong one at {at}")


class World(cases.Tiered):
    soon = SOON

    def __init__(self, cluster, quick):
        super().__init__(cluster)
        self.count, self.quick = 0, quick

    def make(self, size=300 * KIB, name=None, mode=0o644, owner=None):
        """A file on a that is tiered on b: its path on both, and its bytes. `owner` is a user's and a group's number."""
        self.count += 1
        name = name or f"file-{self.count}"
        data = content(self.count, size)
        # Made outside: seen half made, it would arrive in two steps, of which the second is an edit of a file that is here.
        new = self.cluster.folder / "new"
        new.write_bytes(data)
        new.chmod(mode)
        if owner is not None:
            os.chown(new, owner, owner)
        new.rename(self.a / name)
        self.arrived(name, size)
        return self.a / name, self.b / name, data

    def arrived(self, name, size):
        here = self.b / name
        wait_for(f"{name} on b", lambda: here.exists() and here.stat().st_size == size, SOON)
        check(residency(here) == "tiered", f"{name} arrived {residency(here)}")

    def on_a(self, name, wanted, seconds=SOON):
        there = self.a / name
        wait_for(f"{name} on a", lambda: there.exists() and there.read_bytes() == wanted, seconds)

    def real(self, name):
        return self.tree() / name


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, timeout=LONG, **options)
    check(done.returncode == 0, f"{command[0]}: exit {done.returncode} {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def python_mmap(path):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        return bytes(mapped)


def direct(path, size):
    """O_DIRECT in pieces of 1 MiB."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    room, out = mmap.mmap(-1, MIB), bytearray()
    try:
        while (count := os.preadv(fd, [room], len(out))) > 0:
            out += room[:count]
    finally:
        os.close(fd)
    return bytes(out[:size])


def spliced(path):
    left, right = os.pipe()
    out = bytearray()
    with open(path, "rb") as file:
        while (count := os.splice(file.fileno(), right, 64 * KIB)) > 0:
            out += os.read(left, count)
    os.close(left)
    os.close(right)
    return bytes(out)


def sent(path, to):
    with open(path, "rb") as file, open(to, "wb") as out:
        at = 0
        while (count := os.sendfile(out.fileno(), file.fileno(), at, MIB)) > 0:
            at += count


def ranged(path, to):
    with open(path, "rb") as file, open(to, "wb") as out:
        while os.copy_file_range(file.fileno(), out.fileno(), MIB) > 0:
            pass


def backwards(path, size):
    """4 KiB pieces from the end to the beginning."""
    pieces = []
    with open(path, "rb", buffering=0) as file:
        for at in range((size - 1) // 4096 * 4096, -1, -4096):
            pieces.append(os.pread(file.fileno(), 4096, at))
    return b"".join(reversed(pieces))


def arrivals(world):
    """Names, sizes, times and modes are there; bytes are not; what looks at holes first sees none. Scenario 56: nor does the agent recall."""
    there, here, data = world.make(3 * MIB, mode=0o640)
    small = world.a / "small"
    small.write_bytes(b"small")
    wait_for("the small file", lambda: (world.b / "small").exists(), SOON)
    check(residency(world.b / "small") == "resident", "a small file comes whole")
    one, other = there.stat(), here.stat()
    check((one.st_size, one.st_mtime_ns, one.st_mode) == (other.st_size, other.st_mtime_ns, other.st_mode), "attributes differ")
    check(other.st_blocks * 512 >= len(data), "st_blocks of a tiered file")
    check(world.real(here.name).stat().st_blocks <= 16, "its blocks are on the disk")
    with open(here, "rb") as file:
        check(os.lseek(file.fileno(), 0, os.SEEK_HOLE) == len(data), "a hole is told")
    check(not (world.b / ".polder").exists() and ".polder" not in os.listdir(world.b), ".polder is seen")
    check("trusted.polder" not in os.listxattr(here), "the mark is seen")
    world.settled()
    check(residency(here) == "tiered", "recalled by looks alone")


def readers(world):
    """Each program on a tiered file of its own: scenario 42; mv of scenario 53."""
    out = world.cluster.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    size = 1_500_003

    def to(command):
        def read(path):
            run(*command, path, out / "copy")
            return (out / "copy").read_bytes()

        return read

    def tar(path):
        run("tar", "--sparse", "-cf", out / "archive", "-C", path.parent, path.name)
        run("tar", "-xf", out / "archive", "-C", out)
        return (out / path.name).read_bytes()

    def into(copy):
        def read(path):
            copy(path, out / "copy")
            return (out / "copy").read_bytes()

        return read

    def within(path):
        # The kernel copies ranges within one file system only.
        copy = world.b / "ranged"
        ranged(path, copy)
        return copy.read_bytes()

    programs = {
        "cat": lambda path: run("cat", path),
        "dd": lambda path: run("dd", f"if={path}", "bs=4k", "status=none"),
        "dd direct": lambda path: direct(path, size),
        "cp": to(["cp"]),
        "cp sparse": to(["cp", "--sparse=always"]),
        "cp reflink": to(["cp", "--reflink=auto"]),
        "install": to(["install"]),
        "tar": tar,
        "rsync": to(["rsync"]),
        "rsync -S": to(["rsync", "-S"]),
        "copyfile": into(shutil.copyfile),
        "mmap": python_mmap,
        "splice": spliced,
        "sendfile": into(sent),
        "copy_file_range": within,
        "backwards": lambda path: backwards(path, size),
    }
    for name, read in programs.items():
        for old in out.glob("*"):
            old.unlink()
        _, here, data = world.make(size, name=f"for {name}")
        found = read(here)
        check(found == data, f"{name}: {len(found)} bytes of {len(data)}, {found.count(0)} zeros")
        check(read(here) == data, f"{name}, again")
    _, here, data = world.make(size, name="for mv")
    shutil.move(here, out / "moved")
    same(out / "moved", data, "mv to another file system")
    wait_for("the removal on a", lambda: not (world.a / "for mv").exists(), SOON)


def executables(world):
    """A tiered program runs."""
    new = world.cluster.folder / "new program"
    shutil.copyfile("/bin/cat", new)
    new.chmod(0o755)
    new.rename(world.a / "program")
    here = world.b / "program"
    wait_for("the program", lambda: here.exists() and os.access(here, os.X_OK), SOON)
    check(residency(here) == "tiered", "it is here already")
    check(run(here, "/proc/sys/kernel/ostype") == b"Linux\n", "it ran wrong")


def resident_again(world):
    """A file that was read whole is resident, and that is no change."""
    there, here, data = world.make(2 * MIB)
    before = there.stat()
    same(here, data, "first read")
    wait_for("it is resident", lambda: residency(here) == "resident", SOON)
    world.settled()
    time.sleep(1)
    after = there.stat()
    check((before.st_mtime_ns, before.st_ctime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ctime_ns, after.st_ino), "a change came to a")
    check(here.stat().st_mtime_ns == before.st_mtime_ns, "the time moved")
    same(here, data, "second read")
    one = world.make(20 * MIB)
    with open(one[1], "rb") as file:
        check(os.pread(file.fileno(), 4096, 10 * MIB) == one[2][10 * MIB : 10 * MIB + 4096], "a piece from the middle")
    check(residency(one[1]) == "partial", f"a piece made it {residency(one[1])}")
    blocks = world.real(one[1].name).stat().st_blocks * 512
    check(blocks <= 4 * MIB, f"4 KiB brought {blocks} bytes")


def by_command(world):
    """`polder tier` and `polder recall`: given up only when the share holds it verified, and the same bytes come back."""
    state = world.cluster.folder / "state-b"
    mine = content("mine", 3 * MIB)
    made = world.b / "made on b"
    made.write_bytes(mine)
    world.on_a(made.name, mine)
    before = (world.a / made.name).stat()
    world.settled()

    def tiered():
        world.cluster.run("tier", made, "--state", state, check=False)
        return residency(made) == "tiered"

    with open(made, "rb"):
        world.cluster.run("tier", made, "--state", state, check=False)
        check(residency(made) == "resident", "given up while it was open")
    wait_for("it is tiered", tiered, SOON)
    check(world.real(made.name).stat().st_blocks <= 16, "its blocks are left")
    # As it was, of course: tiering is not a change.
    same(made, mine, "read back")
    for _ in range(3):
        wait_for("it is tiered", tiered, SOON)
        world.cluster.run("recall", made, "--state", state)
        check(residency(made) == "resident", "recalled")
        same(made, mine, "recalled")
    world.settled()
    after = (world.a / made.name).stat()
    check((before.st_mtime_ns, before.st_ctime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ctime_ns, after.st_ino), "a change came to a")


def hollow(world):
    """Files with holes, of zeros and of nothing are no placeholders, whatever they look like; they leave and come back as they are. Scenario 52."""
    # A cluster larger than what a hole must have to be kept, and data at the end, in the middle, or nowhere.
    data, far = content("hollow", 256 * KIB), 4 * MIB
    made = {
        "hole first": [(far, data)], "hole last": [(0, data)], "hole between": [(0, data), (far, data)],
        "zeros": [(0, bytes(2 * MIB))], "only a hole": [], "nothing": [],
    }
    sizes = dict.fromkeys(made, 2 * far) | {"zeros": 2 * MIB, "nothing": 0}
    wanted = {}
    for name, parts in made.items():
        with open(world.b / name, "wb") as file:
            file.truncate(sizes[name])
            for at, part in parts:
                os.pwrite(file.fileno(), part, at)
        wanted[name] = (world.b / name).read_bytes()
        check(len(wanted[name]) == sizes[name] and residency(world.b / name) == "resident", name)
    for name in made:
        world.on_a(name, wanted[name])
        check((world.a / name).stat().st_blocks * 512 <= sum(len(part) for _, part in made[name]) + 64 * KIB, f"{name} takes {(world.a / name).stat().st_blocks * 512} bytes on a")

    def left():
        world.here("tier", *(world.b / name for name in made))
        return {name for name in made if residency(world.b / name) == "tiered"}

    # A file without a size has no bytes to give up.
    wait_for("all but one leave", lambda: left() == made.keys() - {"nothing"}, SOON)
    for name in made:
        same(world.b / name, wanted[name], f"{name}, read back")
    wait_for("all but one leave again", lambda: left() == made.keys() - {"nothing"}, SOON)
    world.cluster.run("recall", *(world.b / name for name in made), "--state", world.state)
    for name in made:
        check(residency(world.b / name) == "resident", f"{name} is {residency(world.b / name)}")
        same(world.b / name, wanted[name], f"{name}, recalled")
        here = world.real(name).stat().st_blocks * 512
        check(here <= sum(len(part) for _, part in made[name]) + 128 * KIB, f"{name} takes {here} bytes after its recall")
    world.settled()


def deaths(world):
    """The worker is killed again and again under readers: no error, no wrong byte. Scenario 39."""
    files = [world.make(700 * KIB) for _ in range(12 if world.quick else 40)]
    failures, over = [], threading.Event()

    def read(part):
        for _, here, data in part:
            try:
                with open(here, "rb", buffering=0) as file:
                    for at in range(0, len(data), 64 * KIB):
                        check(os.pread(file.fileno(), 64 * KIB, at) == data[at : at + 64 * KIB], f"wrong bytes at {at}")
                        time.sleep(0.05)
                same(here, data, here.name)
            except Exception as error:
                failures.append(f"{here.name}: {error}")

    threads = [threading.Thread(target=read, args=(files[n::4],)) for n in range(4)]
    kills = 0

    def kill():
        nonlocal kills
        # The first ones soon: on a fast machine all is read within two seconds. Later ones leave time to fetch on a slow one.
        while not over.wait(random.uniform(0.1, 0.4) if kills < 2 else random.uniform(0.3, 4)):
            kills += world.kill_worker() is not None

    killer = threading.Thread(target=kill)
    killer.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG * 2)
    over.set()
    killer.join()
    check(not failures, f"{len(failures)} failed: {failures[:3]}")
    check(not any(thread.is_alive() for thread in threads), "readers hang")
    check(kills > 0, "nobody was killed")
    world.settled()


def service_away(world):
    """Without the service: names and what is here go on, absent bytes are waited for or an error, and a signal ends the wait."""
    _, here, data = world.make(MIB)
    _, resident, other = world.make(MIB)
    same(resident, other, "before")
    wait_for("it is resident", lambda: residency(resident) == "resident", SOON)
    world.settled()
    world.cluster.stop("service")
    try:
        same(resident, other, "resident, without the service")
        check(here.stat().st_size == len(data), "its size")
        for sig in (signal.SIGINT, signal.SIGKILL):
            for command in (["cat", here], ["dd", f"if={here}", "iflag=direct", "bs=64k"]):
                reader = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(0.5)
                check(reader.poll() is None, f"{command[0]} did not wait: exit {reader.poll()}")
                began = time.monotonic()
                reader.send_signal(sig)
                reader.wait(SOON)
                # A loaded machine may take its time, but nobody waits for the service any more.
                check(time.monotonic() - began < 5, f"{command[0]} was gone {time.monotonic() - began:.2f} s after the signal")
        world.kill_worker()
        check(here.stat().st_size == len(data), "names, with a new worker and no service")
        same(resident, other, "resident, with a new worker and no service")
        waits = subprocess.Popen(["cat", str(here)], stdout=subprocess.PIPE)
        time.sleep(0.5)
    finally:
        world.cluster.start_service()
    found, _ = waits.communicate(timeout=LONG)
    check(waits.returncode == 0 and found == data, f"after the wait: exit {waits.returncode}, {len(found)} bytes")
    world.settled()


def remote_changes(world):
    """Edits, removals, renames and attributes of tiered files that come from a: without a download. Scenarios 49 and 50."""
    there, here, data = world.make(5 * MIB)
    with open(here, "rb") as old:
        check(os.pread(old.fileno(), 4096, 0) == data[:4096], "the old version")
        newer = content("newer", 5 * MIB + 5)
        new = world.cluster.folder / "newer"
        new.write_bytes(newer)
        new.rename(there)
        wait_for("the new version", lambda: here.stat().st_size == len(newer), SOON)
        check(residency(here) == "tiered", f"the edit made it {residency(here)}")
        check(os.pread(old.fileno(), 5 * MIB, 0) == data, "who has the old version open goes on with it")
    same(here, newer, "the new version")
    there, here, data = world.make(MIB)
    there.chmod(0o600)
    os.utime(there, ns=(10**18, 10**18))
    wait_for("the attributes", lambda: (stat.S_IMODE(here.stat().st_mode), here.stat().st_mtime_ns) == (0o600, 10**18), SOON)
    there.rename(world.a / "renamed")
    wait_for("the rename", lambda: (world.b / "renamed").exists() and not here.exists(), SOON)
    check(residency(world.b / "renamed") == "tiered", "recalled by it")
    same(world.b / "renamed", data, "after it all")
    there, here, data = world.make(MIB)
    there.unlink()
    wait_for("the removal", lambda: not here.exists(), SOON)
    world.settled()


def local_changes(world):
    """Renames, attributes and removals of tiered files on b reach a without a recall; writes recall first. Scenarios 43 to 46."""
    there, here, data = world.make(MIB)
    here.chmod(0o604)
    os.utime(here, ns=(10**18, 10**18 + 7))
    here.rename(world.b / "moved here")
    moved = world.a / "moved here"
    wait_for("the rename", lambda: moved.exists() and not there.exists(), SOON)
    wait_for("the attributes", lambda: (stat.S_IMODE(moved.stat().st_mode), moved.stat().st_mtime_ns) == (0o604, 10**18 + 7), SOON)
    check(residency(world.b / "moved here") == "tiered", "recalled by it")
    check(moved.read_bytes() == data, "a's bytes")
    there, here, data = world.make(MIB)
    with open(here, "ab") as file:
        file.write(b"appended")
    world.on_a(here.name, data + b"appended")
    there, here, data = world.make(MIB)
    with open(here, "r+b") as file:
        os.pwrite(file.fileno(), b"in the middle", 500_000)
    world.on_a(here.name, data[:500_000] + b"in the middle" + data[500_013:])
    there, here, data = world.make(MIB)
    os.truncate(here, 0)
    check(residency(here) == "resident", "cut to nothing")
    world.on_a(here.name, b"")
    there, here, data = world.make(MIB)
    here.write_bytes(b"written anew")
    world.on_a(here.name, b"written anew")
    _, one, data = world.make(MIB)
    other, over, _ = world.make(MIB)
    one.rename(over)
    world.on_a(over.name, data)
    check(residency(over) == "tiered", "recalled by the rename over another")
    same(over, data, "the one that went over")
    there, here, _ = world.make(MIB)
    here.unlink()
    wait_for("the removal", lambda: not there.exists(), SOON)
    # Of the folder itself, whose real directory lies where the agent keeps its own; with nothing else in it that changes.
    world.settled()
    time.sleep(1)
    world.b.chmod(0o751)
    wait_for("the folder's own mode", lambda: stat.S_IMODE(world.a.stat().st_mode) == 0o751, SOON)
    (world.b / "new folder").mkdir()
    (world.b / "new folder" / "new").write_bytes(b"made on b")
    world.on_a("new folder/new", b"made on b")
    world.settled()


def damaged(world):
    """A damaged mark is an error that is told, never zeros, never an upload, never a removal. Scenario 53."""
    there, here, data = world.make(MIB)
    _, copied, _ = world.make(MIB)
    world.settled()
    real, other = world.real(here.name), world.real(copied.name)
    mark = os.getxattr(real, "trusted.polder")
    os.setxattr(real, "trusted.polder", mark[:-1])
    # The mark of one file on another.
    forged = world.real("forged")
    forged.touch()
    os.truncate(forged, MIB)
    os.setxattr(forged, "trusted.polder", os.getxattr(other, "trusted.polder"))
    world.kill_worker()
    def fails(path):
        try:
            path.read_bytes()
            return False
        except OSError as error:
            return error.errno == errno.EIO
    check(fails(here), "a damaged mark was read")
    wait_for("the forged file", lambda: (world.b / "forged").exists(), SOON)
    check(fails(world.b / "forged"), "another file's mark was read")
    told = lambda: world.cluster.run("errors", check=False).stdout.decode()
    wait_for("the errors", lambda: here.name in told() and "forged" in told(), LONG)
    check(there.read_bytes() == data, "a's bytes")
    check(not (world.a / "forged").exists(), "zeros were uploaded")
    os.setxattr(world.real(here.name), "trusted.polder", mark)
    world.real("forged").unlink()
    world.kill_worker()
    same(here, data, "mended")


def holder_dead(world):
    """With the holder dead too: an error, and nothing to be seen below. A new start goes on. Scenarios 39 and 40."""
    _, here, data = world.make(MIB)
    world.settled()
    world.cluster.kill("b")
    try:
        here.read_bytes()
        check(False, "bytes without anybody")
    except OSError as error:
        check(error.errno in (errno.ENOTCONN, errno.ECONNABORTED), f"errno {error.errno}")
    world.cluster.start_agent("b")
    wait_for("the mount", lambda: mounted_alive(world.b), SOON)
    same(here, data, "after the start")
    world.cluster.stop("b")
    check(os.listdir(world.b) == [".polder"], f"below the mount: {os.listdir(world.b)}")
    for made in (lambda: (world.b / "stray").write_bytes(b"hidden"), lambda: (world.b / "folder").mkdir()):
        try:
            made()
            check(False, "something can be put below the mount")
        except PermissionError:
            pass
    world.cluster.start_agent("b")
    wait_for("the mount", lambda: mounted_alive(world.b), SOON)
    same(here, data, "after a stop")


def mounted_alive(path):
    try:
        return os.path.ismount(path) and os.listdir(path)
    except OSError:
        return False


def reloads(world):
    """`polder agent reload` under readers."""
    files = [world.make(700 * KIB) for _ in range(8)]
    failures = []

    def read():
        for _, here, data in files:
            try:
                same(here, data, here.name)
            except Exception as error:
                failures.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(3):
        world.cluster.run("agent", "reload", "--state", world.cluster.folder / "state-b", check=False)
        time.sleep(0.5)
    reader.join(LONG)
    check(not failures and not reader.is_alive(), f"failed: {failures[:3]}")


def let_go(world):
    """The endpoint is deleted: all is recalled first, and the files stand where the mount was. Scenario 57."""
    _, here, data = world.make(5 * MIB)
    (world.b / "deep").mkdir()
    world.settled()
    names = sorted(os.listdir(world.b))
    world.cluster.run("endpoint", "delete", "b", "--yes")
    wait_for("the mount is gone", lambda: not os.path.ismount(world.b), LONG)
    wait_for("the files are back", lambda: sorted(set(os.listdir(world.b)) - {".polder"}) == names, SOON)
    same(here, data, "recalled")
    check(not any(name.startswith("trusted.polder") for name in os.listxattr(here)), "a mark is left")


CASES = [
    arrivals, readers, executables, resident_again, by_command, hollow, remote_changes, local_changes, deaths, service_away, reloads, damaged, holder_dead, let_go,
]
QUICK = {"reloads"}


def main():
    parser = cases.arguments(__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    lacking = cases.lacks_of_a_gate("rsync", "tar", "dd", "install")
    if lacking:
        return cases.skipped("tiered", lacking)
    chosen = [case for case in CASES if not (options.quick and case.__name__ in QUICK)]
    return cases.on_cluster("tiered", options, lambda cluster: World(cluster, options.quick), chosen)


if __name__ == "__main__":
    sys.exit(main())
