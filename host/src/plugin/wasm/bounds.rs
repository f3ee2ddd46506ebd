//! What a guest may take of the host's memory.

use wasmtime::ResourceLimiter;

/// Elements of all tables of an instance.
const TABLE_ELEMENTS: usize = 100_000;

/// Counts what an instance has taken: all its memories together, all its tables together.
pub(super) struct Bounds {
    memory_limit: usize,
    memory: usize,
    table_elements: usize,
}

/// A guest wanted more than its bounds. Travels through wasmtime as the cause of a trap.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutOfBounds {
    #[error("it wanted more memory than its {} MiB", .0 >> 20)]
    Memory(usize),
    #[error("it wanted more than {TABLE_ELEMENTS} table elements")]
    Table,
}

impl Bounds {
    pub(super) fn new(memory_limit: usize) -> Self {
        Bounds {
            memory_limit,
            memory: 0,
            table_elements: 0,
        }
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let memory = self.memory.saturating_add(desired.saturating_sub(current));
        if memory > self.memory_limit {
            // A guest told "no" would abort with less to say.
            return Err(OutOfBounds::Memory(self.memory_limit).into());
        }
        self.memory = memory;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self
            .table_elements
            .saturating_add(desired.saturating_sub(current));
        if elements > TABLE_ELEMENTS {
            return Err(OutOfBounds::Table.into());
        }
        self.table_elements = elements;
        Ok(true)
    }
}
