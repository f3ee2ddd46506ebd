//! Machine code for a card, by NVRTC.

use std::ffi::{CStr, CString, c_char};

use candle_core::cuda::cudarc::nvrtc::{Ptx, result, sys};
use candle_core::{Error, Result};

/// Compiles CUDA C++ for a compute capability. The result is machine code and not PTX, so that the
/// driver compiles nothing, and need not know NVRTC's version of PTX.
///
/// # Errors
/// NVRTC's messages, with file and line.
pub(super) fn compile(source: &str, major: i32, minor: i32) -> Result<Ptx> {
    let source = CString::new(source).map_err(Error::wrap)?;
    let program = result::create_program(&source, Some(c"pacos.cu"));
    let program = Program(program.map_err(failed)?);
    let options = [
        format!("--gpu-architecture=sm_{major}{minor}"),
        "--std=c++17".to_owned(),
    ];
    // SAFETY: the program was created above and is destroyed when `Program` is dropped.
    unsafe { result::compile_program(program.0, &options) }.map_err(|error| {
        // SAFETY: as above.
        let log = unsafe { result::get_program_log(program.0) }.unwrap_or_default();
        Error::Msg(format!("{error:?}: {}", text(&log)))
    })?;
    let mut size = 0;
    // SAFETY: the program was compiled; the size is written.
    unsafe { sys::nvrtcGetCUBINSize(program.0, &mut size) }
        .result()
        .map_err(failed)?;
    let mut code = vec![0u8; size];
    // SAFETY: the buffer has the size that NVRTC asked for.
    unsafe { sys::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast()) }
        .result()
        .map_err(failed)?;
    Ok(Ptx::from_binary(code))
}

fn failed(error: result::NvrtcError) -> Error {
    Error::Msg(format!("{error:?}"))
}

fn text(log: &[c_char]) -> String {
    let bytes: Vec<u8> = log.iter().map(|c| c.cast_unsigned()).collect();
    match CStr::from_bytes_until_nul(&bytes) {
        Ok(text) => text.to_string_lossy().trim().to_owned(),
        Err(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
    }
}

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created in `compile`, destroyed once. There is nothing to do about a failure.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}
