//! Digests as text.

/// Two lower-case hexadecimal digits for every byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
