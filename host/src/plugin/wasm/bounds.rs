//! What a guest may take of the host's memory.

use wasmtime::ResourceLimiter;

/// Counts what an instance has taken: all its memories together, all its tables together.
pub(super) struct Bounds {
    memory_limit: usize,
    memory: usize,
    table_limit: usize,
    table_elements: usize,
}

/// A guest wanted more than its bounds. Travels through wasmtime as the cause of a trap.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutOfBounds {
    #[error("it wanted more memory than its {} MiB", .0 >> 20)]
    Memory(usize),
    #[error("it wanted more than {0} table elements")]
    Table(usize),
}

impl Bounds {
    pub(super) fn new(memory_limit: usize, table_limit: usize) -> Self {
        Bounds {
            memory_limit,
            memory: 0,
            table_limit,
            table_elements: 0,
        }
    }

    /// Bytes that the guest has taken so far; a memory never shrinks.
    pub(super) fn memory(&self) -> usize {
        self.memory
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
        if elements > self.table_limit {
            return Err(OutOfBounds::Table(self.table_limit).into());
        }
        self.table_elements = elements;
        Ok(true)
    }
}
