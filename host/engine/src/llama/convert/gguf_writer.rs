//! GGUF files, written tensor by tensor: a model never stands in memory whole.
//!
//! Format, version 3: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::io::{self, Write};

use candle_core::quantized::GgmlDType;

/// Tensors begin at multiples of so many bytes.
const ALIGNMENT: u64 = 32;

/// A metadata value, of the types that models need.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A tensor that is to be written: name and shape, rows first, and the type of its elements.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorInfo {
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: GgmlDType,
}

impl TensorInfo {
    /// Length in the file, in bytes.
    pub fn bytes(&self) -> u64 {
        let elements: usize = self.shape.iter().product();
        (elements / self.kind.block_size() * self.kind.type_size()) as u64
    }
}

/// The number of an element type in GGUF.
fn number(kind: GgmlDType) -> u32 {
    match kind {
        GgmlDType::F32 => 0,
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q5_1 => 7,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q8_1 => 9,
        GgmlDType::Q2K => 10,
        GgmlDType::Q3K => 11,
        GgmlDType::Q4K => 12,
        GgmlDType::Q5K => 13,
        GgmlDType::Q6K => 14,
        GgmlDType::Q8K => 15,
        GgmlDType::BF16 => 30,
    }
}

fn padding(length: u64) -> u64 {
    length.next_multiple_of(ALIGNMENT) - length
}

/// Writes everything up to the first tensor.
pub(super) fn write_header(
    out: &mut impl Write,
    metadata: &[(String, Value)],
    tensors: &[TensorInfo],
) -> io::Result<()> {
    let mut head = Vec::new();
    head.extend(b"GGUF");
    head.extend(3_u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_string(&mut head, key);
        put_value(&mut head, value);
    }
    let mut offset: u64 = 0;
    for tensor in tensors {
        put_string(&mut head, &tensor.name);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        for length in tensor.shape.iter().rev() {
            head.extend((*length as u64).to_le_bytes());
        }
        head.extend(number(tensor.kind).to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len() + padding(head.len() as u64) as usize, 0);
    out.write_all(&head)
}

/// Writes the elements of the next tensor.
pub(super) fn write_tensor(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.write_all(&[0; ALIGNMENT as usize][..padding(bytes.len() as u64) as usize])
}

fn put_string(head: &mut Vec<u8>, text: &str) {
    head.extend((text.len() as u64).to_le_bytes());
    head.extend(text.as_bytes());
}

fn put_value(head: &mut Vec<u8>, value: &Value) {
    const U32: u32 = 4;
    const I32: u32 = 5;
    const F32: u32 = 6;
    const BOOL: u32 = 7;
    const STRING: u32 = 8;
    const ARRAY: u32 = 9;
    let array = |head: &mut Vec<u8>, kind: u32, count: usize| {
        head.extend(ARRAY.to_le_bytes());
        head.extend(kind.to_le_bytes());
        head.extend((count as u64).to_le_bytes());
    };
    match value {
        Value::U32(number) => {
            head.extend(U32.to_le_bytes());
            head.extend(number.to_le_bytes());
        }
        Value::F32(number) => {
            head.extend(F32.to_le_bytes());
            head.extend(number.to_le_bytes());
        }
        Value::Bool(flag) => {
            head.extend(BOOL.to_le_bytes());
            head.push(u8::from(*flag));
        }
        Value::String(text) => {
            head.extend(STRING.to_le_bytes());
            put_string(head, text);
        }
        Value::Strings(texts) => {
            array(head, STRING, texts.len());
            texts.iter().for_each(|text| put_string(head, text));
        }
        Value::I32s(numbers) => {
            array(head, I32, numbers.len());
            numbers.iter().for_each(|n| head.extend(n.to_le_bytes()));
        }
        Value::F32s(numbers) => {
            array(head, F32, numbers.len());
            numbers.iter().for_each(|n| head.extend(n.to_le_bytes()));
        }
    }
}
