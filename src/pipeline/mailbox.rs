//! One waiting frame per camera: nothing queues unseen, and the camera that has waited longest is served first.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::types::CameraId;

/// What happens to a frame whose camera already has one waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The newer replaces the older, which is counted: a live camera.
    Newest,
    /// The newer waits until the older was taken: a recording.
    Every,
}

struct Waiting<T> {
    item: T,
    /// When the camera's wait began. A replacement keeps it: a fast camera neither gains nor loses its turn.
    since: u64,
}

struct State<T> {
    waiting: Vec<Option<Waiting<T>>>,
    overwritten: Vec<u64>,
    clock: u64,
    closed: bool,
}

/// The mailboxes of all cameras.
pub struct Mailboxes<T> {
    admission: Admission,
    state: Mutex<State<T>>,
    filled: Condvar,
    emptied: Condvar,
}

impl<T> Mailboxes<T> {
    /// Empty mailboxes for cameras `0..cameras`.
    pub fn new(cameras: usize, admission: Admission) -> Self {
        let state = State {
            waiting: (0..cameras).map(|_| None).collect(),
            overwritten: vec![0; cameras],
            clock: 0,
            closed: false,
        };
        Self { admission, state: Mutex::new(state), filled: Condvar::new(), emptied: Condvar::new() }
    }

    /// What happens to a frame whose camera already has one waiting.
    pub fn admission(&self) -> Admission {
        self.admission
    }

    /// Leaves a frame. Gives it back if the mailboxes are closed. Waits for room only with [`Admission::Every`].
    ///
    /// # Panics
    /// If `camera` is not one of the cameras given to [`Mailboxes::new`].
    pub fn put(&self, camera: CameraId, item: T) -> Result<(), T> {
        let index = usize::from(camera.0);
        let mut state = self.lock();
        if self.admission == Admission::Every {
            while state.waiting[index].is_some() && !state.closed {
                state = self.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        if state.closed {
            return Err(item);
        }
        if let Some(waiting) = &mut state.waiting[index] {
            waiting.item = item;
            state.overwritten[index] += 1;
        } else {
            let since = state.clock;
            state.clock += 1;
            state.waiting[index] = Some(Waiting { item, since });
        }
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for a frame and takes that of the longest-waiting camera. `None` once closed and empty.
    pub fn take(&self) -> Option<(CameraId, T)> {
        let mut state = self.lock();
        loop {
            let longest = (0..state.waiting.len())
                .filter_map(|index| state.waiting[index].as_ref().map(|waiting| (waiting.since, index)))
                .min();
            if let Some((_, index)) = longest {
                let taken = state.waiting[index].take()?;
                drop(state);
                self.emptied.notify_one();
                return Some((CameraId(index as u16), taken.item));
            }
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Number of cameras.
    pub fn cameras(&self) -> usize {
        self.lock().waiting.len()
    }

    /// No more frames come in; those waiting can still be taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    /// Frames of a camera that a newer one replaced.
    pub fn overwritten(&self, camera: CameraId) -> u64 {
        self.lock().overwritten[usize::from(camera.0)]
    }

    // A poisoned lock still holds whole values: nothing inside the critical sections can panic half-way.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: CameraId = CameraId(0);
    const B: CameraId = CameraId(1);

    #[test]
    fn newest_wins_and_the_loss_is_counted() {
        let mailboxes = Mailboxes::new(2, Admission::Newest);
        for item in [1, 2, 3] {
            mailboxes.put(A, item).unwrap();
        }
        assert_eq!(mailboxes.take(), Some((A, 3)));
        assert_eq!((mailboxes.overwritten(A), mailboxes.overwritten(B)), (2, 0));
    }

    #[test]
    fn a_fast_camera_cannot_starve_a_slow_one() {
        let mailboxes = Mailboxes::new(2, Admission::Newest);
        mailboxes.put(A, 1).unwrap();
        mailboxes.put(B, 10).unwrap();
        for item in 2..100 {
            mailboxes.put(A, item).unwrap();
        }
        assert_eq!(mailboxes.take(), Some((A, 99)), "a replacement keeps the place in the line");
        mailboxes.put(A, 100).unwrap();
        assert_eq!(mailboxes.take(), Some((B, 10)));
        assert_eq!(mailboxes.take(), Some((A, 100)));
    }

    #[test]
    fn every_frame_arrives_in_order_and_close_ends_both_sides() {
        let mailboxes = Mailboxes::new(2, Admission::Every);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for item in 0..100u32 {
                    mailboxes.put(CameraId((item % 2) as u16), item).unwrap();
                }
                mailboxes.close();
                assert_eq!(mailboxes.put(A, 100), Err(100));
            });
            let taken: Vec<u32> = std::iter::from_fn(|| mailboxes.take()).map(|(_, item)| item).collect();
            assert_eq!(taken, (0..100).collect::<Vec<_>>());
        });
    }
}
