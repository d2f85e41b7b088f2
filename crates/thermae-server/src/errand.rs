//! Work that a thread of its own does, one piece after the other, each when somebody wants it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct State {
    is_wanted: bool,
    is_over: bool,
}

/// Something to be done by a thread that waits for it in [`Errand::run`].
#[derive(Debug, Default)]
pub struct Errand {
    state: Mutex<State>,
    changed: Condvar,
}

impl Errand {
    /// Has it done; once more where it is under way.
    pub fn want(&self) {
        self.lock().is_wanted = true;
        self.changed.notify_one();
    }

    /// Ends the thread, after what is under way.
    pub fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_one();
    }

    /// Whether the thread is to end.
    pub fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// The thread's work, until it is to end. What it has the store do gives way to others; a lower priority would have writers wait who need what
    /// it holds or has yet to free.
    pub fn run(&self, mut act: impl FnMut()) {
        thermae_core::work_in_background();
        loop {
            let mut state = self.lock();
            while !state.is_wanted && !state.is_over {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_over {
                return;
            }
            state.is_wanted = false;
            drop(state);
            act();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn it_is_done_when_wanted_and_once_more_when_wanted_meanwhile() {
        let errand = Errand::default();
        let (begun, begins) = mpsc::channel();
        let (goes_on, go_on) = mpsc::channel();
        let waiting = &errand;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                waiting.run(|| {
                    begun.send(()).unwrap();
                    go_on.recv().unwrap();
                });
            });
            errand.want();
            begins.recv().unwrap();
            errand.want();
            errand.want();
            goes_on.send(()).unwrap();
            begins.recv().unwrap();
            errand.end();
            goes_on.send(()).unwrap();
            thread.join().unwrap();
            assert!(errand.is_over());
            assert!(begins.try_recv().is_err(), "twice more");
        });
    }
}
