//! Named points at which tests kill a process, or stop it.
//!
//! With the feature `crash-points`, the environment variable `THERMAE_CRASH_POINT=name` or `name:n` kills the process with SIGKILL when it
//! passes that point for the n-th time, and `THERMAE_STOP_POINT` stops it with SIGSTOP until it gets SIGCONT. Without the feature the points
//! compile to nothing.

/// A point at which tests may kill the process, or stop it.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "crash-points")]
        $crate::crash::pass($name);
    };
}
pub(crate) use crash_point;

/// A point of which the environment says that something happens there.
#[cfg(feature = "crash-points")]
struct Point {
    name: String,
    /// The pass at which it happens.
    pass: u64,
    passed: std::sync::atomic::AtomicU64,
}

#[cfg(feature = "crash-points")]
impl Point {
    /// As a variable has it.
    fn of(variable: &str) -> Option<Self> {
        let text = std::env::var(variable).ok()?;
        let (name, pass) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Self { name: name.to_owned(), pass: pass.parse().ok()?, passed: 0.into() })
    }

    fn is_now(&self, name: &str) -> bool {
        self.name == name && self.passed.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == self.pass
    }
}

/// Dies or stops here if this is the point and the pass that the environment names.
#[cfg(feature = "crash-points")]
pub fn pass(name: &'static str) {
    use std::sync::LazyLock;
    static CRASH: LazyLock<Option<Point>> = LazyLock::new(|| Point::of("THERMAE_CRASH_POINT"));
    static STOP: LazyLock<Option<Point>> = LazyLock::new(|| Point::of("THERMAE_STOP_POINT"));
    if STOP.as_ref().is_some_and(|point| point.is_now(name)) {
        // SAFETY: stops this process until somebody lets it go on. It is sent to this thread, which so does not get beyond this line before.
        unsafe { libc::raise(libc::SIGSTOP) };
    }
    if CRASH.as_ref().is_some_and(|point| point.is_now(name)) {
        // SAFETY: kills this process; nothing runs after it.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
}
