//! Words for people and programs, also when they have stopped reading: `pacos … | head` closes the
//! pipe that the command writes to, and the standard library's `println!` panics there.
//!
//! The macros of this module take the place of the standard ones in the modules of the command
//! line that are declared after it.

use std::{
    fmt,
    io::{self, ErrorKind, Write},
    process,
};

/// What a shell reports of a program that the signal SIGPIPE has ended.
const NOBODY_READS: i32 = 141;
/// The disk, as in the table of exit codes.
const DISK: i32 = 5;

macro_rules! println {
    () => { crate::cli::output::tell(format_args!("\n")) };
    ($($part:tt)*) => { crate::cli::output::tell(format_args!("{}\n", format_args!($($part)*))) };
}

macro_rules! print {
    ($($part:tt)*) => { crate::cli::output::tell(format_args!($($part)*)) };
}

macro_rules! eprintln {
    ($($part:tt)*) => { crate::cli::output::remark(format_args!($($part)*)) };
}

/// Writes to standard output. Ends the process where that cannot be done: quietly, as programs of
/// Unix do, where nobody reads any more.
pub(super) fn tell(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_fmt(text).and_then(|()| out.flush()) {
        ended(&error);
    }
}

/// Writes a line to standard error. Where that is gone there is nobody left to tell, and the work
/// goes on.
pub(super) fn remark(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Ends the process because standard output takes no more.
pub(super) fn ended(error: &io::Error) -> ! {
    if error.kind() == ErrorKind::BrokenPipe {
        process::exit(NOBODY_READS);
    }
    remark(format_args!(
        "error: cannot write to standard output: {error}"
    ));
    process::exit(DISK)
}
