//! Memory for numbers: the engine counts its own bytes against one budget for the whole process, and answers
//! with a fault where the kernel would answer with a kill.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use task_proto::fault::{Fault, FaultKind};

use super::ingest::Table;
use super::team::lock;

/// The memory that all sequences of a process share. Clones are the same budget.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Account>,
    /// Bytes that the same call has already.
    beside: u64,
}

#[derive(Debug)]
struct Account {
    limit: u64,
    used: AtomicU64,
    /// What is kept for later calls: nobody is refused for the sake of what nobody uses.
    kept: Mutex<Vec<Weak<Table>>>,
}

/// Bytes taken from a [`Budget`], given back on drop.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Account>,
    bytes: u64,
    /// What of them was taken in advance.
    spare: u64,
    /// Bytes of another one that the same call needs.
    beside: u64,
    /// Whether there is a way without it: then nothing that is kept is given up for it.
    is_optional: bool,
}

impl Budget {
    /// This many bytes; by default half of the smaller of RAM and the cgroup's limit. It reads `/proc` and
    /// `/sys/fs/cgroup` then, so make it before a sandbox closes.
    pub fn new(limit: Option<u64>) -> Self {
        let limit = limit.unwrap_or_else(|| ram().min(cgroup_limit(Path::new("/"))) / 2);
        let account = Account { limit, used: AtomicU64::new(0), kept: Mutex::default() };
        Budget { shared: Arc::new(account), beside: 0 }
    }

    /// For what another limit already bounds.
    pub fn unlimited() -> Self {
        Budget::new(Some(u64::MAX))
    }

    /// The limit, in bytes.
    pub fn limit(&self) -> u64 {
        self.shared.limit
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.shared.used.load(Relaxed)
    }

    /// Makes a table give up what nobody uses, when memory is short.
    pub(super) fn register(&self, table: &Arc<Table>) {
        let mut kept = lock(&self.shared.kept);
        kept.retain(|table| table.strong_count() > 0);
        kept.push(Arc::downgrade(table));
    }

    /// An account that holds nothing yet.
    pub fn lease(&self) -> Lease {
        Lease {
            shared: Arc::clone(&self.shared),
            bytes: 0,
            spare: 0,
            beside: self.beside,
            is_optional: false,
        }
    }

    /// An account for what can be done without: nothing that is kept for later calls is given up for it.
    pub fn optional_lease(&self) -> Lease {
        let mut lease = self.lease();
        lease.is_optional = true;
        lease
    }

    /// The same budget, for a call that has this lease, too: what it has itself is not held by others.
    #[must_use]
    pub fn beside(&self, lease: &Lease) -> Self {
        Budget { shared: Arc::clone(&self.shared), beside: lease.beside + lease.bytes }
    }
}

impl Lease {
    /// Takes this many bytes more, before they are allocated.
    ///
    /// # Errors
    /// `TooLarge`, when the budget has less left, also without what is kept for later calls.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Fault> {
        let spare = bytes.min(self.spare);
        self.take(bytes - spare)?;
        self.spare -= spare;
        Ok(())
    }

    /// Takes in advance what [`grow`](Lease::grow) will ask for: input that is known to be too large is refused before
    /// any of it is read.
    ///
    /// # Errors
    /// As [`grow`](Lease::grow).
    pub fn reserve(&mut self, bytes: u64) -> Result<(), Fault> {
        self.take(bytes)?;
        self.spare += bytes;
        Ok(())
    }

    /// Gives back what was reserved and never needed.
    pub fn settle(&mut self) {
        self.shared.used.fetch_sub(self.spare, Relaxed);
        self.bytes -= self.spare;
        self.spare = 0;
    }

    /// Gives back some of what was taken.
    pub fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.shared.used.fetch_sub(bytes, Relaxed);
        self.bytes -= bytes;
    }

    /// Takes this many bytes more, if they are there and nobody has to give up anything for them.
    pub fn try_grow(&mut self, bytes: u64) -> bool {
        let taken = self.shared.take(bytes).is_ok();
        self.bytes += if taken { bytes } else { 0 };
        taken
    }

    fn take(&mut self, bytes: u64) -> Result<(), Fault> {
        let Account { limit, .. } = *self.shared;
        let own = self.beside + self.bytes;
        let hopeless = own.saturating_add(bytes) > limit;
        let taken = self.shared.take(bytes).or_else(|used| {
            // What is kept is not given up for nothing.
            if hopeless || self.is_optional {
                return Err(used);
            }
            self.shared.shrink();
            self.shared.take(bytes)
        });
        taken.map_err(|used| {
            let message = if hopeless {
                format!(
                    "the numbers need more than the {limit} bytes of memory that all calls together may use; give fewer numbers, or raise --memory of task where it runs this service"
                )
            } else {
                let others = used.saturating_sub(own);
                format!(
                    "other calls hold {others} of the {limit} bytes of memory that all calls together may use, and too few are left for these numbers; ask again when those are done, or raise --memory of task where it runs this service"
                )
            };
            Fault::new(FaultKind::TooLarge, message)
        })?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Account {
    /// Fails with what is in use, if there is no room.
    fn take(&self, bytes: u64) -> Result<u64, u64> {
        let room = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        self.used.try_update(Relaxed, Relaxed, room)
    }

    fn shrink(&self) {
        // Not under the lock: the last owner of a table ends an engine, which waits for its threads.
        let kept: Vec<_> = lock(&self.kept).iter().filter_map(Weak::upgrade).collect();
        for table in kept {
            table.shrink();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.used.fetch_sub(self.bytes, Relaxed);
    }
}

fn ram() -> u64 {
    let info = rustix::system::sysinfo();
    // `totalram` is a `c_ulong`, which is no `u64` on every target.
    #[expect(clippy::useless_conversion, reason = "32-bit targets have a narrower c_ulong")]
    u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit))
}

/// The smallest limit on the way from this process's cgroup to the root, of version 2 and of version 1. What
/// cannot be read limits nothing. Within a container the path may be the host's: the root is then what is left.
fn cgroup_limit(root: &Path) -> u64 {
    let membership = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = membership.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let (hierarchy, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let hierarchy = root.join(hierarchy);
        Path::new(path)
            .ancestors()
            .filter_map(|group| fs::read_to_string(hierarchy.join(group).join(file)).ok())
            .filter_map(|limit| limit.trim().parse().ok())
            .min()
    });
    limits.min().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_when_a_lease_ends_and_not_before() {
        let budget = Budget::new(Some(100));
        let mut lease = budget.lease();
        lease.grow(60).unwrap();
        let mut other = budget.lease();
        let fault = other.grow(41).unwrap_err();
        assert_eq!(fault.kind, FaultKind::TooLarge);
        assert!(fault.message.contains("--memory") && fault.message.contains("100 bytes"), "{fault}");
        other.grow(40).unwrap();
        drop(lease);
        assert_eq!(budget.used(), 40);
        other.grow(60).unwrap();
    }

    #[test]
    fn who_finds_others_memory_in_use_is_told_to_ask_again_and_who_needs_too_much_to_give_less() {
        let budget = Budget::new(Some(100));
        let mut own = budget.lease();
        own.grow(30).unwrap();
        let mut other = budget.lease();
        other.grow(50).unwrap();
        let told = |fault: Fault| fault.message;
        let busy = told(own.grow(40).unwrap_err());
        assert!(
            busy.starts_with("other calls hold 50 of the 100 bytes") && busy.contains("ask again"),
            "{busy}"
        );
        let much = told(own.grow(71).unwrap_err());
        assert!(much.contains("give fewer numbers") && !much.contains("ask again"), "{much}");
        // What the call has already is not somebody else's.
        let mut scratch = budget.beside(&own).lease();
        let busy = told(scratch.grow(70).unwrap_err());
        assert!(busy.starts_with("other calls hold 50 of"), "{busy}");
        let much = told(scratch.grow(71).unwrap_err());
        assert!(much.contains("give fewer numbers"), "{much}");
        assert_eq!(budget.used(), 80, "what was refused was not taken");
    }

    #[test]
    fn what_was_reserved_is_used_first_and_the_rest_given_back() {
        let budget = Budget::new(Some(100));
        let mut lease = budget.lease();
        lease.reserve(80).unwrap();
        lease.grow(50).unwrap();
        assert_eq!((budget.used(), budget.lease().reserve(21).is_err()), (80, true));
        assert!(lease.grow(51).is_err());
        lease.grow(40).unwrap();
        assert_eq!(budget.used(), 90);
        lease.reserve(5).unwrap();
        lease.settle();
        assert_eq!(budget.used(), 90);
        drop(lease);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_smallest_limit_of_a_cgroup_and_its_parents_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(cgroup_limit(root.path()), u64::MAX, "nothing to read");
        write("proc/self/cgroup", "0::/user/shell\n");
        write("sys/fs/cgroup/user/shell/memory.max", "max\n");
        assert_eq!(cgroup_limit(root.path()), u64::MAX);
        write("sys/fs/cgroup/user/memory.max", "5000\n");
        assert_eq!(cgroup_limit(root.path()), 5000, "a parent's");
        write("sys/fs/cgroup/memory.max", "4000\n");
        assert_eq!(cgroup_limit(root.path()), 4000, "a container's own root");
        write("proc/self/cgroup", "5:cpu,memory:/job\n4:pids:/job\n");
        write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "3000\n");
        assert_eq!(cgroup_limit(root.path()), 3000, "version 1");
    }

    #[test]
    fn the_default_is_at_most_half_of_the_machine() {
        let limit = Budget::new(None).limit();
        assert!(limit > 0 && limit <= ram() / 2);
    }
}
