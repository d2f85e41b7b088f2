//! Named points at which tests kill a process.
//!
//! With the feature `crash-points`, the environment variable `THERMAE_CRASH_POINT=name` or `name:n` kills the process with SIGKILL when it
//! passes that point for the n-th time. Without the feature the points compile to nothing.

/// A point at which tests may kill the process.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "crash-points")]
        $crate::crash::pass($name);
    };
}
pub(crate) use crash_point;

/// Dies here if this is the point and the pass that the environment names.
#[cfg(feature = "crash-points")]
pub fn pass(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSES: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("THERMAE_CRASH_POINT").ok()?;
        let (point, pass) = text.split_once(':').unwrap_or((&text, "1"));
        Some((point.to_owned(), pass.parse().ok()?))
    });
    if let Some((point, pass)) = wanted
        && point == name
        && PASSES.fetch_add(1, Ordering::SeqCst) + 1 == *pass
    {
        // SAFETY: kills this process; nothing runs after it.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
}
