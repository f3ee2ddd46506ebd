pub mod llama;
pub mod trainer;
