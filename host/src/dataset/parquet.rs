//! `dataset.parquet`: the fields of `dataset.jsonl` as flat columns; what is nested there is a
//! JSON string here.

use std::{
    io::{self, Write},
    sync::Arc,
};

use pacos_plugin::{Payload, Task};
use parquet::{
    basic::Compression,
    data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int64Type},
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::parser::parse_message_type,
};
use serde::Serialize;

use super::rows::{Row, Source};

/// `source_*` are `source` of the JSON Lines, field by field.
const SCHEMA: &str = "message dataset {
    REQUIRED BYTE_ARRAY id (STRING);
    REQUIRED INT64 unit;
    REQUIRED INT64 n;
    OPTIONAL BYTE_ARRAY instruction (STRING);
    OPTIONAL BYTE_ARRAY input (STRING);
    OPTIONAL BYTE_ARRAY output (STRING);
    OPTIONAL BYTE_ARRAY messages (STRING);
    REQUIRED BYTE_ARRAY parents (STRING);
    REQUIRED BYTE_ARRAY attributes (STRING);
    REQUIRED BYTE_ARRAY verdicts (STRING);
    REQUIRED BOOLEAN edited;
    OPTIONAL BYTE_ARRAY source_model (STRING);
    OPTIONAL BYTE_ARRAY source_request_key (STRING);
    OPTIONAL INT64 source_ordinal;
    OPTIONAL INT64 source_start;
    OPTIONAL INT64 source_end;
}";

/// Writes pages of rows, each as a row group.
pub(super) struct Columns<W: Write> {
    writer: SerializedFileWriter<W>,
}

impl<W: Write + Send> Columns<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let schema = parse_message_type(SCHEMA).map_err(io_error)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .build();
        let writer = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))
            .map_err(io_error)?;
        Ok(Columns { writer })
    }

    pub(super) fn rows(&mut self, rows: Vec<Row>) -> io::Result<()> {
        self.row_group(&rows).map_err(io_error)
    }

    /// Columns are written in the order of the schema.
    fn row_group(&mut self, rows: &[Row]) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        required::<ByteArrayType>(&mut group, rows.iter().map(|row| text(row.id())))?;
        required::<Int64Type>(&mut group, rows.iter().map(|row| row.unit))?;
        required::<Int64Type>(&mut group, rows.iter().map(|row| row.n))?;
        for field in [
            |task: &Task| text(&*task.instruction),
            |task: &Task| text(&*task.input),
            |task: &Task| text(&*task.output),
        ] {
            optional::<ByteArrayType>(
                &mut group,
                rows.iter().map(|row| match &row.payload {
                    Payload::Task(task) => Some(field(task)),
                    Payload::Chat(_) => None,
                }),
            )?;
        }
        optional::<ByteArrayType>(
            &mut group,
            rows.iter().map(|row| match &row.payload {
                Payload::Task(_) => None,
                Payload::Chat(messages) => Some(json(messages)),
            }),
        )?;
        required::<ByteArrayType>(&mut group, rows.iter().map(|row| json(&row.parents)))?;
        required::<ByteArrayType>(&mut group, rows.iter().map(|row| json(&row.attributes)))?;
        required::<ByteArrayType>(&mut group, rows.iter().map(|row| json(&row.verdicts)))?;
        required::<BoolType>(&mut group, rows.iter().map(Row::edited))?;
        for field in [
            |source: &Source| source.model.as_deref().map(text),
            |source: &Source| source.request_key.as_deref().map(text),
        ] {
            optional::<ByteArrayType>(
                &mut group,
                rows.iter().map(|row| row.source.as_ref().and_then(field)),
            )?;
        }
        for field in [
            |source: &Source| i64::from(source.ordinal),
            |source: &Source| i64::from(source.start),
            |source: &Source| i64::from(source.end),
        ] {
            optional::<Int64Type>(
                &mut group,
                rows.iter().map(|row| row.source.as_ref().map(field)),
            )?;
        }
        group.close()?;
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<W> {
        self.writer.into_inner().map_err(io_error)
    }
}

/// The disk's own error, where it is one: it tells a full disk from others.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        error => io::Error::other(error),
    }
}

fn text(text: impl Into<String>) -> ByteArray {
    ByteArray::from(text.into().into_bytes())
}

fn json(value: &impl Serialize) -> ByteArray {
    let bytes = serde_json::to_vec(value).expect("rows have string keys and finite shapes");
    ByteArray::from(bytes)
}

fn required<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    values: impl Iterator<Item = T::T>,
) -> Result<(), ParquetError> {
    column::<T>(group, &values.collect::<Vec<_>>(), None)
}

fn optional<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<(), ParquetError> {
    let values: Vec<Option<T::T>> = values.collect();
    let present: Vec<i16> = values
        .iter()
        .map(|value| i16::from(value.is_some()))
        .collect();
    let values: Vec<T::T> = values.into_iter().flatten().collect();
    column::<T>(group, &values, Some(&present))
}

fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    values: &[T::T],
    present: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let mut column = group
        .next_column()?
        .expect("the schema has as many columns as are written");
    column.typed::<T>().write_batch(values, present, None)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct FullDisk;

    impl Write for FullDisk {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        let numbers: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
        let row = Row {
            unit: 0,
            n: 0,
            payload: Payload::Task(Task::new("Count.", "", numbers.join(" "))),
            parents: Vec::new(),
            attributes: serde_json::json!([]),
            verdicts: Vec::new(),
            source: None,
        };
        let mut columns = Columns::new(FullDisk).unwrap();
        let error = columns.rows(vec![row]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
