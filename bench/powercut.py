#!/usr/bin/env python3
"""Power cuts (scenario 76 of docs/semantics.md): at every flush that a process's volume sees, on ext4, XFS and btrfs, the disk is cut off and put back to what a cut
leaves.

    bench/powercut.py [--binary target/debug/polder] [--only NAME …] [--kinds ext4 …] [--quick] [--cells N] [--keep]

The scenarios are those of `crash.py`. One process (agent a, agent b or the service) has everything it keeps on a volume of its own, whose disk
is `recorder.py`; the others live on, as other machines do. At the flush of number N the disk stops answering, the process is
killed, and the volume is mounted again with what was flushed before, and of the writes since then none, all, or some, torn ones among them. The
process is started again, and the promises are checked as after any crash, without anyone's help.

What the user has done at the site that is cut was made durable by the user before.

One line each: `powercut SCENARIO KIND points N failed N slowest_s S`. Exit 0 only if nothing failed; 3 if the machine cannot run it.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from cluster import wait_for
from crash import CONVERGE_S, HEAL_S, SKIPPED, Failed, Point, World, leftovers, old_or_new, panics, spread
from recorder import CutVolume

SCENARIOS = [
    f"{act}.{who}.{how}" for act in ("create", "edit", "rename", "delete")
    for who, how in (("a", "starting"), ("b", "running"), ("b", "starting"), ("service", "running"))
]
KINDS = ["ext4", "xfs", "btrfs"]
VARIANTS = ["none", "some", "all"]
# A cut world is mounted again at each point; a volume fills with what its points leave.
POINTS_A_WORLD = 60


class CutPoint(Point):
    """One run of a scenario with a cut at a flush, or with a count only."""

    def __init__(self, world, volume, scenario, at, variant, seed):
        super().__init__(world, scenario, None)
        self.volume, self.at, self.variant, self.seed = volume, at, variant, seed
        self.told = None

    def cut_run(self):
        """Returns the number of flushes that were seen, and the seconds that convergence took after the cut."""
        world, volume = self.world, self.volume
        self.prepare()
        if self.how == "running":
            volume.arm(self.at)
            self.user_acts()
        else:
            world.end(self.victim)
            self.user_acts()
            if self.victim == "a":
                # What the user did is durable, as is all that the agent was to make durable before.
                sync(volume.path)
            volume.arm(self.at)
            world.start(self.victim)
        began = time.monotonic()
        if self.until_cut():
            self.power_off()
            self.power_on()
        seen = volume.disarm()
        self.until_equal(self.after, "what the user left", CONVERGE_S)
        leftovers(world)
        panics(world)
        return seen, time.monotonic() - began

    def until_cut(self):
        state = []

        def over():
            if self.volume.is_cut():
                state.append(True)
            return bool(state) or self.is_done()
        wait_for("the cut", over, HEAL_S)
        return bool(state)

    def power_off(self):
        """Kills the process while the disk is silent; only when nothing of it runs any more may the disk answer again."""
        process = self.world.processes.pop(self.victim)
        os.kill(process.pid, signal.SIGKILL)
        wait_for("the process to stand still", lambda: stands_still(process.pid), 10)
        self.volume.go_on()
        process.wait(30)

    def power_on(self):
        self.told = self.volume.restore(self.variant, self.seed)
        for site in ("a", "b"):
            self.apart += old_or_new(site, self.folder(site), self.act, self.before, self.after)
        self.world.start(self.victim)


def stands_still(pid):
    """Every thread is dead or waits for the disk."""
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            text = Path(f"/proc/{pid}/task/{task}/stat").read_text()
            if text.rpartition(")")[2].split()[0] not in "DZX":
                return False
    except (FileNotFoundError, ProcessLookupError):
        return False  # one has just gone; look again
    return True


def sync(path):
    import subprocess
    subprocess.run(["sync", "--file-system", path], check=True)


class Worker:
    def __init__(self, binary, folder, keep):
        self.binary, self.folder, self.keep = binary, folder, keep
        self.key, self.world, self.volume = None, None, None

    def worlds(self, kind, victim):
        if self.key != (kind, victim) or self.world.is_worn(POINTS_A_WORLD):
            self.close()
            base = Path(tempfile.mkdtemp(prefix=f"{kind}-{victim}-", dir=self.folder))
            self.volume = CutVolume(base / "disk", kind)
            self.world = World(self.binary, base, homes={victim: self.volume.path})
            self.key = (kind, victim)
            self.world.begin()
        return self.world

    def close(self, keep=False):
        if self.volume is None:
            return
        if self.world is not None:
            self.world.end_all()
        if keep:
            shutil.copytree(self.volume.path, self.world.folder / "as-left", symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
        self.volume.remove()
        if not keep:
            shutil.rmtree(self.volume.folder.parent, ignore_errors=True)
        self.key = self.world = self.volume = None

    def run(self, kind, scenario, at, variant, seed):
        """(flushes seen or what was hit, seconds, failure or none)"""
        began, point = time.monotonic(), None
        try:
            world = self.worlds(kind, scenario.split(".")[1])
            point = CutPoint(world, self.volume, scenario, at, variant, seed)
            seen, seconds = point.cut_run()
            return (seen if at is None else point.told), seconds, None
        except Exception as error:
            why = str(error) if isinstance(error, Failed) else traceback.format_exc()
            where = self.volume.folder.parent if self.volume else "-"
            try:
                self.close(keep=self.keep)
            except Exception:
                why += traceback.format_exc()
                self.key = self.world = self.volume = None
            return (point.told if point else None), time.monotonic() - began, f"{why}\n  folder {where}"


def work(binary, folder, keep, tasks, results):
    worker = Worker(binary, folder, keep)
    while (task := tasks.get()) is not None:
        results.put((task, *worker.run(*task)))
    worker.close()


class Sweep:
    def __init__(self, arguments, folder):
        self.results = multiprocessing.Queue()
        self.totals, self.failures = {}, []
        self.queues = [multiprocessing.Queue() for _ in range(arguments.cells)]
        self.workers = [
            multiprocessing.Process(target=work, args=(arguments.binary, folder, arguments.keep, queue, self.results)) for queue in self.queues
        ]
        for worker in self.workers:
            worker.start()

    def run(self, jobs, limit, seconds):
        """`jobs`: (kind, scenario). All points of a kind and a victim follow one another in one world."""
        ends = time.monotonic() + seconds
        jobs = sorted(jobs, key=lambda job: (job[0], job[1].split(".")[1]))
        lists = [[] for _ in self.queues]
        for number, job in enumerate(jobs):
            lists[number * len(lists) // len(jobs)].append((*job, None, None, 0))
        out = sum(self.send(number, todo) for number, todo in enumerate(lists))
        while out:
            task, seen, took, failure = self.results.get()
            out -= 1
            number = next(number for number, todo in enumerate(lists) if task in todo)
            kind, scenario, at, variant, _ = task
            if at is None and failure:
                self.failures.append(f"{scenario} {kind} without a cut: {failure}")
                print(f"FAILED {self.failures[-1]}", flush=True)
            elif at is None:
                # A run flushes now more, now less often: two beyond.
                points = [(at, variant) for at in range(1, seen + 3) for variant in VARIANTS]
                generator = random.Random(f"{kind} {scenario}")
                points = spread(points, limit) if limit is None else generator.sample(points, min(limit, len(points)))
                lists[number] += [(kind, scenario, at, variant, generator.randrange(1 << 30)) for at, variant in points]
            else:
                self.note(task, seen, took, failure)
            lists[number].remove(task)
            if time.monotonic() < ends:
                out += self.send(number, lists[number])
        return sum(len(todo) for todo in lists)

    def send(self, number, todo):
        """The next of the list; the counts first, so that the points of a world follow one another."""
        if not todo:
            return 0
        self.queues[number].put(todo[0])
        return 1

    def note(self, task, told, seconds, failure):
        kind, scenario, at, variant, _ = task
        total = self.totals.setdefault((scenario, kind), [0, 0, 0.0, 0])
        if told or failure:
            total[0] += 1
            total[3] += told[1] if told else 0
        total[2] = max(total[2], seconds)
        if failure:
            total[1] += 1
            self.failures.append(f"{scenario} {kind} at flush {at}, {variant} of the unflushed {told}: {failure}")
            print(f"FAILED {self.failures[-1]}", flush=True)

    def end(self):
        for queue in self.queues:
            queue.put(None)
        for worker in self.workers:
            worker.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(Path(__file__).parent.parent / "target/debug/polder"))
    parser.add_argument("--only", nargs="*", default=[], help="scenarios whose name contains one of these")
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--quick", action="store_true", help="a few points, within a minute")
    parser.add_argument("--limit", type=int, help="most points of each scenario and file system, drawn")
    parser.add_argument("--minutes", type=float, default=24 * 60)
    parser.add_argument("--cells", type=int, default=6)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        print("powercut skipped: needs root, FUSE and loop devices")
        return SKIPPED
    scenarios = [name for name in SCENARIOS if not arguments.only or any(part in name for part in arguments.only)]
    folder = tempfile.mkdtemp(prefix="polder-powercut-")
    sweep = Sweep(arguments, folder)
    try:
        jobs = [(kind, scenario) for kind in arguments.kinds for scenario in scenarios]
        if arguments.quick:
            jobs = [job for number, job in enumerate(jobs) if number % 4 == number // 16 % 4]
        limit = arguments.limit or (2 if arguments.quick else None)
        left = sweep.run(jobs, limit, 50 if arguments.quick else arguments.minutes * 60)
    finally:
        sweep.end()
        if not (arguments.keep and sweep.failures):
            shutil.rmtree(folder, ignore_errors=True)
    for (scenario, kind), (points, failed, slowest, writes) in sorted(sweep.totals.items()):
        print(f"powercut {scenario} {kind} points {points} failed {failed} unflushed_writes {writes} slowest_s {slowest:.1f}")
    print(f"powercut all points {sum(total[0] for total in sweep.totals.values())} failed {len(sweep.failures)} not_run {left}")
    return 1 if sweep.failures else 0


if __name__ == "__main__":
    sys.exit(main())
