//! The world outside: through WASI where the plugin is a component, through std where it is a
//! library.

#[cfg(target_family = "wasm")]
mod reach {
    #[allow(missing_docs, reason = "generated code")]
    mod bindings {
        wit_bindgen::generate!({
            path: "../hostile/wit",
            world: "outside",
            generate_all,
        });
    }
    use bindings::wasi::{
        cli::environment,
        clocks::{monotonic_clock, wall_clock},
        filesystem::preopens,
        random::random as wasi_random,
        sockets::{network, tcp_create_socket},
    };

    pub fn clock() -> String {
        let now = wall_clock::now();
        format!(
            "{} s, {} ns; monotonic {} ns",
            now.seconds,
            now.nanoseconds,
            monotonic_clock::now()
        )
    }

    pub fn random() -> String {
        format!("{:016x}", wasi_random::get_random_u64())
    }

    pub fn environment() -> String {
        format!(
            "{} variables, {} arguments, PATH {:?}",
            environment::get_environment().len(),
            environment::get_arguments().len(),
            std::env::var("PATH").ok()
        )
    }

    pub fn files() -> String {
        format!(
            "{} folders, file read: {}",
            preopens::get_directories().len(),
            std::fs::read("/etc/hostname").is_ok()
        )
    }

    pub fn socket() -> String {
        match tcp_create_socket::create_tcp_socket(network::IpAddressFamily::Ipv4) {
            Ok(_) => "a socket".to_owned(),
            Err(code) => code.name().to_owned(),
        }
    }

    pub fn sleep() -> String {
        monotonic_clock::subscribe_duration(365 * 24 * 3600 * 1_000_000_000).block();
        "awake".to_owned()
    }
}

#[cfg(not(target_family = "wasm"))]
mod reach {
    use std::{
        hash::{BuildHasher, RandomState},
        time::{Duration, SystemTime},
    };

    pub fn clock() -> String {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        format!("{} s, {} ns", since.as_secs(), since.subsec_nanos())
    }

    pub fn random() -> String {
        format!("{:016x}", RandomState::new().hash_one(0))
    }

    pub fn environment() -> String {
        format!(
            "{} variables, {} arguments, PATH {:?}",
            std::env::vars_os().count(),
            std::env::args_os().count(),
            std::env::var("PATH").ok()
        )
    }

    pub fn files() -> String {
        format!("file read: {}", std::fs::read("/etc/hostname").is_ok())
    }

    pub fn socket() -> String {
        match std::net::TcpListener::bind(("127.0.0.1", 0)) {
            Ok(_) => "a socket".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    pub fn sleep() -> String {
        std::thread::sleep(Duration::from_secs(365 * 24 * 3600));
        "awake".to_owned()
    }
}

pub use reach::{clock, environment, files, random, sleep, socket};
