//! What a decoding process may still do once it has seen its first byte: compute, ask for memory within its limit, read and write
//! the connection to the process that asked, and end.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::RawFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, RestrictionStatus, Ruleset, RulesetAttr, RulesetStatus,
    Scope,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit, set_parent_process_death_signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use serde::{Deserialize, Serialize};

/// What is in force. Limits of resources always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guards {
    /// Any system call outside the list ends the process.
    pub seccomp: bool,
    /// No file can be reached, and where the kernel is new enough no port and no process outside.
    pub landlock: bool,
}

impl fmt::Display for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let absent = |has: bool| if has { "" } else { "no " };
        write!(f, "{}seccomp, {}landlock, limits of resources", absent(self.seccomp), absent(self.landlock))
    }
}

/// Restricts this process for good. `connection` is the one descriptor that it may still read and write, besides its standard
/// error.
pub fn restrict(connection: RawFd, base_bytes: u64, most_bytes: u64) -> io::Result<Guards> {
    rustix::thread::set_no_new_privs(true)?;
    // Needs descriptors, which there are none of after the next lines.
    let landlock = restrict_files();
    limit(Resource::As, hard_limit(base_bytes, most_bytes))?;
    // No descriptor besides those open, no file larger than nothing, no dump of an image, no further process of this user.
    for resource in [Resource::Nofile, Resource::Fsize, Resource::Core, Resource::Nproc] {
        limit(resource, 0)?;
    }
    // The last: it forbids the calls above.
    let seccomp = filter(connection).is_ok_and(|filter| seccompiler::apply_filter(&filter).is_ok());
    Ok(Guards { seccomp, landlock })
}

/// The most address space that a process may have which has taken `base_bytes` and may take `most_bytes` more.
fn hard_limit(base_bytes: u64, most_bytes: u64) -> u64 {
    let wanted = base_bytes.saturating_add(most_bytes);
    // Never above what this process was started with, which is what its children are started with.
    getrlimit(Resource::As).maximum.map_or(wanted, |hard| hard.min(wanted))
}

/// What this process may take of `most_bytes` beside `base_bytes`.
pub fn allowed(base_bytes: u64, most_bytes: u64) -> u64 {
    hard_limit(base_bytes, most_bytes).saturating_sub(base_bytes)
}

/// Lets a process that has [restricted](restrict) itself take `bytes` more than its base.
pub fn grant(process: u32, base_bytes: u64, bytes: u64, most_bytes: u64) -> io::Result<()> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no process id"))?;
    let hard = hard_limit(base_bytes, most_bytes);
    let soft = base_bytes.saturating_add(bytes).min(hard);
    prlimit(Some(pid), Resource::As, Rlimit { current: Some(soft), maximum: Some(hard) })?;
    Ok(())
}

/// The kernel ends this process when the thread that started it ends.
pub fn die_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

fn limit(resource: Resource, value: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?)
}

/// Whether the kernel refuses every access to files from now on.
fn restrict_files() -> bool {
    let restricted = || {
        // Whatever this kernel knows of these; without any rule nothing is allowed.
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(ABI::V5))?
            .handle_access(AccessNet::from_all(ABI::V5))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?
            .restrict_self()
    };
    matches!(restricted(), Ok(RestrictionStatus { ruleset, .. }) if ruleset != RulesetStatus::NotEnforced)
}

/// The filter: these calls, with these arguments, and the end of the process for any other.
fn filter(connection: RawFd) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules(connection)?, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

fn rules(connection: RawFd) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq};
    let argument = SeccompCondition::new;
    let descriptor = |fd: RawFd| SeccompRule::new(vec![argument(0, Dword, Eq, fd as u64)?]);
    let not_executable = || argument(2, Dword, MaskedEq(libc::PROT_EXEC as u64), 0);
    let anonymous = libc::MAP_ANONYMOUS as u64;
    let pid = u64::from(std::process::id());

    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    // The job and its answer; what a panic or an abort says.
    rules.insert(libc::SYS_read, vec![descriptor(connection)?]);
    rules.insert(libc::SYS_write, vec![descriptor(connection)?, descriptor(libc::STDERR_FILENO)?]);
    rules.insert(libc::SYS_writev, vec![descriptor(libc::STDERR_FILENO)?]);
    // Memory without files, which never becomes code.
    let map = vec![argument(3, Dword, MaskedEq(anonymous), anonymous)?, not_executable()?];
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(map)?]);
    rules.insert(libc::SYS_mprotect, vec![SeccompRule::new(vec![not_executable()?])?]);
    // An abort, of this process alone.
    let abort = vec![argument(0, Qword, Eq, pid)?, argument(2, Dword, Eq, libc::SIGABRT as u64)?];
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(abort)?]);
    for call in ANY_ARGUMENTS {
        rules.insert(*call, Vec::new());
    }
    Ok(rules)
}

/// Calls that can reach nothing outside the process, whatever their arguments.
const ANY_ARGUMENTS: &[i64] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Locks of the allocator and of the standard library; random seeds of hash maps; time, where the vDSO has none.
    libc::SYS_clock_gettime,
    libc::SYS_futex,
    libc::SYS_getrandom,
    // A panic, an abort, an overflow of the stack.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // The end: what is open is closed.
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
];
