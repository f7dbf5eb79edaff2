//! Several devices that have the same model, and one queue.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use albedo_core::{Error, Result};
use tokio::sync::mpsc;

use super::requests::Call;

/// How many requests the devices have; nothing for those whose threads have ended.
#[derive(Debug)]
struct Loads {
    requests: Mutex<Vec<Option<usize>>>,
    changed: Condvar,
}

impl Loads {
    fn requests(&self) -> MutexGuard<'_, Vec<Option<usize>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's place at a device, until this is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    loads: Arc<Loads>,
    device: usize,
}

impl Ticket {
    /// Waits until a device has fewer than `most` requests; of several, it is the one with
    /// the fewest, and of equals the first. `None` if no device is left.
    fn wait(loads: &Arc<Loads>, most: usize) -> Option<Self> {
        let mut requests = loads.requests();
        loop {
            let left =
                requests.iter().enumerate().filter_map(|(device, requests)| Some(((*requests)?, device)));
            let (fewest, device) = left.min()?;
            if fewest < most {
                requests[device] = Some(fewest + 1);
                return Some(Self { loads: Arc::clone(loads), device });
            }
            requests = loads.changed.wait(requests).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(requests) = &mut self.loads.requests()[self.device] {
            *requests -= 1;
        }
        self.loads.changed.notify_all();
    }
}

/// A device's end of its own channel, and a way to wake it.
pub(super) type Calls = (mpsc::WeakSender<Call>, mpsc::Receiver<Call>);

/// Starts a thread that hands out the requests of `calls` one by one to `count` devices,
/// each of which has at most `most` at a time. It ends with `calls`, and the devices'
/// channels with it.
///
/// # Errors
/// No thread.
pub(super) fn share(mut calls: mpsc::Receiver<Call>, count: usize, most: usize) -> Result<Vec<Calls>> {
    let (devices, ends): (Vec<_>, Vec<_>) = (0..count)
        .map(|_| {
            let (device, end) = mpsc::channel(most.max(1));
            let wake = device.downgrade();
            (device, (wake, end))
        })
        .unzip();
    let loads = Arc::new(Loads { requests: Mutex::new(vec![Some(0); count]), changed: Condvar::new() });
    let run = move || {
        while let Some(Call { requests, cx, answers, .. }) = calls.blocking_recv() {
            for (first, request) in requests.into_iter().enumerate() {
                let (cx, answers) = (cx.clone(), answers.clone());
                let mut call = Call { requests: vec![request], first, cx, answers, place: None };
                // Without any device left, the callers get an error for their requests.
                while let Some(place) = Ticket::wait(&loads, most.max(1)) {
                    let device = place.device;
                    call.place = Some(place);
                    match devices[device].blocking_send(call) {
                        Ok(()) => break,
                        Err(mpsc::error::SendError(back)) => {
                            call = back;
                            loads.requests()[device] = None;
                        }
                    }
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("albedo-replicas".to_owned());
    let io = |error| Error::io("start a thread that shares requests", Path::new("albedo-replicas"), error);
    thread.spawn(run).map_err(io)?;
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use albedo_core::{CallContext, Completion};

    use super::*;
    use crate::burn::requests::Request;

    type Answer = (usize, Result<Completion>);

    fn call(count: usize) -> (Call, mpsc::Receiver<Answer>) {
        let request = || Request::new(vec![1_u32].into());
        let (answers, answered) = mpsc::channel(count);
        let requests = (0..count).map(|_| request()).collect();
        (Call { requests, first: 0, cx: CallContext::new(), answers, place: None }, answered)
    }

    #[test]
    fn each_gets_as_many_as_the_others_and_none_more_than_it_has_places() {
        let (sender, receiver) = mpsc::channel(4);
        let mut devices = share(receiver, 3, 2).unwrap();
        sender.blocking_send(call(9).0).unwrap();
        // Six fit. They go round, in order.
        let mut held = Vec::new();
        for turn in 0..2 {
            for (device, (_, calls)) in devices.iter_mut().enumerate() {
                let call = calls.blocking_recv().unwrap();
                assert_eq!((call.requests.len(), call.first), (1, 3 * turn + device));
                held.push(call);
            }
        }
        assert!(devices.iter_mut().all(|(_, calls)| calls.try_recv().is_err()));
        // The device that has answered gets the next request.
        drop(held.remove(4));
        assert_eq!(devices[1].1.blocking_recv().unwrap().first, 6);
        // That call is dropped at once, so that its device gets the next, too.
        assert_eq!(devices[1].1.blocking_recv().unwrap().first, 7);
        drop(held);
        drop(sender);
        let left: Vec<usize> = devices
            .iter_mut()
            .flat_map(|(_, calls)| std::iter::from_fn(|| calls.blocking_recv()))
            .map(|call| call.first)
            .collect();
        assert_eq!(left, [8]);
    }

    #[test]
    fn the_requests_of_a_device_whose_thread_ended_go_to_the_others() {
        let (sender, receiver) = mpsc::channel(4);
        let mut devices = share(receiver, 3, 1).unwrap();
        drop((devices.remove(2), devices.remove(0)));
        sender.blocking_send(call(4).0).unwrap();
        drop(sender);
        let calls = std::iter::from_fn(|| devices[0].1.blocking_recv());
        assert_eq!(calls.map(|call| call.first).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn without_any_device_nothing_is_answered() {
        let (sender, receiver) = mpsc::channel(4);
        drop(share(receiver, 2, 1).unwrap());
        let (call, mut answered) = call(4);
        sender.blocking_send(call).unwrap();
        assert!(answered.blocking_recv().is_none());
    }
}
