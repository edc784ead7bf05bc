//! Rights of the threads that answer requests.
//!
//! What a caller may do was decided by the kernel, on the mount. Our threads keep their capabilities whoever they act for, but two:
//! CAP_FSETID is not effective, so that writes and truncations clear setuid bits as they do for users; CAP_SYS_RESOURCE is given up, so
//! that nobody passes by quotas and the reserve.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::umask;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, capabilities, set_capabilities, set_capabilities_secure_bits,
};

use crate::ports::Caller;
use crate::sys;

/// Whom the threads are, as far as files go, while they act for nobody in particular: a number that no user has. Backing files are used as
/// it, so that root's reserve is nobody's.
const NOBODY: u32 = u32::MAX - 7;

/// Prepares this thread for answering requests. Without the rights to do so (an unprivileged process) callers are acted for as far as
/// possible: an error tells that the gate is not to be used for several users.
pub(crate) fn prepare_thread() -> Result<(), Errno> {
    sys::unshare_umask()?;
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    let mut sets = capabilities(None)?;
    sets.permitted.remove(CapabilitySet::SYS_RESOURCE);
    sets.effective = sets.permitted;
    sets.effective.remove(CapabilitySet::FSETID);
    sets.inheritable = CapabilitySet::empty();
    set_capabilities(None, sets)?;
    sys::set_fs_ids(NOBODY, NOBODY);
    umask(Mode::empty());
    Ok(())
}

/// Runs a call whose result is the caller's: owner, group, umask.
pub(crate) fn as_caller<T>(caller: &Caller, call: impl FnOnce() -> T) -> T {
    sys::set_fs_ids(caller.uid, caller.gid);
    umask(Mode::from_raw_mode(caller.umask));
    let result = call();
    umask(Mode::empty());
    sys::set_fs_ids(NOBODY, NOBODY);
    result
}

/// Runs a call that sets the setgid bit by a right that the kernel has checked.
pub(crate) fn with_setgid<T>(call: impl FnOnce() -> T) -> T {
    let raised = capabilities(None).ok().filter(|sets| sets.permitted.contains(CapabilitySet::FSETID));
    if let Some(mut sets) = raised {
        sets.effective.insert(CapabilitySet::FSETID);
        let _ = set_capabilities(None, sets);
    }
    let result = call();
    if let Some(sets) = raised {
        let _ = set_capabilities(None, sets);
    }
    result
}
