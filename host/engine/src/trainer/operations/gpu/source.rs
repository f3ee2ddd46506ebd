//! The kernels' source, in CUDA C++ that needs no header.

/// All kernels as one source for NVRTC, which has to be told nothing but the architecture (compute
/// capability 8.0 or later) and C++17. Errors name the file and line.
pub fn source() -> String {
    let mut whole = String::new();
    for (name, text) in FILES {
        whole.push_str(&format!("#line 1 \"{name}\"\n{text}\n"));
    }
    whole
}

macro_rules! files {
    ($($name:literal),*) => {
        [$(($name, include_str!(concat!("kernels/", $name)))),*]
    };
}

/// In the order in which they need one another.
const FILES: [(&str, &str); 16] = files![
    "numbers.cu",
    "reductions.cu",
    "flat.cu",
    "philox.cu",
    "sums.cu",
    "rows.cu",
    "rms_norm.cu",
    "heads.cu",
    "swiglu.cu",
    "dropout.cu",
    "cross_entropy.cu",
    "adamw.cu",
    "attention.cu",
    "tensor_cores.cu",
    "attention_mma.cu",
    "attention_mma_backward.cu"
];

/// Names of all kernels.
pub const KERNELS: [&str; 51] = [
    "zero_bytes",
    "copy_bytes",
    "add_sum",
    "sum_of_squares_f32",
    "sum_of_squares_bf16",
    "add_partial_sums",
    "clip_factor",
    "gather_rows_f32",
    "gather_rows_bf16",
    "scatter_add_rows_f32",
    "scatter_add_rows_bf16",
    "rms_norm_f32",
    "rms_norm_bf16",
    "rms_norm_backward_f32",
    "rms_norm_backward_bf16",
    "rms_norm_weight_gradient_f32",
    "rms_norm_weight_gradient_bf16",
    "split_heads_f32",
    "split_heads_bf16",
    "merge_heads_f32",
    "merge_heads_bf16",
    "head_products_f32",
    "head_products_bf16",
    "swiglu_f32",
    "swiglu_bf16",
    "swiglu_backward_f32",
    "swiglu_backward_bf16",
    "dropout_f32",
    "dropout_bf16",
    "dropout_backward_f32",
    "dropout_backward_bf16",
    "cross_entropy_f32",
    "cross_entropy_bf16",
    "adamw_f32_f32",
    "adamw_f32_bf16",
    "adamw_bf16_f32",
    "adamw_bf16_bf16",
    "attention_f32",
    "attention_bf16",
    "attention_bf16_64",
    "attention_bf16_128",
    "attention_query_gradient_f32",
    "attention_query_gradient_bf16",
    "attention_query_gradient_bf16_64",
    "attention_query_gradient_bf16_128",
    "attention_key_gradient_f32",
    "attention_key_gradient_bf16",
    "attention_key_gradient_bf16_64",
    "attention_key_gradient_bf16_128",
    "attention_key_sums_f32",
    "attention_key_sums_bf16",
];
