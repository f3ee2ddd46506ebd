//! Runs the scripted teacher, for trying things by hand.

use std::time::Duration;

use clap::Parser;
use scripted_server::{Faults, Recorded, Script, Server, alpaca_teacher};

/// An OpenAI-compatible server whose teacher writes Alpaca tasks, the same for the same request.
#[derive(Parser)]
struct Arguments {
    /// Port on 127.0.0.1; 0 lets the system pick one
    #[arg(long, default_value_t = 8017)]
    port: u16,
    /// Another seed is another teacher
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Makes no mistakes: nothing malformed, doubled, cut or empty
    #[arg(long)]
    faultless: bool,
    /// Milliseconds before each reply
    #[arg(long, default_value_t = 0)]
    delay: u64,
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let mut teacher = alpaca_teacher();
    teacher.seed = arguments.seed;
    if arguments.faultless {
        teacher.faults = Faults::NONE;
    }
    let delay = Duration::from_millis(arguments.delay);
    let script = move |request: &Recorded| {
        println!(
            "{} {} {:016x} for the {}. time",
            request.method, request.path, request.identity, request.occurrence
        );
        teacher.action(request).after(delay)
    };
    let server = Server::start_at(([127, 0, 0, 1], arguments.port).into(), script)?;
    println!("base_url = \"{}\"", server.base_url());
    loop {
        std::thread::park();
    }
}
