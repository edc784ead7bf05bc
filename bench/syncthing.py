"""Two Syncthing instances on loopback, for comparison in the same run."""

import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from cluster import free_port, wait_for


class Syncthing:
    """`with Syncthing(a, b):` syncs two folders with each other. Watches with the shortest delay that it allows."""

    def __init__(self, a, b):
        self.sites = [Path(a), Path(b)]
        self.folder = Path(tempfile.mkdtemp(prefix="syncthing-bench-"))
        self.processes = []

    def __enter__(self):
        homes = [self.folder / "home-0", self.folder / "home-1"]
        ports = [free_port(), free_port()]
        gui = [free_port(), free_port()]
        for home in homes:
            subprocess.run(["syncthing", "generate", "--no-default-folder", f"--home={home}"], check=True, capture_output=True)
        ids = [self._device_id(home) for home in homes]
        for here in (0, 1):
            self._configure(homes[here], here, ids, ports, gui)
            log = open(self.folder / f"log-{here}", "wb")
            self.processes.append(
                subprocess.Popen(
                    ["syncthing", "serve", "--no-browser", "--no-restart", "--no-upgrade", f"--home={homes[here]}"], stdout=log, stderr=log
                )
            )
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _device_id(home):
        return re.search(r'<device id="([^"]+)"', (home / "config.xml").read_text()).group(1)

    def _configure(self, home, here, ids, ports, gui):
        devices = "".join(
            f'<device id="{ids[at]}" name="site-{at}" compression="metadata" introducer="false">'
            f"<address>tcp://127.0.0.1:{ports[at]}</address><autoAcceptFolders>false</autoAcceptFolders></device>"
            for at in (0, 1)
        )
        members = "".join(f'<device id="{one}"></device>' for one in ids)
        site = self.sites[here]
        site.mkdir(parents=True, exist_ok=True)
        (site / ".stfolder").mkdir(exist_ok=True)
        (home / "config.xml").write_text(f"""<configuration version="36">
<folder id="data" label="data" path="{site}" type="sendreceive" rescanIntervalS="3600" fsWatcherEnabled="true" fsWatcherDelayS="1" ignorePerms="false">
{members}<minDiskFree unit="%">0</minDiskFree></folder>
{devices}
<gui enabled="true" tls="false"><address>127.0.0.1:{gui[here]}</address><apikey>bench</apikey></gui>
<options><listenAddress>tcp://127.0.0.1:{ports[here]}</listenAddress><globalAnnounceEnabled>false</globalAnnounceEnabled>
<localAnnounceEnabled>false</localAnnounceEnabled><relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled>
<startBrowser>false</startBrowser><urAccepted>-1</urAccepted><crashReportingEnabled>false</crashReportingEnabled>
<autoUpgradeIntervalH>0</autoUpgradeIntervalH><reconnectionIntervalS>1</reconnectionIntervalS></options>
</configuration>""")


def install():
    if not shutil.which("syncthing"):
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "syncthing", "rsync"], check=True)


def smoke():
    """Says how long one file takes, to see that the set-up works."""
    install()
    folder = Path(tempfile.mkdtemp())
    with Syncthing(folder / "a", folder / "b"):
        wait_for("the folders", lambda: (folder / "a/.stfolder").exists() and (folder / "b/.stfolder").exists(), 30)
        time.sleep(5)
        began = time.monotonic()
        (folder / "a/hello").write_text("hello")
        wait_for("the file", lambda: (folder / "b/hello").exists(), 60)
        print(f"syncthing one_file_s {time.monotonic() - began:.3f}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    smoke()
