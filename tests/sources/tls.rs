//! The connection that nobody listens in on, with a certificate of the test's own.

use std::{fs, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
};

use crate::{
    User, component,
    server::{Answer, Server},
    support::{fails, succeeds},
};

#[test]
fn a_certificate_counts_and_no_redirect_leaves_the_safe_path() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.expect("a key"))
        .expect("the two belong together");
    let component = component();
    let server = Server::start_tls(Arc::new(config), move |asked| match asked.path.as_str() {
        "/moved.wasm" => Answer::to("http://localhost:9/hostile.wasm"),
        _ => Answer::of(component.clone()),
    });
    let user = User::new();
    let trusted = user.home.path().join("trusted.pem");
    fs::write(&trusted, made.cert.pem()).expect("the folder is writable");
    let fetch = |path: &str, trusts: bool| {
        let mut fetch = user.fetch(&format!("https://localhost:{}{path}", server.port()));
        fetch.env_remove("SSL_CERT_DIR").env_remove("SSL_CERT_FILE");
        if trusts {
            fetch.env("SSL_CERT_FILE", &trusted);
        }
        fetch
    };
    let told = fails(&mut fetch("/hostile.wasm", false), 4);
    assert!(told.contains("certificate"), "{told}");
    assert!(server.paths().is_empty());
    succeeds(&mut fetch("/hostile.wasm", true));
    let told = fails(&mut fetch("/moved.wasm", true), 4);
    assert!(
        told.contains("it redirects to http://localhost:9/hostile.wasm, expected an address"),
        "{told}"
    );
}
