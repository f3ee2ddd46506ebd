//! What a component finds of the world: nothing, and its user is told that it looked.
//!
//! Language runtimes ask for environment and folders as they start, so an answer, an empty one,
//! is due. Only what a guest asks for while it works on a record is worth a warning.

use std::collections::BTreeSet;

use pacos_plugin::Level;
use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::p2::{
    SocketError, SocketResult, TcpSocket, UdpSocket,
    bindings::{
        cli::environment,
        filesystem::{preopens, types::Descriptor},
        sockets::{
            network::{self, ErrorCode, IpAddressFamily, Network},
            tcp_create_socket, udp_create_socket,
        },
    },
};

use super::State;

/// What a guest has looked for, each told once an instance.
pub(super) type Sought = BTreeSet<&'static str>;

/// The state of a store, as one that denies.
pub(super) struct Denied<'a>(pub(super) &'a mut State);

/// Names [`Denied`] for a linker.
pub(super) struct HasDenied;

impl HasData for HasDenied {
    type Data<'a> = Denied<'a>;
}

impl Denied<'_> {
    fn note(&mut self, what: &'static str) {
        if self.0.working && self.0.sought.insert(what) {
            let told = format!(
                "it looked for {what}, and found nothing: no plugin is given any. What a plugin \
                 may use is in `pacos_plugin::Host`"
            );
            self.0.calls.log(Level::Warn, &told);
        }
    }
}

impl environment::Host for Denied<'_> {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        self.note("environment variables");
        Ok(Vec::new())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

impl preopens::Host for Denied<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        self.note("files");
        Ok(Vec::new())
    }
}

impl network::Host for Denied<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(
        &mut self,
        _: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(None)
    }
}

impl network::HostNetwork for Denied<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        self.0.table.delete(network)?;
        Ok(())
    }
}

impl tcp_create_socket::Host for Denied<'_> {
    fn create_tcp_socket(&mut self, _: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        self.note("the network");
        Err(SocketError::from(ErrorCode::AccessDenied))
    }
}

impl udp_create_socket::Host for Denied<'_> {
    async fn create_udp_socket(&mut self, _: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        self.note("the network");
        Err(SocketError::from(ErrorCode::AccessDenied))
    }
}
