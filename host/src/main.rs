//! The `pacos` command.

fn main() -> std::process::ExitCode {
    pacos::cli::main()
}
