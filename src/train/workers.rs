//! Threads that compute the pieces of a batch, each with a [`Replica`] of its own and one thread of libtorch.
//!
//! With several threads in every operation, all of them wait for the last one some thousand times per step: beside another
//! program on the same core that costs far more than the core. Here a thread takes the next piece when it is done with one,
//! and they wait for each other once per step.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::body::Replica;
use super::error::TrainError;

type Job = Box<dyn FnOnce(&mut Replica) + Send>;

/// Threads with a replica each.
#[derive(Debug)]
pub(super) struct Workers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts a thread for each replica.
    pub fn start(replicas: Vec<Replica>) -> Result<Self, TrainError> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let mut workers = Workers { jobs: Some(jobs), threads: Vec::with_capacity(replicas.len()) };
        for replica in replicas {
            let queue = Arc::clone(&queue);
            let thread = std::thread::Builder::new().name("train".into()).spawn(move || work(&queue, replica));
            workers.threads.push(thread.map_err(|error| TrainError::Thread { error })?);
        }
        Ok(workers)
    }

    /// Computes all items, each on the next free thread, and gives the results to `take` in the order of the items.
    ///
    /// # Errors
    /// The first error in that order; items that are in the making are finished before it is returned.
    pub fn run<I, T>(
        &self,
        items: Vec<I>,
        compute: impl Fn(&mut Replica, I) -> Result<T, TrainError> + Clone + Send + 'static,
        mut take: impl FnMut(T) -> Result<(), TrainError>,
    ) -> Result<(), TrainError>
    where
        I: Send + 'static,
        T: Send + 'static,
    {
        let count = items.len();
        let (done, results) = channel();
        for (number, item) in items.into_iter().enumerate() {
            let (done, compute) = (done.clone(), compute.clone());
            let job = move |replica: &mut Replica| drop(done.send((number, compute(replica, item))));
            if let Some(jobs) = &self.jobs {
                // It fails only where all threads have panicked, which the missing results tell below.
                drop(jobs.send(Box::new(job)));
            }
        }
        drop(done);
        in_order(count, &results, &mut take)
    }
}

/// Gives the results to `take` by their number. All are waited for: a thread that is still at work would use the tensors that
/// the caller goes on to change.
fn in_order<T>(
    count: usize,
    results: &Receiver<(usize, Result<T, TrainError>)>,
    take: &mut dyn FnMut(T) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let mut early: Vec<Option<Result<T, TrainError>>> = (0..count).map(|_| None).collect();
    let (mut next, mut outcome) = (0, Ok(()));
    for (number, result) in results {
        early[number] = Some(result);
        while let Some(result) = early.get_mut(next).and_then(Option::take) {
            next += 1;
            if outcome.is_ok() {
                outcome = result.and_then(&mut *take);
            }
        }
    }
    assert!(next == count, "a thread that trains has panicked");
    outcome
}

fn work(queue: &Mutex<Receiver<Job>>, mut replica: Replica) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(&mut replica),
            Err(_) => return,
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // Its panic has been reported, and the results it owed are missing.
            drop(thread.join());
        }
    }
}
