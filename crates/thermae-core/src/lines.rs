//! Writing cache lines back to memory: what makes a store to persistent memory durable.
//!
//! One instruction a line, the best that the processor has, chosen at run time; then a fence. The instructions are described in Intel's
//! "Software Developer's Manual" (CLWB, CLFLUSHOPT, CLFLUSH) and Arm's "Architecture Reference Manual" (DC CVAP, DC CVAC).
//! Any thread may write back any line; it changes no byte.

/// Bytes of a cache line, on the processors at hand; writing back a line twice does no harm.
const LINE_BYTES: usize = 64;

/// Writes back the cache lines of `[address, address + len)`. Complete after [`fence_of_write_backs`].
///
/// # Safety
/// The range is mapped.
pub(crate) unsafe fn write_back_lines(address: *const u8, len: usize) {
    let first = address as usize & !(LINE_BYTES - 1);
    let write_back = line_write_back();
    for line in (first..address as usize + len).step_by(LINE_BYTES) {
        // SAFETY: a line that the range touches is mapped, because pages are whole lines; the instruction was found to exist.
        unsafe { write_back(line as *const u8) };
    }
}

type WriteBack = unsafe fn(*const u8);

/// The best instruction that this processor has for it.
#[cfg(target_arch = "x86_64")]
fn line_write_back() -> WriteBack {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid_count, _mm_clflush};
    use std::sync::OnceLock;

    unsafe fn clwb(line: *const u8) {
        // SAFETY: the caller's address is mapped; CPUID said that the instruction exists.
        unsafe { asm!("clwb [{0}]", in(reg) line, options(nostack, preserves_flags)) };
    }
    unsafe fn clflushopt(line: *const u8) {
        // SAFETY: as above.
        unsafe { asm!("clflushopt [{0}]", in(reg) line, options(nostack, preserves_flags)) };
    }
    unsafe fn clflush(line: *const u8) {
        // SAFETY: part of the x86-64 baseline; the caller's address is mapped.
        unsafe { _mm_clflush(line) };
    }

    static BEST: OnceLock<WriteBack> = OnceLock::new();
    *BEST.get_or_init(|| {
        let structured = __cpuid_count(7, 0).ebx;
        match (structured >> 24 & 1, structured >> 23 & 1) {
            (1, _) => clwb,
            (0, 1) => clflushopt,
            _ => clflush,
        }
    })
}

/// To the point of persistence where the processor knows one, else to the point of coherency, which a platform with persistent
/// memory must flush on power failure.
#[cfg(target_arch = "aarch64")]
fn line_write_back() -> WriteBack {
    use std::arch::asm;

    unsafe fn to_persistence(line: *const u8) {
        // SAFETY: the caller's address is mapped. DC CVAP by its system-register encoding, which assemblers of any age take; the kernel
        // said that it exists.
        unsafe { asm!("sys #3, c7, c12, #1, {0}", in(reg) line, options(nostack, preserves_flags)) };
    }
    unsafe fn to_coherency(line: *const u8) {
        // SAFETY: as above; DC CVAC is allowed to user programs by Linux.
        unsafe { asm!("dc cvac, {0}", in(reg) line, options(nostack, preserves_flags)) };
    }

    if std::arch::is_aarch64_feature_detected!("dpb") { to_persistence } else { to_coherency }
}

/// Everything written back before is durable after, where the memory is persistent.
pub(crate) fn fence_of_write_backs() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the x86-64 baseline.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier.
    unsafe {
        std::arch::asm!("dsb sy", options(nostack, preserves_flags));
    }
}
