//! What a card can do at most, as its maker says.

/// Dense bf16 products with sums in f32, and memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// Operations a second.
    pub operations: f64,
    /// Bytes a second.
    pub bytes: f64,
}

/// By parts of a card's name, the more particular first; NVIDIA's data sheets.
const KNOWN: [(&str, Peak); 5] = [
    ("H200", peak(989e12, 4.8e12)),
    ("H100 PCIe", peak(756e12, 2.0e12)),
    ("H100", peak(989e12, 3.35e12)),
    ("A100-SXM4-80GB", peak(312e12, 2.039e12)),
    ("RTX 4090", peak(165.2e12, 1.008e12)),
];

const fn peak(operations: f64, bytes: f64) -> Peak {
    Peak { operations, bytes }
}

impl Peak {
    /// That of a card, where its name is known.
    pub fn of(name: &str) -> Option<Self> {
        let known = KNOWN.iter().find(|(part, _)| name.contains(part));
        known.map(|(_, peak)| *peak)
    }
}
