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

/// Writes a group in one transaction; a write that fails takes only itself back. Where SQLite
/// itself takes the whole transaction back, as it does when the disk is full, all of them fail.
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
    let mut lost = None;
    for job in group {
        if let Some(error) = &lost {
            written.push((job.done, Err(LedgerError::clone(error))));
            continue;
        }
        let result = connection
            .execute_batch("SAVEPOINT job")
            .and_then(|()| (job.write)(connection))
            .map_err(LedgerError::sqlite(job.doing));
        let closed = connection.execute_batch(match result {
            Ok(()) => "RELEASE job",
            Err(_) => "ROLLBACK TO job; RELEASE job",
        });
        let result = result.and_then(|()| closed.map_err(LedgerError::sqlite(job.doing)));
        if connection.is_autocommit() {
            lost = result.clone().err();
        }
        written.push((job.done, result));
    }
    let committed = match lost {
        Some(error) => Err(error),
        None => connection
            .execute_batch("COMMIT")
            .map_err(LedgerError::sqlite("committing")),
    };
    if committed.is_err() {
        // SQLite may have rolled back already; then there is nothing left to roll back.
        let _ = connection.execute_batch("ROLLBACK");
    }
    for (done, result) in written {
        // Whoever asked may have gone; the write stands all the same.
        let _ = done.send(result.and(committed.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::mpsc};

    use super::super::{Ledger, LedgerError};

    const FULL: &str = "database or disk is full. The disk is full; what was recorded is whole. Make room and run again";

    /// Leaves room for so many more pages of 4 KiB.
    async fn room(ledger: &Ledger, pages: i64) {
        let write = ledger.write("setting the size of the disk", move |c| {
            let has: i64 = c.query_row("PRAGMA page_count", [], |r| r.get(0))?;
            c.query_row(
                &format!("PRAGMA max_page_count = {}", has + pages),
                [],
                |_| Ok(()),
            )
        });
        write.await.unwrap();
    }

    fn is_whole(path: &Path) -> bool {
        let found: String = rusqlite::Connection::open(path)
            .unwrap()
            .query_row("PRAGMA integrity_check", [], |r| r.get(0))
            .unwrap();
        found == "ok"
    }

    #[tokio::test]
    async fn a_full_disk_loses_nothing_that_was_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.sqlite");
        let ledger = Ledger::open(&path).unwrap();
        ledger.set_meta("before", "kept".into()).await.unwrap();
        room(&ledger, 4).await;

        // Four writes that share a commit, as the writer is held until all of them wait.
        let (go, held) = mpsc::channel::<()>();
        let hold = ledger.write("waiting", move |_| {
            let _ = held.recv();
            Ok(())
        });
        let much = "x".repeat(100_000);
        let (_, first, large, last, ()) = tokio::join!(
            hold,
            ledger.set_meta("first", "small".into()),
            ledger.set_meta("large", much.clone()),
            ledger.set_meta("last", "small".into()),
            async { go.send(()).unwrap() },
        );
        let told = large.unwrap_err().to_string();
        assert!(
            told.starts_with("ledger: ") && told.ends_with(FULL),
            "{told}"
        );
        // Who was told that a write is on disk finds it there, who was told no does not.
        let found = |key: &str| ledger.meta(key).unwrap();
        for (key, told) in [("first", first), ("last", last)] {
            match told {
                Ok(()) => assert_eq!(found(key).as_deref(), Some("small")),
                Err(error @ LedgerError::Sqlite { .. }) => {
                    assert!(error.to_string().ends_with(FULL), "{error}");
                    assert_eq!(found(key), None, "{key}");
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(found("large"), None);
        assert_eq!(found("before").as_deref(), Some("kept"));
        assert!(is_whole(&path));

        // There is room again, and the same ledger goes on.
        room(&ledger, 1_000).await;
        ledger.set_meta("large", much.clone()).await.unwrap();
        drop(ledger);
        let again = Ledger::open(&path).unwrap();
        assert_eq!(again.meta("large").unwrap(), Some(much));
        assert_eq!(again.meta("before").unwrap().as_deref(), Some("kept"));
        assert!(is_whole(&path));
    }
}
