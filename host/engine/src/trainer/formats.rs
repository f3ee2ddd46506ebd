//! Which numbers a run keeps in which format.

use candle_core::DType;

use super::config::TrainDtype;
use super::device::DeviceKind;
use super::parameters::NumberFormat;

/// The formats of everything that lies in memory while a model is trained.
///
/// On the processor all but the moments is f32, and `dtype = "bf16"` rounds the operands of products alone. On a card
/// `dtype = "bf16"` keeps weights exact in two halves ([`NumberFormat::Split`]), of which products read
/// the bf16 one; activations and gradients are bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats {
    /// Weights that are trained.
    pub trained: NumberFormat,
    /// Weights that are not, under adapters.
    pub frozen: NumberFormat,
    /// Gradients of what is trained.
    pub gradients: NumberFormat,
    /// Both moments of AdamW.
    pub moments: NumberFormat,
    /// Activations and their gradients.
    pub activations: DType,
    /// Label rows whose logits are held at once: enough for full speed of the products.
    pub label_rows: usize,
}

impl Formats {
    /// Those of a run on a kind of device.
    pub fn of(kind: DeviceKind, dtype: TrainDtype, moments: NumberFormat) -> Self {
        let all = |trained, kept, activations, label_rows| Self {
            trained,
            frozen: kept,
            gradients: kept,
            moments,
            activations,
            label_rows,
        };
        match (kind, dtype) {
            (DeviceKind::Cpu, _) => all(NumberFormat::F32, NumberFormat::F32, DType::F32, 256),
            (DeviceKind::Cuda, TrainDtype::F32) => {
                all(NumberFormat::F32, NumberFormat::F32, DType::F32, 2048)
            }
            (DeviceKind::Cuda, TrainDtype::Bf16) => {
                all(NumberFormat::Split, NumberFormat::Bf16, DType::BF16, 2048)
            }
        }
    }

    /// Bytes that one trained parameter takes: weight, gradient and both moments.
    pub fn bytes_trained(self) -> u64 {
        self.trained.bytes() + self.gradients.bytes() + 2 * self.moments.bytes()
    }
}
