//! A component at a web address.

use reqwest::{StatusCode, Url};

use super::{Fetched, SourceError, check_pin, store::Store, transfer::Transfer};
use crate::download::Progress;

/// Brings the component at an address into the store, if it is the one that is pinned.
pub(super) async fn fetch(
    url: &Url,
    pin: Option<&str>,
    store: &Store,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Fetched, SourceError> {
    let mut transfer = Transfer::new(url.to_string(), url, progress)?;
    let (file, sha256, size) = transfer
        .component(store, |transfer| transfer.get(url), refusal)
        .await?;
    check_pin(&transfer.from, pin, &sha256)?;
    store.keep(file, &sha256)?;
    Ok(Fetched {
        path: store.path(&sha256),
        sha256,
        size,
        resolved: None,
        came: true,
    })
}

fn refusal(transfer: &Transfer<'_>, status: StatusCode) -> SourceError {
    let next = match status.as_u16() {
        404 | 410 => "there is no such file; check the address",
        401 | 403 | 407 => {
            "it is not for everybody, and no credentials are sent; name a public address, or \
             download the file yourself and write its path"
        }
        _ => "open the address in a browser to see why",
    };
    transfer.refused(format!("the answer is {status}: {next}"))
}
