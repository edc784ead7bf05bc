//! Whoever waits for the share can be killed.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::store::content;
use crate::{Mounted, shell};

const SIZE: u64 = 700_001;

const MMAP: &str = "import mmap,sys;f=open(sys.argv[1],'rb');m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ);print('ready',flush=True);m[99999]";

/// A program that SIGINT ends, also where what runs the tests was started in the background and ignores it.
fn with_default_signals(program: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", program]);
    command
}

fn start(mounted: &Mounted, how: &str, name: &str) -> Child {
    let path = format!("mnt/{name}");
    let mut command = match how {
        "buffered" => with_default_signals("cat"),
        "direct" => {
            let mut dd = with_default_signals("dd");
            dd.args(["iflag=direct", "bs=64k", &format!("if={path}"), "of=/dev/null", "status=none"]);
            dd
        }
        "write" => {
            let mut dd = with_default_signals("dd");
            dd.args([
                "if=/dev/zero",
                "bs=10",
                "count=1",
                &format!("of={path}"),
                "conv=notrunc",
                "status=none",
            ]);
            dd
        }
        _ => {
            let mut python = Command::new("python3");
            // SIGINT's default: the handler of Python runs only once the fault is over.
            python.args(["-c", &format!("import signal;signal.signal(2,0);{MMAP}")]);
            python
        }
    };
    if matches!(how, "buffered" | "mmap") {
        command.arg(path);
    }
    command.current_dir(mounted.place()).stdout(Stdio::null()).spawn().unwrap()
}

/// Whether a process waits in the kernel.
fn is_stuck(child: &Child) -> bool {
    let stack = std::fs::read_to_string(format!("/proc/{}/wchan", child.id())).unwrap_or_default();
    let state = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    let state = state.rsplit(") ").next().and_then(|rest| rest.chars().next());
    matches!(state, Some('D'))
        || stack.contains("fuse")
        || stack.contains("folio")
        || stack.contains("request_wait")
}

#[test]
fn a_waiting_reader_is_gone_within_100_ms_of_a_signal() {
    let Some(mounted) = Mounted::new() else { return };
    let mut longest = Duration::ZERO;
    for how in ["buffered", "direct", "mmap", "write"] {
        for signal in [Signal::INT, Signal::KILL, Signal::TERM] {
            mounted.store("ok");
            let name = format!("{how}{signal:?}");
            mounted.tiered(&name, SIZE);
            mounted.store("hang");
            let mut child = start(&mounted, how, &name);
            mounted.wait_for(|| is_stuck(&child));
            std::thread::sleep(Duration::from_millis(50));
            let begin = Instant::now();
            kill_process(Pid::from_child(&child), signal).unwrap();
            while child.try_wait().unwrap().is_none() {
                assert!(begin.elapsed() < Duration::from_secs(5), "{how} {signal:?} hangs");
                std::thread::sleep(Duration::from_millis(1));
            }
            let took = begin.elapsed();
            longest = longest.max(took);
            assert!(took < Duration::from_millis(100), "{how} {signal:?}: {took:?}");
            mounted.store("ok");
            assert!(
                std::fs::read(mounted.path(&name)).unwrap() == content(SIZE, SIZE),
                "after {how} {signal:?}"
            );
        }
    }
    println!("longest: {longest:?}");
}

/// A timer that fires is no reason for a read of a plain file to fail.
#[test]
fn a_signal_with_a_handler_does_not_end_a_read() {
    let Some(mounted) = Mounted::new() else { return };
    mounted.tiered("t", SIZE);
    mounted.store("delay 150");
    let script = "import os,mmap,signal;n=[0]\n\
        def tick(*_): n[0]+=1\n\
        signal.signal(signal.SIGALRM,tick);signal.setitimer(signal.ITIMER_REAL,0.01,0.01)\n\
        fd=os.open('mnt/t',os.O_RDONLY|os.O_DIRECT);b=mmap.mmap(-1,1<<16)\n\
        assert os.preadv(fd,[b],0)==1<<16\nassert os.pread(os.open('mnt/t',os.O_RDONLY),5,300000)\nassert n[0]\nsignal.setitimer(signal.ITIMER_REAL,0)\n";
    let script = format!("python3 - <<'E'\n{script}E\n");
    let (good, said) = shell(mounted.place(), &script);
    assert!(good, "{said}");
}
