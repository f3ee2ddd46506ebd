//! The one writer: a thread that commits whatever is waiting, together.

use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::LedgerError;

type Write = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

struct Job {
    doing: &'static str,
    write: Write,
    done: oneshot::Sender<Result<(), LedgerError>>,
}

/// Most writes in one commit, so that the first of them does not wait for ever.
const GROUP: usize = 256;

/// Handle of the writing thread. The last one to go ends it.
#[derive(Clone)]
pub(crate) struct Writer {
    inner: Arc<Inner>,
}

struct Inner {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The thread ends when the last sender is gone; what was queued is written first.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer has been reported to those who waited for it.
            let _ = thread.join();
        }
    }
}

impl Writer {
    pub(super) fn start(connection: Connection) -> Self {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || run(&connection, &receiver))
            .expect("a thread can be started");
        Writer {
            inner: Arc::new(Inner {
                jobs: Some(sender),
                thread: Some(thread),
            }),
        }
    }

    pub(super) async fn write(&self, doing: &'static str, write: Write) -> Result<(), LedgerError> {
        let gone = || LedgerError::Sqlite {
            doing,
            message: "the writing thread is gone".into(),
            advice: "",
        };
        let (done, written) = oneshot::channel();
        let jobs = self.inner.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(Job { doing, write, done }).map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }
}

fn run(connection: &Connection, jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let group: Vec<Job> = std::iter::once(first)
            .chain(jobs.try_iter().take(GROUP - 1))
            .collect();
        commit(connection, group);
    }
}

/// Writes a group in one transaction; a write that fails takes only itself back.
fn commit(connection: &Connection, group: Vec<Job>) {
    let begun = connection
        .execute_batch("BEGIN IMMEDIATE")
        .map_err(LedgerError::sqlite("beginning a write"));
    if let Err(error) = begun {
        for job in group {
            let _ = job.done.send(Err(error.clone()));
        }
        return;
    }
    let mut written = Vec::with_capacity(group.len());
    for job in group {
        let result = connection
            .execute_batch("SAVEPOINT job")
            .and_then(|()| (job.write)(connection))
            .map_err(LedgerError::sqlite(job.doing));
        let closed = connection.execute_batch(match result {
            Ok(()) => "RELEASE job",
            Err(_) => "ROLLBACK TO job; RELEASE job",
        });
        let result = result.and_then(|()| closed.map_err(LedgerError::sqlite(job.doing)));
        written.push((job.done, result));
    }
    let committed = connection
        .execute_batch("COMMIT")
        .map_err(LedgerError::sqlite("committing"));
    if committed.is_err() {
        // SQLite may have rolled back already; then there is nothing left to roll back.
        let _ = connection.execute_batch("ROLLBACK");
    }
    for (done, result) in written {
        // Whoever asked may have gone; the write stands all the same.
        let _ = done.send(result.and(committed.clone()));
    }
}
