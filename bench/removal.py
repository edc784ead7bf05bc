#!/usr/bin/env python3
"""An endpoint goes while files of it are tiered: no name is left without its bytes.

    bench/removal.py [--binary target/debug/polder] [--only NAME …] [--keep]

One service, `a` with all bytes, `b` tiered. Each case prints one line, `removal CASE ok` or `removal CASE FAILED why`. Exit 0 only if all pass; 3 if
the machine cannot run them (no root, no /dev/fuse): then nothing was shown.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cluster import remove_folder, wait_for
from tiered import KIB, LONG, SOON, check, content, residency, same

MARKS = ("trusted.polder", "trusted.polder.content")


class World(cases.Tiered):
    def __init__(self, cluster):
        super().__init__(cluster)
        self.files, self.number = {}, 0
        self.make(12)

    def make(self, count):
        """New files on a; waits until b has their names alone."""
        for _ in range(count):
            self.number += 1
            folder = ("", "one/", "one/two/", "other folder/")[self.number % 4]
            name = f"{folder}file {self.number}"
            self.put(name, content(f"made {self.number}", 30 * KIB + 7001 * self.number))
        self.settled()
        wait_for("names on b", lambda: all((self.b / name).exists() for name in self.files), SOON)
        self.all_tiered()

    def put(self, name, data):
        (self.a / name).parent.mkdir(parents=True, exist_ok=True)
        (self.cluster.folder / "new").write_bytes(data)
        shutil.move(self.cluster.folder / "new", self.a / name)
        self.files[name] = data

    def settled(self):
        wait_for("both in sync", self.cluster.in_sync, SOON)

    def all_tiered(self):
        def tiered():
            self.here("tier", self.b)
            return all(residency(self.b / name) == "tiered" for name in self.files)

        wait_for("all is tiered", tiered, SOON)

    @property
    def tree(self):
        return self.b / ".polder" / "tree"

    @property
    def manifest(self):
        return self.b / ".polder" / "left-behind.jsonl"

    def endpoints(self):
        return self.cluster.json("endpoint", "list", "--server", "b")

    def mounted(self):
        try:
            return os.path.ismount(self.b) and (self.b / "one").is_dir()
        except OSError:
            return False

    def is_let_go(self):
        return not os.path.ismount(self.b) and any(one.get("left_behind") for one in self.endpoints())

    def force(self):
        """Removed without a recall; what lies there then."""
        self.cluster.run("endpoint", "delete", "b", "--force", "--yes")
        wait_for("b is let go", self.is_let_go, LONG)
        # The mount goes first; then the folder is somebody's else.
        wait_for("the folder is free", self.is_free, SOON)
        lines = [json.loads(line) for line in self.manifest.read_text().splitlines()]
        return lines[0], lines[1:-1], lines[-1]

    def is_free(self):
        return subprocess.run(["flock", "--nonblock", self.b / ".polder" / "lock", "true"]).returncode == 0

    def again(self, *options):
        """An endpoint on the same folder."""
        names_first = ("--tiering", "--free-space", "1%", "--initial-download", "namespace-only")
        self.cluster.endpoint("b", self.b, "data", *names_first, *options)
        wait_for("the mount", self.mounted, LONG)
        # The endpoint of a server that was revoked stands still in the status until it is forgotten.
        live = {one["id"] for one in self.endpoints() if not one.get("left_behind")}
        wait_for("b in sync", lambda: live and all(one["in_sync"] for one in self.statuses() if one["id"] in live), SOON)

    def statuses(self):
        return [one for group in self.cluster.json("status")["groups"] for one in group["endpoints"]]

    def tiered_again(self):
        if not self.mounted():
            self.again()
        self.all_tiered()

    def wipe(self):
        """Nothing is on b, and files has what a has."""
        for path in self.b.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.files = {name: (self.a / name).read_bytes() for name in self.names(self.a)}

    def short_history(self):
        """A service that forgets after two seconds what nobody holds."""
        config = self.cluster.folder / "service.toml"
        config.write_text("history_s = 2\nreconcile_s = 1\n")
        self.cluster.start_service("--config", config)
        wait_for("a is in sync", self.cluster.in_sync, SOON)
        time.sleep(3)
        self.cluster.run("background", "wake", "history", check=False)
        time.sleep(2)

    def names(self, folder=None):
        """All names below a folder, without Polder's own."""
        folder = Path(folder or self.b)
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if ".polder" not in path.relative_to(folder).parts}
        return {name for name in found if not (folder / name).is_dir()}

    def no_mark(self, folder):
        for name in self.names(folder):
            check(not any(mark in os.listxattr(folder / name) for mark in MARKS), f"a mark is left on {name}")

    def uploaded(self):
        """Bytes that b's agent has sent since it started: questions, and no file."""
        return sum(one["upload"]["bytes_moved"] for one in self.statuses() if one["server"] == "b")

    def recall(self, *options, check=True):
        done = self.cluster.run("recall", "--from-manifest", *options, "--json", check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"exit {done.returncode}: {done.stderr.decode()}")
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr.decode()


def forced(world):
    """A removal without a recall leaves the list; with it every file is whole again, what is no placeholder of the folder is left alone. Scenarios 53 and 57."""
    world.tiered_again()
    files = dict(world.files)
    # Of one file the bytes are here.
    resident = sorted(files)[0]
    same(world.b / resident, files[resident], "recalled")
    wait_for("it is resident", lambda: residency(world.b / resident) == "resident", SOON)
    head, left, total = world.force()
    inodes = {name: (world.tree / name).stat().st_ino for name in files}
    check(os.listdir(world.b) == [".polder"], "names without bytes are seen")
    check(head["polder_left_behind"] == 1 and head["known"] and head["path"] == str(world.b) and "nonce" in head, f"head: {head}")
    tiered = set(files) - {resident}
    check({one["path"] for one in left} == tiered, "the list is another")
    check(total == {"files": len(tiered), "bytes": sum(len(files[name]) for name in tiered)}, f"total: {total}")
    shown = world.endpoints()[0]["left_behind"]
    check((shown["files"], shown["bytes"]) == (total["files"], total["bytes"]), f"shown: {shown}")
    wait_for("all in sync: an endpoint that has gone is no health's matter", world.cluster.in_sync, SOON)
    kept = world.cluster.folder / "kept.jsonl"
    shutil.copy(world.manifest, kept)

    # The share moves on, and forgets what nobody holds.
    changed, gone, renamed, touched, moved, made, copied = sorted(tiered)[:7]
    world.put(changed, content("newer", 50 * KIB))
    (world.a / gone).unlink()
    os.rename(world.a / renamed, world.a / "renamed on a")
    os.utime(world.a / touched, (1, 1))
    world.settled()
    # What happens in the hidden tree by hand: a placeholder that moved, one that somebody made a file of, a copy with its mark.
    os.rename(world.tree / moved, world.tree / "moved by hand")
    (world.tree / made).unlink()
    (world.tree / made).write_bytes(b"a user's own")
    shutil.copyfile(world.tree / copied, world.tree / "a copy")
    for mark in MARKS:
        os.setxattr(world.tree / "a copy", mark, os.getxattr(world.tree / copied, mark))
    # Without the service nothing is touched.
    world.cluster.stop("service")
    code, _ = world.recall(world.manifest, check=False)
    check(code == 3, f"exit {code} without the service")
    check(all(MARKS[0] in os.listxattr(world.tree / name) for name in tiered - {moved, made}), "a mark is gone, and no byte came")
    world.short_history()

    code, told = world.recall(world.manifest, check=False)
    check(code == 3 and [one["path"] for one in told["left"]] == ["a copy"], f"exit {code}: {told}")
    check(told["files"] == len(tiered) - 1 and not told["is_plain"], f"told: {told}")
    check((world.tree / "a copy").read_bytes() == bytes(len(files[copied])), "the copy was filled")
    check((world.tree / made).read_bytes() == b"a user's own", "a user's file was taken for a placeholder")
    (world.tree / "a copy").unlink()
    code, told = world.recall(world.manifest)
    check(told["files"] == 0 and told["is_plain"], f"told: {told}")
    check(world.names() == (set(files) - {moved}) | {"moved by hand"}, f"names: {world.names()}")
    for name in set(files) - {moved, made}:
        same(world.b / name, files[name], name)
        check((world.b / name).stat().st_ino == inodes[name], f"{name} is another file")
    same(world.b / "moved by hand", files[moved], "moved by hand")
    world.no_mark(world.b)
    (world.b / "stray").write_bytes(b"changeable again")

    # The hold ends when somebody says so, and only then.
    done = world.cluster.run("endpoint", "delete", "b", "--yes", check=False)
    check(done.returncode == 5 and b"--forget" in done.stderr, f"exit {done.returncode}: {done.stderr}")
    world.cluster.run("endpoint", "delete", "b", "--forget", "--yes")
    check(not world.endpoints(), "the row is left")
    out = world.cluster.folder / "out"

    def is_forgotten():
        shutil.rmtree(out, ignore_errors=True)
        world.cluster.run("background", "wake", "history", check=False)
        _, told = world.recall(kept, "--into", out, check=False)
        return {changed, gone} <= {one["path"] for one in told["left"]}

    shutil.rmtree(world.b / ".polder")
    wait_for("what is held no more is forgotten", is_forgotten, SOON)
    check((out / touched).read_bytes() == files[touched], "a version with another time has the same bytes")
    world.wipe()


def elsewhere(world):
    """With the list alone, on another machine: the files are written beside, and what is there is never replaced. Scenario 57."""
    out = world.cluster.folder / "out"
    source = world.cluster.folder / "list.jsonl"
    world.cluster.run("endpoint", "left-behind", "b", "--output", source)
    head = json.loads(source.read_text().splitlines()[0])
    check(not head["known"] and "nonce" not in head, f"head: {head}")
    taken = sorted(world.files)[0]
    (out / taken).parent.mkdir(parents=True)
    (out / taken).write_bytes(b"here before")
    # An agent serves the folder: nothing there is touched.
    code, told = world.recall(source, check=False)
    check(code != 0 and "mounted" in told, f"exit {code}: {told}")
    _, told = world.recall(source, "--into", out)
    check(told["written"] == len(world.files) - 1 and told["whole"] == 1, f"told: {told}")
    check((out / taken).read_bytes() == b"here before", "it was replaced")
    for name in set(world.files) - {taken}:
        same(out / name, world.files[name], name)
    # A list that was cut off says so.
    source.write_bytes(source.read_bytes()[:-20])
    shutil.rmtree(out)
    code, told = world.recall(source, "--into", out, check=False)
    check(code == 3 and told["is_cut_off"], f"exit {code}: {told}")
    check(all(residency(world.b / name) == "tiered" for name in world.files), "b was touched")
    remove_folder(out)


def taken_up(world):
    """An endpoint that is created again takes its placeholders up: nothing is uploaded, nothing is deleted, nothing is a user's content. Scenario 57."""
    world.make(6)
    world.force()
    stale, deleted = sorted(world.files)[:2]
    world.put(stale, content("newer", 90 * KIB))
    (world.a / deleted).unlink()
    world.files.pop(deleted)
    world.settled()
    on_a = world.names(world.a)
    world.again()
    wait_for("b has what a has", lambda: world.names() == world.names(world.a), SOON)
    check(world.names(world.a) == on_a == set(world.files), f"names: {world.names(world.a) ^ set(world.files)}")
    check(world.uploaded() < 20 * KIB, f"{world.uploaded()} bytes were uploaded")
    check(all(residency(world.b / name) == "tiered" for name in world.files), "something was recalled")
    check(all((world.b / name).stat().st_size == len(data) for name, data in world.files.items()), "sizes")
    for name in sorted(world.files)[:5]:
        same(world.b / name, world.files[name], name)
    conflicts = world.cluster.json("conflicts", "list")
    check(not conflicts, f"conflicts: {conflicts}")
    # Both rows are told apart; what the old one held goes, and the names of the new one stay good.
    check(len(world.endpoints()) == 2, "one row each")
    world.cluster.run("endpoint", "delete", "b", "--forget", "--yes")
    world.all_tiered()
    same(world.b / stale, world.files[stale], "after the old hold is gone")


def lost_database(world):
    """The state database is lost, or damaged, while the share moves on: the marks say what the placeholders are, so none becomes a conflict copy or
    comes back. Scenario 87."""
    for how in (lambda path: path.unlink(), lambda path: path.write_bytes(b"no database" * 1000)):
        world.make(8)
        world.tiered_again()
        world.cluster.stop("b")
        for path in (world.b / ".polder").glob("state.db*"):
            how(path)
        stale, deleted, moved, *_ = sorted(name for name in world.files if "/" in name)
        world.put(stale, content(f"newer {how}", 90 * KIB))
        (world.a / deleted).unlink()
        del world.files[deleted]
        (world.a / moved).rename(world.a / f"{moved} moved")
        world.files[f"{moved} moved"] = world.files.pop(moved)
        wait_for("a in sync", lambda: all(one["in_sync"] for one in world.statuses() if one["server"] == "a"), SOON)
        world.cluster.start_agent("b")
        wait_for("the mount", world.mounted, LONG)
        wait_for("b has what a has", lambda: world.names() == world.names(world.a) == set(world.files), SOON)
        world.settled()
        check(world.names() == world.names(world.a) == set(world.files), f"names: {world.names(world.a) ^ set(world.files)}")
        check(world.uploaded() < 20 * KIB, f"{world.uploaded()} bytes were uploaded")
        check(all(residency(world.b / name) == "tiered" for name in world.files), "something was recalled")
        for name in (stale, f"{moved} moved", *sorted(world.files)[:3]):
            same(world.b / name, world.files[name], name)
        conflicts = world.cluster.json("conflicts", "list")
        check(not conflicts, f"conflicts: {conflicts}")
        world.all_tiered()


def is_immutable(path):
    """A mount over it tells of no flags: then it is."""
    told = subprocess.run(["lsattr", "-d", path], capture_output=True, text=True)
    return told.returncode != 0 or "i" in told.stdout.split()[0]


def cut_off(world):
    """The agent dies between the end of the mount and that of the flag that nobody may change the folder: its next start ends both. And a folder with
    placeholders cannot be an authority: it is said."""
    world.tiered_again()
    noted = (world.state / "assignments").read_bytes()
    world.force()
    world.cluster.stop("b")
    check(not is_immutable(world.b), "the flag is left")
    # As such a death leaves it.
    (world.state / "assignments").write_bytes(noted)
    subprocess.run(["chattr", "+i", world.b], check=True)
    world.cluster.start_agent("b")
    wait_for("the folder can be changed", lambda: not os.path.ismount(world.b) and not is_immutable(world.b), SOON)
    wait_for("the folder is free", world.is_free, SOON)
    authority = ("--tiering", "--initial-download", "namespace-only", "--initial-upload", "authoritative")
    world.cluster.endpoint("b", world.b, "data", *authority)
    (row,) = (one["id"] for one in world.endpoints() if not one.get("left_behind"))

    def told():
        return any("authority" in one.get("reason", "") for one in world.statuses() if one["id"] == row)

    wait_for("it is told", told, SOON)
    world.cluster.run("endpoint", "delete", row, "--yes")
    world.again()
    world.cluster.run("endpoint", "delete", "b", "--forget", "--yes")
    world.all_tiered()
    for name in sorted(world.files)[:3]:
        same(world.b / name, world.files[name], name)


def authority(world):
    """A server that is the authority is one until its first sync is over. With its database lost it deletes nothing that others have made since."""
    cluster, folder = world.cluster, world.cluster.folder / "c"
    cluster.share("other")
    cluster.register("c")
    cluster.start_agent("c")
    folder.mkdir()
    (folder / "mine").write_text("mine")
    cluster.endpoint("c", folder, "other", "--initial-upload", "authoritative")

    def names():
        return {one["name"] for one in cluster.json("share", "ls", "other:")}

    wait_for("it is in the share", lambda: names() == {"mine"}, SOON)
    world.settled()
    cluster.stop("c")
    cluster.run("share", "put", folder / "mine", "other:theirs")
    for path in (folder / ".polder").glob("state.db*"):
        path.unlink()
    cluster.start_agent("c")
    wait_for("it has what others made", (folder / "theirs").exists, SOON)
    world.settled()
    check(names() == {"mine", "theirs"}, f"the share has {names()}")
    cluster.run("endpoint", "delete", "c", "--yes")
    wait_for("the endpoint goes", lambda: not cluster.json("endpoint", "list", "--server", "c"), SOON)


def deleted(world):
    """Without force everything is recalled first; while that cannot be, the endpoint stays; then it goes by itself. Scenario 57."""
    world.all_tiered()
    world.cluster.stop("service")
    world.cluster.start_service()
    wait_for("b is connected", world.cluster.in_sync, SOON)
    world.cluster.run("endpoint", "delete", "b", "--yes")
    wait_for("the mount is gone", lambda: not os.path.ismount(world.b), LONG)
    wait_for("the files are back", lambda: world.names() == set(world.files), SOON)
    wait_for("the row is gone", lambda: not world.endpoints(), SOON)
    for name, data in world.files.items():
        same(world.b / name, data, name)
    world.no_mark(world.b)
    check(not world.manifest.exists(), "a list was written")
    (world.b / "stray").write_bytes(b"changeable")
    (world.b / "stray").unlink()


def registered_anew(world):
    """A server that was revoked and registers again takes its placeholders up. Scenario 57."""
    world.tiered_again()
    row = world.endpoints()[0]["id"]
    world.cluster.run("server", "revoke", "b", "--yes")
    world.cluster.kill("b")
    shutil.rmtree(world.state)
    world.cluster.register("b")
    world.cluster.start_agent("b")
    on_a = world.names(world.a)
    world.again()
    wait_for("b has what a has", lambda: world.names() == on_a, SOON)
    check(world.names(world.a) == on_a and world.uploaded() < 20 * KIB, f"{world.uploaded()} bytes were uploaded")
    check(all(residency(world.b / name) == "tiered" for name in world.files), "something was recalled")
    name = sorted(world.files)[0]
    same(world.b / name, world.files[name], name)
    world.cluster.run("endpoint", "delete", row, "--forget", "--yes")


def revoked(world):
    """A revoked server cannot recall: how much is tiered is said, the share holds it, the service lists it, and a new endpoint takes it up. Scenario 57."""
    world.tiered_again()
    total = sum(len(data) for data in world.files.values())
    wait_for("the report", lambda: world.cluster.json("server", "show", "b").get("tiered_files") == len(world.files), SOON)
    done = world.cluster.run("server", "revoke", "b", "--yes", check=False)
    text = done.stderr.decode()
    check(done.returncode == 0 and f"{len(world.files)} files" in text and "left-behind" in text, text)
    row = world.endpoints()[0]["id"]
    done = world.cluster.run("endpoint", "delete", row, "--yes", check=False)
    check(done.returncode == 5 and b"left-behind" in done.stderr, f"exit {done.returncode}: {done.stderr}")
    source = world.cluster.folder / "revoked.jsonl"
    world.cluster.run("endpoint", "left-behind", row, "--output", source)
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    check({one["path"] for one in lines[1:-1]} == set(world.files), "the list is another")
    check(lines[-1] == {"files": len(world.files), "bytes": total}, f"total: {lines[-1]}")
    lost = sorted(world.files)[0]
    (world.a / lost).unlink()
    wait_for("a in sync", lambda: lost not in world.names(world.a), SOON)
    time.sleep(2)
    world.cluster.stop("b")
    cases.unmount(world.b)
    _, told = world.recall(source)
    check(told["files"] == len(world.files) and told["is_plain"], f"told: {told}")
    for name, data in world.files.items():
        same(world.b / name, data, name)
    world.no_mark(world.b)
    world.cluster.run("endpoint", "delete", row, "--forget", "--yes")
    check(not world.endpoints(), "the row is left")


CASES = [elsewhere, taken_up, lost_database, cut_off, authority, deleted, forced, registered_anew, revoked]


def main():
    parser = cases.arguments(__doc__)
    options = parser.parse_args()
    lacking = cases.lacks_of_a_gate("flock", "cp", "lsattr", "chattr")
    if lacking:
        return cases.skipped("removal", lacking)
    return cases.on_cluster("removal", options, World, CASES)


if __name__ == "__main__":
    sys.exit(main())
