//! What a run computes on: the processor, or a card.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::memory;

/// What is asked for in the settings: `"auto"`, `"cpu"`, `"cuda"` or `"cuda:1"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceSetting {
    /// A card where this program was built for one and one is there, the processor otherwise.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA card, by its number; without one, the process's own: that of its local rank where
    /// several processes train together, the first otherwise.
    Cuda(Option<usize>),
}

impl FromStr for DeviceSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok();
        match (text, text.strip_prefix("cuda:").and_then(number)) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(None)),
            (_, Some(index)) => Ok(Self::Cuda(Some(index))),
            _ => Err(format!(
                "{text:?} is no device; expected \"auto\", \"cpu\", \"cuda\", or a card by its number, such as \"cuda:1\""
            )),
        }
    }
}

impl TryFrom<String> for DeviceSetting {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceSetting> for String {
    fn from(setting: DeviceSetting) -> Self {
        setting.to_string()
    }
}

impl fmt::Display for DeviceSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(index)) => write!(f, "cuda:{index}"),
        }
    }
}

/// Kinds of devices; what is kept in which number format depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA card.
    Cuda,
}

/// A device that is there.
#[derive(Debug, Clone)]
pub struct ComputeDevice {
    /// Its kind.
    pub kind: DeviceKind,
    /// For a person: "this processor", or the card's name.
    pub name: String,
    /// Memory that can be had on it now, where that is known.
    pub available_bytes: Option<u64>,
    /// What a user should know of the choice, if anything.
    pub caution: Option<String>,
    /// candle's handle.
    pub handle: Device,
}

/// Why there is no such device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The program has no code for cards.
    #[error(
        "device = \"{0}\", but this program was built without CUDA. Build it on a machine with a CUDA toolkit with `cargo build --release --features cuda` (docs/gpu.md says how it is done without a toolkit), or set device = \"cpu\""
    )]
    NotBuiltIn(DeviceSetting),
    /// There is no such card, or its driver cannot be used.
    #[error(
        "device = \"{setting}\", but no such card can be used: {reason}. `nvidia-smi` lists the cards and the driver's version; a driver for CUDA 13.0 or later is needed. Or set device = \"cpu\""
    )]
    NoCard {
        /// What was asked for.
        setting: DeviceSetting,
        /// What the driver said.
        reason: String,
    },
}

impl DeviceError {
    /// What is said where the processor takes a card's place; nothing where no card was to be expected.
    fn caution(&self) -> Option<String> {
        match self {
            Self::NotBuiltIn(_) => None,
            Self::NoCard { reason, .. } => Some(format!(
                "no card can be used ({reason}), so that training is on the processor; device = \"cpu\" says so without this notice"
            )),
        }
    }
}

impl ComputeDevice {
    /// The processor, with the memory that can be had now.
    pub fn cpu() -> Self {
        Self {
            kind: DeviceKind::Cpu,
            name: "this processor".to_owned(),
            available_bytes: memory::available_bytes(),
            caution: None,
            handle: Device::Cpu,
        }
    }

    /// What is asked for; `local_rank` is this process's number among those of this machine that
    /// train together.
    ///
    /// # Errors
    /// If it is not there.
    pub fn find(setting: DeviceSetting, local_rank: usize) -> Result<Self, DeviceError> {
        match setting {
            DeviceSetting::Cpu => Ok(Self::cpu()),
            DeviceSetting::Auto => Ok(card(setting, local_rank).unwrap_or_else(|error| Self {
                caution: error.caution(),
                ..Self::cpu()
            })),
            DeviceSetting::Cuda(index) => card(setting, index.unwrap_or(local_rank)),
        }
    }
}

#[cfg(feature = "cuda")]
fn card(setting: DeviceSetting, index: usize) -> Result<ComputeDevice, DeviceError> {
    super::operations::cuda::open(index).map_err(|error| DeviceError::NoCard {
        setting,
        // candle adds a backtrace where one is asked for.
        reason: error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
    })
}

#[cfg(not(feature = "cuda"))]
fn card(setting: DeviceSetting, _index: usize) -> Result<ComputeDevice, DeviceError> {
    Err(DeviceError::NotBuiltIn(setting))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "cuda", "cuda:3"] {
            let setting: DeviceSetting = text.parse().unwrap();
            assert_eq!(setting.to_string(), text);
        }
        for text in ["gpu", "cuda:", "cuda:x", ""] {
            let error = text.parse::<DeviceSetting>().unwrap_err();
            assert!(error.contains("\"cuda:1\""), "{error}");
        }
    }

    #[test]
    fn the_processor_is_always_there() {
        let found = ComputeDevice::find(DeviceSetting::Cpu, 0).unwrap();
        assert_eq!(found.kind, DeviceKind::Cpu);
        #[cfg(not(feature = "cuda"))]
        {
            let auto = ComputeDevice::find(DeviceSetting::Auto, 0).unwrap();
            assert_eq!(auto.kind, DeviceKind::Cpu);
            let error = ComputeDevice::find(DeviceSetting::Cuda(Some(1)), 0).unwrap_err();
            assert!(error.to_string().contains("--features cuda"), "{error}");
        }
    }
}
