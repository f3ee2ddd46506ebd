//! `dataset.parquet`: the fields of `dataset.jsonl` as flat columns; what is nested there is a
//! JSON string here.

use std::{
    io::{self, Write},
    sync::Arc,
};

use pacos_plugin::Payload;
use parquet::{
    basic::Compression,
    data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int64Type},
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
        let schema = parse_message_type(SCHEMA)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .build();
        let writer = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))?;
        Ok(Columns { writer })
    }

    /// Columns are written in the order of the schema.
    pub(super) fn rows(&mut self, rows: Vec<Row>) -> io::Result<()> {
        let mut group = self.writer.next_row_group()?;
        required::<ByteArrayType>(&mut group, rows.iter().map(|row| text(row.id())))?;
        required::<Int64Type>(&mut group, rows.iter().map(|row| row.unit))?;
        required::<Int64Type>(&mut group, rows.iter().map(|row| row.n))?;
        for field in [
            |task: &pacos_plugin::Task| text(&*task.instruction),
            |task: &pacos_plugin::Task| text(&*task.input),
            |task: &pacos_plugin::Task| text(&*task.output),
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
        Ok(self.writer.into_inner()?)
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
) -> io::Result<()> {
    column::<T>(group, &values.collect::<Vec<_>>(), None)
}

fn optional<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    values: impl Iterator<Item = Option<T::T>>,
) -> io::Result<()> {
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
) -> io::Result<()> {
    let mut column = group
        .next_column()?
        .expect("the schema has as many columns as are written");
    column.typed::<T>().write_batch(values, present, None)?;
    Ok(column.close()?)
}
