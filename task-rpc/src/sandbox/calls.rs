//! No system calls but those that serving takes: seccomp.
//!
//! Whoever makes another dies at once, by SIGSYS. Some are answered with an error instead, where libraries ask for what
//! they can do without: glibc's allocator reads `/proc/sys/vm/overcommit_memory` when a heap shrinks, a process that
//! runs out of memory looks for its symbols, and threads are started by `clone` where `clone3` is not known.
//!
//! A filter is a table with one action for what it has, so there is one for each error and one for all the rest; of
//! their verdicts on a call the strictest counts. Arguments that are `int` to the kernel are compared by 32 bits: it
//! does not look at the others, and who could set them would get past. Calls that are made all the time have no
//! conditions, so that the kernel remembers its verdict on them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, BpfProgramRef, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use task_proto::limits::PIPE;

use crate::sys;

/// What serving takes, whatever its arguments.
const SERVING: &[c_long] = &[
    // Connections and inputs.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_splice,
    libc::SYS_pipe2,
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mincore,
    // Threads and time. A wait that SIGSTOP has interrupted goes on by `restart_syscall`.
    libc::SYS_futex,
    libc::SYS_restart_syscall,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    // Signals and the end.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // What is answered with an error, by another filter.
    libc::SYS_clone3,
    libc::SYS_prlimit64,
];

/// The same that only older architectures have.
#[cfg(target_arch = "x86_64")]
const SERVING_HERE: &[c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const SERVING_HERE: &[c_long] = &[];

/// What needs the name of a file, or gives one: there are none.
const FILES: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_statx,
    libc::SYS_getcwd,
];

/// The same that only older architectures have.
#[cfg(target_arch = "x86_64")]
const FILES_HERE: &[c_long] =
    &[libc::SYS_open, libc::SYS_readlink, libc::SYS_access, libc::SYS_stat, libc::SYS_lstat];
#[cfg(not(target_arch = "x86_64"))]
const FILES_HERE: &[c_long] = &[];

/// `prctl`'s question for what rustix reads of the process's start; libc does not name it.
const PR_GET_AUXV: c_long = 0x4155_5856;
/// What a new thread is made with by glibc and by musl, and what of it makes a thread and not a process.
const THREAD_MAY: c_long = 0x7d_0f00;
const THREAD_MUST: c_long = (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND) as c_long;

/// Instructions of a filter.
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Binds all threads, for good. Nobody may shut `listener` down. A file may be looked up and removed in the directory
/// `removable`. `memory`: the longest anonymous mapping, in bytes.
///
/// # Errors
/// The kernel has no seccomp, or a thread has filters of its own.
pub(super) fn close(
    listener: BorrowedFd<'_>,
    removable: Option<BorrowedFd<'_>>,
    memory: u64,
) -> io::Result<()> {
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let programs = compiled(arch, listener.as_raw_fd(), removable.map(|fd| fd.as_raw_fd()), memory);
    programs.map_err(io::Error::other)?.iter().try_for_each(|program| sys::filter_calls(program))
}

/// The filters in the order in which they are to be put in force: the last one allows no further ones.
fn compiled(
    arch: TargetArch,
    listener: i32,
    removable: Option<i32>,
    memory: u64,
) -> Result<[BpfProgram; 5], BackendError> {
    let errors = [
        (libc::EACCES, no_files(removable)?),
        (libc::ENOSYS, plain(&[libc::SYS_clone3])),
        (libc::EPERM, not_for_us()?),
        (libc::ENOMEM, too_long(memory)?),
    ];
    let [files, clone3, denied, long] = errors.map(|(errno, rules)| {
        let answer = SeccompAction::Errno(errno as u32);
        SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?
            .try_into()
            .map(|program: BpfProgram| shortened(&program))
    });
    let serving =
        SeccompFilter::new(serving(listener)?, SeccompAction::KillProcess, SeccompAction::Allow, arch)?;
    Ok([files?, clone3?, denied?, long?, serving.try_into().map(|program: BpfProgram| shortened(&program))?])
}

/// Without the jumps that stand around each verdict which has no conditions. When the kernel takes a filter it tries it
/// on every call there is: measured, 250 µs of a start for one of 400 instructions. This makes 253 of them.
fn shortened(program: BpfProgramRef<'_>) -> BpfProgram {
    let mut short = BpfProgram::with_capacity(program.len());
    let mut rest = program;
    while let Some(first) = rest.first() {
        let skipped = match rest {
            // Is it this call? To the verdict; past it; the verdict; that on others with the same number: there are none.
            [is, to, past, verdict, _, ..]
                if (is.code, is.jt, is.jf) == (JUMP_IF_EQUAL, 0, 1)
                    && (to.code, to.k, past.code, past.k) == (JUMP, 1, JUMP, 2)
                    && verdict.code == RETURN =>
            {
                short.extend([is.clone(), verdict.clone()]);
                5
            }
            _ => {
                short.push(first.clone());
                1
            }
        };
        rest = &rest[skipped..];
    }
    short
}

/// What has no files' names to go by.
fn no_files(removable: Option<i32>) -> Result<Rules, BackendError> {
    let mut rules = plain(FILES.iter().chain(FILES_HERE));
    for call in [libc::SYS_newfstatat, libc::SYS_unlinkat] {
        // Without a rule a call is answered whatever its arguments.
        let elsewhere = match removable {
            Some(directory) => vec![rule([int(0, SeccompCmpOp::Ne, directory.into())?])?],
            None => Vec::new(),
        };
        rules.insert(call, elsewhere);
    }
    Ok(rules)
}

/// Limits to set, memory to share, names for it.
fn not_for_us() -> Result<Rules, BackendError> {
    let shared = libc::MAP_SHARED.into();
    Ok([
        (libc::SYS_prlimit64, vec![rule([long(2, SeccompCmpOp::Ne, 0)?])?]),
        // MAP_SHARED_VALIDATE has this bit, too. The scoreboard is mapped by now.
        (libc::SYS_mmap, vec![rule([long(3, SeccompCmpOp::MaskedEq(shared as u64), shared)?])?]),
        (libc::SYS_prctl, vec![rule([int(0, SeccompCmpOp::Eq, libc::PR_SET_VMA.into())?])?]),
    ]
    .into())
}

/// Reserved memory counts for no limit of the system's until it is written to.
fn too_long(memory: u64) -> Result<Rules, BackendError> {
    let anonymous = c_long::from(libc::MAP_ANONYMOUS);
    let conditions = [
        long(1, SeccompCmpOp::Gt, memory.cast_signed())?,
        long(3, SeccompCmpOp::MaskedEq(anonymous as u64), anonymous)?,
    ];
    Ok([(libc::SYS_mmap, vec![rule(conditions)?])].into())
}

fn serving(listener: i32) -> Result<Rules, BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let files = FILES.iter().chain(FILES_HERE).chain(&[libc::SYS_newfstatat, libc::SYS_unlinkat]);
    let mut rules = plain(SERVING.iter().chain(SERVING_HERE).chain(files));
    let no_code = |argument| rule([long(argument, MaskedEq(libc::PROT_EXEC as u64), 0)?]);
    let one_of = |argument, values: &[c_long]| {
        values.iter().map(|value| rule([int(argument, Eq, *value)?])).collect::<Result<Vec<_>, _>>()
    };
    let of_sockets = |option: i32| rule([int(1, Eq, libc::SOL_SOCKET.into())?, int(2, Eq, option.into())?]);
    let no_process = MaskedEq((!THREAD_MAY | THREAD_MUST) as u64);
    let pid = std::process::id().into();
    rules.extend([
        (libc::SYS_mmap, vec![no_code(2)?]),
        (libc::SYS_mprotect, vec![no_code(2)?]),
        // As root it could take pages out of the machine.
        (
            libc::SYS_madvise,
            vec![rule([
                int(2, Ne, libc::MADV_HWPOISON.into())?,
                int(2, Ne, libc::MADV_SOFT_OFFLINE.into())?,
            ])?],
        ),
        (libc::SYS_clone, vec![rule([long(0, no_process, THREAD_MUST)?])?]),
        // To a name it could send anything anywhere, through a socket that a client has attached.
        (libc::SYS_sendto, vec![rule([long(4, Eq, 0)?])?]),
        // Of the listener it would be for good, and for all who have it.
        (libc::SYS_shutdown, vec![rule([int(0, Ne, listener.into())?, int(1, Eq, libc::SHUT_RD.into())?])?]),
        (
            libc::SYS_getsockopt,
            vec![
                of_sockets(libc::SO_PEERCRED)?,
                of_sockets(libc::SO_ERROR)?,
                of_sockets(libc::SO_ACCEPTCONN)?,
            ],
        ),
        (
            libc::SYS_fcntl,
            one_of(1, &[libc::F_GETFD.into(), libc::F_GETFL.into(), libc::F_GET_SEALS.into()])?
                .into_iter()
                // No pipe of others gets smaller, and none larger than everybody may have.
                .chain([rule([int(1, Eq, libc::F_SETPIPE_SZ.into())?, int(2, Eq, PIPE as c_long)?])?])
                .collect(),
        ),
        (libc::SYS_prctl, one_of(0, &[libc::PR_SET_NAME.into(), libc::PR_SET_VMA.into(), PR_GET_AUXV])?),
        // So that an abort reads as one.
        (libc::SYS_tgkill, one_of(0, &[pid])?),
    ]);
    Ok(rules)
}

fn plain<'a>(calls: impl IntoIterator<Item = &'a c_long>) -> Rules {
    calls.into_iter().map(|call| (*call, Vec::new())).collect()
}

/// All of these.
fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into())
}

/// On an argument that is an `int` to the kernel.
fn int(argument: u8, compare: SeccompCmpOp, value: c_long) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value as u64)
}

/// On one that is a `long`, or an address.
fn long(argument: u8, compare: SeccompCmpOp, value: c_long) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, compare, value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_can_be_had_for_both_processors() {
        for arch in [TargetArch::x86_64, TargetArch::aarch64] {
            for removable in [None, Some(5)] {
                let programs = compiled(arch, 3, removable, 1 << 32).unwrap();
                assert!(programs.iter().all(|program| program.len() > 6), "{programs:?}");
            }
        }
    }
}
